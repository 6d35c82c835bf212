/* Bytes as a batch of transactions: scanned, verified without a library, decoded by the engine, and executed over a
 * state that follows from its keys. The engine must refuse what the scan refuses, and the ways to execute must agree.
 *
 * Input: a byte of choices, then the batch as svm_scan_transactions takes it. judge.py has the same state. */
#include <inttypes.h>
#include <string.h>

#include "case.h"
#include "facts.h"
#include "svm_scan.h"
#include "svm_verify.h"
#include "target.h"

enum { TRANSACTIONS_MAX = 64, ENTRY_MAX = 128 };

static const uint8_t SEED[32] = {7};
static svm_pool *pools[2];
static svm_engine *engines[2];

static void start(void) {
    static const uint32_t threads[] = {1, 3};
    for (int i = 0; i < 2; i++) {
        pools[i] = svm_pool_new(threads[i]);
        engines[i] = svm_engine_new(0, 0, SEED, pools[i]);
        EXPECT(engines[i] != NULL);
    }
}

static uint8_t *put(uint8_t *at, uint64_t value, int size) {
    for (int i = 0; i < size; i++) {
        *at++ = i < 8 ? (uint8_t)(value >> 8 * i) : 0;
    }
    return at;
}

static uint8_t *put_some(uint8_t *at, uint8_t byte, int count) {
    memset(at, byte, (size_t)count);
    return at + count;
}

/* Writes the entry of a key; gives its end. Nothing is written where there is none. Ids that transactions make are of
 * none: those that are there have a mark in them. */
static uint8_t *put_entry(const uint8_t *key, uint8_t *at) {
    static const uint8_t native[32] = {0};
    const uint8_t *id = key + 1, *token = key + 33;
    uint8_t *const none = at;
    *at++ = 1;
    switch (key[0]) {
    case 1: /* an account */
        return id[31] % 4 == 3 ? none : put(put(put(at, 0, 8), 0, 8), UINT64_C(1000000000000), 16);
    case 2: /* a balance */
        return id[0] % 2 == 1 || memcmp(token + 2, "isit", 4) != 0 ? none : put(at, 1000, 16);
    case 3: /* a token */
        if (memcmp(id + 2, "isit", 4) != 0 && memcmp(id, native, 32) != 0) {
            return none;
        }
        at = put(at, 4, 4);
        memcpy(at, "GOLD", 4);
        at = put_some(put(at + 4, 6, 1), 'P', 32);
        return put(put(at, id[1] % 2, 1), UINT64_C(1000000000000000000), 16);
    case 4: { /* an object */
        const uint8_t kind = id[0] % 4;
        if (memcmp(id + 2, "isit", 4) != 0 || kind == 3) {
            return none;
        }
        at = put(put(at, 1 + (uint64_t)(id[1] % 2), 8), kind, 1);
        at = kind == 0 ? put_some(at, 'P', 32) : put(at, kind == 1, 32);
        at = put(put(put(at, 7, 4), 0, 1), 4, 4);
        memcpy(at, "data", 4);
        return at + 4;
    }
    default:
        return none;
    }
}

/* The state that a block asks for, as a case has it. */
static uint8_t *entries_for(const uint8_t *asked, uint32_t count, svm_case *of) {
    uint8_t *made = malloc((size_t)count * ENTRY_MAX * 2 + 1), *at = made;
    EXPECT(made != NULL);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t size = 1 + (uint32_t)asked[0];
        uint8_t *const value = at + size + 4, *const end = put_entry(asked + 1, value);
        if (end != value) {
            memcpy(at, asked, size);
            put(at + size, (uint64_t)(end - value), 4);
            at = end;
            of->entries_count++;
        }
        asked += size;
    }
    of->entries = made;
    of->entries_size = (size_t)(at - made);
    return made;
}

static void execute(svm_case *of, uint8_t choices, int tell) {
    static const uint32_t modes[] = {SVM_MODE_AUTO, SVM_MODE_PARTITIONED, SVM_MODE_BLOCK_STM, SVM_MODE_BLOCK_STM};
    const uint8_t *asked;
    size_t size;
    uint32_t count, at;
    svm_block *block;
    svm_ended first, again;

    svm_engine_clear(engines[0]);
    svm_engine_clear(engines[1]);
    const uint32_t error = svm_block_new(engines[0], &of->facts, of->data, of->offsets, of->count, NULL, NULL, 0,
                                         &block, &at);
    if (error != SVM_ENGINE_OK) {
        EXPECT(error == SVM_ENGINE_BAD_TRANSACTION && at < of->count);
        if (tell) {
            printf("refused %" PRIu32, at);
        }
        return;
    }
    svm_block_missing(block, &asked, &size, &count);
    uint8_t *entries = entries_for(asked, count, of);
    svm_block_free(block);
    svm_case_run(of, engines[0], SVM_MODE_SERIAL, choices & 1, &first);
    svm_case_run(of, engines[1], modes[choices >> 1 & 3], choices & 1, &again);
    EXPECT(first.error == SVM_ENGINE_OK);
    EXPECT(svm_ended_same(&first, &again));
    if (tell) {
        svm_ended_print(&first);
    }
    free(entries);
}

