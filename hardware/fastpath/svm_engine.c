/* A block from its bytes to its receipts: the phases, in order, and what they leave. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "svm_engine_types.h"

#include <stddef.h>
#include <stdlib.h>
#include <time.h>

enum { AHEAD_PLACE = 12, AHEAD_ENTRY = 12, GUESSES = 16 };

uint64_t svm_now_ns(void) {
    struct timespec now;
#if defined(_WIN32)
    timespec_get(&now, TIME_UTC);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#if defined(__GNUC__)
#define SELDOM __attribute__((noinline, cold))
#else
#define SELDOM
#endif

static SELDOM bool more_slots(svm_block *block) {
    const uint32_t room = block->slots_room < 512 ? 1024 : block->slots_room * 2;
    svm_slot *slots = svm_engine_more(block->engine, SVM_BUFFER_SLOTS, (size_t)block->slots_count * sizeof *slots,
                                      (size_t)room * sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    block->slots = slots;
    block->slots_room = room;
    return true;
}

static SELDOM bool add_missing(svm_block *block, uint32_t entry) {
    if (block->missing_count == block->missing_room) {
        const uint32_t room = block->missing_room < 512 ? 1024 : block->missing_room * 2;
        uint32_t *missing = realloc(block->missing, (size_t)room * sizeof *missing);
        if (missing == NULL) {
            return false;
        }
        block->missing = missing;
        block->missing_room = room;
    }
    block->missing[block->missing_count++] = entry;
    return true;
}

/* The slot of a key, given the entry that it probably has. */
static inline bool find_slot(svm_block *block, uint32_t key, uint32_t number, uint32_t *slot) {
    svm_engine *engine = block->engine;
    svm_entry *entry = number != UINT32_MAX ? svm_entry_at(engine, number) : NULL;
    if (entry == NULL || !svm_is_entry_of(entry, &block->keys[key])) {
        number = svm_engine_entry(engine, &block->keys[key]);
        if (number == UINT32_MAX) {
            return false;
        }
        entry = svm_entry_at(engine, number);
    }
    if (entry->used == engine->block_number) {
        *slot = entry->slot;
        return true;
    }
    if (block->slots_count == block->slots_room && !more_slots(block)) {
        return false;
    }
    if (!entry->known && !add_missing(block, number)) {
        return false;
    }
    if (entry->space == SVM_OBJECT) { /* far off too, and execution will ask for it */
        __builtin_prefetch(entry->value.object, 0, 2);
        __builtin_prefetch((const uint8_t *)((uintptr_t)entry->value.object + offsetof(svm_object, deleted)), 0, 2);
    }
    svm_slot *made = &block->slots[block->slots_count];
    made->now = made->before = entry->value;
    made->entry = number;
    made->key = key;
    made->space = entry->space;
    made->changed = 0;
    *slot = entry->slot = block->slots_count++;
    entry->used = engine->block_number;
    entry->kept = 1;
    return true;
}

/* One more key, which no transaction names. There is room for two. */
static bool find_other(svm_block *block, uint8_t space, const uint8_t *id, uint32_t number, uint32_t *slot) {
    svm_key *key = &block->keys[block->keys_count + number];
    memset(key, 0, sizeof *key);
    key->id = id;
    key->space = space;
    key->hash = svm_hash_key(block->engine, key);
    return find_slot(block, block->keys_count + number, UINT32_MAX, slot);
}

/* Gives every key its slot. Places and entries are far apart in memory: of a key, its place is asked for first, then
 * the entry that stands there, and only then is it looked at. */
static bool find_slots(svm_block *block) {
    const svm_engine *engine = block->engine;
    const uint32_t count = block->keys_count;
    uint32_t guesses[GUESSES];
    for (uint64_t i = 0; i < (uint64_t)count + AHEAD_PLACE + AHEAD_ENTRY; i++) {
        if (i < count) {
            __builtin_prefetch(&engine->places[block->keys[i].hash & engine->places_mask]);
        }
        const uint64_t near = i - AHEAD_PLACE, now = near - AHEAD_ENTRY; /* before their time, no such index */
        if (near < count) {
            const uint32_t guess = guesses[near % GUESSES] = svm_engine_guess(engine, block->keys[near].hash);
            if (guess != UINT32_MAX) {
                const svm_entry *entry = svm_entry_at(engine, guess);
                __builtin_prefetch(entry, 1);
                __builtin_prefetch((const uint8_t *)entry + 64, 1);
            }
        }
        if (now < count && !find_slot(block, (uint32_t)now, guesses[now % GUESSES], &block->slot_of[now])) {
            return false;
        }
    }
    return find_other(block, SVM_TOKEN, svm_zeros, 0, &block->supply_slot) &&
           (block->facts.collects == 0 ||
            find_other(block, SVM_ACCOUNT, block->facts.collector, 1, &block->collector_slot));
}

