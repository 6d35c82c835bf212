#if defined(__linux__)
#define _DEFAULT_SOURCE
#endif

/* The state in memory: a bounded cache of entries by key, and the one encoding of each value. */
#include "svm_engine_types.h"

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

const uint8_t svm_zeros[SVM_ID];
const uint8_t svm_stakes_id[SVM_ID] = {'s', 't', 'a', 'k', 'e', 's'};
const uint8_t svm_escrow[SVM_ID] = {0x75, 0x73, 0xc9, 0x30, 0xdb, 0x0b, 0x5f, 0x38, 0x33, 0xca, 0x93,
                                    0x6c, 0xa9, 0x81, 0xec, 0x4a, 0x43, 0x57, 0xb5, 0xf0, 0x6d, 0x87,
                                    0xfa, 0x56, 0x35, 0x28, 0x55, 0x72, 0x08, 0x35, 0xdc, 0x52};

/* Arena: blocks of growing size, newest first. */
struct svm_arena_block {
    svm_arena_block *before;
    size_t size;
    uint8_t bytes[];
};

enum { ARENA_FIRST = 1 << 16, ARENA_MOST = 1 << 22 };

void *svm_arena_grow(svm_arena *arena, size_t size) {
    size_t room = arena->block == NULL ? ARENA_FIRST : arena->block->size * 2;
    room = room > ARENA_MOST ? ARENA_MOST : room;
    room = room < size + 16 ? size + 16 : room;
    svm_arena_block *block = malloc(sizeof *block + room);
    if (block == NULL) {
        return NULL;
    }
    block->before = arena->block;
    block->size = room;
    arena->block = block;
    uint8_t *start = (uint8_t *)(((uintptr_t)block->bytes + 15) & ~(uintptr_t)15);
    arena->at = start + size;
    arena->end = block->bytes + room;
    return start;
}

void svm_arena_free(svm_arena *arena) {
    while (arena->block != NULL) {
        svm_arena_block *gone = arena->block;
        arena->block = gone->before;
        free(gone);
    }
    arena->at = arena->end = NULL;
}

enum { LARGE_PAGE = 1 << 21 };

