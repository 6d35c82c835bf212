/* Seals of many rows: the first 8 bytes of blake3(u16 key size || key || value), hashed side by side. */
#include "svm_rows.h"

#include "svm_blake3.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { TOGETHER = 128, SEAL = 8, HASH = 32, KEY_MOST = 254 };

typedef struct {
    uint8_t *bytes; /* what is hashed of each row, one after the other */
    size_t size, room;
    size_t starts[TOGETHER]; /* in `bytes`: they may move */
    uint32_t sizes[TOGETHER];
    uint8_t *seals[TOGETHER]; /* where they go */
    uint32_t count;
} waiting;

static uint32_t size_at(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put_size(uint8_t *at, uint32_t size) {
    at[0] = (uint8_t)size;
    at[1] = (uint8_t)(size >> 8);
    at[2] = (uint8_t)(size >> 16);
    at[3] = (uint8_t)(size >> 24);
}

static void seal_waiting(waiting *of) {
    const uint8_t *inputs[TOGETHER];
    uint8_t hashes[TOGETHER * HASH];
    for (uint32_t i = 0; i < of->count; i++) {
        inputs[i] = of->bytes + of->starts[i];
    }
    svm_blake3_many(inputs, of->sizes, of->count, hashes);
    for (uint32_t i = 0; i < of->count; i++) {
        memcpy(of->seals[i], hashes + (size_t)HASH * i, SEAL);
    }
    of->count = 0;
    of->size = 0;
}

/* Notes that a row is to be sealed; false where there is no memory. */
static bool wait_for_seal(waiting *of, const uint8_t *key, uint32_t key_size, const uint8_t *value,
                          uint32_t value_size, uint8_t *seal) {
    const size_t more = 2 + (size_t)key_size + value_size;
    if (of->room - of->size < more) {
        const size_t room = 2 * of->room + more;
        uint8_t *bytes = realloc(of->bytes, room);
        if (bytes == NULL) {
            return false;
        }
        of->bytes = bytes;
        of->room = room;
    }
    uint8_t *out = of->bytes + of->size;
    out[0] = (uint8_t)key_size;
    out[1] = (uint8_t)(key_size >> 8);
    memcpy(out + 2, key, key_size);
    memcpy(out + 2 + key_size, value, value_size);
    of->starts[of->count] = of->size;
    of->sizes[of->count] = (uint32_t)more;
    of->seals[of->count] = seal;
    of->size += more;
    of->count++;
    return true;
}

uint32_t svm_rows_seal(uint8_t space, const uint8_t *packed, size_t size, uint32_t count, uint8_t *out, size_t room,
                       size_t *written) {
    waiting of;
    memset(&of, 0, sizeof of);
    size_t at = 0, made = 0;
    uint32_t error = SVM_ROWS_OK;
    for (uint32_t i = 0; i < count && error == SVM_ROWS_OK; i++) {
        if (size - at < 1 || packed[at] > KEY_MOST || size - at - 1 < (size_t)packed[at] + 4) {
            error = SVM_ROWS_BAD;
            break;
        }
        const uint32_t key_size = packed[at] + 1u;
        const uint8_t *value = packed + at + 1 + packed[at] + 4;
        const uint32_t value_size = size_at(value - 4), sealed_size = value_size == 0 ? 0 : value_size + SEAL;
        const size_t row = 1 + (size_t)key_size + 4 + sealed_size;
        if (value_size > UINT32_MAX - SEAL - KEY_MOST - 3 || size - (size_t)(value - packed) < value_size ||
            room - made < row) {
            error = SVM_ROWS_BAD;
            break;
        }
        uint8_t *key = out + made + 1;
        key[-1] = (uint8_t)key_size;
        key[0] = space;
        memcpy(key + 1, packed + at + 1, key_size - 1);
        put_size(key + key_size, sealed_size);
        memcpy(key + key_size + 4, value, value_size);
        if (value_size != 0 &&
            !wait_for_seal(&of, key, key_size, value, value_size, key + key_size + 4 + value_size)) {
            error = SVM_ROWS_NO_MEMORY;
        }
        if (of.count == TOGETHER) {
            seal_waiting(&of);
        }
        made += row;
        at = (size_t)(value - packed) + value_size;
    }
    if (error == SVM_ROWS_OK) {
        seal_waiting(&of);
        error = at == size ? SVM_ROWS_OK : SVM_ROWS_BAD;
    }
    free(of.bytes);
    *written = made;
    return error;
}
