/* Runs the driver of signature checks over made-up libraries, for the sanitizers: each batch lies in memory of exactly
 * its size, and the libraries read every byte that they are given. Both say yes where the sum of key, signature and
 * message is even.
 * File: for each batch u32 count, then for each transaction u32 length and its bytes. Prints the verdicts and a sum
 * of digests and fingerprints, a line for each number of threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "svm_verify.h"

enum { THREADS_MAX = 4 };

static uint32_t sum(const uint8_t *bytes, size_t size) {
    uint32_t total = 0;
    for (size_t i = 0; i < size; i++) {
        total += bytes[i];
    }
    return total;
}

static int open_one(unsigned char *message, unsigned long long *message_size, const unsigned char *signed_message,
                    unsigned long long size, const unsigned char *key) {
    memcpy(message, signed_message + 64, (size_t)size - 64);
    *message_size = size - 64;
    return (sum(signed_message, (size_t)size) + sum(key, 32)) % 2 == 0 ? 0 : -1;
}

/* Every other no of its is a slip, which must not show. */
static uint32_t open_eight(const uint8_t *const *r, const uint8_t *const *s, const uint8_t *const *messages,
                           const uint32_t *sizes, const uint8_t *const *keys) {
    uint32_t refused = 0;
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t total = sum(r[i], 32) + sum(s[i], 32) + sum(messages[i], sizes[i]) + sum(keys[i], 32);
        refused |= (uint32_t)(total % 2 != 0 || total % 3 == 0 ? 8 : 0) << 4 * i;
    }
    return refused;
}

static int parse_key(const void *context, void *key, const unsigned char *input, size_t size) {
    memset(key, 0, 64);
    memcpy(key, input, size);
    return context != NULL;
}

static int parse_signature(const void *context, void *signature, const unsigned char *input) {
    memcpy(signature, input, 64);
    return context != NULL;
}

static int verify(const void *context, const void *signature, const unsigned char *message, const void *key) {
    return context != NULL && (sum(signature, 64) + sum(message, 32) + sum(key, 33)) % 2 == 0;
}

static uint32_t read_u32(FILE *file) {
    uint8_t b[4];
    if (fread(b, 1, 4, file) != 4) {
        return UINT32_MAX;
    }
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void *room(size_t size) {
    void *made = malloc(size == 0 ? 1 : size);
    if (made == NULL) {
        exit(3);
    }
    return made;
}

int main(int argc, char **argv) {
    const svm_scan_limits limits = {65535, 262144, 131072, 256, 2};
    svm_verify_library library = {open_one, open_eight, &limits, parse_key, parse_signature, verify};
    svm_pool *pools[THREADS_MAX + 1];
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    uint32_t count;

    if (file == NULL) {
        return 2;
    }
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        pools[threads] = svm_pool_new(threads);
    }
    while ((count = read_u32(file)) != UINT32_MAX) {
        uint64_t *starts = room(count * sizeof *starts), *ends = room(count * sizeof *ends), size = 0;
        uint8_t *data = room(1);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t length = read_u32(file);
            data = realloc(data, (size_t)size + length + (length == 0 && size == 0));
            if (data == NULL || fread(data + size, 1, length, file) != length) {
                return 3;
            }
            starts[i] = size;
            ends[i] = size += length;
        }
        for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
            uint8_t *digests = room(count * 32), *fingerprints = room(count * 32), *verdicts = room(count);
            memset(verdicts, 0, count);
            if (svm_verify_transactions(&library, pools[threads], &limits, data, size, starts, ends, count, digests, 0,
                                        verdicts) != 0 ||
                svm_verify_fingerprints(pools[threads], data, size, starts, ends, count, fingerprints) != 0) {
                return 4;
            }
            printf("v");
            for (uint32_t i = 0; i < count; i++) {
                printf("%u", (unsigned)verdicts[i]);
            }
            printf(" %u %u\n", (unsigned)sum(digests, count * 32), (unsigned)sum(fingerprints, count * 32));
            free(digests);
            free(fingerprints);
            free(verdicts);
        }
        free(starts);
        free(ends);
        free(data);
    }
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads++) {
        svm_pool_free(pools[threads]);
    }
    fclose(file);
    return 0;
}
