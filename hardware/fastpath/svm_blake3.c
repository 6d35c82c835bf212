/* After the BLAKE3 specification (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2021), sections 2.1 to 2.6. The judge
 * of this file is the blake3 package: fastpath compares them before it uses this. */
#include "svm_blake3.h"

#include <stdbool.h>
#include <string.h>

#include "svm_cpu.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are loaded as they lie: this needs a little-endian machine"
#endif

enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8, CHUNK = 1024, BLOCK = 64, LANES_MOST = 16 };

static const uint32_t IV[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* One compression over `v` and `m`, words or vectors of them. */
#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define MIX(a, b, c, d, x, y)                                                                                          \
    v[a] += v[b] + m[x];                                                                                               \
    v[d] = ROTATE(v[d] ^ v[a], 16);                                                                                    \
    v[c] += v[d];                                                                                                      \
    v[b] = ROTATE(v[b] ^ v[c], 12);                                                                                    \
    v[a] += v[b] + m[y];                                                                                               \
    v[d] = ROTATE(v[d] ^ v[a], 8);                                                                                     \
    v[c] += v[d];                                                                                                      \
    v[b] = ROTATE(v[b] ^ v[c], 7);
#define ROUND(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15)                                    \
    MIX(0, 4, 8, 12, p0, p1)                                                                                           \
    MIX(1, 5, 9, 13, p2, p3)                                                                                           \
    MIX(2, 6, 10, 14, p4, p5)                                                                                          \
    MIX(3, 7, 11, 15, p6, p7)                                                                                          \
    MIX(0, 5, 10, 15, p8, p9)                                                                                          \
    MIX(1, 6, 11, 12, p10, p11)                                                                                        \
    MIX(2, 7, 8, 13, p12, p13)                                                                                         \
    MIX(3, 4, 9, 14, p14, p15)
/* The message words of each round, permuted beforehand (BLAKE3 paper, table 2). */
#define ROUNDS \
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \
    ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8) \
    ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1) \
    ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6) \
    ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4) \
    ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7) \
    ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)

/* `size` bytes, fewer than 64, and zeros up to 64: in two moves that overlap, since most inputs of a kind are as long. */
static inline void copy_short(uint8_t to[64], const uint8_t *from, uint32_t size) {
    memset(to, 0, 64);
    if (size >= 32) {
        memcpy(to, from, 32);
        memcpy(to + size - 32, from + size - 32, 32);
    } else if (size >= 16) {
        memcpy(to, from, 16);
        memcpy(to + size - 16, from + size - 16, 16);
    } else if (size >= 8) {
        memcpy(to, from, 8);
        memcpy(to + size - 8, from + size - 8, 8);
    } else {
        for (uint32_t i = 0; i < size; i++) {
            to[i] = from[i];
        }
    }
}

/* The pointer that lies `offset` bytes after the first of some. */
static inline uint8_t *place_at(const void *first, size_t offset) {
    uint8_t *place;
    memcpy(&place, (const uint8_t *)first + offset, sizeof place);
    return place;
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (V){__VA_ARGS__})
#endif
#define LANES 4
#define TARGET
#define NAME(x) x##_4
#define LOW_1(x, y) SHUFFLE(x, y, 0, 4, 1, 5)
#define HIGH_1(x, y) SHUFFLE(x, y, 2, 6, 3, 7)
#define LOW_2(x, y) SHUFFLE(x, y, 0, 1, 4, 5)
#define HIGH_2(x, y) SHUFFLE(x, y, 2, 3, 6, 7)
#include "svm_blake3_lanes.h"
#undef LANES
#undef TARGET
#undef NAME
#undef LOW_1
#undef HIGH_1
#undef LOW_2
#undef HIGH_2

#if defined(__x86_64__)
#define SVM_WIDE 1

#define LANES 8
#define TARGET __attribute__((target("avx2")))
#define NAME(x) x##_8
#define LOW_1(x, y) SHUFFLE(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH_1(x, y) SHUFFLE(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_2(x, y) SHUFFLE(x, y, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_2(x, y) SHUFFLE(x, y, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW_4(x, y) SHUFFLE(x, y, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_4(x, y) SHUFFLE(x, y, 4, 5, 6, 7, 12, 13, 14, 15)
#include "svm_blake3_lanes.h"
#undef LANES
#undef TARGET
#undef NAME
#undef LOW_1
#undef HIGH_1
#undef LOW_2
#undef HIGH_2
#undef LOW_4
#undef HIGH_4

