/* Strict structural validation of packed canonical transactions (EXEC-6). */
#ifndef SVM_SCAN_H
#define SVM_SCAN_H

#include <stddef.h>
#include <stdint.h>

enum svm_scan_error {
    SVM_OK = 0,
    SVM_TRUNCATED = 1,             /* the bytes end before the field does */
    SVM_TRAILING_BYTES = 2,        /* bytes are left after the last field */
    SVM_TOO_LARGE = 3,             /* more bytes than transaction_bytes_max */
    SVM_UNKNOWN_FORMAT = 4,        /* the format byte is not 1 */
    SVM_UNKNOWN_LANE = 5,          /* the lane is not 0..3 */
    SVM_TOO_MANY_RELAYS = 6,       /* more than relays_max */
    SVM_TOO_MANY_INPUTS = 7,       /* more than inputs_max */
    SVM_INPUTS_UNSORTED = 8,       /* ids are not strictly ascending */
    SVM_UNKNOWN_ACCESS = 9,        /* an access is not 0..5 */
    SVM_PAYLOAD_TOO_LARGE = 10,    /* more bytes than payload_bytes_max */
    SVM_AUTHORIZATION_COUNT = 11,  /* not one for each account that pays or sends */
    SVM_UNKNOWN_SUITE = 12,        /* the suite is not 1..3 */
    SVM_KEY_SIZE = 13,             /* a public key of another size than its suite's */
    SVM_SIGNATURE_SIZE = 14,       /* a signature of another size than its suite's */
    SVM_SPONSOR_NONCE = 15,        /* a sponsor nonce, but the sender pays */
    SVM_NAMELESS = 16,             /* zero addresses, but not lane PRIVATE, or a payer, nonce or input */
    SVM_TOO_MANY_TRANSACTIONS = 17 /* the batch says more than transactions_max, or holds more than records_max */
};

typedef struct {
    uint32_t transactions_max;
    uint32_t transaction_bytes_max;
    uint32_t payload_bytes_max;
    uint32_t inputs_max;
    uint32_t relays_max;
} svm_scan_limits;

/* Offsets are from the first byte of the batch. Where error is not 0 only error, start and size count. */
typedef struct {
    uint32_t error;
    uint32_t start;
    uint32_t size;
    uint32_t body_end;
    uint32_t payload;
    uint32_t payload_size;
    uint32_t authorization;
    uint32_t authorization_count;
} svm_scan_record;

/* Reads `packed`: u16 count, then for each transaction u32 length and its bytes.
 * Writes one record a transaction to `records` (room for `records_max`) and their number to `count`.
 * Gives 0, or what is wrong with the batch itself; the records before that point are written.
 * Allocates nothing, keeps nothing, reads no byte outside `packed`. */
uint32_t svm_scan_transactions(const uint8_t *packed, size_t size, const svm_scan_limits *limits,
                               svm_scan_record *records, uint32_t records_max, uint32_t *count);

#endif
