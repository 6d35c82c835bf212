/* What the files of the engine share. Not seen by cffi: it may use what gcc and clang have. */
#ifndef SVM_ENGINE_TYPES_H
#define SVM_ENGINE_TYPES_H

#include <stdbool.h>
#include <string.h>

#include "svm_engine.h"
#include "svm_scan_one.h"

#if !defined(__SIZEOF_INT128__)
#error "the engine needs 128-bit integers: this compiler builds without it, and the twins run"
#endif

typedef unsigned __int128 svm_u128;

/* State entries, by the first byte of their keys. Of system values only the stakes are known here: bytes, kept as
 * the data of an object, whose other fields are zero. */
enum svm_space { SVM_ACCOUNT = 1, SVM_BALANCE = 2, SVM_TOKEN = 3, SVM_OBJECT = 4, SVM_SYSTEM = 5 };

enum svm_owner { SVM_OWNED = 0, SVM_SHARED = 1, SVM_IMMUTABLE = 2 };
enum svm_lane { SVM_AUTO = 0, SVM_FAST = 1, SVM_ORDERED = 2, SVM_PRIVATE = 3 };
enum svm_access { SVM_READ = 0, SVM_WRITE = 1, SVM_TRANSFER = 2, SVM_SHARE = 3, SVM_FREEZE = 4, SVM_DELETE = 5 };
enum svm_status { SVM_SKIPPED = 0, SVM_COMMITTED = 3, SVM_FAILED = 4, SVM_VOID = 5, SVM_BROKEN = 255 };

enum svm_operation {
    SVM_OP_TRANSFER = 0,
    SVM_OP_TOKEN_CREATE = 1,
    SVM_OP_MINT = 2,
    SVM_OP_BURN = 3,
    SVM_OP_OBJECT_CREATE = 4,
    SVM_OP_OBJECT_MUTATE = 5,
    SVM_OP_OBJECT_TRANSFER = 6,
    SVM_OP_OBJECT_SHARE = 7,
    SVM_OP_OBJECT_FREEZE = 8,
    SVM_OP_OBJECT_DELETE = 9,
    SVM_OP_STAKE_ADD = 16,
    SVM_OP_STAKE_LEAVE = 17,
    SVM_OP_STAKE_WITHDRAW = 18
};

enum svm_code {
    SVM_DONE = 0,
    SVM_OUT_OF_GAS,
    SVM_FEE_UNFUNDED,
    SVM_INSUFFICIENT_FUNDS,
    SVM_AMOUNT_OVERFLOW,
    SVM_TOKEN_UNKNOWN,
    SVM_NOT_MINTER,
    SVM_SUPPLY_FIXED,
    SVM_SUPPLY_OVERFLOW,
    SVM_VERSION_MISMATCH,
    SVM_OBJECT_MISSING,
    SVM_OBJECT_DELETED,
    SVM_OBJECT_TOO_LARGE,
    SVM_OWNERSHIP_MISMATCH,
    SVM_NOT_OWNED,
    SVM_IMMUTABLE_OBJECT,
    SVM_UNDECLARED_ACCESS,
    SVM_ACCESS_USED,
    SVM_STAKE_KEY,
    SVM_STAKE_TOO_LOW,
    SVM_STAKES_FULL,
    SVM_STAKE_UNKNOWN,
    SVM_STAKE_LEAVING,
    SVM_STAKE_BOUND,
    SVM_LAST_VALIDATOR,
    SVM_WRONG_CHAIN,
    SVM_EXPIRED,
    SVM_PAYLOAD_UNKNOWN,
    SVM_LANE_MISMATCH,
    SVM_NONCE_USED,
    SVM_NONCE_GAP,
    SVM_TOKEN_NOT_ACCEPTED,
    SVM_CODES
};