#define LANES 16
#define TARGET __attribute__((target("avx512f")))
#define NAME(x) x##_16
#define LOW_1(x, y) SHUFFLE(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH_1(x, y) SHUFFLE(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_2(x, y) SHUFFLE(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_2(x, y) SHUFFLE(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define LOW_4(x, y) SHUFFLE(x, y, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
#define HIGH_4(x, y) SHUFFLE(x, y, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31)
#define BOTH(x, y) SHUFFLE(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define FIRST(x) SHUFFLE(x, x, 0, 1, 2, 3, 4, 5, 6, 7)
#define SECOND(x) SHUFFLE(x, x, 8, 9, 10, 11, 12, 13, 14, 15)
#include "svm_blake3_lanes.h"
#undef LANES
#undef TARGET
#undef NAME
#endif

/* One input. */

static void compress(uint32_t cv[8], const uint8_t *block, uint32_t size, uint64_t counter, uint32_t flags) {
    uint32_t m[16], v[16];
    if (size == BLOCK) {
        memcpy(m, block, sizeof m);
    } else {
        memset(m, 0, sizeof m);
        memcpy(m, block, size);
    }
    for (int i = 0; i < 8; i++) {
        v[i] = cv[i];
    }
    for (int i = 0; i < 4; i++) {
        v[8 + i] = IV[i];
    }
    v[12] = (uint32_t)counter;
    v[13] = (uint32_t)(counter >> 32);
    v[14] = size;
    v[15] = flags;
    ROUNDS
    for (int i = 0; i < 8; i++) {
        cv[i] = v[i] ^ v[i + 8];
    }
}

static uint32_t blocks_of(uint32_t size) { return size == 0 ? 1 : (size + BLOCK - 1) / BLOCK; }

static void one_chunk(const uint8_t *input, uint32_t size, uint64_t counter, uint32_t start_flags, uint32_t end_flags,
                      uint8_t *out) {
    const uint32_t blocks = blocks_of(size);
    uint32_t cv[8];
    memcpy(cv, IV, sizeof cv);
    for (uint32_t i = 0; i < blocks; i++) {
        const bool last = i + 1 == blocks;
        const uint32_t flags = (i == 0 ? start_flags : 0) | (last ? end_flags : 0);
        compress(cv, input + i * BLOCK, last ? size - i * BLOCK : BLOCK, counter, flags);
    }
    memcpy(out, cv, sizeof cv);
}

/* Several: as many lanes as there are inputs for, each width only where at least half of it is used. */

static uint32_t lanes_most = 0; /* 0: not asked yet */

static uint32_t lanes_here(void) {
#if defined(SVM_WIDE)
    const uint32_t features = svm_cpu_features();
    return features & SVM_AVX512F ? 16 : features & SVM_AVX2 ? 8 : 4;
#else
    return 4;
#endif
}

uint32_t svm_blake3_lanes(uint32_t most) {
    uint32_t lanes = __atomic_load_n(&lanes_most, __ATOMIC_RELAXED);
    if (most != 0 || lanes == 0) {
        const uint32_t here = lanes_here();
        const uint32_t wanted = most == 0 || most > here ? here : most;
        lanes = wanted >= 16 ? 16 : wanted >= 8 ? 8 : wanted >= 4 ? 4 : 1;
        __atomic_store_n(&lanes_most, lanes, __ATOMIC_RELAXED);
    }
    return lanes;
}

typedef void (*kernel)(const uint8_t *const *, const uint32_t *, uint32_t, const uint64_t *, uint32_t, uint32_t,
                       uint8_t *const *);

/* Inputs that wait to be hashed side by side: alike in the number of blocks and in flags. */
typedef struct {
    const uint8_t *inputs[LANES_MOST];
    uint8_t *outs[LANES_MOST];
    uint64_t counters[LANES_MOST];
    uint32_t sizes[LANES_MOST];
    uint32_t count, blocks, start_flags, end_flags;
} waiting;

static void flush(waiting *of) {
    const uint32_t most = svm_blake3_lanes(0);
    uint8_t unused[32];
    uint32_t done = 0;
    while (done < of->count) {
        const uint32_t left = of->count - done;
        uint32_t lanes = most;
        while (lanes > 4 && left <= lanes / 2) {
            lanes /= 2;
        }
        if (lanes == 1 || left == 1) {
            one_chunk(of->inputs[done], of->sizes[done], of->counters[done], of->start_flags, of->end_flags,
                      of->outs[done]);
            done++;
            continue;
        }
        /* Lanes without an input repeat one. `done` is a multiple of `lanes`, so there is room. */
        for (uint32_t i = left; i < lanes; i++) {
            of->inputs[done + i] = of->inputs[done];
            of->sizes[done + i] = of->sizes[done];
            of->counters[done + i] = of->counters[done];
            of->outs[done + i] = unused;
        }
        kernel run = chunks_4;
#if defined(SVM_WIDE)
        run = lanes == 16 ? chunks_16 : lanes == 8 ? chunks_8 : chunks_4;
#endif
        run(of->inputs + done, of->sizes + done, of->blocks, of->counters + done, of->start_flags, of->end_flags,
            of->outs + done);
        done += lanes;
    }
    of->count = 0;
}

