/* FAST transactions ahead of their block (EXEC-21, EXEC-22): each on what those before it left, no fees settled.
 *
 * The judge is supervm.chain.overlay: the same turns, the same digests of effects, the same differences. */
#include "svm_blake3.h"
#include "svm_engine_types.h"

#include <stdlib.h>

enum {
    APPLIED_HEAD = 1 + 1 + SVM_ID + 4,                         /* turn, status, digest of the effects, differences */
    ACCOUNT_DIFFERENCE = 1 + SVM_ID + 1 + 8 + 8 + 1 + 16,      /* space, address, what changed, nonces, amount */
    BALANCE_DIFFERENCE = 1 + 2 * SVM_ID + 1 + 16,              /* space, address, token, amount */
    ENTRY_DIFFERENCE = 1 + 1 + 1 + SVM_ID + 4,                 /* zero, size of the key, key, size of the value */
    NONCE_CHANGED = 1,
    SPONSOR_NONCE_CHANGED = 2,
    AMOUNT_CHANGED = 4
};

static const char EFFECTS_DOMAIN[] = "supervm/effects/v1";
enum { DOMAIN = sizeof EFFECTS_DOMAIN - 1 };

typedef struct {
    svm_block *block;
    uint8_t *bytes; /* what came of the transactions so far */
    size_t size, room;
} applying;

/* The most that a transaction may debit an entry. `carry`: 2^128 or more. */
typedef struct {
    svm_u128 amount;
    uint32_t slot;
    bool native, carry;
} spend;

static bool make_room(applying *job, size_t more) {
    if (job->room - job->size >= more) {
        return true;
    }
    const size_t room = 2 * job->room + more + 4096;
    uint8_t *bytes = svm_engine_more(job->block->engine, SVM_BUFFER_CHANGES, job->size, room);
    if (bytes == NULL) {
        return false;
    }
    job->bytes = bytes;
    job->room = room;
    return true;
}

static const svm_value *value_of(const svm_block *block, const svm_tx *tx, uint32_t key) {
    return &block->slots[block->slot_of[tx->keys + key]].now;
}

/* Whether a nonce is behind (-1), the account's next (0), or ahead (1). */
static int nonce_order(const uint8_t *nonce, uint64_t expected) {
    const uint64_t said = svm_get_u64(nonce);
    return said < expected ? -1 : said > expected;
}

/* FAST by the first matching rule of EXEC-10. All inputs are there. */
static bool is_fast(const svm_block *block, const svm_tx *tx) {
    bool owned = false;
    if (tx->kind != SVM_PAYLOAD_NATIVE || tx->moves_supply) {
        return false;
    }
    for (uint32_t i = 0; i < tx->inputs; i++) {
        const svm_object *object = value_of(block, tx, 1u + tx->sponsored + i)->object;
        if (object->deleted || object->kind == SVM_SHARED) {
            return false;
        }
        if (object->kind == SVM_OWNED) {
            if (!svm_same_id(object->owner, tx->data + SVM_AT_SENDER)) {
                return false;
            }
            owned = true;
        }
    }
    return owned || tx->transfers;
}

static void add_spend(spend *spends, uint32_t *count, uint32_t slot, bool native, svm_u128 amount, bool carry) {
    uint32_t i = 0;
    while (i < *count && spends[i].slot != slot) {
        i++;
    }
    if (i == *count) {
        const spend none = {.slot = slot, .native = native};
        spends[(*count)++] = none;
    }
    spends[i].amount += amount;
    spends[i].carry = spends[i].carry || carry || spends[i].amount < amount;
}

/* What transfers debit the sender, by token. */
static void add_transfers(const svm_block *block, const svm_tx *tx, spend *spends, uint32_t *count) {
    const uint8_t *at = tx->data + tx->payload_at + 2;
    uint32_t key = 1u + tx->sponsored + tx->inputs;
    for (uint32_t i = 0; i < tx->operations; i++) {
        if (at[0] == SVM_OP_TRANSFER) {
            const bool native = svm_same_id(at + 1, svm_zeros);
            const uint32_t outputs = svm_get_u16(at + 33);
            svm_u128 sum = 0;
            bool carry = false;
            for (uint32_t k = 0; k < outputs; k++) {
                const svm_u128 amount = svm_get_u128(at + 35 + (size_t)k * SVM_OUTPUT + SVM_ID);
                sum += amount;
                carry = carry || sum < amount;
            }
            add_spend(spends, count, block->slot_of[tx->keys + (native ? 0 : key)], native, sum, carry);
        }
        key += svm_operation_keys(at);
        at += svm_operation_size(at);
    }
}