void *svm_large(size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (size >= LARGE_PAGE / 4) { /* less isn't worth a page of this size */
        void *memory = NULL;
        size = (size + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
        if (posix_memalign(&memory, LARGE_PAGE, size) != 0) {
            return NULL;
        }
        (void)madvise(memory, size, MADV_HUGEPAGE); /* refused, it is memory all the same */
        return memory;
    }
#endif
    return malloc(size);
}

static uint64_t hash_entry(const svm_engine *engine, const svm_entry *entry) {
    const svm_key key = {.id = entry->id, .token = entry->token, .space = entry->space};
    return svm_hash_key(engine, &key);
}

static bool grow_places(svm_engine *engine) {
    const uint64_t size = (engine->places_mask + 1) * 2;
    svm_place *places = svm_large(size * sizeof *places);
    if (places == NULL) {
        return false;
    }
    memset(places, 0, size * sizeof *places);
    for (uint64_t i = 0; i <= engine->places_mask; i++) {
        const svm_place place = engine->places[i];
        if (place.entry != 0) {
            uint64_t at = hash_entry(engine, svm_entry_at(engine, place.entry - 1)) & (size - 1);
            while (places[at].entry != 0) {
                at = (at + 1) & (size - 1);
            }
            places[at] = place;
        }
    }
    free(engine->places);
    engine->bytes += (size - engine->places_mask - 1) * sizeof *places;
    engine->places = places;
    engine->places_mask = size - 1;
    return true;
}

static bool new_entry(svm_engine *engine, uint32_t *entry) {
    if (engine->first_free != 0) {
        *entry = engine->first_free - 1;
        engine->first_free = svm_entry_at(engine, *entry)->slot;
        return true;
    }
    if (engine->entries_used == UINT32_MAX - 1) {
        return false;
    }
    if (engine->entries_used == engine->blocks_count * SVM_ENTRIES) {
        if ((engine->blocks_count & (engine->blocks_count - 1)) == 0) {
            const size_t room = engine->blocks_count == 0 ? 1 : (size_t)engine->blocks_count * 2;
            svm_entry **blocks = realloc(engine->blocks, room * sizeof *blocks);
            if (blocks == NULL) {
                return false;
            }
            engine->blocks = blocks;
        }
        svm_entry *block = svm_large(SVM_ENTRIES * sizeof *block);
        if (block == NULL) {
            return false;
        }
        engine->blocks[engine->blocks_count++] = block;
    }
    *entry = engine->entries_used++;
    return true;
}

uint32_t svm_engine_entry(svm_engine *engine, const svm_key *key) {
    uint64_t at = key->hash & engine->places_mask;
    const uint32_t tag = svm_tag_of(key->hash);
    while (engine->places[at].entry != 0) {
        if (engine->places[at].tag == tag) {
            const uint32_t found = engine->places[at].entry - 1;
            if (svm_is_entry_of(svm_entry_at(engine, found), key)) {
                return found;
            }
        }
        at = (at + 1) & engine->places_mask;
    }
    uint32_t made;
    if (engine->entries_live >= engine->places_mask / 3 * 2) {
        if (!grow_places(engine)) {
            return UINT32_MAX;
        }
        at = key->hash & engine->places_mask;
        while (engine->places[at].entry != 0) {
            at = (at + 1) & engine->places_mask;
        }
    }
    uint8_t *token = NULL;
    if (key->token != NULL) {
        token = malloc(SVM_ID);
        if (token == NULL) {
            return UINT32_MAX;
        }
        memcpy(token, key->token, SVM_ID);
    }
    if (!new_entry(engine, &made)) {
        free(token);
        return UINT32_MAX;
    }
    svm_entry *entry = svm_entry_at(engine, made);
    memset(entry, 0, sizeof *entry);
    memcpy(entry->id, key->id, SVM_ID);
    entry->token = token;
    entry->space = key->space;
    entry->known = engine->resident || key->fresh;
    engine->places[at].tag = tag;
    engine->places[at].entry = made + 1;
    engine->entries_live++;
    engine->bytes += sizeof *entry + (token != NULL ? SVM_ID : 0);
    return made;
}

/* Values. */

static inline bool is_object(uint8_t space) { return space == SVM_OBJECT || space == SVM_SYSTEM; }

static size_t owned_bytes(const svm_entry *entry) {
    if (entry->space == SVM_TOKEN && entry->value.token != NULL) {
        return sizeof(svm_token);
    }
    if (is_object(entry->space) && entry->value.object != NULL) {
        return sizeof(svm_object) + entry->value.object->size;
    }
    return 0;
}

static void forget_value(svm_engine *engine, svm_entry *entry) {
    engine->bytes -= owned_bytes(entry);
    if (entry->space == SVM_TOKEN) {
        free((void *)(uintptr_t)entry->value.token);
    } else if (is_object(entry->space)) {
        free((void *)(uintptr_t)entry->value.object);
    }
    memset(&entry->value, 0, sizeof entry->value);
}

bool svm_engine_store(svm_engine *engine, svm_entry *entry, svm_value value) {
    if (is_object(entry->space) && value.object != NULL) {
        const svm_object *from = value.object;
        svm_object *to;
        if (entry->value.object != NULL && entry->value.object->size == from->size) {
            to = (svm_object *)(uintptr_t)entry->value.object; /* the same room again */
        } else {
            to = malloc(sizeof *to + from->size);
            if (to == NULL) {
                return false;
            }
        }
        uint8_t *data = (uint8_t *)(to + 1);
        if (from->size != 0 && data != from->data) {
            memmove(data, from->data, from->size);
        }
        if (to != from) {
            *to = *from;
            to->data = data;
        }
        if (to != entry->value.object) {
            forget_value(engine, entry);
            entry->value.object = to;
            engine->bytes += owned_bytes(entry);
        }
    } else if (entry->space == SVM_TOKEN && value.token != NULL) {
        svm_token *to = malloc(sizeof *to);
        if (to == NULL) {
            return false;
        }
        *to = *value.token;
        forget_value(engine, entry);
        entry->value.token = to;
        engine->bytes += owned_bytes(entry);
    } else {
        forget_value(engine, entry);
        entry->value = value;
    }
    entry->known = 1;
    return true;
}

static bool read_token(const uint8_t *b, uint32_t size, svm_token *token) {
    if (size < 5 || b[0] != 1) {
        return false;
    }
    const uint32_t symbol = svm_get_u32(b + 1);
    if (symbol == 0 || symbol > SVM_SYMBOL_MAX || size != 5 + symbol + 1 + SVM_ID + 1 + 16) {
        return false;
    }
    memset(token, 0, sizeof *token);
    memcpy(token->symbol, b + 5, symbol);
    for (uint32_t i = 0; i < symbol; i++) {
        const uint8_t c = token->symbol[i];
        if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))) {
            return false;
        }
    }
    token->symbol_size = (uint8_t)symbol;
    b += 5 + symbol;
    token->decimals = b[0];
    memcpy(token->minter, b + 1, SVM_ID);
    token->fixed = b[1 + SVM_ID];
    token->supply = svm_get_u128(b + 2 + SVM_ID);
    return token->decimals <= SVM_DECIMALS_MAX && token->fixed <= 1;
}

