/* From canonical bytes to what execution needs: fields, and the state keys a transaction may touch.
 *
 * Two passes over chunks of transactions, each side by side: the first checks the bytes and counts keys, the
 * second writes the keys where the counts say, and makes the digests. Both read the operations of a
 * transaction through one reader. */
#include "svm_blake3.h"
#include "svm_engine_types.h"

#include <stdlib.h>

static const char TX_DOMAIN[] = "supervm/tx/v1";
static const char OBJECT_DOMAIN[] = "supervm/object/v1";
static const char TOKEN_DOMAIN[] = "supervm/token/v1";

enum { TX_DOMAIN_SIZE = sizeof TX_DOMAIN - 1, SCRATCH = 1 << 15 };

static uint32_t other_operation_size(const uint8_t *at, size_t left, const svm_block_facts *facts) {
    if (left < 1) {
        return 0;
    }
    uint64_t size;
    switch (at[0]) {
    case SVM_OP_TRANSFER: {
        if (left < 35) {
            return 0;
        }
        const uint32_t outputs = svm_get_u16(at + 33);
        if (outputs == 0 || outputs > facts->outputs_max) {
            return 0;
        }
        size = 35 + (uint64_t)outputs * SVM_OUTPUT;
        break;
    }
    case SVM_OP_TOKEN_CREATE: {
        if (left < 5) {
            return 0;
        }
        const uint32_t symbol = svm_get_u32(at + 1);
        if (symbol == 0 || symbol > SVM_SYMBOL_MAX || left < 5 + symbol + 1 + 16 + 1) {
            return 0;
        }
        for (uint32_t i = 0; i < symbol; i++) {
            const uint8_t c = at[5 + i];
            if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))) {
                return 0;
            }
        }
        size = 5 + (uint64_t)symbol + 1 + 16 + 1;
        if (at[5 + symbol] > SVM_DECIMALS_MAX || at[size - 1] > 1) {
            return 0;
        }
        break;
    }
    case SVM_OP_MINT:
        size = 1 + SVM_ID + SVM_ID + 16;
        break;
    case SVM_OP_BURN:
        size = 1 + SVM_ID + 16;
        break;
    case SVM_OP_OBJECT_CREATE: {
        if (left < 42) {
            return 0;
        }
        const uint32_t data = svm_get_u32(at + 38);
        if (at[5] > SVM_IMMUTABLE || data > facts->object_bytes_max) {
            return 0;
        }
        if (at[5] != SVM_OWNED && !svm_same_id(at + 6, svm_zeros)) {
            return 0;
        }
        size = 42 + (uint64_t)data;
        break;
    }
    case SVM_OP_OBJECT_TRANSFER:
        size = 1 + SVM_ID + SVM_ID;
        break;
    case SVM_OP_OBJECT_SHARE:
    case SVM_OP_OBJECT_FREEZE:
    case SVM_OP_OBJECT_DELETE:
        size = 1 + SVM_ID;
        break;
    case SVM_OP_STAKE_ADD:
        size = 1 + 16;
        break;
    case SVM_OP_STAKE_LEAVE:
    case SVM_OP_STAKE_WITHDRAW:
        size = 1;
        break;
    default:
        return 0;
    }
    return size <= left ? (uint32_t)size : 0;
}

/* How long an operation is with its tag, which is the first byte. 0: it is none. */
static inline uint32_t operation_size(const uint8_t *at, size_t left, const svm_block_facts *facts) {
    if (left < 37 || at[0] != SVM_OP_OBJECT_MUTATE) {
        return other_operation_size(at, left, facts);
    }
    const uint32_t data = svm_get_u32(at + 33);
    return data <= facts->object_bytes_max && data <= left - 37 ? 37 + data : 0;
}

uint32_t svm_operation_keys(const uint8_t *at) {
    switch (at[0]) {
    case SVM_OP_TRANSFER: {
        const uint32_t outputs = svm_get_u16(at + 33);
        return svm_same_id(at + 1, svm_zeros) ? outputs : outputs + 1;
    }
    case SVM_OP_TOKEN_CREATE:
    case SVM_OP_MINT:
    case SVM_OP_BURN:
    case SVM_OP_STAKE_ADD:
    case SVM_OP_STAKE_LEAVE:
    case SVM_OP_STAKE_WITHDRAW:
        return 2;
    case SVM_OP_OBJECT_CREATE:
        return 1;
    default:
        return 0;
    }
}

