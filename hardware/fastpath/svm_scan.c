/* The judge of this file is twin.py: same records, same errors, in the same order of checks. */
#include "svm_scan.h"
#include "svm_scan_one.h"

#include <stdbool.h>
#include <string.h>

enum {
    ID_SIZE = 32,
    INPUT_SIZE = ID_SIZE + 8 + 1, /* id, version, access */
    LANE_PRIVATE = 3,
    LANE_LAST = 3,
    ACCESS_LAST = 5,
    SUITE_LAST = 3,
    SIGNATURE_SIZE = 64
};

/* By suite: 1 ed25519, 2 secp256k1 compressed, 3 sm2 uncompressed. */
static const uint32_t KEY_SIZES[SUITE_LAST + 1] = {0, 32, 33, 65};

/* The bytes not read yet. No function moves `at` past `end`. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} cursor;

static size_t left(const cursor *c) { return (size_t)(c->end - c->at); }

/* Gives the next `size` bytes, or NULL where fewer are left. */
static const uint8_t *take(cursor *c, size_t size) {
    if (left(c) < size) {
        return NULL;
    }
    const uint8_t *taken = c->at;
    c->at += size;
    return taken;
}

static bool take_u8(cursor *c, uint8_t *value) {
    const uint8_t *b = take(c, 1);
    if (b == NULL) {
        return false;
    }
    *value = b[0];
    return true;
}

static bool take_u16(cursor *c, uint32_t *value) {
    const uint8_t *b = take(c, 2);
    if (b == NULL) {
        return false;
    }
    *value = (uint32_t)b[0] | (uint32_t)b[1] << 8;
    return true;
}

static bool take_u32(cursor *c, uint32_t *value) {
    const uint8_t *b = take(c, 4);
    if (b == NULL) {
        return false;
    }
    *value = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    return true;
}

static bool all_zero(const uint8_t *b, size_t size) {
    uint8_t seen = 0;
    for (size_t i = 0; i < size; i++) {
        seen |= b[i];
    }
    return seen == 0;
}

/* Whether one id comes before another. Of most pairs the first eight bytes tell, in one comparison. */
static inline bool ascend(const uint8_t *a, const uint8_t *b) {
    uint64_t x = 0, y = 0;
    for (int i = 0; i < 8; i++) {
        x = x << 8 | a[i];
        y = y << 8 | b[i];
    }
    return x != y ? x < y : memcmp(a, b, ID_SIZE) < 0;
}

/* Inputs: u16 count, then (id, version, access) strictly ascending by id. */
static uint32_t scan_inputs(cursor *c, const svm_scan_limits *limits, uint32_t *count) {
    uint32_t inputs;
    if (!take_u16(c, &inputs)) {
        return SVM_TRUNCATED;
    }
    *count = inputs;
    if (inputs > limits->inputs_max) {
        return SVM_TOO_MANY_INPUTS;
    }
    const uint8_t *before = NULL;
    for (uint32_t i = 0; i < inputs; i++) {
        const uint8_t *input = take(c, INPUT_SIZE);
        if (input == NULL) {
            return SVM_TRUNCATED;
        }
        if (before != NULL && !ascend(before, input)) {
            return SVM_INPUTS_UNSORTED;
        }
        if (input[INPUT_SIZE - 1] > ACCESS_LAST) {
            return SVM_UNKNOWN_ACCESS;
        }
        before = input;
    }
    return SVM_OK;
}

/* One authorization: suite, public key, signature, each of its suite's size. */
static uint32_t scan_authorization(cursor *c) {
    uint8_t suite;
    uint32_t size;
    if (!take_u8(c, &suite)) {
        return SVM_TRUNCATED;
    }
    if (suite == 0 || suite > SUITE_LAST) {
        return SVM_UNKNOWN_SUITE;
    }
    if (!take_u32(c, &size)) {
        return SVM_TRUNCATED;
    }
    if (size != KEY_SIZES[suite]) {
        return SVM_KEY_SIZE;
    }
    if (take(c, size) == NULL || !take_u32(c, &size)) {
        return SVM_TRUNCATED;
    }
    if (size != SIGNATURE_SIZE) {
        return SVM_SIGNATURE_SIZE;
    }
    return take(c, size) == NULL ? (uint32_t)SVM_TRUNCATED : (uint32_t)SVM_OK;
}