static bool all_zero(const uint8_t *b, uint32_t size) {
    uint8_t seen = 0;
    for (uint32_t i = 0; i < size; i++) {
        seen |= b[i];
    }
    return seen == 0;
}

static bool read_object(const uint8_t *b, uint32_t size, svm_object *object) {
    if (size < SVM_OBJECT_HEAD || b[0] != 1) {
        return false;
    }
    memset(object, 0, sizeof *object);
    object->version = svm_get_u64(b + 1);
    object->kind = b[9];
    memcpy(object->owner, b + 10, SVM_ID);
    object->type = svm_get_u32(b + 42);
    object->deleted = b[46];
    object->size = svm_get_u32(b + 47);
    object->data = b + SVM_OBJECT_HEAD;
    if (size - SVM_OBJECT_HEAD != object->size || object->kind > SVM_IMMUTABLE || object->deleted > 1) {
        return false;
    }
    if (object->deleted && object->size != 0) {
        return false;
    }
    if (object->kind == SVM_IMMUTABLE && !all_zero(object->owner, SVM_ID)) {
        return false;
    }
    return object->kind != SVM_SHARED || all_zero(object->owner + 8, SVM_ID - 8);
}

/* The stakes: strictly ascending by key. */
static bool read_stakes(const uint8_t *b, uint32_t size, svm_object *stakes) {
    if (size < SVM_STAKES_HEAD || b[0] != 1) {
        return false;
    }
    const uint32_t count = svm_get_u16(b + 1);
    if (size != SVM_STAKES_HEAD + count * SVM_STAKE) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *record = b + SVM_STAKES_HEAD + i * SVM_STAKE;
        if (record[SVM_STAKE - 1] > 1 || (i != 0 && memcmp(record - SVM_STAKE, record, SVM_ID) >= 0)) {
            return false;
        }
    }
    memset(stakes, 0, sizeof *stakes);
    stakes->size = size;
    stakes->data = b;
    return true;
}