/* Where the fixed fields of a body stand (EXEC-6). */
enum svm_body_at {
    SVM_AT_CHAIN = 1,
    SVM_AT_SENDER = 33,
    SVM_AT_PAYER = 65,
    SVM_AT_SPONSOR_NONCE = 97,
    SVM_AT_NONCE = 105,
    SVM_AT_EXPIRY = 113,
    SVM_AT_LANE = 121,
    SVM_AT_GAS_LIMIT = 122,
    SVM_AT_MAX_PRICE = 130,
    SVM_AT_GAS_TOKEN = 146,
    SVM_AT_RELAYS = 194,
    SVM_AT_AFTER_RELAYS = 196
};

enum {
    SVM_ID = 32,
    SVM_INPUT = 41,
    SVM_OUTPUT = 48,
    SVM_PAYLOAD_NATIVE = 1,
    SVM_OPERATIONS_MAX = 64,
    SVM_SYMBOL_MAX = 16,
    SVM_DECIMALS_MAX = 18,
    SVM_ACCOUNT_VALUE = 33, /* bytes of the encoded entry */
    SVM_BALANCE_VALUE = 17,
    SVM_OBJECT_HEAD = 51, /* before the data */
    SVM_STAKES_HEAD = 3,  /* of the stakes: format, count */
    SVM_STAKE = 57,       /* key, amount, epoch in which it left, whether genesis' weight counts */
    SVM_STAKES_NAME = 6,  /* bytes of the name of the stakes, which is their key after the space */
    SVM_GRANTED = 40,
    SVM_NO_EFFECTS = 2 + 2 + 2 + 2 + 4, /* of a receipt: created, written, deleted, events, return value, all empty */
    SVM_RECEIPT_TAIL = 8 + 4, /* height, index */
    SVM_CHUNK = 256       /* transactions of one task */
};

/* Numbers in bytes, little-endian. */
static inline uint64_t svm_get_u64(const uint8_t *b) {
    uint64_t v;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&v, b, 8);
#else
    v = 0;
    for (int i = 7; i >= 0; i--) {
        v = v << 8 | b[i];
    }
#endif
    return v;
}

static inline uint32_t svm_get_u32(const uint8_t *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint32_t svm_get_u16(const uint8_t *b) { return (uint32_t)b[0] | (uint32_t)b[1] << 8; }

static inline svm_u128 svm_get_u128(const uint8_t *b) {
    return (svm_u128)svm_get_u64(b + 8) << 64 | svm_get_u64(b);
}

static inline void svm_put_u64(uint8_t *b, uint64_t v) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(b, &v, 8);
#else
    for (int i = 0; i < 8; i++) {
        b[i] = (uint8_t)(v >> 8 * i);
    }
#endif
}

static inline void svm_put_u32(uint8_t *b, uint32_t v) {
    for (int i = 0; i < 4; i++) {
        b[i] = (uint8_t)(v >> 8 * i);
    }
}

static inline void svm_put_u16(uint8_t *b, uint32_t v) {
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}

static inline void svm_put_u128(uint8_t *b, svm_u128 v) {
    svm_put_u64(b, (uint64_t)v);
    svm_put_u64(b + 8, (uint64_t)(v >> 64));
}

/* memcpy of mostly few bytes, without a call for 16 to 64 of them: pieces of 16 from both ends, which may overlap. */
static inline void svm_copy(uint8_t *to, const uint8_t *from, size_t size) {
    typedef struct {
        uint8_t bytes[16];
    } piece;
    piece first, second, third, last;
    if (size < 16 || size > 64) {
        if (size != 0) {
            memcpy(to, from, size);
        }
        return;
    }
    memcpy(&first, from, sizeof first);
    memcpy(&last, from + size - 16, sizeof last);
    if (size > 32) {
        memcpy(&second, from + 16, sizeof second);
        memcpy(&third, from + size - 32, sizeof third);
        memcpy(to + 16, &second, sizeof second);
        memcpy(to + size - 32, &third, sizeof third);
    }
    memcpy(to, &first, sizeof first);
    memcpy(to + size - 16, &last, sizeof last);
}