/* Checks the payload, and counts. */
static bool read_operations(svm_tx *tx, uint32_t payload_size, const svm_block_facts *facts) {
    const uint8_t *at = tx->data + tx->payload_at, *end = at + payload_size;
    if (payload_size < 2) {
        return false;
    }
    const uint32_t count = svm_get_u16(at);
    if (count == 0 || count > SVM_OPERATIONS_MAX) {
        return false;
    }
    uint32_t outputs = 0;
    at += 2;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t size = operation_size(at, (size_t)(end - at), facts);
        if (size == 0) {
            return false;
        }
        if (at[0] == SVM_OP_OBJECT_MUTATE) { /* nothing to count */
            at += size;
            continue;
        }
        if (at[0] == SVM_OP_TRANSFER) {
            tx->transfers = 1;
            outputs += svm_get_u16(at + 33);
        } else if (at[0] == SVM_OP_MINT || at[0] == SVM_OP_BURN || at[0] >= SVM_OP_STAKE_ADD) {
            tx->moves_supply = 1;
        } else if (at[0] == SVM_OP_TOKEN_CREATE || at[0] == SVM_OP_OBJECT_CREATE) {
            tx->creates++;
        }
        tx->keys_count += svm_operation_keys(at);
        at += size;
    }
    tx->operations = (uint16_t)count;
    return at == end && outputs <= facts->outputs_max;
}

static bool read_transaction(svm_tx *tx, const uint8_t *data, size_t size, const svm_block_facts *facts) {
    const svm_scan_limits limits = {.transactions_max = 1,
                                    .transaction_bytes_max = facts->transaction_bytes_max,
                                    .payload_bytes_max = facts->payload_bytes_max,
                                    .inputs_max = facts->inputs_max,
                                    .relays_max = 2};
    svm_scan_record record;
    if (size > UINT32_MAX || svm_scan_one_transaction(data, size, &limits, &record) != SVM_OK) {
        return false;
    }
    memset(tx, 0, sizeof *tx);
    tx->data = data;
    tx->size = (uint32_t)size;
    tx->body_size = record.body_end;
    tx->payload_at = record.payload;
    tx->authorization_at = record.authorization;
    const uint32_t relays = svm_get_u16(data + SVM_AT_RELAYS);
    tx->inputs_at = SVM_AT_AFTER_RELAYS + relays * SVM_ID + 2;
    tx->inputs = (uint16_t)svm_get_u16(data + tx->inputs_at - 2);
    tx->kind = (uint16_t)svm_get_u16(data + record.payload - 6);
    tx->lane = data[SVM_AT_LANE];
    tx->sponsored = !svm_same_id(data + SVM_AT_SENDER, data + SVM_AT_PAYER);
    tx->keys_count = 1u + tx->sponsored + tx->inputs;
    const uint8_t *authorization = data + record.authorization;
    for (uint32_t i = 0; i < record.authorization_count; i++) {
        const uint8_t suite = authorization[0];
        tx->suites_gas += suite == 1   ? facts->gas.signature_ed25519
                          : suite == 2 ? facts->gas.signature_secp256k1
                                       : facts->gas.signature_sm2;
        authorization += 1 + 4 + svm_get_u32(authorization + 1) + 4 + 64;
    }
    return tx->kind != SVM_PAYLOAD_NATIVE || read_operations(tx, record.payload_size, facts);
}

typedef struct {
    svm_block *block;
    const svm_engine *engine;
    const uint8_t *given; /* digests, or NULL */
    uint32_t *bad;        /* by chunk: index + 1 of the first wrong one */
    uint8_t **names;      /* by chunk: ids of what it makes */
    uint32_t failed;      /* out of memory */
} decoding;

static uint32_t chunk_end(const svm_block *block, uint32_t chunk) {
    const uint32_t end = (chunk + 1) * SVM_CHUNK;
    return end < block->count ? end : block->count;
}

static void check_chunk(void *context, uint32_t chunk) {
    decoding *job = context;
    svm_block *block = job->block;
    for (uint32_t i = chunk * SVM_CHUNK; i < chunk_end(block, chunk); i++) {
        const uint64_t start = block->offsets[i], end = block->offsets[i + 1];
        if (!read_transaction(&block->txs[i], block->data + start, (size_t)(end - start), &block->facts)) {
            job->bad[chunk] = i + 1;
            return;
        }
    }
}

/* Digests of transactions first..end-1. Only the first chunk of each is copied, to have the domain in front; what
 * follows is hashed where it lies. */
