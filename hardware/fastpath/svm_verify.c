/* The rule of a suite (what is refused whatever the equation says) stands here as it does in ed25519_rule.py and
 * secp256k1.py, which judge this file: libraries differ in what they refuse, so none is asked about it. */
#include "svm_verify.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "svm_blake3.h"
#include "svm_scan_one.h"

enum {
    LANES = 8,
    NUMBER = 32,
    SIGNATURE = 64,
    MESSAGE_MAX = 1024,
    TASK_MAX = 64, /* signatures: long enough to fill lanes, short enough to share out */
    SECP256K1_KEY = 33
};

uint32_t svm_verify_message_max(void) { return MESSAGE_MAX; }

uint32_t svm_verify_able(const svm_verify_library *library, uint32_t suite) {
    switch (suite) {
    case SVM_ED25519:
        return library->ed25519_open != NULL || library->ed25519_verify_mb8 != NULL;
    case SVM_SECP256K1:
        return library->secp256k1_context != NULL && library->secp256k1_key != NULL &&
               library->secp256k1_signature != NULL && library->secp256k1_verify != NULL;
    default:
        return 0;
    }
}

/* Whether a < b, little-endian numbers of 32 bytes. */
static bool below(const uint8_t *a, const uint8_t *b) {
    for (int i = NUMBER - 1; i >= 0; i--) {
        if (a[i] != b[i]) {
            return a[i] < b[i];
        }
    }
    return false;
}

/* The order of the group, 2^252 + 27742317777372353535851937790883648493 (RFC 8032, section 5.1). */
static const uint8_t ED25519_ORDER[NUMBER] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7,
                                              0xa2, 0xde, 0xf9, 0xde, 0x14, 0,    0,    0,    0,    0,    0,
                                              0,    0,    0,    0,    0,    0,    0,    0,    0,    0x10};
