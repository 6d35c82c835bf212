/* The block engine: what a block of canonical transactions does to the state (EXEC-33).
 *
 * The judge of these files is supervm.execution.execute_block: same receipts, same changes, same codes.
 * Threads: one caller at a time for an engine and its block; inside, the pool's threads share the work. */
#ifndef SVM_ENGINE_H
#define SVM_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "svm_pool.h"

enum svm_engine_error {
    SVM_ENGINE_OK = 0,
    SVM_ENGINE_NO_MEMORY = 1,
    SVM_ENGINE_BAD_TRANSACTION = 2, /* one that a decoder refuses; `at` is its index */
    SVM_ENGINE_BAD_STATE = 3,       /* a supplied entry that is none; `at` is its index */
    SVM_ENGINE_INVARIANT = 4,       /* value made or lost, or an impossible state: the block must not be kept */
    SVM_ENGINE_TOO_LARGE = 5,       /* more keys or bytes than 32 bits count */
    SVM_ENGINE_ORDER = 6,           /* a call out of order: a bug of the caller */
    SVM_ENGINE_UNKNOWN = 7          /* a transaction to apply that only the specification can judge */
};

/* Whether a FAST transaction can be applied ahead of its block. */
enum svm_turn {
    SVM_TURN_NOW = 0,
    SVM_TURN_LATER = 1,   /* a nonce, a version or the cover isn't there yet */
    SVM_TURN_BY_BLOCK = 2 /* never: it is not FAST, or its nonce is used */
};

enum svm_engine_mode {
    SVM_MODE_AUTO = 0,        /* the engine decides by the block */
    SVM_MODE_SERIAL = 1,      /* one after the other */
    SVM_MODE_PARTITIONED = 2, /* groups that share no key, side by side */
    SVM_MODE_BLOCK_STM = 3    /* optimistic, validated in block order */
};

/* Why the engine took its mode. */
enum svm_engine_reason {
    SVM_REASON_ASKED = 0,     /* the caller named it */
    SVM_REASON_ONE_THREAD = 1,
    SVM_REASON_SMALL = 2,     /* too few transactions to share out */
    SVM_REASON_INDEPENDENT = 3, /* the groups are small enough to share out evenly */
    SVM_REASON_CONNECTED = 4,   /* one group holds most of the block, and its transactions are cheap */
    SVM_REASON_HEAVY = 5,       /* one group holds most of the block, and its transactions are costly */
    SVM_REASON_CHEAP = 6        /* finding the groups would take longer than it saves on so few threads */
};

/* Gas by piece of work, in the order and with the names of supervm.contracts.gas.GasSchedule. */
typedef struct {
    uint64_t transaction, transaction_byte;
    uint64_t signature_ed25519, signature_secp256k1, signature_sm2;
    uint64_t entry_read, entry_write, entry_write_byte, entry_new, entry_new_byte, entry_delete;
    uint64_t credit, object_mutate, object_transfer, object_share, object_freeze;
    uint64_t event, event_byte, refund_delete;
} svm_gas_schedule;

/* What holds for a whole block. Fees are asked in the native token alone, at min(max_price, price) micro base
 * units per gas; they go to the collector, or are burned. */
typedef struct {
    uint64_t height;
    uint64_t epoch;
    uint8_t chain_id[32];
    uint32_t inputs_max, outputs_max, payload_bytes_max, transaction_bytes_max, object_bytes_max;
    svm_gas_schedule gas;
    uint64_t price;
    uint32_t collects;
    uint8_t collector[32];
    /* The set of genesis: ed25519 key and u64 weight, at least 1, of each; ascending by key. */
    const uint8_t *granted;
    uint32_t granted_count;
} svm_block_facts;

/* Nanoseconds of each phase, and counts. */
typedef struct {
    uint64_t decode_ns, state_ns, execute_ns, receipts_ns, changes_ns;
    uint32_t transactions, committed, failed, voided, skipped;
    uint32_t keys, slots, missed, groups, largest_group;
    uint32_t mode, reason, threads;
    uint64_t executions, validations, aborts; /* of Block-STM; executions of all modes */
    uint32_t gave_up; /* 1: Block-STM refuted one transaction too often, and all was executed serially */
    uint64_t gas_used, fees_low, fees_high;
} svm_block_stats;

typedef struct {
    uint64_t entries;
    uint64_t bytes;
    uint64_t bytes_max;
    uint64_t evicted;
} svm_cache_stats;