/* One transaction: body, then authorizations. `first` is where the batch begins. */
static uint32_t scan_one(const uint8_t *first, cursor *c, const svm_scan_limits *limits,
                         svm_scan_record *record) {
    uint8_t format, lane;
    uint32_t relays, inputs, payload_size, authorizations, expected, error;

    if (left(c) > limits->transaction_bytes_max) {
        return SVM_TOO_LARGE;
    }
    if (!take_u8(c, &format)) {
        return SVM_TRUNCATED;
    }
    if (format != 1) {
        return SVM_UNKNOWN_FORMAT;
    }
    const uint8_t *chain_id = take(c, ID_SIZE);
    const uint8_t *sender = take(c, ID_SIZE);
    const uint8_t *fee_payer = take(c, ID_SIZE);
    const uint8_t *nonces = take(c, 8 + 8 + 8); /* sponsor_nonce, nonce, expiry_epoch */
    if (chain_id == NULL || sender == NULL || fee_payer == NULL || nonces == NULL || !take_u8(c, &lane)) {
        return SVM_TRUNCATED;
    }
    const bool sponsored = memcmp(sender, fee_payer, ID_SIZE) != 0;
    if (!sponsored && !all_zero(nonces, 8)) {
        return SVM_SPONSOR_NONCE;
    }
    if (lane > LANE_LAST) {
        return SVM_UNKNOWN_LANE;
    }
    /* gas_limit, max_price, tip_price, gas_token, max_fee */
    if (take(c, 8 + 8 + 8 + ID_SIZE + 16) == NULL || !take_u16(c, &relays)) {
        return SVM_TRUNCATED;
    }
    if (relays > limits->relays_max) {
        return SVM_TOO_MANY_RELAYS;
    }
    if (take(c, (size_t)relays * ID_SIZE) == NULL) {
        return SVM_TRUNCATED;
    }
    error = scan_inputs(c, limits, &inputs);
    if (error != SVM_OK) {
        return error;
    }
    /* Without an account a body is private, authenticates itself inside its payload, and has no nonce. */
    const bool nameless = all_zero(sender, ID_SIZE);
    if (nameless || all_zero(fee_payer, ID_SIZE)) {
        if (lane != LANE_PRIVATE || sponsored || !all_zero(nonces + 8, 8) || inputs != 0) {
            return SVM_NAMELESS;
        }
    }
    if (take(c, 2) == NULL || !take_u32(c, &payload_size)) { /* payload kind */
        return SVM_TRUNCATED;
    }
    if (payload_size > limits->payload_bytes_max) {
        return SVM_PAYLOAD_TOO_LARGE;
    }
    const uint8_t *payload = take(c, payload_size);
    if (payload == NULL) {
        return SVM_TRUNCATED;
    }
    record->payload = (uint32_t)(payload - first);
    record->payload_size = payload_size;
    record->body_end = (uint32_t)(c->at - first);

    if (!take_u16(c, &authorizations)) {
        return SVM_TRUNCATED;
    }
    expected = nameless ? 0 : sponsored ? 2 : 1;
    if (authorizations != expected) {
        return SVM_AUTHORIZATION_COUNT;
    }
    record->authorization = (uint32_t)(c->at - first);
    record->authorization_count = authorizations;
    for (uint32_t i = 0; i < authorizations; i++) {
        error = scan_authorization(c);
        if (error != SVM_OK) {
            return error;
        }
    }
    return left(c) == 0 ? (uint32_t)SVM_OK : (uint32_t)SVM_TRAILING_BYTES;
}

uint32_t svm_scan_one_transaction(const uint8_t *data, size_t size, const svm_scan_limits *limits,
                                  svm_scan_record *record) {
    cursor one = {data, data + size};
    return scan_one(data, &one, limits, record);
}

uint32_t svm_scan_transactions(const uint8_t *packed, size_t size, const svm_scan_limits *limits,
                               svm_scan_record *records, uint32_t records_max, uint32_t *count) {
    uint32_t stated;

    *count = 0;
    if (size > UINT32_MAX) { /* offsets are u32 */
        return SVM_TOO_LARGE;
    }
    cursor batch = {packed, packed + size};
    if (!take_u16(&batch, &stated)) {
        return SVM_TRUNCATED;
    }
    if (stated > limits->transactions_max) {
        return SVM_TOO_MANY_TRANSACTIONS;
    }
    for (uint32_t i = 0; i < stated; i++) {
        uint32_t bytes;
        if (i == records_max) {
            return SVM_TOO_MANY_TRANSACTIONS;
        }
        if (!take_u32(&batch, &bytes)) {
            return SVM_TRUNCATED;
        }
        const uint8_t *start = take(&batch, bytes);
        if (start == NULL) {
            return SVM_TRUNCATED;
        }
        svm_scan_record record = {0};
        cursor one = {start, start + bytes};
        record.error = scan_one(packed, &one, limits, &record);
        if (record.error != SVM_OK) {
            svm_scan_record refused = {0};
            refused.error = record.error;
            record = refused;
        }
        record.start = (uint32_t)(start - packed);
        record.size = bytes;
        records[i] = record;
        *count = i + 1;
    }
    return left(&batch) == 0 ? (uint32_t)SVM_OK : (uint32_t)SVM_TRAILING_BYTES;
}