static inline bool svm_same_id(const uint8_t *a, const uint8_t *b) { return memcmp(a, b, SVM_ID) == 0; }

extern const uint8_t svm_zeros[SVM_ID];      /* the native token */
extern const uint8_t svm_stakes_id[SVM_ID];  /* stands for the id of the stakes: their name, then zeros */
extern const uint8_t svm_escrow[SVM_ID];     /* the account of staked coins: see supervm.types.stakes */

/* Bytes of a state key, with its space. */
static inline uint32_t svm_key_size(uint8_t space) {
    return space == SVM_BALANCE ? 1 + 2 * SVM_ID : space == SVM_SYSTEM ? 1 + SVM_STAKES_NAME : 1 + SVM_ID;
}

/* Memory that is given back all at once. `svm_arena_take` gives NULL where there is none. */
typedef struct svm_arena_block svm_arena_block;
typedef struct {
    svm_arena_block *block;
    uint8_t *at, *end;
} svm_arena;

void *svm_arena_grow(svm_arena *arena, size_t size);
void svm_arena_free(svm_arena *arena);

static inline void *svm_arena_take(svm_arena *arena, size_t size) {
    size = (size + 15) & ~(size_t)15;
    if ((size_t)(arena->end - arena->at) >= size) {
        void *taken = arena->at;
        arena->at += size;
        return taken;
    }
    return svm_arena_grow(arena, size);
}

/* A token's record and an object are never changed: a new value is a new one. */
typedef struct {
    svm_u128 supply;
    uint8_t minter[SVM_ID];
    uint8_t symbol[SVM_SYMBOL_MAX];
    uint8_t symbol_size, decimals, fixed;
} svm_token;

typedef struct {
    uint64_t version;
    const uint8_t *data;
    uint32_t size;
    uint32_t type;
    uint8_t owner[SVM_ID];
    uint8_t kind, deleted;
} svm_object;

/* An object's encoded entry. */
static inline uint8_t *svm_object_write(const svm_object *object, uint8_t *out) {
    out[0] = 1;
    svm_put_u64(out + 1, object->version);
    out[9] = object->kind;
    memcpy(out + 10, object->owner, SVM_ID);
    svm_put_u32(out + 42, object->type);
    out[46] = object->deleted;
    svm_put_u32(out + 47, object->size);
    svm_copy(out + SVM_OBJECT_HEAD, object->data, object->size);
    return out + SVM_OBJECT_HEAD + object->size;
}

/* The value of a state key. NULL stands for an absent token or object. */
typedef union {
    struct {
        uint64_t nonce, sponsor_nonce, low, high;
    } account;
    struct {
        uint64_t low, high;
    } balance;
    const svm_token *token;
    const svm_object *object;
} svm_value;

/* ceil(gas * price / 10^6); the product of two u64 and 10^6 - 1 fits 128 bits. */
static inline svm_u128 svm_price_of(uint64_t gas, uint64_t price) {
    const svm_u128 product = (svm_u128)gas * price + 999999;
    if ((uint64_t)(product >> 64) == 0) {
        return (uint64_t)product / 1000000;
    }
    return product / 1000000;
}

static inline svm_u128 svm_join(uint64_t low, uint64_t high) { return (svm_u128)high << 64 | low; }

/* A state key: space, id, and of a balance the token. */
typedef struct {
    const uint8_t *id;
    const uint8_t *token;
    uint64_t hash;
    uint8_t space;
    uint8_t fresh; /* named after this transaction, which wasn't executed before: it can't be there */
} svm_key;

/* An entry of the state in memory. */
typedef struct {
    uint8_t id[SVM_ID];
    svm_value value;
    const uint8_t *token; /* of a balance; ours */
    uint32_t slot;        /* in the block `used` */
    uint32_t used;        /* the last block that touched it */
    uint8_t space;        /* 0: the entry is free, and `slot` is the next free one + 1 */
    uint8_t known;        /* the value counts */
    uint8_t kept;         /* was used since eviction last came by */
} svm_entry;