/* Whether the balances hold the most that it may debit (EXEC-4). */
static bool is_covered(const svm_block *block, const svm_tx *tx) {
    spend spends[1 + SVM_OPERATIONS_MAX];
    uint32_t count = 0;
    const svm_u128 reserve =
        svm_price_of(svm_get_u64(tx->data + SVM_AT_GAS_LIMIT), svm_get_u64(tx->data + SVM_AT_MAX_PRICE));
    add_spend(spends, &count, block->slot_of[tx->keys + tx->sponsored], true, reserve, false);
    if (tx->transfers) {
        add_transfers(block, tx, spends, &count);
    }
    for (uint32_t i = 0; i < count; i++) {
        const svm_value *value = &block->slots[spends[i].slot].now;
        const svm_u128 have = spends[i].native ? svm_join(value->account.low, value->account.high)
                                               : svm_join(value->balance.low, value->balance.high);
        if (spends[i].carry || have < spends[i].amount) {
            return false;
        }
    }
    return true;
}

/* Whether its nonces, versions and cover are there. */
static enum svm_turn turn_of(const svm_block *block, const svm_tx *tx) {
    if (tx->lane == SVM_ORDERED || tx->lane == SVM_PRIVATE) {
        return SVM_TURN_BY_BLOCK;
    }
    const int own = nonce_order(tx->data + SVM_AT_NONCE, value_of(block, tx, 0)->account.nonce);
    const int payers = tx->sponsored ? nonce_order(tx->data + SVM_AT_SPONSOR_NONCE,
                                                   value_of(block, tx, 1)->account.sponsor_nonce)
                                     : 0;
    if (own < 0 || payers < 0) {
        return SVM_TURN_BY_BLOCK;
    }
    bool later = own > 0 || payers > 0;
    const uint8_t *declared = tx->data + tx->inputs_at;
    for (uint32_t i = 0; i < tx->inputs; i++, declared += SVM_INPUT) {
        const svm_object *object = value_of(block, tx, 1u + tx->sponsored + i)->object;
        later = later || object == NULL ||
                (object->kind == SVM_OWNED && object->version < svm_get_u64(declared + SVM_ID));
    }
    if (later) {
        return SVM_TURN_LATER;
    }
    if (!is_fast(block, tx)) {
        return SVM_TURN_BY_BLOCK;
    }
    return is_covered(block, tx) ? SVM_TURN_NOW : SVM_TURN_LATER;
}

/* u8 whether it is less, then u128 by how much. */
static uint8_t *put_difference(uint8_t *out, svm_u128 before, svm_u128 now) {
    *out = now < before;
    svm_put_u128(out + 1, now < before ? before - now : now - before);
    return out + 17;
}

static uint8_t *put_account(uint8_t *out, const svm_value *before, const svm_value *now) {
    const svm_u128 had = svm_join(before->account.low, before->account.high);
    const svm_u128 has = svm_join(now->account.low, now->account.high);
    *out = (before->account.nonce != now->account.nonce ? NONCE_CHANGED : 0) |
           (before->account.sponsor_nonce != now->account.sponsor_nonce ? SPONSOR_NONCE_CHANGED : 0) |
           (had != has ? AMOUNT_CHANGED : 0);
    svm_put_u64(out + 1, now->account.nonce);
    svm_put_u64(out + 9, now->account.sponsor_nonce);
    return put_difference(out + 17, had, has);
}

/* What became of an entry, unless it is as before. */
static bool add_change(applying *job, const svm_slot *slot) {
    const svm_key *key = &job->block->keys[slot->key];
    const uint32_t value = slot->space == SVM_ACCOUNT || slot->space == SVM_BALANCE
                               ? 0
                               : svm_value_size(slot->space, &slot->now);
    if (!make_room(job, (size_t)ACCOUNT_DIFFERENCE + BALANCE_DIFFERENCE + ENTRY_DIFFERENCE + value)) {
        return false;
    }
    uint8_t *out = job->bytes + job->size;
    if (slot->space == SVM_ACCOUNT) {
        *out++ = SVM_ACCOUNT;
        memcpy(out, key->id, SVM_ID);
        out = put_account(out + SVM_ID, &slot->before, &slot->now);
    } else if (slot->space == SVM_BALANCE) {
        *out++ = SVM_BALANCE;
        memcpy(out, key->id, SVM_ID);
        memcpy(out + SVM_ID, key->token, SVM_ID);
        out = put_difference(out + 2 * SVM_ID, svm_join(slot->before.balance.low, slot->before.balance.high),
                             svm_join(slot->now.balance.low, slot->now.balance.high));
    } else { /* an object or a token: FAST transactions reach nothing else */
        *out++ = 0;
        *out++ = 1 + SVM_ID;
        *out++ = slot->space;
        memcpy(out, key->id, SVM_ID);
        svm_put_u32(out + SVM_ID, value);
        out += SVM_ID + 4;
        out = value != 0 ? svm_value_write(slot->space, &slot->now, out) : out;
    }
    job->size = (size_t)(out - job->bytes);
    return true;
}