/* 2^255 - 19. */
static const uint8_t ED25519_FIELD[NUMBER] = {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                              0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                              0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
/* y of the points whose order divides 8: orders 4, 1, 8, 8 and 2. */
static const uint8_t ED25519_SMALL[5][NUMBER] = {
    {0},
    {1},
    {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
     0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
    {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
     0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
    {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}};

/* Whether y is below the field and none of a small order; the sign of x is left out of it. */
static bool ed25519_point_in_form(const uint8_t *point) {
    uint8_t y[NUMBER];
    memcpy(y, point, NUMBER);
    y[NUMBER - 1] &= 0x7f;
    if (!below(y, ED25519_FIELD)) {
        return false;
    }
    for (size_t i = 0; i < sizeof ED25519_SMALL / sizeof ED25519_SMALL[0]; i++) {
        if (memcmp(y, ED25519_SMALL[i], NUMBER) == 0) {
            return false;
        }
    }
    return true;
}

static bool ed25519_in_form(const uint8_t *key, const uint8_t *signature) {
    return below(signature + NUMBER, ED25519_ORDER) && ed25519_point_in_form(key) && ed25519_point_in_form(signature);
}

static bool ed25519_one(const svm_verify_library *library, const uint8_t *key, const uint8_t *signature,
                        const uint8_t *message, uint32_t size) {
    uint8_t signed_message[SIGNATURE + MESSAGE_MAX], opened[SIGNATURE + MESSAGE_MAX];
    unsigned long long opened_size;
    memcpy(signed_message, signature, SIGNATURE);
    memcpy(signed_message + SIGNATURE, message, size);
    return library->ed25519_open(opened, &opened_size, signed_message, SIGNATURE + (unsigned long long)size, key) == 0;
}

/* n and its half, big-endian (SEC 2, section 2.4.1). */
static const uint8_t SECP256K1_ORDER[NUMBER] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                                0xff, 0xff, 0xff, 0xff, 0xfe, 0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48,
                                                0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41};
static const uint8_t SECP256K1_HALF[NUMBER] = {0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                               0xff, 0xff, 0xff, 0xff, 0xff, 0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4,
                                               0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0};

static bool secp256k1_in_form(const uint8_t *signature) {
    static const uint8_t zero[NUMBER];
    const uint8_t *r = signature, *s = signature + NUMBER;
    return memcmp(r, zero, NUMBER) != 0 && memcmp(r, SECP256K1_ORDER, NUMBER) < 0 && memcmp(s, zero, NUMBER) != 0 &&
           memcmp(s, SECP256K1_HALF, NUMBER) <= 0;
}

static bool secp256k1_one(const svm_verify_library *library, const uint8_t *key, const uint8_t *signature,
                          const uint8_t *message) {
    /* Both of the library's types have 64 bytes and the alignment of bytes. */
    uint8_t parsed_key[64], parsed_signature[64];
    const void *context = library->secp256k1_context;
    return secp256k1_in_form(signature) && library->secp256k1_key(context, parsed_key, key, SECP256K1_KEY) == 1 &&
           library->secp256k1_signature(context, parsed_signature, signature) == 1 &&
           library->secp256k1_verify(context, parsed_signature, message, parsed_key) == 1;
}

/* Signatures of ed25519 that wait for their equation, with messages of one size. */
typedef struct {
    const svm_verify_library *library;
    uint32_t held;
    uint32_t message_size;
    const uint8_t *key[LANES];
    const uint8_t *signature[LANES];
    const uint8_t *message[LANES];
    uint8_t *right[LANES];
} lanes;

/* A library that does many at once is asked first. Where it goes wrong, in a carry say, it finds another R and says
 * no; so each no of its is asked of the other library, and a right signature isn't refused for its sake. */
static void flush(lanes *waiting) {
    const svm_verify_library *library = waiting->library;
    const uint32_t held = waiting->held;
    uint32_t refused = UINT32_MAX;

    waiting->held = 0;
    if (held != 0 && library->ed25519_verify_mb8 != NULL && (held > 1 || library->ed25519_open == NULL)) {
        /* Copies: what it reads beyond the end of one, if it does, is ours. Lanes to spare repeat the first. */
        uint8_t keys[LANES + 1][NUMBER], rs[LANES + 1][NUMBER], ss[LANES + 1][NUMBER];
        const uint8_t *key[LANES], *r[LANES], *s[LANES], *message[LANES];
        uint32_t sizes[LANES];
        for (uint32_t i = 0; i < LANES; i++) {
            const uint32_t from = i < held ? i : 0;
            memcpy(keys[i], waiting->key[from], NUMBER);
            memcpy(rs[i], waiting->signature[from], NUMBER);
            memcpy(ss[i], waiting->signature[from] + NUMBER, NUMBER);
            key[i] = keys[i];
            r[i] = rs[i];
            s[i] = ss[i];
            message[i] = waiting->message[from];
            sizes[i] = waiting->message_size;
        }
        refused = library->ed25519_verify_mb8(r, s, message, sizes, key);
    }
    for (uint32_t i = 0; i < held; i++) {
        *waiting->right[i] = (refused >> 4 * i & 0xf) == 0 ||
                             (library->ed25519_open != NULL &&
                              ed25519_one(library, waiting->key[i], waiting->signature[i], waiting->message[i],
                                          waiting->message_size));
    }
}

static void verify_one(lanes *waiting, uint32_t suite, const uint8_t *key, const uint8_t *signature,
                       const uint8_t *message, uint32_t message_size, uint8_t *right) {
    *right = 0;
    if (suite == SVM_SECP256K1) {
        *right = message_size == NUMBER && secp256k1_one(waiting->library, key, signature, message);
    } else if (suite == SVM_ED25519 && message_size <= MESSAGE_MAX && ed25519_in_form(key, signature)) {
        if (waiting->held == LANES || (waiting->held != 0 && waiting->message_size != message_size)) {
            flush(waiting);
        }
        waiting->message_size = message_size;
        waiting->key[waiting->held] = key;
        waiting->signature[waiting->held] = signature;
        waiting->message[waiting->held] = message;
        waiting->right[waiting->held++] = right;
    }
}

/* A share for each thread and some to spare, in whole groups of lanes. */
static uint32_t task_size(const svm_pool *pool, uint32_t count) {
    const uint32_t shares = 2 * svm_pool_threads(pool);
    const uint32_t size = (count / shares + LANES) / LANES * LANES;
    return size > TASK_MAX ? TASK_MAX : size;
}

typedef struct {
    const svm_verify_library *library;
    const uint8_t *data, *messages;
    const svm_verify_item *items;
    uint32_t count, task;
    uint8_t *right;
} items_job;

static void items_task(void *context, uint32_t index) {
    const items_job *job = context;
    const uint32_t first = index * job->task;
    const uint32_t end = job->count - first < job->task ? job->count : first + job->task;
    lanes waiting = {.library = job->library};

    for (uint32_t i = first; i < end; i++) {
        const svm_verify_item *item = &job->items[i];
        verify_one(&waiting, item->suite, job->data + item->key, job->data + item->signature,
                   job->messages + item->message, item->message_size, &job->right[i]);
    }
    flush(&waiting);
}

void svm_verify_items(const svm_verify_library *library, svm_pool *pool, const uint8_t *data, const uint8_t *messages,
                      const svm_verify_item *items, uint32_t count, uint8_t *right) {
    items_job job = {library, data, messages, items, count, task_size(pool, count), right};
    svm_pool_run(pool, items_task, &job, (count + job.task - 1) / job.task);
}

enum {
    ID = 32,
    SENDER = 1 + ID, /* after the format and the chain id */
    PAYER = SENDER + ID,
    AUTHORIZATIONS = 2,
    KEY_MAX = 65,
    SCRATCH = 65536 /* bodies that are hashed together; a larger one is hashed alone */
};

static const char TRANSACTION[] = "supervm/tx/v1";
static const char ADDRESS[] = "supervm/address/v1";
enum { TRANSACTION_SIZE = sizeof TRANSACTION - 1, ADDRESS_SIZE = sizeof ADDRESS - 1 };

typedef struct {
    const svm_verify_library *library;
    const svm_scan_limits *limits;
    const uint8_t *data;
    const uint64_t *starts, *ends;
    uint32_t count, task;
    uint8_t *digests, *verdicts;
    bool have_digests;
    atomic_bool no_memory;
} transactions_job;

typedef struct {
    uint8_t suite;
    const uint8_t *key, *signature;
    uint32_t key_size;
} authorization;

/* The next authorization of a scanned transaction; moves `at` behind it. */
static authorization read_authorization(const uint8_t **at) {
    authorization found = {.suite = **at};
    found.key_size = found.suite == 1 ? 32 : found.suite == 2 ? 33 : KEY_MAX;
    found.key = *at + 1 + 4;
    found.signature = found.key + found.key_size + 4;
    *at = found.signature + SIGNATURE;
    return found;
}

/* The digests of the bodies of a task's transactions, `records` of them from the first; all zero where refused. */
static bool make_digests(const transactions_job *job, uint32_t first, uint32_t end, const svm_scan_record *records) {
    const uint8_t *inputs[TASK_MAX];
    uint32_t sizes[TASK_MAX], used = 0;
    uint8_t *scratch = malloc(SCRATCH);

    if (scratch == NULL) {
        return false;
    }
    uint32_t from = first; /* of those whose bodies wait in the scratch */
    for (uint32_t i = first; i < end; i++) {
        const svm_scan_record *record = &records[i - first];
        const uint8_t *body = job->data + job->starts[i];
        const uint32_t body_size = record->error == SVM_OK ? record->body_end : 0;
        uint8_t *digest = job->digests + (size_t)i * ID;
        if (record->error != SVM_OK || TRANSACTION_SIZE + body_size > SCRATCH) {
            svm_blake3_many(inputs, sizes, i - from, job->digests + (size_t)from * ID);
            memset(digest, 0, ID);
            if (record->error == SVM_OK) {
                uint8_t *whole = malloc(TRANSACTION_SIZE + (size_t)body_size);
                if (whole == NULL) {
                    free(scratch);
                    return false;
                }
                memcpy(whole, TRANSACTION, TRANSACTION_SIZE);
                memcpy(whole + TRANSACTION_SIZE, body, body_size);
                svm_blake3(whole, TRANSACTION_SIZE + (size_t)body_size, digest);
                free(whole);
            }
            from = i + 1;
            used = 0;
            continue;
        }
        if (used + TRANSACTION_SIZE + body_size > SCRATCH) {
            svm_blake3_many(inputs, sizes, i - from, job->digests + (size_t)from * ID);
            from = i;
            used = 0;
        }
        memcpy(scratch + used, TRANSACTION, TRANSACTION_SIZE);
        memcpy(scratch + used + TRANSACTION_SIZE, body, body_size);
        inputs[i - from] = scratch + used;
        sizes[i - from] = TRANSACTION_SIZE + body_size;
        used += sizes[i - from];
    }
    svm_blake3_many(inputs, sizes, end - from, job->digests + (size_t)from * ID);
    free(scratch);
    return true;
}

/* The addresses of all keys of a task's transactions, in their order. */
static void make_addresses(const transactions_job *job, uint32_t first, uint32_t end, const svm_scan_record *records,
                           uint8_t addresses[AUTHORIZATIONS * TASK_MAX][ID]) {
    uint8_t inputs[AUTHORIZATIONS * TASK_MAX][ADDRESS_SIZE + 1 + KEY_MAX];
    const uint8_t *input[AUTHORIZATIONS * TASK_MAX];
    uint32_t sizes[AUTHORIZATIONS * TASK_MAX], keys = 0;

    for (uint32_t i = first; i < end; i++) {
        const svm_scan_record *record = &records[i - first];
        const uint8_t *at = job->data + job->starts[i] + record->authorization;
        for (uint32_t k = 0; record->error == SVM_OK && k < record->authorization_count; k++) {
            const authorization one = read_authorization(&at);
            memcpy(inputs[keys], ADDRESS, ADDRESS_SIZE);
            inputs[keys][ADDRESS_SIZE] = one.suite;
            memcpy(inputs[keys] + ADDRESS_SIZE + 1, one.key, one.key_size);
            input[keys] = inputs[keys];
            sizes[keys++] = ADDRESS_SIZE + 1 + one.key_size;
        }
    }
    svm_blake3_many(input, sizes, keys, addresses[0]);
}

/* What can be said without an equation; SVM_SIGNED where all depends on it. */
static uint8_t first_verdict(const transactions_job *job, const uint8_t *start, const svm_scan_record *record,
                             const uint8_t addresses[][ID]) {
    static const uint8_t wrong_key[AUTHORIZATIONS] = {SVM_SENDER_KEY, SVM_PAYER_KEY};
    static const uint32_t named[AUTHORIZATIONS] = {SENDER, PAYER};
    const uint8_t *at = start + record->authorization;

    for (uint32_t k = 0; k < record->authorization_count; k++) {
        if (memcmp(addresses[k], start + named[k], ID) != 0) {
            return wrong_key[k];
        }
    }
    for (uint32_t k = 0; k < record->authorization_count; k++) {
        if (!svm_verify_able(job->library, read_authorization(&at).suite)) {
            return SVM_OTHER_SUITE;
        }
    }
    return SVM_SIGNED;
}

static void transactions_task(void *context, uint32_t index) {
    transactions_job *job = context;
    const uint32_t first = index * job->task;
    const uint32_t end = job->count - first < job->task ? job->count : first + job->task;
    svm_scan_record records[TASK_MAX];
    uint8_t addresses[AUTHORIZATIONS * TASK_MAX][ID], right[AUTHORIZATIONS * TASK_MAX];
    bool asked[TASK_MAX];
    lanes waiting = {.library = job->library};
    uint32_t keys = 0;

    memset(records, 0, sizeof records);
    for (uint32_t i = first; i < end; i++) {
        svm_scan_record *record = &records[i - first];
        record->error = svm_scan_one_transaction(job->data + job->starts[i], (size_t)(job->ends[i] - job->starts[i]),
                                                 job->limits, record);
    }
    if (!job->have_digests && !make_digests(job, first, end, records)) {
        atomic_store(&job->no_memory, true);
        return;
    }
    make_addresses(job, first, end, records, addresses);
    for (uint32_t i = first; i < end; i++) {
        const svm_scan_record *record = &records[i - first];
        const uint8_t *start = job->data + job->starts[i];
        const uint8_t *at = start + record->authorization;
        const uint32_t count = record->error == SVM_OK ? record->authorization_count : 0;
        const bool known = job->verdicts[i] == SVM_SIGNED;
        if (!known) {
            job->verdicts[i] = record->error != SVM_OK
                                   ? (uint8_t)SVM_NOT_CANONICAL
                                   : first_verdict(job, start, record, (const uint8_t(*)[ID])addresses + keys);
        }
        asked[i - first] = !known && job->verdicts[i] == SVM_SIGNED;
        for (uint32_t k = 0; asked[i - first] && k < count; k++) {
            const authorization one = read_authorization(&at);
            verify_one(&waiting, one.suite, one.key, one.signature, job->digests + (size_t)i * ID, ID,
                       &right[keys + k]);
        }
        keys += count;
    }
    flush(&waiting);
    keys = 0;
    for (uint32_t i = first; i < end; i++) {
        const svm_scan_record *record = &records[i - first];
        const uint32_t count = record->error == SVM_OK ? record->authorization_count : 0;
        if (asked[i - first] && count > 0 && !right[keys]) {
            job->verdicts[i] = SVM_SENDER_SIGNATURE;
        } else if (asked[i - first] && count > 1 && !right[keys + 1]) {
            job->verdicts[i] = SVM_PAYER_SIGNATURE;
        }
        keys += count;
    }
}

/* Whether all transactions lie within the bytes, each no longer than 32 bits count. */
static bool within(const uint64_t *starts, const uint64_t *ends, uint32_t count, uint64_t size) {
    for (uint32_t i = 0; i < count; i++) {
        if (starts[i] > ends[i] || ends[i] > size || ends[i] - starts[i] > UINT32_MAX) {
            return false;
        }
    }
    return true;
}

uint32_t svm_verify_transactions(const svm_verify_library *library, svm_pool *pool, const svm_scan_limits *limits,
                                 const uint8_t *data, uint64_t size, const uint64_t *starts, const uint64_t *ends,
                                 uint32_t count, uint8_t *digests, uint32_t have_digests, uint8_t *verdicts) {
    if (!within(starts, ends, count, size)) {
        return 2;
    }
    transactions_job job = {.library = library,
                            .limits = limits,
                            .data = data,
                            .starts = starts,
                            .ends = ends,
                            .count = count,
                            .task = task_size(pool, count),
                            .digests = digests,
                            .verdicts = verdicts,
                            .have_digests = have_digests != 0};
    atomic_init(&job.no_memory, false);
    svm_pool_run(pool, transactions_task, &job, (count + job.task - 1) / job.task);
    return atomic_load(&job.no_memory) ? 1 : 0;
}

typedef struct {
    const uint8_t *data;
    const uint64_t *starts, *ends;
    uint32_t count;
    uint8_t *fingerprints;
} fingerprints_job;

static void fingerprints_task(void *context, uint32_t index) {
    const fingerprints_job *job = context;
    const uint32_t first = index * TASK_MAX;
    const uint32_t size = job->count - first < TASK_MAX ? job->count - first : TASK_MAX;
    const uint8_t *inputs[TASK_MAX];
    uint32_t sizes[TASK_MAX];

    for (uint32_t i = 0; i < size; i++) {
        inputs[i] = job->data + job->starts[first + i];
        sizes[i] = (uint32_t)(job->ends[first + i] - job->starts[first + i]);
    }
    svm_blake3_many(inputs, sizes, size, job->fingerprints + (size_t)first * ID);
}

uint32_t svm_verify_fingerprints(svm_pool *pool, const uint8_t *data, uint64_t size, const uint64_t *starts,
                                 const uint64_t *ends, uint32_t count, uint8_t *fingerprints) {
    if (!within(starts, ends, count, size)) {
        return 2;
    }
    fingerprints_job job = {data, starts, ends, count, fingerprints};
    svm_pool_run(pool, fingerprints_task, &job, (count + TASK_MAX - 1) / TASK_MAX);
    return 0;
}
