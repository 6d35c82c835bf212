/* The signatures of a whole batch, by libraries that others wrote (EXEC-8). No arithmetic of a curve is done here. */
#ifndef SVM_VERIFY_H
#define SVM_VERIFY_H

#include <stddef.h>
#include <stdint.h>

#include "svm_pool.h"
#include "svm_scan.h"

enum svm_verify_suite { SVM_ED25519 = 1, SVM_SECP256K1 = 2 };

/* Functions of the libraries, by their documented interfaces. Any may be NULL, and what it does is then asked of
 * nobody: `svm_verify_able` tells. Whoever fills this keeps the libraries open. */
typedef struct {
    /* libsodium: crypto_sign_open. */
    int (*ed25519_open)(unsigned char *message, unsigned long long *message_size, const unsigned char *signed_message,
                        unsigned long long signed_size, const unsigned char *key);
    /* crypto_mb: mbx_ed25519_verify_mb8, eight at a time. 4 bits of the answer belong to each; 0 is yes. */
    uint32_t (*ed25519_verify_mb8)(const uint8_t *const *r, const uint8_t *const *s, const uint8_t *const *messages,
                                   const uint32_t *message_sizes, const uint8_t *const *keys);
    /* libsecp256k1: secp256k1_ec_pubkey_parse, secp256k1_ecdsa_signature_parse_compact, secp256k1_ecdsa_verify. */
    const void *secp256k1_context;
    int (*secp256k1_key)(const void *context, void *key, const unsigned char *input, size_t size);
    int (*secp256k1_signature)(const void *context, void *signature, const unsigned char *input);
    int (*secp256k1_verify)(const void *context, const void *signature, const unsigned char *message, const void *key);
} svm_verify_library;

/* One signature. `key` and `signature` are offsets from the first byte of `data`, `message` of `messages`. Keys have
 * 32 bytes (ed25519) or 33 (secp256k1), signatures 64. */
typedef struct {
    uint32_t suite;
    uint32_t key;
    uint32_t signature;
    uint32_t message;
    uint32_t message_size; /* at most svm_verify_message_max(); secp256k1: 32 */
} svm_verify_item;

/* The longest message, in bytes. */
uint32_t svm_verify_message_max(void);

/* Whether the library can answer for a suite. */
uint32_t svm_verify_able(const svm_verify_library *library, uint32_t suite);

/* Writes 1 for each signature that is right and 0 for each other, in order. Of suites that the library can answer
 * for. The threads of `pool` share the work; NULL does it here. */
void svm_verify_items(const svm_verify_library *library, svm_pool *pool, const uint8_t *data, const uint8_t *messages,
                      const svm_verify_item *items, uint32_t count, uint8_t *right);

/* What is said of a transaction. The first of these that holds: 6, 3, 4, 5, 0, 2, 1. */
enum svm_verdict {
    SVM_SENDER_SIGNATURE = 0, /* the sender's signature is wrong */
    SVM_SIGNED = 1,           /* signed by all whom it names; also one that names no account */
    SVM_PAYER_SIGNATURE = 2,  /* the fee payer's signature is wrong */
    SVM_SENDER_KEY = 3,       /* the first key isn't the sender's */
    SVM_PAYER_KEY = 4,        /* the second key isn't the fee payer's */
    SVM_OTHER_SUITE = 5,      /* a suite that the library can't answer for */
    SVM_NOT_CANONICAL = 6     /* bytes that the scan refuses */
};

/* Writes what holds of each transaction; the i-th is data[starts[i]] up to data[ends[i]]. One whose verdict is 1
 * already is taken at that word. `digests`: 32 bytes each, made here unless `have_digests`; of bytes that the scan
 * refuses they are zero. Gives 0; or 1 where there was no memory for the work, and 2 where a transaction isn't within
 * the `size` bytes of `data`: then no verdict counts. */
uint32_t svm_verify_transactions(const svm_verify_library *library, svm_pool *pool, const svm_scan_limits *limits,
                                 const uint8_t *data, uint64_t size, const uint64_t *starts, const uint64_t *ends,
                                 uint32_t count, uint8_t *digests, uint32_t have_digests, uint8_t *verdicts);

/* Writes blake3 of all the bytes of each transaction, 32 bytes each: what the checked ones are remembered by. They
 * lie as above, within `size` bytes; gives 0, or 2. */
uint32_t svm_verify_fingerprints(svm_pool *pool, const uint8_t *data, uint64_t size, const uint64_t *starts,
                                 const uint64_t *ends, uint32_t count, uint8_t *fingerprints);

#endif