/* What each transaction is to who verifies signatures, with no library to ask. */
static void verify(const svm_scan_limits *limits, const uint8_t *bytes, size_t size, const svm_scan_record *records,
                   uint32_t count) {
    static const svm_verify_library nobody;
    uint64_t starts[TRANSACTIONS_MAX], ends[TRANSACTIONS_MAX];
    uint8_t digests[TRANSACTIONS_MAX * 32], prints[TRANSACTIONS_MAX * 32], verdicts[TRANSACTIONS_MAX] = {0};
    for (uint32_t i = 0; i < count; i++) {
        starts[i] = records[i].start;
        ends[i] = (uint64_t)records[i].start + records[i].size;
    }
    EXPECT(svm_verify_transactions(&nobody, pools[1], limits, bytes, size, starts, ends, count, digests, 0, verdicts) ==
           0);
    EXPECT(svm_verify_fingerprints(pools[1], bytes, size, starts, ends, count, prints) == 0);
    for (uint32_t i = 0; i < count; i++) {
        EXPECT((verdicts[i] == SVM_NOT_CANONICAL) == (records[i].error != SVM_OK));
    }
}

void svm_fuzz_one(const uint8_t *bytes, size_t size, int tell) {
    svm_scan_record records[TRANSACTIONS_MAX];
    svm_case of;
    uint32_t count = 0;

    if (engines[0] == NULL) {
        start();
    }
    EXPECT(svm_case_read(EMPTY_CASE, sizeof EMPTY_CASE, &of) == sizeof EMPTY_CASE);
    svm_case_free(&of);
    if (size < 1) {
        return;
    }
    const uint8_t choices = *bytes++;
    size--;
    const svm_scan_limits limits = {.transactions_max = TRANSACTIONS_MAX,
                                    .transaction_bytes_max = of.facts.transaction_bytes_max,
                                    .payload_bytes_max = of.facts.payload_bytes_max,
                                    .inputs_max = of.facts.inputs_max,
                                    .relays_max = 2};
    const uint32_t error = svm_scan_transactions(bytes, size, &limits, records, TRANSACTIONS_MAX, &count);
    EXPECT(count <= TRANSACTIONS_MAX);
    if (tell) {
        printf("%" PRIu32 " %" PRIu32 " ", error, count);
    }
    uint64_t offsets[TRANSACTIONS_MAX + 1] = {0};
    uint32_t wrong = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        EXPECT(records[i].start <= size && records[i].size <= size - records[i].start);
        offsets[i + 1] = offsets[i] + records[i].size;
        wrong = wrong == UINT32_MAX && records[i].error != SVM_OK ? i : wrong;
    }
    verify(&limits, bytes, size, records, count);
    of.data = malloc((size_t)offsets[count] + 1);
    of.offsets = offsets;
    of.count = count;
    EXPECT(of.data != NULL);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(of.data + offsets[i], bytes + records[i].start, records[i].size);
    }
    if (wrong != UINT32_MAX) {
        svm_block *block;
        uint32_t at;
        EXPECT(svm_block_new(engines[0], &of.facts, of.data, offsets, count, NULL, NULL, 0, &block, &at) ==
               SVM_ENGINE_BAD_TRANSACTION);
        EXPECT(at <= wrong);
        if (tell) {
            printf("refused %" PRIu32, at);
        }
    } else {
        execute(&of, choices, tell);
    }
    free(of.data);
}

#if defined(SVM_COVERED)
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t size_max);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t size_max, unsigned int seed);

/* Changes one payload and the sizes before it, so that what is inside is reached as often as what is outside. */
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t size_max, unsigned int seed) {
    static const svm_scan_limits limits = {TRANSACTIONS_MAX, 1 << 17, 1 << 16, 256, 2};
    svm_scan_record records[TRANSACTIONS_MAX];
    uint32_t count = 0;
    if (seed % 2 == 0 || size < 3) {
        return LLVMFuzzerMutate(bytes, size, size_max);
    }
    svm_scan_transactions(bytes + 1, size - 1, &limits, records, TRANSACTIONS_MAX, &count);
    const svm_scan_record *one = &records[count == 0 ? 0 : seed / 2 % count];
    if (count == 0 || one->error != SVM_OK) {
        return LLVMFuzzerMutate(bytes, size, size_max);
    }
    const size_t at = 1 + (size_t)one->payload, after = at + one->payload_size, rest = size - after;
    const size_t room = size_max - (size - one->payload_size);
    uint8_t *payload = malloc(room + 1), *end = malloc(rest + 1);
    EXPECT(payload != NULL && end != NULL);
    memcpy(payload, bytes + at, one->payload_size);
    memcpy(end, bytes + after, rest);
    const size_t made = LLVMFuzzerMutate(payload, one->payload_size, room);
    put(bytes + at - 4, made, 4);
    put(bytes + 1 + one->start - 4, one->size - one->payload_size + made, 4);
    memcpy(bytes + at, payload, made);
    memcpy(bytes + at + made, end, rest);
    free(payload);
    free(end);
    return at + made + rest;
}
#endif