/* What a skipped transaction made when it was executed may be there: it is looked up like any other. */
static void skip(svm_block *block, uint64_t index) {
    svm_tx *tx = &block->txs[index];
    tx->skip = 1;
    for (uint32_t i = 0; i < tx->keys_count; i++) {
        block->keys[tx->keys + i].fresh = 0;
    }
}

/* Transactions whose digest was executed before, in an earlier block or in this one, are skipped (CONS-40). */
static bool mark_skipped(svm_block *block, const uint8_t *executed, uint32_t executed_count) {
    uint64_t size = 64;
    while (size < 2 * (uint64_t)block->count + 2 * (uint64_t)executed_count) {
        size *= 2;
    }
    /* Digests are as good as random; the seed keeps even a chosen set from piling up. */
    const uint64_t seed = block->engine->seed[2];
    uint32_t *places = svm_engine_buffer(block->engine, SVM_BUFFER_SEEN, size * sizeof *places);
    if (places == NULL) {
        return false;
    }
    memset(places, 0, size * sizeof *places);
    for (uint64_t i = 0; i < (uint64_t)executed_count + block->count; i++) {
        const bool earlier = i < executed_count;
        const uint8_t *digest =
            earlier ? executed + i * SVM_ID : block->digests + (i - executed_count) * SVM_ID;
        const svm_u128 product = (svm_u128)(svm_get_u64(digest) ^ seed) * 0x9e3779b97f4a7c15u;
        uint64_t at = ((uint64_t)product ^ (uint64_t)(product >> 64)) & (size - 1);
        bool known = false;
        while (places[at] != 0 && !known) {
            const uint64_t other = places[at] - 1;
            const uint8_t *held =
                other < executed_count ? executed + other * SVM_ID : block->digests + (other - executed_count) * SVM_ID;
            known = svm_same_id(held, digest);
            at = (at + 1) & (size - 1);
        }
        if (!known) {
            places[at] = (uint32_t)i + 1;
        } else if (!earlier) {
            skip(block, i - executed_count);
        }
    }
    return true;
}

static bool list_missing(svm_block *block) {
    block->missing_bytes = malloc((size_t)block->missing_count * (2 + 2 * SVM_ID) + 1);
    if (block->missing_bytes == NULL) {
        return false;
    }
    uint8_t *out = block->missing_bytes;
    for (uint32_t i = 0; i < block->missing_count; i++) {
        const svm_entry *entry = svm_entry_at(block->engine, block->missing[i]);
        const uint32_t name = entry->space == SVM_SYSTEM ? SVM_STAKES_NAME : SVM_ID;
        *out++ = (uint8_t)svm_key_size(entry->space);
        *out++ = entry->space;
        memcpy(out, entry->id, name);
        out += name;
        if (entry->token != NULL) {
            memcpy(out, entry->token, SVM_ID);
            out += SVM_ID;
        }
    }
    block->missing_size = (size_t)(out - block->missing_bytes);
    return true;
}