static inline void put(waiting *of, const uint8_t *input, uint32_t size, uint64_t counter, uint8_t *out) {
    of->inputs[of->count] = input;
    of->sizes[of->count] = size;
    of->counters[of->count] = counter;
    of->outs[of->count] = out;
    if (++of->count == LANES_MOST) {
        flush(of);
    }
}

/* Inputs of several chunks. The tree's left half is the largest power of two of chunks that leaves something for the
 * right; joining neighbours level by level, the odd one going up as it is, makes the same tree. */

enum { WHOLE = CHUNK / BLOCK, VALUES_HELD = 512 };

/* `values` has room for 32 bytes a chunk. */
static void several_chunks(const uint8_t *input, size_t size, uint8_t *values, uint8_t out[32]) {
    waiting whole = {.blocks = WHOLE, .start_flags = CHUNK_START, .end_flags = CHUNK_END};
    uint64_t count = 0;
    for (; size > CHUNK; size -= CHUNK, input += CHUNK, count++) {
        put(&whole, input, CHUNK, count, values + 32 * count);
    }
    flush(&whole);
    one_chunk(input, (uint32_t)size, count, CHUNK_START, CHUNK_END, values + 32 * count);
    count++;
    waiting parents = {.blocks = 1, .end_flags = PARENT};
    while (count > 2) {
        const uint64_t pairs = count / 2;
        for (uint64_t i = 0; i < pairs; i++) {
            put(&parents, values + 64 * i, BLOCK, 0, values + 32 * i);
        }
        flush(&parents);
        if (count % 2 != 0) {
            memcpy(values + 32 * pairs, values + 32 * (count - 1), 32);
        }
        count = pairs + count % 2;
    }
    one_chunk(values, BLOCK, 0, 0, PARENT | ROOT, out);
}

/* The value of a subtree whose chunks are too many to hold at once: a power of two of them. */
static void large_part(const uint8_t *input, uint64_t chunks, uint64_t counter, uint8_t out[32]) {
    uint8_t values[VALUES_HELD * 32];
    if (chunks > VALUES_HELD) {
        large_part(input, chunks / 2, counter, values);
        large_part(input + chunks / 2 * CHUNK, chunks / 2, counter + chunks / 2, values + 32);
        one_chunk(values, BLOCK, 0, 0, PARENT, out);
        return;
    }
    waiting whole = {.blocks = WHOLE, .start_flags = CHUNK_START, .end_flags = CHUNK_END};
    for (uint64_t i = 0; i < chunks; i++) {
        put(&whole, input + i * CHUNK, CHUNK, counter + i, values + 32 * i);
    }
    flush(&whole);
    waiting parents = {.blocks = 1, .end_flags = PARENT};
    for (; chunks > 1; chunks /= 2) {
        for (uint64_t i = 0; i < chunks / 2; i++) {
            put(&parents, values + 64 * i, BLOCK, 0, values + 32 * i);
        }
        flush(&parents);
    }
    memcpy(out, values, 32);
}

static void large(const uint8_t *input, size_t size, uint64_t counter, uint32_t root, uint8_t out[32]) {
    if (size <= CHUNK) {
        one_chunk(input, (uint32_t)size, counter, CHUNK_START, CHUNK_END, out);
        return;
    }
    uint64_t left = 1;
    while (left * 2 * CHUNK < size) {
        left *= 2;
    }
    uint8_t pair[64];
    large_part(input, left, counter, pair);
    large(input + left * CHUNK, size - left * CHUNK, counter + left, 0, pair + 32);
    one_chunk(pair, BLOCK, 0, 0, PARENT | root, out);
}

void svm_blake3(const uint8_t *input, size_t size, uint8_t out[32]) {
    uint8_t values[VALUES_HELD * 32];
    if (size <= CHUNK) {
        one_chunk(input, (uint32_t)size, 0, CHUNK_START, CHUNK_END | ROOT, out);
    } else if (size <= (size_t)VALUES_HELD * CHUNK) {
        several_chunks(input, size, values, out);
    } else {
        large(input, size, 0, ROOT, out);
    }
}