/* A key that the block touches. `now` is its value at this point of the block. */
typedef struct {
    svm_value now, before;
    uint32_t entry;
    uint32_t key; /* the first of the block's keys that is this one */
    uint8_t space;
    uint8_t changed; /* svm_change bits; 0: it wasn't */
} svm_slot;

enum svm_change {
    SVM_CHANGED = 1, /* it may be another value than before */
    SVM_RAISED = 2   /* it is an object with a higher version than before */
};

typedef struct {
    uint32_t tag;
    uint32_t entry; /* + 1; 0 is an empty place */
} svm_place;

/* Memory that a block needs and the next one needs again: what the system gives afresh it gives empty, page by
 * page, which takes longer than executing does. */
enum svm_buffer_use {
    SVM_BUFFER_TXS,
    SVM_BUFFER_DIGESTS,
    SVM_BUFFER_OUTCOMES,
    SVM_BUFFER_KEYS,
    SVM_BUFFER_SLOT_OF,
    SVM_BUFFER_SLOTS,
    SVM_BUFFER_SEEN,
    SVM_BUFFER_NUMBERS,
    SVM_BUFFER_STARTS,
    SVM_BUFFER_RECEIPTS,
    SVM_BUFFER_LEAVES,
    SVM_BUFFER_CHANGES,
    SVM_BUFFERS
};

typedef struct {
    void *memory;
    size_t room;
} svm_buffer;

struct svm_engine {
    svm_pool *pool;
    svm_buffer buffers[SVM_BUFFERS];
    uint64_t seed[4];
    uint64_t bytes_max, bytes, evicted;
    bool resident;
    svm_place *places; /* a power of two of them */
    uint64_t places_mask;
    svm_entry **blocks; /* of SVM_ENTRIES each */
    uint32_t blocks_count, entries_used, entries_live, first_free;
    uint32_t hand; /* where eviction goes on */
    uint32_t block_number;
    svm_block *open;
};

#if !defined(SVM_ENTRIES)
#define SVM_ENTRIES 65536u /* entries that memory is asked for at once; tests take fewer */
#endif

static inline svm_entry *svm_entry_at(const svm_engine *engine, uint32_t entry) {
    return &engine->blocks[entry / SVM_ENTRIES][entry % SVM_ENTRIES];
}

/* Keys. Two 64x64 multiplications over the id's four words, each with a secret word: who doesn't know the
 * seed can't choose ids that fall on each other. */
