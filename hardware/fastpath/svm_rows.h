/* Rows of the ledger's store from packed entries, each with the seal that tells a damaged one.
 *
 * The judge is supervm.storage.spaces.seal. Blocks for as long as hashing takes; any number of threads may call. */
#ifndef SVM_ROWS_H
#define SVM_ROWS_H

#include <stddef.h>
#include <stdint.h>

enum svm_rows_error {
    SVM_ROWS_OK = 0,
    SVM_ROWS_NO_MEMORY = 1,
    SVM_ROWS_BAD = 2 /* bytes that are no packed entries, or no room for their rows: a bug of the caller */
};

/* `count` entries, each u8 key size, key, u32 value size (0: none), value, become rows of the same form: the key with
 * `space` before it, the value with its seal after it; one without a value stays so. A row is at most 9 bytes longer
 * than its entry. `out` has `room` bytes, `written` says how many are used. */
uint32_t svm_rows_seal(uint8_t space, const uint8_t *packed, size_t size, uint32_t count, uint8_t *out, size_t room,
                       size_t *written);

#endif
