/* BLAKE3's compression of LANES inputs side by side: word i of all of them is one vector. Included once for each
 * width, with LANES, NAME(x), TARGET and the shuffles STEP_n set. */

typedef uint32_t NAME(vec) __attribute__((vector_size(4 * LANES)));

#define V NAME(vec)

/* Rows become columns: blocks off the diagonal change places, of half the size each time. */
TARGET static inline void NAME(transpose)(V *r) {
#if LANES == 16
    for (int i = 0; i < 8; i++) {
        STEP(r, i, i + 8, SVM_16_8)
    }
#endif
#if LANES >= 8
    for (int i = 0; i < LANES; i += 8) {
        for (int k = i; k < i + 4; k++) {
            STEP(r, k, k + 4, STEP_4)
        }
    }
#endif
    for (int i = 0; i < LANES; i += 4) {
        STEP(r, i, i + 2, STEP_2)
        STEP(r, i + 1, i + 3, STEP_2)
        STEP(r, i, i + 1, STEP_1)
        STEP(r, i + 2, i + 3, STEP_1)
    }
}

TARGET static inline V NAME(all)(uint32_t word) {
    V v;
    for (int i = 0; i < LANES; i++) {
        v[i] = word;
    }
    return v;
}

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

/* cv = compress(cv, m): `low`, `high` are the counter, `size` the bytes of the block, `flags` alike for all. */
TARGET static inline void NAME(compress)(V cv[8], const V m[16], V low, V high, V size, uint32_t flags) {
    V v[16];
    for (int i = 0; i < 8; i++) {
        v[i] = cv[i];
    }
    for (int i = 0; i < 4; i++) {
        v[8 + i] = NAME(all)(IV[i]);
    }
    v[12] = low;
    v[13] = high;
    v[14] = size;
    v[15] = NAME(all)(flags);
    /* The message words of each round, permuted beforehand (BLAKE3 paper, table 2). */
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
    ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1)
    ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6)
    ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4)
    ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7)
    ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)
    for (int i = 0; i < 8; i++) {
        cv[i] = v[i] ^ v[i + 8];
    }
}

/* The 64 bytes at each of LANES places, as 16 vectors. */
TARGET static inline void NAME(load)(const uint8_t *const *at, V m[16]) {
    for (int part = 0; part < 16 / LANES; part++) {
        for (int i = 0; i < LANES; i++) {
            memcpy(&m[part * LANES + i], at[i] + part * 4 * LANES, 4 * LANES);
        }
        NAME(transpose)(m + part * LANES);
    }
}

TARGET static inline void NAME(store)(const V cv[8], uint8_t *const *out) {
    V r[16];
    for (int part = 0; part < 8; part += LANES) {
        for (int i = 0; i < LANES; i++) {
            r[i] = cv[(part + i) & 7];
        }
        NAME(transpose)(r);
        for (int i = 0; i < LANES; i++) {
            memcpy(out[i] + 4 * part, &r[i], LANES < 8 ? 4 * LANES : 32);
        }
    }
}

/* Chunks of `blocks` blocks each; only the last may be short. */
TARGET static void NAME(chunks)(const uint8_t *const *inputs, const uint32_t *sizes, uint32_t blocks,
                                const uint64_t *counters, uint32_t end_flags, uint8_t *const *out) {
    V cv[8], m[16], low, high, size;
    const uint8_t *at[LANES];
    uint8_t last[LANES][64];

    for (int i = 0; i < 8; i++) {
        cv[i] = NAME(all)(IV[i]);
    }
    for (int i = 0; i < LANES; i++) {
        low[i] = (uint32_t)counters[i];
        high[i] = (uint32_t)(counters[i] >> 32);
        size[i] = 64;
    }
    for (uint32_t block = 0; block < blocks; block++) {
        uint32_t flags = block == 0 ? CHUNK_START : 0;
        for (int i = 0; i < LANES; i++) {
            at[i] = inputs[i] + block * 64;
        }
        if (block + 1 == blocks) {
            flags |= end_flags;
            for (int i = 0; i < LANES; i++) {
                const uint32_t left = sizes[i] - block * 64;
                if (left < 64) {
                    memset(last[i], 0, 64);
                    memcpy(last[i], at[i], left);
                    at[i] = last[i];
                    size[i] = left;
                }
            }
        }
        NAME(load)(at, m);
        NAME(compress)(cv, m, low, high, size, flags);
    }
    NAME(store)(cv, out);
}

/* Inputs of 65 bytes, the first of them `prefix`: the words of the pair move up by a byte. */
TARGET static void NAME(nodes)(uint8_t prefix, const uint8_t *pairs, uint8_t *outs) {
    V cv[8], m[16], shifted[16];
    const V zero = NAME(all)(0);
    const uint8_t *at[LANES];
    uint8_t *out[LANES];

    for (int i = 0; i < LANES; i++) {
        at[i] = pairs + 64 * i;
        out[i] = outs + 32 * i;
    }
    for (int i = 0; i < 8; i++) {
        cv[i] = NAME(all)(IV[i]);
    }
    NAME(load)(at, m);
    shifted[0] = m[0] << 8 | NAME(all)(prefix);
    for (int i = 1; i < 16; i++) {
        shifted[i] = m[i] << 8 | m[i - 1] >> 24;
    }
    NAME(compress)(cv, shifted, zero, zero, NAME(all)(64), CHUNK_START);
    m[0] = m[15] >> 24;
    for (int i = 1; i < 16; i++) {
        m[i] = zero;
    }
    NAME(compress)(cv, m, zero, zero, NAME(all)(1), CHUNK_END | ROOT);
    NAME(store)(cv, out);
}

#undef V
#undef ROTATE
#undef MIX
#undef ROUND