static uint32_t open_block(svm_block *block, const uint8_t *digests, const uint8_t *executed, uint32_t executed_count,
                           uint32_t *at) {
    const uint64_t began = svm_now_ns();
    const size_t count = (size_t)block->count + 1;

    block->txs = svm_engine_buffer(block->engine, SVM_BUFFER_TXS, count * sizeof *block->txs);
    block->digests = svm_engine_buffer(block->engine, SVM_BUFFER_DIGESTS, count * SVM_ID);
    block->outcomes = svm_engine_buffer(block->engine, SVM_BUFFER_OUTCOMES, count * sizeof *block->outcomes);
    if (block->txs == NULL || block->digests == NULL || block->outcomes == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    const uint32_t error = svm_decode_block(block, digests, at);
    if (error != SVM_ENGINE_OK) {
        return error;
    }
    if (!mark_skipped(block, executed, executed_count)) {
        return SVM_ENGINE_NO_MEMORY;
    }
    const uint64_t decoded = svm_now_ns();
    block->stats.decode_ns = decoded - began;
    block->slot_of = svm_engine_buffer(block->engine, SVM_BUFFER_SLOT_OF,
                                       ((size_t)block->keys_count + 1) * sizeof *block->slot_of);
    block->slots_room = (uint32_t)(block->engine->buffers[SVM_BUFFER_SLOTS].room / sizeof *block->slots);
    block->slots = block->engine->buffers[SVM_BUFFER_SLOTS].memory;
    if (block->slot_of == NULL || !find_slots(block) || !list_missing(block)) {
        return SVM_ENGINE_NO_MEMORY;
    }
    block->stats.state_ns = svm_now_ns() - decoded;
    block->stats.keys = block->keys_count;
    block->stats.slots = block->slots_count;
    block->stats.missed = block->missing_count;
    return SVM_ENGINE_OK;
}

uint32_t svm_block_new(svm_engine *engine, const svm_block_facts *facts, const uint8_t *data, const uint64_t *offsets,
                       uint32_t count, const uint8_t *digests, const uint8_t *executed, uint32_t executed_count,
                       svm_block **made, uint32_t *at) {
    *made = NULL;
    *at = 0;
    if (engine->open != NULL) {
        return SVM_ENGINE_ORDER;
    }
    if (count > UINT32_MAX / 4 || executed_count > UINT32_MAX / 4) {
        return SVM_ENGINE_TOO_LARGE;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (offsets[i] > offsets[i + 1]) {
            return SVM_ENGINE_ORDER;
        }
    }
    svm_block *block = calloc(1, sizeof *block);
    if (block == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    block->engine = engine;
    block->facts = *facts;
    block->data = data;
    block->offsets = offsets;
    block->count = count;
    engine->block_number++;
    engine->open = block;
    const uint32_t error = open_block(block, digests, executed, executed_count, at);
    if (error != SVM_ENGINE_OK) {
        svm_block_free(block);
        return error;
    }
    *made = block;
    return SVM_ENGINE_OK;
}

uint32_t svm_block_missing(svm_block *block, const uint8_t **packed, size_t *size, uint32_t *count) {
    *packed = block->missing_bytes;
    *size = block->missing_size;
    *count = block->missing_count;
    return SVM_ENGINE_OK;
}

uint32_t svm_block_supply(svm_block *block, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at) {
    const uint64_t began = svm_now_ns();
    const uint8_t *end = packed + size;
    *at = 0;
    if (block->phase != 0 || count != block->missing_count) {
        return SVM_ENGINE_ORDER;
    }
    for (uint32_t i = 0; i < count; i++) {
        *at = i;
        if (end - packed < 4) {
            return SVM_ENGINE_BAD_STATE;
        }
        const uint32_t bytes = svm_get_u32(packed);
        packed += 4;
        if ((size_t)(end - packed) < bytes) {
            return SVM_ENGINE_BAD_STATE;
        }
        svm_entry *entry = svm_entry_at(block->engine, block->missing[i]);
        bool no_memory = false;
        if (!svm_engine_read(block->engine, entry, packed, bytes, &no_memory)) {
            return no_memory ? SVM_ENGINE_NO_MEMORY : SVM_ENGINE_BAD_STATE;
        }
        block->slots[entry->slot].now = block->slots[entry->slot].before = entry->value;
        packed += bytes;
    }
    if (packed != end) {
        return SVM_ENGINE_BAD_STATE;
    }
    block->missing_count = 0;
    block->missing_size = 0;
    block->stats.state_ns += svm_now_ns() - began;
    return SVM_ENGINE_OK;
}

/* Fees go to the collector, or are burned: the supply falls by them. */
static uint32_t settle(svm_block *block) {
    for (uint32_t i = 0; i < block->count; i++) {
        const svm_outcome *outcome = &block->outcomes[i];
        switch (outcome->status) {
        case SVM_SKIPPED:
            block->stats.skipped++;
            continue;
        case SVM_COMMITTED:
            block->stats.committed++;
            break;
        case SVM_FAILED:
            block->stats.failed++;
            break;
        case SVM_VOID:
            block->stats.voided++;
            break;
        default:
            return SVM_ENGINE_INVARIANT;
        }
        block->fees += outcome->fee;
        block->stats.gas_used += outcome->gas_used;
    }
    block->stats.fees_low = (uint64_t)block->fees;
    block->stats.fees_high = (uint64_t)(block->fees >> 64);
    if (block->fees == 0) {
        return SVM_ENGINE_OK;
    }
    if (block->facts.collects) {
        svm_slot *slot = &block->slots[block->collector_slot];
        const svm_u128 before = svm_join(slot->now.account.low, slot->now.account.high), after = before + block->fees;
        slot->now.account.low = (uint64_t)after;
        slot->now.account.high = (uint64_t)(after >> 64);
        slot->changed = SVM_CHANGED;
        return after < before ? SVM_ENGINE_INVARIANT : SVM_ENGINE_OK;
    }
    svm_slot *slot = &block->slots[block->supply_slot];
    if (slot->now.token == NULL || slot->now.token->supply < block->fees) {
        return SVM_ENGINE_INVARIANT;
    }
    svm_token *token = svm_arena_take(&block->arena, sizeof *token);
    if (token == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    *token = *slot->now.token;
    token->supply -= block->fees;
    slot->now.token = token;
    slot->changed = SVM_CHANGED;
    return SVM_ENGINE_OK;
}

uint32_t svm_block_execute(svm_block *block, uint32_t mode) {
    if (block->phase != 0 || block->missing_count != 0) {
        return SVM_ENGINE_ORDER;
    }
    block->phase = 1;
    block->stats.transactions = block->count;
    const uint64_t began = svm_now_ns();
    uint32_t error = svm_execute_block(block, mode);
    if (error == SVM_ENGINE_OK) {
        error = settle(block);
    }
    const uint64_t executed = svm_now_ns();
    if (error == SVM_ENGINE_OK) {
        error = svm_make_receipts(block);
    }
    const uint64_t receipts = svm_now_ns();
    if (error == SVM_ENGINE_OK) {
        error = svm_count_changes(block);
    }
    block->stats.execute_ns = executed - began;
    block->stats.receipts_ns = receipts - executed;
    block->stats.changes_ns = svm_now_ns() - receipts;
    block->error = error;
    return error;
}

void svm_block_receipts(const svm_block *block, const uint8_t **bytes, const uint64_t **offsets, uint32_t *count,
                        uint8_t root[32]) {
    *bytes = block->receipts;
    *offsets = block->receipt_starts;
    *count = block->receipts_count;
    memcpy(root, block->receipts_root, SVM_ID);
}

uint32_t svm_block_changes(svm_block *block, const uint8_t **bytes, size_t *size, uint32_t *count) {
    if (block->phase != 1 || block->error != SVM_ENGINE_OK) {
        return SVM_ENGINE_ORDER; /* after a commit, what values were made of is gone */
    }
    const uint32_t error = block->changes == NULL ? svm_write_changes(block) : SVM_ENGINE_OK;
    *bytes = block->changes;
    *size = block->changes_size;
    *count = block->changes_count;
    return error;
}

uint32_t svm_block_details(const svm_block *block, svm_detail *details, uint32_t room) {
    uint32_t count = 0;
    if (block->phase == 0 || block->error != SVM_ENGINE_OK) {
        return 0; /* there are no outcomes yet, or not of all */
    }
    for (uint32_t i = 0; i < block->count; i++) {
        if (block->outcomes[i].detail != NULL) {
            if (count < room) {
                details[count] = *block->outcomes[i].detail;
            }
            count++;
        }
    }
    return count;
}

void svm_block_stats_of(const svm_block *block, svm_block_stats *stats) { *stats = block->stats; }

/* An object of as many bytes as before takes its place: the entry stays as it is. False for any other slot. */
static inline bool rewrite_object(const svm_slot *slot) {
    const svm_object *from = slot->now.object;
    svm_object *to = (svm_object *)(uintptr_t)slot->before.object; /* the engine's own */
    if (slot->space != SVM_OBJECT || from == NULL || to == NULL || from->size != to->size) {
        return false;
    }
    uint8_t *data = (uint8_t *)(to + 1);
    if (from->data != data) {
        svm_copy(data, from->data, from->size);
    }
    *to = *from;
    to->data = data;
    return true;
}

uint32_t svm_block_commit(svm_block *block) {
    if (block->phase != 1 || block->error != SVM_ENGINE_OK) {
        return SVM_ENGINE_ORDER;
    }
    for (uint32_t i = 0; i < block->slots_count; i++) {
        const svm_slot *slot = &block->slots[i];
        if (i + AHEAD_ENTRY < block->slots_count) {
            const svm_slot *next = slot + AHEAD_ENTRY;
            if (next->space == SVM_OBJECT) {
                __builtin_prefetch(next->before.object, 1);
                __builtin_prefetch((const uint8_t *)((uintptr_t)next->before.object + sizeof(svm_object)), 1);
                __builtin_prefetch(next->now.object);
            } else {
                __builtin_prefetch((const uint8_t *)svm_entry_at(block->engine, next->entry) + SVM_ID, 1);
            }
        }
        if (slot->changed && !rewrite_object(slot) &&
            !svm_engine_store(block->engine, svm_entry_at(block->engine, slot->entry), slot->now)) {
            return SVM_ENGINE_NO_MEMORY;
        }
    }
    block->phase = 2;
    return SVM_ENGINE_OK;
}

void svm_block_free(svm_block *block) {
    if (block == NULL) {
        return;
    }
    svm_engine *engine = block->engine;
    for (uint32_t i = 0; i < block->workers_count; i++) {
        svm_worker_free(&block->workers[i]);
    }
    for (uint32_t i = 0; i < block->names_count && block->names != NULL; i++) {
        free(block->names[i]);
    }
    free(block->workers);
    free(block->names);
    free(block->missing);
    free(block->missing_bytes);
    free(block->change_starts);
    svm_arena_free(&block->arena);
    free(block);
    engine->open = NULL;
    svm_engine_evict(engine);
}