/* Many of several chunks: the chunks of different inputs side by side, and then the levels of their trees. */

enum { HELD = 32, HELD_CHUNKS = 2 * SVM_BLAKE3_SPLIT_MAX / CHUNK };

typedef struct {
    uint8_t *values;
    uint8_t *out;
    uint32_t count;
} grown;

typedef struct {
    waiting whole, parents, roots;
    waiting last[WHOLE];
    grown inputs[HELD];
    uint8_t values[HELD_CHUNKS * 32];
    uint32_t count, chunks;
} growing;

static void start_growing(growing *of) {
    of->count = of->chunks = 0;
    of->whole = (waiting){.blocks = WHOLE, .start_flags = CHUNK_START, .end_flags = CHUNK_END};
    of->parents = (waiting){.blocks = 1, .end_flags = PARENT};
    of->roots = (waiting){.blocks = 1, .end_flags = PARENT | ROOT};
    for (uint32_t i = 0; i < WHOLE; i++) {
        of->last[i].count = 0;
        of->last[i].blocks = i + 1;
        of->last[i].start_flags = CHUNK_START;
        of->last[i].end_flags = CHUNK_END;
    }
}

static void finish_growing(growing *of) {
    flush(&of->whole);
    for (uint32_t i = 0; i < WHOLE; i++) {
        flush(&of->last[i]);
    }
    for (bool more = true; more;) {
        more = false;
        for (uint32_t k = 0; k < of->count; k++) {
            grown *one = &of->inputs[k];
            const uint32_t pairs = one->count / 2;
            if (one->count > 2) {
                for (uint32_t i = 0; i < pairs; i++) {
                    put(&of->parents, one->values + 64 * i, BLOCK, 0, one->values + 32 * i);
                }
                more = true;
            }
        }
        flush(&of->parents);
        for (uint32_t k = 0; k < of->count; k++) {
            grown *one = &of->inputs[k];
            if (one->count > 2) {
                const uint32_t pairs = one->count / 2;
                if (one->count % 2 != 0) {
                    memcpy(one->values + 32 * pairs, one->values + 32 * (one->count - 1), 32);
                }
                one->count = pairs + one->count % 2;
            }
        }
    }
    for (uint32_t k = 0; k < of->count; k++) {
        put(&of->roots, of->inputs[k].values, BLOCK, 0, of->inputs[k].out);
    }
    flush(&of->roots);
    of->count = of->chunks = 0;
}

/* `rest`: where the chunks after the first are, one after the other. */
static void grow(growing *of, const uint8_t *input, const uint8_t *rest, uint32_t size, uint8_t *out) {
    const uint32_t chunks = (size + CHUNK - 1) / CHUNK;
    if (size > SVM_BLAKE3_SPLIT_MAX) {
        svm_blake3(input, size, out);
        return;
    }
    if (of->count == HELD || of->chunks + chunks > HELD_CHUNKS) {
        finish_growing(of);
    }
    grown *one = &of->inputs[of->count++];
    one->values = of->values + 32 * of->chunks;
    one->out = out;
    one->count = chunks;
    of->chunks += chunks;
    put(&of->whole, input, CHUNK, 0, one->values);
    for (uint32_t i = 1; i + 1 < chunks; i++) {
        put(&of->whole, rest + (i - 1) * CHUNK, CHUNK, i, one->values + 32 * i);
    }
    const uint32_t left = size - (chunks - 1) * CHUNK;
    put(&of->last[blocks_of(left) - 1], rest + (chunks - 2) * CHUNK, left, chunks - 1,
        one->values + 32 * (chunks - 1));
}

static void many_large(const uint8_t *const *inputs, const uint8_t *const *rests, const uint32_t *sizes,
                       uint32_t count, uint8_t *out) {
    growing of;
    start_growing(&of);
    for (uint32_t i = 0; i < count; i++) {
        if (sizes[i] > CHUNK) {
            grow(&of, inputs[i], rests != NULL ? rests[i] : inputs[i] + CHUNK, sizes[i], out + 32 * (size_t)i);
        }
    }
    finish_growing(&of);
}

/* Hashes the first of the inputs, as many as there are lanes, if all of them are of one block; how many it did. */
static uint32_t shorts(const uint8_t *const *inputs, const uint32_t *sizes, uint32_t count, uint8_t *out) {
    const uint32_t lanes = svm_blake3_lanes(0);
    uint32_t longest = 0;
    if (count < lanes || lanes == 1) {
        return 0;
    }
    for (uint32_t i = 0; i < lanes; i++) {
        longest = sizes[i] > longest ? sizes[i] : longest;
    }
    if (longest > BLOCK) {
        return 0;
    }
#if defined(SVM_WIDE)
    if (lanes == 16) {
        shorts_16(inputs, sizes, out);
        return lanes;
    }
    if (lanes == 8) {
        shorts_8(inputs, sizes, out);
        return lanes;
    }
#endif
    shorts_4(inputs, sizes, out);
    return lanes;
}