static bool make_digests(svm_block *block, uint32_t first, uint32_t end) {
    uint8_t scratch[SCRATCH]; /* from the system it would come empty, page by page, for every chunk */
    const uint8_t *inputs[SVM_CHUNK], *rests[SVM_CHUNK];
    uint32_t sizes[SVM_CHUNK];
    uint32_t held = 0, used = 0;
    bool good = true;

    for (uint32_t i = first; good && i < end; i++) {
        const svm_tx *tx = &block->txs[i];
        const uint32_t size = TX_DOMAIN_SIZE + tx->body_size;
        const uint32_t copied = size < SVM_BLAKE3_CHUNK ? size : SVM_BLAKE3_CHUNK;
        if (size > SVM_BLAKE3_SPLIT_MAX) {
            uint8_t *whole = malloc(size);
            good = whole != NULL;
            if (good) {
                memcpy(whole, TX_DOMAIN, TX_DOMAIN_SIZE);
                memcpy(whole + TX_DOMAIN_SIZE, tx->data, tx->body_size);
            }
            /* What is held comes before it, so that outputs stay in line. */
            if (good) {
                svm_blake3_many_split(inputs, rests, sizes, held, block->digests + (size_t)(i - held) * SVM_ID);
                svm_blake3(whole, size, block->digests + (size_t)i * SVM_ID);
                held = used = 0;
            }
            free(whole);
            continue;
        }
        if (used + copied > SCRATCH) {
            svm_blake3_many_split(inputs, rests, sizes, held, block->digests + (size_t)(i - held) * SVM_ID);
            held = used = 0;
        }
        memcpy(scratch + used, TX_DOMAIN, TX_DOMAIN_SIZE);
        memcpy(scratch + used + TX_DOMAIN_SIZE, tx->data, copied - TX_DOMAIN_SIZE);
        inputs[held] = scratch + used;
        rests[held] = tx->data + (copied - TX_DOMAIN_SIZE);
        sizes[held++] = size;
        used += copied;
    }
    if (good && held != 0) {
        svm_blake3_many_split(inputs, rests, sizes, held, block->digests + (size_t)(end - held) * SVM_ID);
    }
    return good;
}

/* id = blake3(domain || digest || u32 index) */
static void made_id(const char *domain, const uint8_t *digest, uint32_t index, uint8_t out[SVM_ID]) {
    uint8_t input[64];
    const size_t size = strlen(domain);
    memcpy(input, domain, size);
    memcpy(input + size, digest, SVM_ID);
    svm_put_u32(input + size + SVM_ID, index);
    svm_blake3(input, size + SVM_ID + 4, out);
}

static svm_key *put_key(const svm_engine *engine, svm_key *key, uint8_t space, const uint8_t *id, const uint8_t *token) {
    key->space = space;
    key->id = id;
    key->token = token;
    key->fresh = 0;
    key->hash = svm_hash_key(engine, key);
    return key;
}

/* An account's balance: the native one is in the account's own entry. */
static void put_balance(const svm_engine *engine, svm_key *key, const uint8_t *address, const uint8_t *token) {
    if (svm_same_id(token, svm_zeros)) {
        put_key(engine, key, SVM_ACCOUNT, address, NULL);
    } else {
        put_key(engine, key, SVM_BALANCE, address, token);
    }
}

static void put_operation(const decoding *job, const svm_tx *tx, const uint8_t *digest, const uint8_t *at,
                          uint32_t index, uint32_t *objects, svm_key **next, uint8_t **names) {
    const svm_engine *engine = job->engine;
    const uint8_t *sender = tx->data + SVM_AT_SENDER;
    switch (at[0]) {
    case SVM_OP_TRANSFER: {
        const uint32_t outputs = svm_get_u16(at + 33);
        if (!svm_same_id(at + 1, svm_zeros)) {
            put_balance(engine, (*next)++, sender, at + 1);
        }
        for (uint32_t i = 0; i < outputs; i++) {
            put_balance(engine, (*next)++, at + 35 + i * SVM_OUTPUT, at + 1);
        }
        break;
    }
    case SVM_OP_TOKEN_CREATE:
        made_id(TOKEN_DOMAIN, digest, index, *names);
        put_key(engine, (*next)++, SVM_TOKEN, *names, NULL)->fresh = 1;
        put_key(engine, (*next)++, SVM_BALANCE, sender, *names)->fresh = 1;
        *names += SVM_ID;
        break;
    case SVM_OP_MINT:
        put_key(engine, (*next)++, SVM_TOKEN, at + 1, NULL);
        put_balance(engine, (*next)++, at + 1 + SVM_ID, at + 1);
        break;
    case SVM_OP_BURN:
        put_key(engine, (*next)++, SVM_TOKEN, at + 1, NULL);
        put_balance(engine, (*next)++, sender, at + 1);
        break;
    case SVM_OP_STAKE_ADD:
    case SVM_OP_STAKE_LEAVE:
    case SVM_OP_STAKE_WITHDRAW:
        put_key(engine, (*next)++, SVM_SYSTEM, svm_stakes_id, NULL);
        put_key(engine, (*next)++, SVM_ACCOUNT, svm_escrow, NULL);
        break;
    case SVM_OP_OBJECT_CREATE:
        made_id(OBJECT_DOMAIN, digest, (*objects)++, *names);
        put_key(engine, (*next)++, SVM_OBJECT, *names, NULL)->fresh = 1;
        *names += SVM_ID;
        break;
    default:
        break;
    }
}