static inline uint64_t svm_mix(uint64_t a, uint64_t b) {
    const svm_u128 product = (svm_u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t svm_hash_id(const svm_engine *engine, const uint8_t *id) {
    const uint64_t *seed = engine->seed;
    return svm_mix(svm_get_u64(id) ^ seed[0], svm_get_u64(id + 8) ^ seed[1]) ^
           svm_mix(svm_get_u64(id + 16) ^ seed[2], svm_get_u64(id + 24) ^ seed[3]);
}

static inline uint64_t svm_hash_key(const svm_engine *engine, const svm_key *key) {
    uint64_t hash = svm_hash_id(engine, key->id) + key->space;
    if (key->token != NULL) {
        hash ^= svm_mix(svm_hash_id(engine, key->token), engine->seed[0]);
    }
    return svm_mix(hash, engine->seed[1] | 1);
}

static inline uint32_t svm_tag_of(uint64_t hash) { return (uint32_t)(hash >> 32); }

static inline bool svm_is_entry_of(const svm_entry *entry, const svm_key *key) {
    return entry->space == key->space && svm_same_id(entry->id, key->id) &&
           (key->token == NULL || svm_same_id(entry->token, key->token));
}

/* The entry that a key with this hash most probably has; UINT32_MAX: there is none. */
static inline uint32_t svm_engine_guess(const svm_engine *engine, uint64_t hash) {
    for (uint64_t at = hash & engine->places_mask;; at = (at + 1) & engine->places_mask) {
        const svm_place *place = &engine->places[at];
        if (place->entry == 0 || place->tag == svm_tag_of(hash)) {
            return place->entry - 1;
        }
    }
}

/* A decoded transaction. Its keys, and so its slots, are in the order in which execution asks for them:
 * sender, payer if another, each input, then operation by operation. */
typedef struct {
    const uint8_t *data;
    uint64_t suites_gas;
    uint32_t size, body_size;
    uint32_t inputs_at, payload_at, authorization_at; /* offsets from data */
    uint32_t keys, keys_count;
    uint16_t inputs, operations;
    uint16_t kind;
    uint8_t lane, sponsored;
    uint8_t transfers, moves_supply; /* whether there is such an operation; one on stakes counts with the latter */
    uint8_t creates;                 /* operations that make a token or an object */
    uint8_t skip;                    /* executed before */
} svm_tx;

/* What became of a transaction: its receipt, but for what the transaction itself says. */
typedef struct {
    uint64_t gas_used;
    svm_u128 fee;
    const uint8_t *effects; /* created to return value, encoded; NULL: all empty, but for what `raised` says */
    uint32_t effects_size;
    const svm_detail *detail;
    uint8_t status, code, lane;
    uint8_t raised; /* written are all inputs, each at the version after the declared one; nothing else is told */
} svm_outcome;

typedef struct {
    uint32_t slot;
    svm_value value;
} svm_undo;

/* An object at a version, as a receipt names it. */
typedef struct {
    const uint8_t *id;
    uint64_t version;
} svm_version;

struct svm_stm;

/* One thread's part of a block's execution, and of the transaction it is at. */
typedef struct svm_worker {
    svm_block *block;
    svm_arena arena;
    uint32_t error;
    uint64_t executions;
    /* Changes since the savepoint, oldest first. */
    svm_undo *undo;
    uint32_t undo_count, undo_room;
    bool saving;
    /* The transaction. */
    const svm_tx *tx;
    const uint8_t *digest;
    const uint32_t *slots; /* of its keys, in their order */
    uint64_t gas_limit, gas_used;
    bool broken;              /* a state that can't be */
    const svm_object **objects; /* by input, as it stood when the turn began */
    svm_object **raised;      /* by input: what `raise_versions` made, which operations may rewrite; else NULL */
    uint64_t *written;        /* by input: its new version, 0 where it got none */
    uint8_t *ended;           /* by input: its access was used up */
    bool owns_all;            /* all inputs are the sender's own, at their declared versions; there are some */
    uint64_t owned_bytes;     /* then: of data that they hold */
    svm_version created[SVM_OPERATIONS_MAX], deleted[SVM_OPERATIONS_MAX];
    uint32_t created_count, deleted_count, events_count, next_input;
    uint8_t *events;
    uint32_t events_size, events_room;
    svm_detail detail;
    /* Block-STM */
    struct svm_stm *stm;
    uint32_t index, incarnation;
    struct svm_own *own; /* values of this execution */
    uint32_t own_count, own_room;
    uint32_t *own_of;   /* by slot: its place in `own` + 1, where own_seen says so */
    uint32_t *own_seen; /* by slot: the execution that put it there */
    uint32_t own_now;
    uint32_t blocked_by; /* the transaction whose estimate was read, + 1 */
} svm_worker;

struct svm_block {
    svm_engine *engine;
    svm_block_facts facts;
    const uint8_t *data;
    const uint64_t *offsets;
    uint32_t count;
    svm_tx *txs;
    uint8_t *digests;
    svm_outcome *outcomes;
    svm_key *keys;
    uint8_t **names; /* by chunk: ids of what its transactions make */
    uint32_t names_count;
    uint32_t *slot_of;
    uint32_t keys_count;
    svm_slot *slots;
    uint32_t slots_count, slots_room;
    uint32_t supply_slot, collector_slot;
    uint32_t *missing; /* entries */
    uint32_t missing_count, missing_room;
    uint8_t *missing_bytes;
    size_t missing_size;
    uint8_t *receipts;
    uint64_t *receipt_starts;
    uint32_t receipts_count;
    uint8_t receipts_root[SVM_ID];
    uint8_t *changes; /* NULL until asked for */
    uint64_t *change_starts; /* by chunk of slots */
    size_t changes_size;
    uint32_t changes_count;
    svm_worker *workers;
    uint32_t workers_count;
    svm_arena arena;
    svm_u128 fees;
    svm_block_stats stats;
    uint32_t phase; /* 0 opened, 1 executed, 2 committed, 3 applied ahead of a block */
    uint32_t error;
};

uint64_t svm_now_ns(void);

/* svm_decode.c */
/* Decodes the block's transactions and names the keys that they touch. `at`: the first that is wrong. */
uint32_t svm_decode_block(svm_block *block, const uint8_t *digests, uint32_t *at);
/* How many keys an operation of a decoded transaction asks for. */
uint32_t svm_operation_keys(const uint8_t *at);

/* svm_state.c */
/* malloc, and for what is large memory in large pages where the system has them: what is looked up all over it
 * finds its way sooner. */
void *svm_large(size_t size);
/* Room for `size` bytes, whatever was in them; the same use before is no more. NULL where there is no memory.
 * A room much larger than asked for is given back, so that one large block isn't paid for ever. */
void *svm_engine_buffer(svm_engine *engine, enum svm_buffer_use use, size_t size);
/* The same, kept as it is, where it grows: the first `kept` bytes stay. */
void *svm_engine_more(svm_engine *engine, enum svm_buffer_use use, size_t kept, size_t size);
/* Finds or makes the entry of a key; UINT32_MAX where there is no memory. */
uint32_t svm_engine_entry(svm_engine *engine, const svm_key *key);
/* Reads an entry's bytes into a value that the engine owns. False where they are no such entry. */
bool svm_engine_read(svm_engine *engine, svm_entry *entry, const uint8_t *bytes, uint32_t size, bool *no_memory);
bool svm_engine_store(svm_engine *engine, svm_entry *entry, svm_value value);
void svm_engine_evict(svm_engine *engine);
/* The size of the encoded value, 0 for one without an entry; and its bytes. */
uint32_t svm_value_size(uint8_t space, const svm_value *value);
uint8_t *svm_value_write(uint8_t space, const svm_value *value, uint8_t *out);
bool svm_value_same(uint8_t space, const svm_value *a, const svm_value *b);

/* svm_execute.c: one transaction after another, straight on the slots. */
bool svm_worker_init(svm_worker *worker, svm_block *block);
void svm_worker_free(svm_worker *worker);
void svm_execute_direct(svm_worker *worker, uint32_t index);
void svm_execute_optimistic(svm_worker *worker, uint32_t index); /* over the versions of Block-STM */
/* Bytes of an operation of a decoded transaction. */
uint32_t svm_operation_size(const uint8_t *at);

/* svm_parallel.c: the choice of a mode, and the modes. */
uint32_t svm_execute_block(svm_block *block, uint32_t mode);

/* svm_stm.c */
/* `gave_up`: a transaction was executed too often; nothing of it is in the slots. */
uint32_t svm_stm_run(svm_block *block, bool *gave_up);

/* svm_receipt.c */
uint32_t svm_make_receipts(svm_block *block);
uint32_t svm_receipt_size(const svm_outcome *outcome);
/* One receipt, and where it ends. Its last SVM_RECEIPT_TAIL bytes are its place: the rest is its effects. */
uint8_t *svm_receipt_write(const svm_block *block, uint32_t index, uint8_t *out);
/* Counts what changed and checks that no value was made or lost; then, when asked, writes it. */
uint32_t svm_count_changes(svm_block *block);
uint32_t svm_write_changes(svm_block *block);

#endif