void svm_blake3_many(const uint8_t *const *inputs, const uint32_t *sizes, uint32_t count, uint8_t *out) {
    svm_blake3_many_split(inputs, NULL, sizes, count, out);
}

void svm_blake3_many_split(const uint8_t *const *inputs, const uint8_t *const *rests, const uint32_t *sizes,
                           uint32_t count, uint8_t *out) {
    waiting by_blocks[WHOLE];
    bool some_large = false;
    for (uint32_t i = 0; i < WHOLE; i++) {
        by_blocks[i].count = 0;
        by_blocks[i].blocks = i + 1;
        by_blocks[i].start_flags = CHUNK_START;
        by_blocks[i].end_flags = CHUNK_END | ROOT;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t alike =
            sizes[i] > BLOCK ? 0 : shorts(inputs + i, sizes + i, count - i, out + 32 * (size_t)i);
        if (alike != 0) {
            i += alike - 1;
        } else if (sizes[i] > CHUNK) {
            some_large = true;
        } else {
            put(&by_blocks[blocks_of(sizes[i]) - 1], inputs[i], sizes[i], 0, out + 32 * (size_t)i);
        }
    }
    for (uint32_t i = 0; i < WHOLE; i++) {
        flush(&by_blocks[i]);
    }
    if (some_large) {
        many_large(inputs, rests, sizes, count, out);
    }
}

/* `lanes` nodes. */
static void some_nodes(uint8_t prefix, const svm_blake3_pair *pairs, uint32_t lanes) {
#if defined(SVM_WIDE)
    if (lanes == 16) {
        nodes_16(prefix, pairs);
        return;
    }
    if (lanes == 8) {
        nodes_8(prefix, pairs);
        return;
    }
#endif
    (void)lanes;
    nodes_4(prefix, pairs);
}

void svm_blake3_pairs(uint8_t prefix, const svm_blake3_pair *pairs, uint32_t count) {
    const uint32_t most = svm_blake3_lanes(0);
    while (count > 0) {
        uint32_t lanes = most;
        while (lanes > 4 && count <= lanes / 2) {
            lanes /= 2;
        }
        if (lanes == 1 || count == 1) {
            uint8_t input[65];
            input[0] = prefix;
            memcpy(input + 1, pairs->left, 32);
            memcpy(input + 33, pairs->right, 32);
            one_chunk(input, 65, 0, CHUNK_START, CHUNK_END | ROOT, pairs->out);
            pairs++;
            count--;
            continue;
        }
        if (count < lanes) {
            svm_blake3_pair filled[LANES_MOST];
            uint8_t unused[32];
            for (uint32_t i = 0; i < lanes; i++) {
                /* Lanes without a node repeat the first. */
                filled[i] = pairs[i < count ? i : 0];
                filled[i].out = i < count ? pairs[i].out : unused;
            }
            some_nodes(prefix, filled, lanes);
            return;
        }
        some_nodes(prefix, pairs, lanes);
        pairs += lanes;
        count -= lanes;
    }
}

void svm_blake3_nodes(uint8_t prefix, const uint8_t *pairs, uint32_t count, uint8_t *out) {
    svm_blake3_pair of[LANES_MOST];
    while (count > 0) {
        const uint32_t here = count < LANES_MOST ? count : LANES_MOST;
        for (uint32_t i = 0; i < here; i++) {
            of[i] = (svm_blake3_pair){out + 32 * i, pairs + 64 * i, pairs + 64 * i + 32};
        }
        svm_blake3_pairs(prefix, of, here);
        pairs += 64 * (size_t)here;
        out += 32 * (size_t)here;
        count -= here;
    }
}

void svm_merkle_root(uint8_t *leaves, uint32_t count, uint8_t out[32]) {
    if (count == 0) {
        memset(out, 0, 32);
        return;
    }
    while (count > 1) {
        svm_blake3_nodes(1, leaves, count / 2, leaves);
        if (count % 2 != 0) {
            memcpy(leaves + 32 * (size_t)(count / 2), leaves + 32 * (size_t)(count - 1), 32);
        }
        count = count / 2 + count % 2;
    }
    memcpy(out, leaves, 32);
}