static void put_keys(const decoding *job, uint32_t index, uint8_t **names) {
    const svm_block *block = job->block;
    const svm_tx *tx = &block->txs[index];
    const uint8_t *digest = block->digests + (size_t)index * SVM_ID;
    svm_key *next = block->keys + tx->keys;

    put_key(job->engine, next++, SVM_ACCOUNT, tx->data + SVM_AT_SENDER, NULL);
    if (tx->sponsored) {
        put_key(job->engine, next++, SVM_ACCOUNT, tx->data + SVM_AT_PAYER, NULL);
    }
    for (uint32_t i = 0; i < tx->inputs; i++) {
        put_key(job->engine, next++, SVM_OBJECT, tx->data + tx->inputs_at + i * SVM_INPUT, NULL);
    }
    if (tx->keys_count == 1u + tx->sponsored + tx->inputs) {
        return; /* operations ask for no more */
    }
    const uint8_t *at = tx->data + tx->payload_at + 2;
    const uint8_t *end = tx->data + tx->body_size;
    uint32_t objects = 0;
    for (uint32_t i = 0; i < tx->operations; i++) {
        put_operation(job, tx, digest, at, i, &objects, &next, names);
        at += operation_size(at, (size_t)(end - at), &block->facts);
    }
}

/* How many ids the transactions of a chunk make. */
static uint32_t names_of(const svm_block *block, uint32_t first, uint32_t end) {
    uint32_t names = 0;
    for (uint32_t i = first; i < end; i++) {
        names += block->txs[i].creates;
    }
    return names;
}

static void name_chunk(void *context, uint32_t chunk) {
    decoding *job = context;
    svm_block *block = job->block;
    const uint32_t first = chunk * SVM_CHUNK, end = chunk_end(block, chunk);

    if (job->given != NULL) {
        memcpy(block->digests + (size_t)first * SVM_ID, job->given + (size_t)first * SVM_ID,
               (size_t)(end - first) * SVM_ID);
    } else if (!make_digests(block, first, end)) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const uint32_t names = names_of(block, first, end);
    uint8_t *next = NULL;
    if (names != 0) {
        next = job->names[chunk] = malloc((size_t)names * SVM_ID);
        if (next == NULL) {
            __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
            return;
        }
    }
    for (uint32_t i = first; i < end; i++) {
        put_keys(job, i, &next);
    }
}

uint32_t svm_decode_block(svm_block *block, const uint8_t *digests, uint32_t *at) {
    svm_pool *pool = block->engine->pool;
    const uint32_t chunks = (block->count + SVM_CHUNK - 1) / SVM_CHUNK;
    uint32_t error = SVM_ENGINE_OK;
    decoding job = {.block = block, .engine = block->engine, .given = digests};

    block->names_count = chunks;
    block->names = job.names = calloc(chunks + 1, sizeof *job.names);
    job.bad = calloc(chunks + 1, sizeof *job.bad);
    if (job.names == NULL || job.bad == NULL) {
        free(job.bad);
        return SVM_ENGINE_NO_MEMORY;
    }
    svm_pool_run(pool, check_chunk, &job, chunks);
    uint64_t keys = 0;
    for (uint32_t chunk = 0; chunk < chunks && error == SVM_ENGINE_OK; chunk++) {
        if (job.bad[chunk] != 0) {
            *at = job.bad[chunk] - 1;
            error = SVM_ENGINE_BAD_TRANSACTION;
        }
    }
    free(job.bad);
    if (error != SVM_ENGINE_OK) {
        return error;
    }
    for (uint32_t i = 0; i < block->count; i++) {
        block->txs[i].keys = (uint32_t)keys;
        keys += block->txs[i].keys_count;
        if (keys > UINT32_MAX - 2) {
            return SVM_ENGINE_TOO_LARGE;
        }
    }
    block->keys_count = (uint32_t)keys;
    block->keys = svm_engine_buffer(block->engine, SVM_BUFFER_KEYS, (keys + 2) * sizeof *block->keys);
    if (block->keys == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    svm_pool_run(pool, name_chunk, &job, chunks);
    return job.failed ? SVM_ENGINE_NO_MEMORY : SVM_ENGINE_OK;
}
