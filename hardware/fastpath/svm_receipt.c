/* What a block leaves: receipts with their root (EXEC-12, STO-36), and the entries that changed. */
#include "svm_blake3.h"
#include "svm_engine_types.h"

#include <stdlib.h>

enum {
    RECEIPT_HEAD = 1 + SVM_ID + 1 + 1 + 4, /* format, digest, lane, status, length of the code */
    RECEIPT_MIDDLE = 8 + 16 + SVM_ID,      /* gas_used, fee, gas_token */
    OBJECT_CHANGE = 1 + 1 + SVM_ID + 4 + SVM_OBJECT_HEAD, /* size and key, size of the value, its head */
    SLOT_CHUNK = 1024
};

typedef struct {
    svm_block *block;
    uint8_t *leaves;
    uint32_t *numbers; /* by transaction: which receipt is its */
} receipting;

uint32_t svm_receipt_size(const svm_outcome *outcome) {
    return RECEIPT_HEAD + (uint32_t)strlen(svm_code_name(outcome->code)) + RECEIPT_MIDDLE +
           outcome->effects_size + SVM_RECEIPT_TAIL;
}

/* Effects of a transaction that raised the versions of all its inputs. */
static uint8_t *write_raised(const svm_tx *tx, uint8_t *out) {
    const uint8_t *declared = tx->data + tx->inputs_at;
    svm_put_u16(out, 0);
    svm_put_u16(out + 2, tx->inputs);
    out += 4;
    for (uint32_t i = 0; i < tx->inputs; i++) {
        memcpy(out, declared, SVM_ID);
        svm_put_u64(out + SVM_ID, svm_get_u64(declared + SVM_ID) + 1);
        declared += SVM_INPUT;
        out += SVM_ID + 8;
    }
    memset(out, 0, SVM_NO_EFFECTS - 4);
    return out + SVM_NO_EFFECTS - 4;
}

uint8_t *svm_receipt_write(const svm_block *block, uint32_t index, uint8_t *out) {
    const svm_outcome *outcome = &block->outcomes[index];
    const char *code = svm_code_name(outcome->code);
    const uint32_t code_size = (uint32_t)strlen(code);

    *out++ = 1;
    memcpy(out, block->digests + (size_t)index * SVM_ID, SVM_ID);
    out += SVM_ID;
    *out++ = outcome->lane;
    *out++ = outcome->status;
    svm_put_u32(out, code_size);
    memcpy(out + 4, code, code_size);
    out += 4 + code_size;
    svm_put_u64(out, outcome->gas_used);
    svm_put_u128(out + 8, outcome->fee);
    memcpy(out + 24, block->txs[index].data + SVM_AT_GAS_TOKEN, SVM_ID);
    out += RECEIPT_MIDDLE;
    if (outcome->effects != NULL) {
        memcpy(out, outcome->effects, outcome->effects_size);
        out += outcome->effects_size;
    } else if (outcome->raised) {
        out = write_raised(&block->txs[index], out);
    } else {
        memset(out, 0, SVM_NO_EFFECTS);
        out += SVM_NO_EFFECTS;
    }
    svm_put_u64(out, block->facts.height);
    svm_put_u32(out + 8, index);
    return out + SVM_RECEIPT_TAIL;
}

static void receipt_chunk(void *context, uint32_t chunk) {
    receipting *job = context;
    svm_block *block = job->block;
    const uint32_t first = chunk * SVM_CHUNK;
    const uint32_t end = first + SVM_CHUNK < block->count ? first + SVM_CHUNK : block->count;
    const uint8_t *inputs[SVM_CHUNK];
    uint32_t sizes[SVM_CHUNK], count = 0, number = 0;

    for (uint32_t i = first; i < end; i++) {
        if (block->outcomes[i].status == SVM_SKIPPED) {
            continue;
        }
        if (count == 0) {
            number = job->numbers[i];
        }
        uint8_t *start = block->receipts + block->receipt_starts[job->numbers[i]];
        *start = 0;
        inputs[count] = start;
        sizes[count++] = (uint32_t)(svm_receipt_write(block, i, start + 1) - start);
    }
    if (count != 0) {
        svm_blake3_many(inputs, sizes, count, job->leaves + (size_t)number * SVM_ID);
    }
}