bool svm_engine_read(svm_engine *engine, svm_entry *entry, const uint8_t *b, uint32_t size, bool *no_memory) {
    svm_value value;
    svm_token token;
    svm_object object;

    memset(&value, 0, sizeof value);
    if (size != 0) {
        switch (entry->space) {
        case SVM_ACCOUNT:
            if (size != SVM_ACCOUNT_VALUE || b[0] != 1) {
                return false;
            }
            value.account.nonce = svm_get_u64(b + 1);
            value.account.sponsor_nonce = svm_get_u64(b + 9);
            value.account.low = svm_get_u64(b + 17);
            value.account.high = svm_get_u64(b + 25);
            break;
        case SVM_BALANCE:
            if (size != SVM_BALANCE_VALUE || b[0] != 1 || all_zero(b + 1, SVM_BALANCE_VALUE - 1)) {
                return false;
            }
            value.balance.low = svm_get_u64(b + 1);
            value.balance.high = svm_get_u64(b + 9);
            break;
        case SVM_TOKEN:
            if (!read_token(b, size, &token)) {
                return false;
            }
            value.token = &token;
            break;
        case SVM_SYSTEM:
            if (!read_stakes(b, size, &object)) {
                return false;
            }
            value.object = &object;
            break;
        default:
            if (!read_object(b, size, &object)) {
                return false;
            }
            value.object = &object;
        }
    }
    if (!svm_engine_store(engine, entry, value)) {
        *no_memory = true;
        return false;
    }
    return true;
}

uint32_t svm_value_size(uint8_t space, const svm_value *value) {
    switch (space) {
    case SVM_ACCOUNT:
        return (value->account.nonce | value->account.sponsor_nonce | value->account.low | value->account.high) != 0
                   ? SVM_ACCOUNT_VALUE
                   : 0;
    case SVM_BALANCE:
        return (value->balance.low | value->balance.high) != 0 ? SVM_BALANCE_VALUE : 0;
    case SVM_TOKEN:
        return value->token == NULL ? 0 : 5u + value->token->symbol_size + 1 + SVM_ID + 1 + 16;
    case SVM_SYSTEM:
        return value->object == NULL ? 0 : value->object->size;
    default:
        return value->object == NULL ? 0 : SVM_OBJECT_HEAD + value->object->size;
    }
}

uint8_t *svm_value_write(uint8_t space, const svm_value *value, uint8_t *out) {
    *out++ = 1;
    switch (space) {
    case SVM_ACCOUNT:
        svm_put_u64(out, value->account.nonce);
        svm_put_u64(out + 8, value->account.sponsor_nonce);
        svm_put_u64(out + 16, value->account.low);
        svm_put_u64(out + 24, value->account.high);
        return out + 32;
    case SVM_BALANCE:
        svm_put_u64(out, value->balance.low);
        svm_put_u64(out + 8, value->balance.high);
        return out + 16;
    case SVM_TOKEN: {
        const svm_token *token = value->token;
        svm_put_u32(out, token->symbol_size);
        memcpy(out + 4, token->symbol, token->symbol_size);
        out += 4 + token->symbol_size;
        *out++ = token->decimals;
        memcpy(out, token->minter, SVM_ID);
        out += SVM_ID;
        *out++ = token->fixed;
        svm_put_u128(out, token->supply);
        return out + 16;
    }
    case SVM_SYSTEM:
        memcpy(out - 1, value->object->data, value->object->size);
        return out - 1 + value->object->size;
    default:
        return svm_object_write(value->object, out - 1);
    }
}

bool svm_value_same(uint8_t space, const svm_value *a, const svm_value *b) {
    switch (space) {
    case SVM_ACCOUNT:
        return memcmp(&a->account, &b->account, sizeof a->account) == 0;
    case SVM_BALANCE:
        return a->balance.low == b->balance.low && a->balance.high == b->balance.high;
    case SVM_TOKEN:
        /* Only supplies change. */
        return a->token == b->token || (a->token != NULL && b->token != NULL && a->token->supply == b->token->supply);
    default: {
        const svm_object *x = a->object, *y = b->object;
        if (x == y) {
            return true;
        }
        return x != NULL && y != NULL && x->version == y->version && x->kind == y->kind && x->deleted == y->deleted &&
               x->type == y->type && x->size == y->size && svm_same_id(x->owner, y->owner) &&
               (x->size == 0 || memcmp(x->data, y->data, x->size) == 0);
    }
    }
}

