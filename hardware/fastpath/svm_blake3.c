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

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (V){__VA_ARGS__})
#endif
#define STEP(r, i, k, PAIR)                                                                                            \
    {                                                                                                                  \
        const V x = (r)[i], y = (r)[k];                                                                                \
        (r)[i] = PAIR##_LOW(x, y);                                                                                     \
        (r)[k] = PAIR##_HIGH(x, y);                                                                                    \
    }

#define TARGET
#define LANES 4
#define NAME(x) x##_4
#define STEP_2_LOW(x, y) SHUFFLE(x, y, 0, 1, 4, 5)
#define STEP_2_HIGH(x, y) SHUFFLE(x, y, 2, 3, 6, 7)
#define STEP_1_LOW(x, y) SHUFFLE(x, y, 0, 4, 2, 6)
#define STEP_1_HIGH(x, y) SHUFFLE(x, y, 1, 5, 3, 7)
#include "svm_blake3_lanes.h"
#undef TARGET
#undef LANES
#undef NAME
#undef STEP_2_LOW
#undef STEP_2_HIGH
#undef STEP_1_LOW
#undef STEP_1_HIGH

#if defined(__x86_64__)
#define SVM_WIDE 1

#define TARGET __attribute__((target("avx2")))
#define LANES 8
#define NAME(x) x##_8
#define STEP_4_LOW(x, y) SHUFFLE(x, y, 0, 1, 2, 3, 8, 9, 10, 11)
#define STEP_4_HIGH(x, y) SHUFFLE(x, y, 4, 5, 6, 7, 12, 13, 14, 15)
#define STEP_2_LOW(x, y) SHUFFLE(x, y, 0, 1, 8, 9, 4, 5, 12, 13)
#define STEP_2_HIGH(x, y) SHUFFLE(x, y, 2, 3, 10, 11, 6, 7, 14, 15)
#define STEP_1_LOW(x, y) SHUFFLE(x, y, 0, 8, 2, 10, 4, 12, 6, 14)
#define STEP_1_HIGH(x, y) SHUFFLE(x, y, 1, 9, 3, 11, 5, 13, 7, 15)
#include "svm_blake3_lanes.h"
#undef TARGET
#undef LANES
#undef NAME
#undef STEP_4_LOW
#undef STEP_4_HIGH
#undef STEP_2_LOW
#undef STEP_2_HIGH
#undef STEP_1_LOW
#undef STEP_1_HIGH

#define TARGET __attribute__((target("avx512f")))
#define LANES 16
#define NAME(x) x##_16
#define SVM_16_8_LOW(x, y) SHUFFLE(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define SVM_16_8_HIGH(x, y) SHUFFLE(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define STEP_4_LOW(x, y) SHUFFLE(x, y, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
#define STEP_4_HIGH(x, y) SHUFFLE(x, y, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31)
#define STEP_2_LOW(x, y) SHUFFLE(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define STEP_2_HIGH(x, y) SHUFFLE(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define STEP_1_LOW(x, y) SHUFFLE(x, y, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
#define STEP_1_HIGH(x, y) SHUFFLE(x, y, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31)
#include "svm_blake3_lanes.h"
#undef TARGET
#undef LANES
#undef NAME
#endif

/* One input. */

#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))

