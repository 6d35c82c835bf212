/* BLAKE3 of many inputs at once: hashing mode, 32 bytes out. No secrets, so nothing is done about timing. */
#ifndef SVM_BLAKE3_H
#define SVM_BLAKE3_H

#include <stddef.h>
#include <stdint.h>

/* blake3(input) */
void svm_blake3(const uint8_t *input, size_t size, uint8_t out[32]);

/* The i-th output, out[32 * i], is blake3 of the i-th input. Sizes may be mixed; inputs of up to 1,024 bytes with
 * the same number of 64-byte blocks are hashed side by side. */
void svm_blake3_many(const uint8_t *const *inputs, const uint32_t *sizes, uint32_t count, uint8_t *out);

/* The same of inputs that go on elsewhere after their first SVM_BLAKE3_CHUNK bytes: the i-th at rests[i], where it is
 * longer than that. None is longer than SVM_BLAKE3_SPLIT_MAX. */
enum svm_blake3_sizes { SVM_BLAKE3_CHUNK = 1024, SVM_BLAKE3_SPLIT_MAX = 262144 };
void svm_blake3_many_split(const uint8_t *const *inputs, const uint8_t *const *rests, const uint32_t *sizes,
                           uint32_t count, uint8_t *out);

/* The i-th output is blake3(prefix || pairs[64 * i : 64 * i + 64]): a tree's nodes. `out` may be `pairs`. */
void svm_blake3_nodes(uint8_t prefix, const uint8_t *pairs, uint32_t count, uint8_t *out);

/* One node: 32 bytes each. */
typedef struct {
    uint8_t *out;
    const uint8_t *left, *right;
} svm_blake3_pair;

/* Each `out` is blake3(prefix || left || right). One's `out` is no other's left or right. */
void svm_blake3_pairs(uint8_t prefix, const svm_blake3_pair *pairs, uint32_t count);

/* The root of the tree over `count` leaves of 32 bytes, which are overwritten: node = blake3(01 || left || right),
 * an odd one goes up unchanged; zeros where there is none (STO-36). */
void svm_merkle_root(uint8_t *leaves, uint32_t count, uint8_t out[32]);

/* How many inputs are hashed side by side at most: 16, 8, 4 or 1, as the processor can. `most` lowers it, for
 * tests; 0 asks only. Not while another thread hashes. */
uint32_t svm_blake3_lanes(uint32_t most);

#endif