/* Eviction: a second chance for what was used since the hand last came by. */

static void remove_place(svm_engine *engine, uint32_t number, uint64_t hash) {
    uint64_t hole = hash & engine->places_mask;
    while (engine->places[hole].entry != number + 1) {
        hole = (hole + 1) & engine->places_mask;
    }
    /* Those behind it move up, if that brings none before its own place. */
    for (uint64_t at = (hole + 1) & engine->places_mask; engine->places[at].entry != 0;
         at = (at + 1) & engine->places_mask) {
        const uint64_t home =
            hash_entry(engine, svm_entry_at(engine, engine->places[at].entry - 1)) & engine->places_mask;
        if (((at - home) & engine->places_mask) >= ((at - hole) & engine->places_mask)) {
            engine->places[hole] = engine->places[at];
            hole = at;
        }
    }
    engine->places[hole].entry = 0;
}

static void evict_entry(svm_engine *engine, uint32_t number) {
    svm_entry *entry = svm_entry_at(engine, number);
    remove_place(engine, number, hash_entry(engine, entry));
    forget_value(engine, entry);
    engine->bytes -= sizeof *entry + (entry->token != NULL ? SVM_ID : 0);
    free((void *)(uintptr_t)entry->token);
    memset(entry, 0, sizeof *entry);
    entry->slot = engine->first_free;
    engine->first_free = number + 1;
    engine->entries_live--;
    engine->evicted++;
}

void svm_engine_evict(svm_engine *engine) {
    if (engine->bytes_max == 0 || engine->entries_used == 0) {
        return;
    }
    /* The table of places itself counts; where it alone is too much, everything goes and that must do. */
    for (uint64_t steps = 2 * (uint64_t)engine->entries_used;
         engine->bytes > engine->bytes_max && engine->entries_live > 0 && steps > 0; steps--) {
        engine->hand = engine->hand + 1 < engine->entries_used ? engine->hand + 1 : 0;
        svm_entry *entry = svm_entry_at(engine, engine->hand);
        if (entry->space == 0) {
            continue;
        }
        if (entry->kept) {
            entry->kept = 0;
        } else {
            evict_entry(engine, engine->hand);
        }
    }
}

/* Buffers. */

enum { BUFFER_SPARE = 1 << 20, BUFFER_TIMES = 8 };

void *svm_engine_buffer(svm_engine *engine, enum svm_buffer_use use, size_t size) {
    svm_buffer *buffer = &engine->buffers[use];
    if (buffer->room < size || buffer->room / BUFFER_TIMES > size + BUFFER_SPARE) {
        free(buffer->memory);
        buffer->room = size + size / 8 + 64;
        buffer->memory = svm_large(buffer->room);
        if (buffer->memory == NULL) {
            buffer->room = 0;
        }
    }
    return buffer->memory;
}

void *svm_engine_more(svm_engine *engine, enum svm_buffer_use use, size_t kept, size_t size) {
    svm_buffer *buffer = &engine->buffers[use];
    if (buffer->room < size) {
        void *more = svm_large(size);
        if (more == NULL) {
            return NULL;
        }
        if (kept != 0) {
            memcpy(more, buffer->memory, kept);
        }
        free(buffer->memory);
        buffer->memory = more;
        buffer->room = size;
    }
    return buffer->memory;
}

/* The engine's life. */

enum { PLACES_FIRST = 1024 };

static void empty_out(svm_engine *engine) {
    for (uint32_t i = 0; i < engine->entries_used; i++) {
        svm_entry *entry = svm_entry_at(engine, i);
        if (entry->space != 0) {
            forget_value(engine, entry);
            free((void *)(uintptr_t)entry->token);
        }
    }
    for (uint32_t i = 0; i < engine->blocks_count; i++) {
        free(engine->blocks[i]);
    }
    free(engine->blocks);
    engine->blocks = NULL;
    engine->blocks_count = engine->entries_used = engine->entries_live = engine->first_free = engine->hand = 0;
}

