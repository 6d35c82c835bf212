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
    ROUNDS
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

/* Inputs of `blocks` blocks each; only the last may be short. */
TARGET static void NAME(chunks)(const uint8_t *const *inputs, const uint32_t *sizes, uint32_t blocks,
                                const uint64_t *counters, uint32_t start_flags, uint32_t end_flags,
                                uint8_t *const *out) {
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
        uint32_t flags = block == 0 ? start_flags : 0;
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