typedef struct svm_engine svm_engine;
typedef struct svm_block svm_block;

/* `bytes_max` bounds the state kept in memory, looked at when a block ends; 0 is no bound. `resident`: the
 * memory holds the whole state, so what isn't in it is absent. `seed` keeps others from choosing keys that
 * fall on each other. NULL where there is no memory. The pool outlives the engine. */
svm_engine *svm_engine_new(uint64_t bytes_max, uint32_t resident, const uint8_t seed[32], svm_pool *pool);
void svm_engine_free(svm_engine *engine);
/* Forgets the whole state: after a commit that failed. No block may be open. */
void svm_engine_clear(svm_engine *engine);
void svm_engine_stats(const svm_engine *engine, svm_cache_stats *stats);

/* Puts entries into the memory, as `svm_block_supply` does, with no block open. */
uint32_t svm_engine_load(svm_engine *engine, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at);

/* Opens a block: decodes `count` canonical transactions, of which the i-th is data[offsets[i]] up to
 * data[offsets[i + 1]], and looks up what they touch. `data` must stay until the block is freed.
 * `digests`: their digests, 32 bytes each, or NULL to have them made here. `executed`: digests, ascending,
 * of those among them that earlier blocks executed. One block at a time is open. */
uint32_t svm_block_new(svm_engine *engine, const svm_block_facts *facts, const uint8_t *data, const uint64_t *offsets,
                       uint32_t count, const uint8_t *digests, const uint8_t *executed, uint32_t executed_count,
                       svm_block **block, uint32_t *at);

/* State keys that the memory doesn't hold: for each u8 size and its bytes. Theirs until the next call. */
uint32_t svm_block_missing(svm_block *block, const uint8_t **packed, size_t *size, uint32_t *count);

/* Answers them, in their order: for each u32 size and the entry's bytes, size 0 where there is none. */
uint32_t svm_block_supply(svm_block *block, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at);

/* Executes, makes receipts and their root, and gathers the changes. Nothing is missing any more. */
uint32_t svm_block_execute(svm_block *block, uint32_t mode);

/* In place of executing: applies the FAST transactions ahead of their block, each on what those before it left, and
 * settles no fees. For each transaction u8 turn; where that is now, also u8 status, the 32 bytes of the digest of its
 * effects, u32 count, and so many differences, each of them one of
 *     u8 1 (account), address, u8 changed (1 nonce, 2 sponsor nonce, 4 amount), u64 nonce, u64 sponsor nonce, amount
 *     u8 2 (balance), address, token, amount
 *     u8 0 (any other entry), u8 key size, key, u32 value size (0: removed), value
 * with an amount as u8 whether it was taken, u128. Theirs until the block is freed. No transaction may stand there twice.
 * All that make something are among the `executed` of svm_block_new, since a block may have executed them: `ORDER` else.
 * All pay in the native token: `UNKNOWN` else. Nothing of it is in the engine's memory afterwards. */
uint32_t svm_block_apply(svm_block *block, const uint8_t **bytes, size_t *size);

/* Receipts in block order; the i-th is bytes[offsets[i] + 1] up to bytes[offsets[i + 1]], and the byte before it
 * is the 0 that its leaf in the tree of receipts begins with. */
void svm_block_receipts(const svm_block *block, const uint8_t **bytes, const uint64_t **offsets, uint32_t *count,
                        uint8_t root[32]);

/* Changed entries, in no order, one a key: u8 key size, key, u32 value size (0: removed), value. Before the commit. */
uint32_t svm_block_changes(svm_block *block, const uint8_t **bytes, size_t *size, uint32_t *count);

/* What the words for a failed or void transaction are made of; see supervm.execution.reasons. */
typedef struct {
    uint32_t index;
    uint32_t code;
    uint64_t first[3]; /* 192-bit, low word first */
    uint64_t second[2];
    uint8_t id[32];
    uint8_t other[32];
} svm_detail;

/* Writes up to `room` details of transactions that didn't succeed, in block order; gives how many there are. */
uint32_t svm_block_details(const svm_block *block, svm_detail *details, uint32_t room);

void svm_block_stats_of(const svm_block *block, svm_block_stats *stats);

/* The name of a code as receipts bear it. */
const char *svm_code_name(uint32_t code);

/* Makes the block's changes the state in memory. Once, after execution. */
uint32_t svm_block_commit(svm_block *block);

/* Ends the block, kept or not. */
void svm_block_free(svm_block *block);

#endif