svm_engine *svm_engine_new(uint64_t bytes_max, uint32_t resident, const uint8_t seed[32], svm_pool *pool) {
    svm_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        return NULL;
    }
    engine->pool = pool;
    engine->bytes_max = bytes_max;
    engine->resident = resident != 0;
    for (int i = 0; i < 4; i++) {
        engine->seed[i] = svm_get_u64(seed + 8 * i);
    }
    engine->places = calloc(PLACES_FIRST, sizeof *engine->places);
    engine->places_mask = PLACES_FIRST - 1;
    engine->bytes = PLACES_FIRST * sizeof *engine->places;
    if (engine->places == NULL) {
        free(engine);
        return NULL;
    }
    return engine;
}

void svm_engine_free(svm_engine *engine) {
    if (engine != NULL) {
        empty_out(engine);
        for (int i = 0; i < SVM_BUFFERS; i++) {
            free(engine->buffers[i].memory);
        }
        free(engine->places);
        free(engine);
    }
}

void svm_engine_clear(svm_engine *engine) {
    empty_out(engine);
    memset(engine->places, 0, (engine->places_mask + 1) * sizeof *engine->places);
    engine->bytes = (engine->places_mask + 1) * sizeof *engine->places;
}

void svm_engine_stats(const svm_engine *engine, svm_cache_stats *stats) {
    stats->entries = engine->entries_live;
    stats->bytes = engine->bytes;
    stats->bytes_max = engine->bytes_max;
    stats->evicted = engine->evicted;
}

static bool read_key(const uint8_t *bytes, uint32_t size, svm_key *key) {
    memset(key, 0, sizeof *key);
    if (size == 0 || bytes[0] < SVM_ACCOUNT || bytes[0] > SVM_SYSTEM) {
        return false;
    }
    key->space = bytes[0];
    key->id = bytes + 1;
    if (key->space == SVM_SYSTEM) {
        key->id = svm_stakes_id;
        return size == 1 + SVM_STAKES_NAME && memcmp(bytes + 1, svm_stakes_id, SVM_STAKES_NAME) == 0;
    }
    if (key->space == SVM_BALANCE) {
        key->token = bytes + 1 + SVM_ID;
        return size == 1 + 2 * SVM_ID;
    }
    return size == 1 + SVM_ID;
}

uint32_t svm_engine_load(svm_engine *engine, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at) {
    const uint8_t *end = packed + size;
    *at = 0;
    if (engine->open != NULL) {
        return SVM_ENGINE_ORDER; /* its slots hold the values that would be replaced */
    }
    for (uint32_t i = 0; i < count; i++) {
        *at = i;
        svm_key key;
        if (end - packed < 1 || end - packed < 1 + packed[0] + 4 || !read_key(packed + 1, packed[0], &key)) {
            return SVM_ENGINE_BAD_STATE;
        }
        packed += 1 + packed[0];
        const uint32_t bytes = svm_get_u32(packed);
        packed += 4;
        if ((size_t)(end - packed) < bytes) {
            return SVM_ENGINE_BAD_STATE;
        }
        key.hash = svm_hash_key(engine, &key);
        const uint32_t entry = svm_engine_entry(engine, &key);
        if (entry == UINT32_MAX) {
            return SVM_ENGINE_NO_MEMORY;
        }
        bool no_memory = false;
        if (!svm_engine_read(engine, svm_entry_at(engine, entry), packed, bytes, &no_memory)) {
            return no_memory ? SVM_ENGINE_NO_MEMORY : SVM_ENGINE_BAD_STATE;
        }
        packed += bytes;
    }
    return packed == end ? SVM_ENGINE_OK : SVM_ENGINE_BAD_STATE;
}
