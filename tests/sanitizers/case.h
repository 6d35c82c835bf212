/* A block with the state that it needs, packed by cases.py: what the programs here and the fuzzers run. */
#ifndef SVM_CASE_H
#define SVM_CASE_H

#include "svm_engine.h"

/* Pointers go into the bytes that were read, but for those that are ours: `data` and `offsets`. */
typedef struct {
    svm_block_facts facts;
    const uint8_t *entries; /* as svm_engine_load takes them */
    size_t entries_size;
    uint32_t entries_count;
    uint8_t *data; /* of exactly the transactions' size, so that a sanitizer sees a read beyond */
    uint64_t *offsets;
    uint32_t count;
    const uint8_t *executed;
    uint32_t executed_count;
} svm_case;

/* Reads one case from the front; gives its size, or 0 where bytes are too few or there was no memory. */
size_t svm_case_read(const uint8_t *bytes, size_t size, svm_case *found);
void svm_case_free(svm_case *found);

/* All bytes of a file; NULL where it can't be read. */
uint8_t *svm_case_file(const char *name, size_t *size);

/* The entry of a key, and its size: 0 where the case has none. */
const uint8_t *svm_case_entry(const svm_case *of, const uint8_t *key, uint32_t key_size, uint32_t *size);

/* Answers what a block asks for: as svm_block_supply takes it. NULL where there was no memory. */
uint8_t *svm_case_answer(const svm_case *of, const uint8_t *asked, uint32_t count, size_t *size);

/* What came of a block, so that two can be compared. */
typedef struct {
    uint32_t error;
    uint32_t receipts, changes, committed, failed, voided, skipped;
    uint8_t root[32];
    uint8_t changed[32]; /* the blake3 of each change, by exclusive or: they come in no order */
    uint64_t details;    /* a sum over the reasons of what didn't succeed */
    uint64_t gas_used;
    /* How it was done, which may differ. */
    svm_block_stats stats;
} svm_ended;

/* In place of a mode: the transactions are applied ahead of their block (svm_block_apply). What came of them is then in
 * `receipts`, as its size, and in `changed`. */
enum { SVM_CASE_AHEAD = 100 };

/* Runs the case on the engine as the node does: opens, supplies, executes, reads all that comes out, commits where
 * `commit` says so, and ends the block. The error is that of the first call that gives one. */
void svm_case_run(const svm_case *of, svm_engine *engine, uint32_t mode, int commit, svm_ended *ended);

/* Prints what is the same in every way, as `expected` in cases.py gives it, without an end of line. */
void svm_ended_print(const svm_ended *ended);

/* Whether the same came of both, however it was done. */
int svm_ended_same(const svm_ended *one, const svm_ended *other);

#endif
