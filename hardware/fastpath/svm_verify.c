/* The rule of a suite (what is refused whatever the equation says) stands here as it does in ed25519_rule.py and
 * secp256k1.py, which judge this file: libraries differ in what they refuse, so none is asked about it. */
#include "svm_verify.h"

#include <stdbool.h>
#include <string.h>

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