uint32_t svm_make_receipts(svm_block *block) {
    receipting job = {.block = block};
    const uint32_t chunks = (block->count + SVM_CHUNK - 1) / SVM_CHUNK;
    uint64_t size = 0;
    uint32_t count = 0;

    svm_engine *engine = block->engine;
    const size_t room = (size_t)block->count + 1;
    job.numbers = svm_engine_buffer(engine, SVM_BUFFER_NUMBERS, room * sizeof *job.numbers);
    block->receipt_starts = svm_engine_buffer(engine, SVM_BUFFER_STARTS, room * sizeof *block->receipt_starts);
    if (job.numbers == NULL || block->receipt_starts == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    for (uint32_t i = 0; i < block->count; i++) {
        job.numbers[i] = count;
        if (block->outcomes[i].status != SVM_SKIPPED) {
            block->receipt_starts[count++] = size;
            size += 1 + svm_receipt_size(&block->outcomes[i]);
        }
    }
    block->receipt_starts[count] = size;
    block->receipts_count = count;
    block->receipts = svm_engine_buffer(engine, SVM_BUFFER_RECEIPTS, size + 1);
    job.leaves = svm_engine_buffer(engine, SVM_BUFFER_LEAVES, ((size_t)count + 1) * SVM_ID);
    if (block->receipts == NULL || job.leaves == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    svm_pool_run(engine->pool, receipt_chunk, &job, chunks);
    svm_merkle_root(job.leaves, count, block->receipts_root);
    return SVM_ENGINE_OK;
}

/* Changes. */

typedef struct {
    svm_block *block;
    uint64_t *sizes; /* by chunk, then where it starts */
    uint32_t *counts;
    svm_u128 *surplus; /* by chunk: what native balances grew by, modulo 2^128 */
    uint8_t *others;   /* by chunk: whether another token's balance or a supply changed */
} changing;

static inline bool is_changed(const svm_slot *slot) {
    return slot->changed != 0 && !svm_value_same(slot->space, &slot->now, &slot->before);
}


static void measure_chunk(void *context, uint32_t chunk) {
    changing *job = context;
    svm_block *block = job->block;
    const uint32_t first = chunk * SLOT_CHUNK;
    const uint32_t end = first + SLOT_CHUNK < block->slots_count ? first + SLOT_CHUNK : block->slots_count;
    uint64_t size = 0;
    uint32_t count = 0;
    svm_u128 surplus = 0;
    for (uint32_t i = first; i < end; i++) {
        svm_slot *slot = &block->slots[i];
        if ((slot->changed & SVM_RAISED) != 0) { /* an object, and changed for certain */
            count++;
            size += OBJECT_CHANGE + (uint64_t)slot->now.object->size;
            continue;
        }
        if (i + 8 < end && slot[8].space == SVM_OBJECT && slot[8].changed == SVM_CHANGED) {
            __builtin_prefetch(slot[8].now.object);
            __builtin_prefetch(slot[8].before.object);
        }
        if (!is_changed(slot)) {
            slot->changed = 0;
            continue;
        }
        count++;
        size += 1 + svm_key_size(slot->space) + 4;
        if (slot->space == SVM_OBJECT) {
            size += slot->now.object != NULL ? SVM_OBJECT_HEAD + (uint64_t)slot->now.object->size : 0;
            continue;
        }
        size += svm_value_size(slot->space, &slot->now);
        if (slot->space == SVM_ACCOUNT) {
            surplus += svm_join(slot->now.account.low, slot->now.account.high) -
                       svm_join(slot->before.account.low, slot->before.account.high);
        } else {
            job->others[chunk] = 1;
        }
    }
    job->sizes[chunk] = size;
    job->counts[chunk] = count;
    job->surplus[chunk] = surplus;
}

static void write_chunk(void *context, uint32_t chunk) {
    changing *job = context;
    svm_block *block = job->block;
    const uint32_t first = chunk * SLOT_CHUNK;
    const uint32_t end = first + SLOT_CHUNK < block->slots_count ? first + SLOT_CHUNK : block->slots_count;
    uint8_t *out = block->changes + job->sizes[chunk];
    for (uint32_t i = first; i < end; i++) {
        const svm_slot *slot = &block->slots[i];
        if (!slot->changed) {
            continue;
        }
        const svm_key *key = &block->keys[slot->key];
        out[0] = (uint8_t)svm_key_size(slot->space);
        out[1] = slot->space;
        if (slot->space == SVM_SYSTEM) {
            memcpy(out + 2, key->id, SVM_STAKES_NAME);
            out += 2 + SVM_STAKES_NAME;
        } else {
            memcpy(out + 2, key->id, SVM_ID);
            out += 2 + SVM_ID;
        }
        if (slot->space == SVM_OBJECT && slot->now.object != NULL) {
            svm_put_u32(out, SVM_OBJECT_HEAD + slot->now.object->size);
            out = svm_object_write(slot->now.object, out + 4);
            continue;
        }
        if (slot->space == SVM_BALANCE) {
            memcpy(out, key->token, SVM_ID);
            out += SVM_ID;
        }
        const uint32_t size = svm_value_size(slot->space, &slot->now);
        svm_put_u32(out, size);
        out += 4;
        if (size != 0) {
            out = svm_value_write(slot->space, &slot->now, out);
        }
    }
}

/* A token's balances and its supply must have changed by the same amount (GAS-22). */
typedef struct {
    const uint8_t *token;
    svm_u128 surplus;
} sum;

static bool add_to_sum(sum *sums, uint64_t mask, uint64_t hash, const uint8_t *token, svm_u128 amount) {
    for (uint64_t tries = 0, at = hash & mask; tries <= mask; tries++, at = (at + 1) & mask) {
        if (sums[at].token == NULL) {
            sums[at].token = token;
        }
        if (svm_same_id(sums[at].token, token)) {
            sums[at].surplus += amount;
            return true;
        }
    }
    return false;
}

static uint32_t check_sums(const svm_block *block, svm_u128 native, bool others) {
    if (!others) {
        return native == 0 ? SVM_ENGINE_OK : SVM_ENGINE_INVARIANT;
    }
    uint32_t changed = 1;
    for (uint32_t i = 0; i < block->slots_count; i++) {
        const svm_slot *slot = &block->slots[i];
        changed += slot->changed && (slot->space == SVM_BALANCE || slot->space == SVM_TOKEN);
    }
    uint64_t size = 16;
    while (size < 2 * (uint64_t)changed) {
        size *= 2;
    }
    sum *sums = calloc(size, sizeof *sums);
    if (sums == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    bool good = add_to_sum(sums, size - 1, 0, svm_zeros, native);
    for (uint32_t i = 0; i < block->slots_count && good; i++) {
        const svm_slot *slot = &block->slots[i];
        if (!slot->changed || (slot->space != SVM_BALANCE && slot->space != SVM_TOKEN)) {
            continue;
        }
        const svm_key *of = &block->keys[slot->key];
        const uint8_t *token = slot->space == SVM_TOKEN ? of->id : of->token;
        const svm_key key = {.id = token, .space = SVM_TOKEN};
        const uint64_t hash = svm_same_id(token, svm_zeros) ? 0 : svm_hash_key(block->engine, &key);
        svm_u128 amount;
        if (slot->space == SVM_BALANCE) {
            amount = svm_join(slot->now.balance.low, slot->now.balance.high) -
                     svm_join(slot->before.balance.low, slot->before.balance.high);
        } else {
            const svm_u128 before = slot->before.token != NULL ? slot->before.token->supply : 0;
            const svm_u128 now = slot->now.token != NULL ? slot->now.token->supply : 0;
            amount = before - now;
        }
        good = add_to_sum(sums, size - 1, hash, token, amount);
    }
    for (uint64_t i = 0; i < size && good; i++) {
        good = sums[i].token == NULL || sums[i].surplus == 0;
    }
    free(sums);
    return good ? SVM_ENGINE_OK : SVM_ENGINE_INVARIANT;
}

uint32_t svm_count_changes(svm_block *block) {
    const uint32_t chunks = (block->slots_count + SLOT_CHUNK - 1) / SLOT_CHUNK;
    changing job = {.block = block};
    uint32_t error = SVM_ENGINE_NO_MEMORY;

    block->change_starts = job.sizes = calloc((size_t)chunks + 1, sizeof *job.sizes);
    job.counts = calloc((size_t)chunks + 1, sizeof *job.counts);
    job.surplus = calloc((size_t)chunks + 1, sizeof *job.surplus);
    job.others = calloc((size_t)chunks + 1, 1);
    if (job.sizes != NULL && job.counts != NULL && job.surplus != NULL && job.others != NULL) {
        svm_pool_run(block->engine->pool, measure_chunk, &job, chunks);
        svm_u128 native = 0;
        bool others = false;
        uint64_t size = 0;
        for (uint32_t i = 0; i < chunks; i++) {
            const uint64_t one = job.sizes[i];
            job.sizes[i] = size;
            size += one;
            block->changes_count += job.counts[i];
            native += job.surplus[i];
            others = others || job.others[i];
        }
        block->changes_size = size;
        error = check_sums(block, native, others);
    }
    free(job.counts);
    free(job.surplus);
    free(job.others);
    return error;
}

uint32_t svm_write_changes(svm_block *block) {
    const uint32_t chunks = (block->slots_count + SLOT_CHUNK - 1) / SLOT_CHUNK;
    changing job = {.block = block, .sizes = block->change_starts};
    block->changes = svm_engine_buffer(block->engine, SVM_BUFFER_CHANGES, block->changes_size + 1);
    if (block->changes == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    svm_pool_run(block->engine->pool, write_chunk, &job, chunks);
    return SVM_ENGINE_OK;
}