/* Writes what a transaction did, and lets the next one begin there. */
static uint32_t keep(applying *job, uint32_t index) {
    svm_block *block = job->block;
    const svm_tx *tx = &block->txs[index];
    const svm_outcome *outcome = &block->outcomes[index];
    const uint32_t size = svm_receipt_size(outcome);
    uint8_t *receipt = svm_arena_take(&block->arena, DOMAIN + (size_t)size);
    const size_t head = job->size;
    if (receipt == NULL || !make_room(job, APPLIED_HEAD)) {
        return SVM_ENGINE_NO_MEMORY;
    }
    memcpy(receipt, EFFECTS_DOMAIN, DOMAIN);
    (void)svm_receipt_write(block, index, receipt + DOMAIN);
    job->bytes[head] = SVM_TURN_NOW;
    job->bytes[head + 1] = outcome->status;
    svm_blake3(receipt, DOMAIN + size - SVM_RECEIPT_TAIL, job->bytes + head + 2);
    job->size += APPLIED_HEAD;
    uint32_t count = 0;
    for (uint32_t i = 0; i < tx->keys_count; i++) {
        svm_slot *slot = &block->slots[block->slot_of[tx->keys + i]];
        if (slot->changed == 0) {
            continue;
        }
        slot->changed = 0;
        if (svm_value_same(slot->space, &slot->now, &slot->before)) {
            continue;
        }
        if (!add_change(job, slot)) {
            return SVM_ENGINE_NO_MEMORY;
        }
        slot->before = slot->now;
        count++;
    }
    svm_put_u32(job->bytes + head + 2 + SVM_ID, count);
    return SVM_ENGINE_OK;
}

static uint32_t apply_one(applying *job, svm_worker *worker, uint32_t index) {
    const enum svm_turn turn = turn_of(job->block, &job->block->txs[index]);
    if (turn != SVM_TURN_NOW) {
        if (!make_room(job, 1)) {
            return SVM_ENGINE_NO_MEMORY;
        }
        job->bytes[job->size++] = (uint8_t)turn;
        return SVM_ENGINE_OK;
    }
    svm_execute_direct(worker, index);
    if (worker->error != SVM_ENGINE_OK) {
        return worker->error;
    }
    if (job->block->outcomes[index].status == SVM_BROKEN) {
        return SVM_ENGINE_INVARIANT;
    }
    return keep(job, index);
}

static uint32_t apply_all(applying *job) {
    svm_block *block = job->block;
    for (uint32_t i = 0; i < block->count; i++) {
        const svm_tx *tx = &block->txs[i];
        if (tx->creates != 0 && !tx->skip) {
            return SVM_ENGINE_ORDER; /* what it makes was taken to be absent, and a block may have made it */
        }
        if (!svm_same_id(tx->data + SVM_AT_GAS_TOKEN, svm_zeros)) {
            return SVM_ENGINE_UNKNOWN; /* its cover is an entry that wasn't looked up */
        }
    }
    memset(block->outcomes, 0, (size_t)block->count * sizeof *block->outcomes);
    block->workers = calloc(1, sizeof *block->workers);
    if (block->workers == NULL || !make_room(job, 1)) {
        return SVM_ENGINE_NO_MEMORY;
    }
    block->workers_count = 1;
    uint32_t error = svm_worker_init(block->workers, block) ? SVM_ENGINE_OK : SVM_ENGINE_NO_MEMORY;
    for (uint32_t i = 0; i < block->count && error == SVM_ENGINE_OK; i++) {
        error = apply_one(job, block->workers, i);
    }
    return error;
}

uint32_t svm_block_apply(svm_block *block, const uint8_t **bytes, size_t *size) {
    applying job = {.block = block};
    *bytes = NULL;
    *size = 0;
    if (block->phase != 0 || block->missing_count != 0) {
        return SVM_ENGINE_ORDER;
    }
    block->phase = 3;
    block->error = apply_all(&job);
    if (block->error == SVM_ENGINE_OK) {
        *bytes = job.bytes;
        *size = job.size;
    }
    return block->error;
}