static inline void mix(uint32_t v[16], int a, int b, int c, int d, uint32_t x, uint32_t y) {
    v[a] += v[b] + x;
    v[d] = ROTATE(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = ROTATE(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = ROTATE(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = ROTATE(v[b] ^ v[c], 7);
}

static void compress(uint32_t cv[8], const uint8_t *block, uint32_t size, uint64_t counter, uint32_t flags) {
    static const uint8_t permuted[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    uint32_t m[16], v[16];
    memset(m, 0, sizeof m);
    memcpy(m, block, size);
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
    for (int round = 0;; round++) {
        mix(v, 0, 4, 8, 12, m[0], m[1]);
        mix(v, 1, 5, 9, 13, m[2], m[3]);
        mix(v, 2, 6, 10, 14, m[4], m[5]);
        mix(v, 3, 7, 11, 15, m[6], m[7]);
        mix(v, 0, 5, 10, 15, m[8], m[9]);
        mix(v, 1, 6, 11, 12, m[10], m[11]);
        mix(v, 2, 7, 8, 13, m[12], m[13]);
        mix(v, 3, 4, 9, 14, m[14], m[15]);
        if (round == 6) {
            break;
        }
        uint32_t next[16];
        for (int i = 0; i < 16; i++) {
            next[i] = m[permuted[i]];
        }
        memcpy(m, next, sizeof m);
    }
    for (int i = 0; i < 8; i++) {
        cv[i] = v[i] ^ v[i + 8];
    }
}

static uint32_t blocks_of(uint32_t size) { return size == 0 ? 1 : (size + BLOCK - 1) / BLOCK; }

static void one_chunk(const uint8_t *input, uint32_t size, uint64_t counter, uint32_t end_flags, uint8_t *out) {
    const uint32_t blocks = blocks_of(size);
    uint32_t cv[8];
    memcpy(cv, IV, sizeof cv);
    for (uint32_t i = 0; i < blocks; i++) {
        const bool last = i + 1 == blocks;
        const uint32_t flags = (i == 0 ? (uint32_t)CHUNK_START : 0) | (last ? end_flags : 0);
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

typedef void (*kernel)(const uint8_t *const *, const uint32_t *, uint32_t, const uint64_t *, uint32_t, uint8_t *const *);

/* `count` chunks, at most LANES_MOST, of `blocks` blocks each. The arrays have room for LANES_MOST. */
static void chunks(const uint8_t **inputs, uint32_t *sizes, uint32_t blocks, uint64_t *counters, uint32_t end_flags,
                   uint8_t **out, uint32_t count) {
    const uint32_t most = svm_blake3_lanes(0);
    uint8_t unused[32];
    uint32_t done = 0;
    while (done < count) {
        const uint32_t left = count - done;
        uint32_t lanes = most;
        while (lanes > 4 && left <= lanes / 2) {
            lanes /= 2;
        }
        if (lanes == 1 || left == 1) {
            one_chunk(inputs[done], sizes[done], counters[done], end_flags, out[done]);
            done++;
            continue;
        }
        /* Lanes without an input repeat the last one. `done` is a multiple of `lanes`, so there is room. */
        for (uint32_t i = left; i < lanes; i++) {
            inputs[done + i] = inputs[done];
            sizes[done + i] = sizes[done];
            counters[done + i] = counters[done];
            out[done + i] = unused;
        }
        kernel run = chunks_4;
#if defined(SVM_WIDE)
        run = lanes == 16 ? chunks_16 : lanes == 8 ? chunks_8 : chunks_4;
#endif
        run(inputs + done, sizes + done, blocks, counters + done, end_flags, out + done);
        done += lanes;
    }
}

/* Inputs of more than a chunk. */

static void join(const uint8_t *pair, uint32_t flags, uint8_t *out) {
    uint32_t cv[8];
    memcpy(cv, IV, sizeof cv);
    compress(cv, pair, BLOCK, 0, PARENT | flags);
    memcpy(out, cv, sizeof cv);
}

/* The chaining value of whole chunks, a power of two of them; `levels` is its exponent. */
static void whole_chunks(const uint8_t *input, uint32_t levels, uint64_t counter, uint8_t *out) {
    if (levels > 4) {
        uint8_t pair[64];
        whole_chunks(input, levels - 1, counter, pair);
        whole_chunks(input + ((size_t)CHUNK << (levels - 1)), levels - 1, counter + (1u << (levels - 1)), pair + 32);
        join(pair, 0, out);
        return;
    }
    const uint8_t *inputs[LANES_MOST];
    uint32_t sizes[LANES_MOST];
    uint64_t counters[LANES_MOST];
    uint8_t values[LANES_MOST * 32], *outs[LANES_MOST];
    uint32_t count = 1u << levels;
    for (uint32_t i = 0; i < count; i++) {
        inputs[i] = input + (size_t)i * CHUNK;
        sizes[i] = CHUNK;
        counters[i] = counter + i;
        outs[i] = values + 32 * i;
    }
    chunks(inputs, sizes, CHUNK / BLOCK, counters, CHUNK_END, outs, count);
    for (; count > 1; count /= 2) {
        for (uint32_t i = 0; i < count / 2; i++) {
            join(values + 64 * i, 0, values + 32 * i);
        }
    }
    memcpy(out, values, 32);
}

static void subtree(const uint8_t *input, size_t size, uint64_t counter, uint32_t root, uint8_t *out) {
    if (size <= CHUNK) {
        one_chunk(input, (uint32_t)size, counter, CHUNK_END | root, out);
        return;
    }
    /* The left half is the largest power of two of chunks that leaves something for the right. */
    uint32_t levels = 0;
    while (((size_t)CHUNK << (levels + 1)) < size) {
        levels++;
    }
    const size_t left = (size_t)CHUNK << levels;
    uint8_t pair[64];
    whole_chunks(input, levels, counter, pair);
    subtree(input + left, size - left, counter + (1u << levels), 0, pair + 32);
    join(pair, root, out);
}

void svm_blake3(const uint8_t *input, size_t size, uint8_t out[32]) { subtree(input, size, 0, ROOT, out); }

typedef struct {
    const uint8_t *inputs[LANES_MOST];
    uint32_t sizes[LANES_MOST];
    uint64_t counters[LANES_MOST];
    uint8_t *outs[LANES_MOST];
    uint32_t count;
} waiting;

static void flush(waiting *of, uint32_t blocks) {
    chunks(of->inputs, of->sizes, blocks, of->counters, CHUNK_END | ROOT, of->outs, of->count);
    of->count = 0;
}

void svm_blake3_many(const uint8_t *const *inputs, const uint32_t *sizes, uint32_t count, uint8_t *out) {
    waiting by_blocks[CHUNK / BLOCK];
    for (uint32_t i = 0; i < CHUNK / BLOCK; i++) {
        by_blocks[i].count = 0;
    }
    for (uint32_t i = 0; i < count; i++, out += 32) {
        if (sizes[i] > CHUNK) {
            svm_blake3(inputs[i], sizes[i], out);
            continue;
        }
        const uint32_t blocks = blocks_of(sizes[i]);
        waiting *of = &by_blocks[blocks - 1];
        of->inputs[of->count] = inputs[i];
        of->sizes[of->count] = sizes[i];
        of->counters[of->count] = 0;
        of->outs[of->count++] = out;
        if (of->count == LANES_MOST) {
            flush(of, blocks);
        }
    }
    for (uint32_t blocks = 1; blocks <= CHUNK / BLOCK; blocks++) {
        if (by_blocks[blocks - 1].count != 0) {
            flush(&by_blocks[blocks - 1], blocks);
        }
    }
}

void svm_blake3_nodes(uint8_t prefix, const uint8_t *pairs, uint32_t count, uint8_t *out) {
    const uint32_t most = svm_blake3_lanes(0);
    uint8_t last[64 * LANES_MOST], values[32 * LANES_MOST];
    while (count > 0) {
        uint32_t lanes = most;
        while (lanes > 4 && count <= lanes / 2) {
            lanes /= 2;
        }
        if (lanes == 1 || count == 1) {
            last[0] = prefix;
            memcpy(last + 1, pairs, 64);
            one_chunk(last, 65, 0, CHUNK_END | ROOT, out);
            pairs += 64;
            out += 32;
            count--;
            continue;
        }
        const uint32_t here = count < lanes ? count : lanes;
        const uint8_t *from = pairs;
        if (here < lanes) {
            memset(last, 0, sizeof last);
            memcpy(last, pairs, 64 * (size_t)here);
            from = last;
        }
#if defined(SVM_WIDE)
        if (lanes == 16) {
            nodes_16(prefix, from, values);
        } else if (lanes == 8) {
            nodes_8(prefix, from, values);
        } else
#endif
        {
            nodes_4(prefix, from, values);
        }
        memcpy(out, values, 32 * (size_t)here);
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
