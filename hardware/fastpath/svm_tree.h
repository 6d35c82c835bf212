/* The state tree: batched updates of a binary sparse Merkle tree that is stored as radix-16 pages (STO-34).
 *
 * The judge of these files is supervm.storage.tree: same root, same pages under the same keys, same stale keys. Pages
 * of the newest tree are kept in memory up to a bound; what isn't there is asked for, a level at a time.
 * Threads: one caller at a time for a tree; inside, the pool's threads share the work. */
#ifndef SVM_TREE_H
#define SVM_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "svm_pool.h"

enum svm_tree_error {
    SVM_TREE_OK = 0,
    SVM_TREE_NO_MEMORY = 1,
    SVM_TREE_BAD_CHANGES = 2, /* bytes that are no packed changes; `at` is the index of the change */
    SVM_TREE_TWICE = 3,       /* two changes of one key */
    SVM_TREE_BAD_PAGE = 4,    /* a supplied page that is not the one asked for; see svm_tree_refusal */
    SVM_TREE_BAD_SUPPLY = 5,  /* bytes that are no packed pages: a bug of the caller */
    SVM_TREE_TOO_LARGE = 6,   /* more changes than 32 bits count */
    SVM_TREE_ORDER = 7        /* a call out of order: a bug of the caller */
};

enum svm_tree_refusal_reason {
    SVM_PAGE_MISSING = 1,
    SVM_PAGE_FORMAT = 2,  /* not a page of the format this knows */
    SVM_PAGE_LENGTH = 3,  /* its length is not what its slots need */
    SVM_PAGE_FOREIGN = 4, /* a leaf that doesn't lie below it */
    SVM_PAGE_HASH = 5,    /* it hashes to `found`, its parent says `wanted` */
    SVM_PAGE_DEEP = 6     /* a child below the last level */
};

/* Why a page was refused: its index among the missing, and what it should have hashed to. */
typedef struct {
    uint32_t at;
    uint32_t reason;
    uint8_t found[32];
    uint8_t wanted[32];
} svm_tree_refusal;

/* Bytes are of memory. `held` is what the system gave, `bytes` what pages take of it. */
typedef struct {
    uint64_t pages;
    uint64_t bytes;
    uint64_t held;
    uint64_t bytes_max;
    uint64_t hits;    /* pages of an update that were in memory */
    uint64_t misses;  /* pages of an update that were asked for */
    uint64_t evicted; /* pages let go to keep the bound */
} svm_tree_stats;

/* Nanoseconds of each phase of the update under way or the last one, and its counts. */
typedef struct {
    uint64_t sort_ns, load_ns, build_ns, commit_ns;
    uint32_t changes, nodes, leaves, written, fresh, threads;
} svm_tree_timing;

typedef struct svm_tree svm_tree;

/* An empty tree. `bytes_max` bounds the memory between updates; UINT64_MAX is no bound. `lean`: a tree that is in memory
 * alone and whole, with no bound; its pages keep the hash of a leaf where else they keep its value's, so they can't be
 * written down, and no leaf beside a change is hashed again. NULL where there is no memory. The pool outlives the tree. */
svm_tree *svm_tree_new(uint64_t bytes_max, uint32_t lean, svm_pool *pool);
void svm_tree_free(svm_tree *tree);

/* Forgets every page: the tree becomes the one that `height` left with this root, all of it to be asked for; a NULL
 * root is the tree before any height, and the only one for a lean tree. An update under way is dropped. */
void svm_tree_clear(svm_tree *tree, const uint8_t *root, uint64_t height);
void svm_tree_stats_of(const svm_tree *tree, svm_tree_stats *stats);
void svm_tree_timing_of(const svm_tree *tree, svm_tree_timing *timing);

/* Opens an update to the tree of `height`, later than the newest: `count` changes, in no order, one a key: u8 key
 * size, key, u32 value size (0: removed), value. `packed` must stay until the update ends. */
uint32_t svm_tree_open(svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count, uint64_t height,
                       uint32_t *at);

/* Storage keys of pages that are needed next and not in memory: for each u8 size and its bytes. Theirs until the
 * next call. */
uint32_t svm_tree_missing(svm_tree *tree, const uint8_t **packed, size_t *size, uint32_t *count);

/* Answers them, in their order: for each u32 size and the page's bytes, size 2^32 - 1 where there is none. Then ask
 * again what is missing. Pages are kept once each of the call is what its parent names. */
uint32_t svm_tree_supply(svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count,
                         svm_tree_refusal *refusal);

/* Builds the new pages, hashed; nothing is missing any more. `emit`: also write them down. */
uint32_t svm_tree_build(svm_tree *tree, uint32_t emit, uint8_t root[32]);

/* Pages to write, for each u8 key size, key, u32 size, bytes; and keys of pages now stale, for each u8 size, key. The
 * order is the twin's. Theirs until the update ends; nothing where they were not to be emitted. */
void svm_tree_written(const svm_tree *tree, const uint8_t **bytes, size_t *size, uint32_t *count);
void svm_tree_stale(const svm_tree *tree, const uint8_t **bytes, size_t *size, uint32_t *count);

/* Ends the update: its pages are the newest tree, or are dropped. Without an update, abort does nothing. */
uint32_t svm_tree_commit(svm_tree *tree);
void svm_tree_abort(svm_tree *tree);

#endif
