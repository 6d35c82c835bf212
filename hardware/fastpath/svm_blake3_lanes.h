/* BLAKE3's compression of LANES inputs side by side: word i of all of them is one vector. Included once for each
 * width, with LANES, NAME(x), TARGET and the shuffles set that interleave runs of n words: LOW_n, HIGH_n. */

typedef uint32_t NAME(vec) __attribute__((vector_size(4 * LANES)));

#define V NAME(vec)
#if LANES == 16
typedef uint32_t NAME(half) __attribute__((vector_size(32)));
#endif

/* Four, or eight, rows that begin at `r` become columns within each 128, or 256, bits. */
TARGET static inline void NAME(columns_4)(V *r) {
    const V ab = LOW_1(r[0], r[1]), AB = HIGH_1(r[0], r[1]), cd = LOW_1(r[2], r[3]), CD = HIGH_1(r[2], r[3]);
    r[0] = LOW_2(ab, cd);
    r[1] = HIGH_2(ab, cd);
    r[2] = LOW_2(AB, CD);
    r[3] = HIGH_2(AB, CD);
}

#if LANES >= 8
TARGET static inline void NAME(columns_8)(V r[8]) {
    NAME(columns_4)(r);
    NAME(columns_4)(r + 4);
    for (int i = 0; i < 4; i++) {
        const V low = r[i], high = r[i + 4];
        r[i] = LOW_4(low, high);
        r[i + 4] = HIGH_4(low, high);
    }
}
#endif

TARGET static inline V NAME(all)(uint32_t word) { return (V){0} + word; }

/* cv = compress(cv, m): `low`, `high` are the counter, `size` the bytes of the block, `flags` alike for all. */
TARGET static inline __attribute__((always_inline)) void NAME(compress)(V cv[8], const V m[16], V low, V high, V size, uint32_t flags) {
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

/* The 32 bytes at each of LANES places, by words; the pointers to them are `step` bytes apart. */
TARGET static inline void NAME(load_half)(const void *places, size_t step, size_t offset, V m[8]) {
#if LANES == 16
    for (size_t i = 0; i < 8; i++) {
        NAME(half) low, high;
        memcpy(&low, place_at(places, step * i) + offset, 32);
        memcpy(&high, place_at(places, step * (i + 8)) + offset, 32);
        m[i] = BOTH(low, high);
    }
    NAME(columns_8)(m);
#elif LANES == 8
    for (size_t i = 0; i < 8; i++) {
        memcpy(&m[i], place_at(places, step * i) + offset, 32);
    }
    NAME(columns_8)(m);
#else
    for (size_t i = 0; i < 4; i++) {
        memcpy(&m[i], place_at(places, step * i) + offset, 16);
        memcpy(&m[i + 4], place_at(places, step * i) + offset + 16, 16);
    }
    NAME(columns_4)(m);
    NAME(columns_4)(m + 4);
#endif
}

TARGET static inline void NAME(store)(const V cv[8], const void *places, size_t step) {
    V r[8];
    for (int i = 0; i < 8; i++) {
        r[i] = cv[i];
    }
#if LANES == 4
    NAME(columns_4)(r);
    NAME(columns_4)(r + 4);
    for (size_t i = 0; i < 4; i++) {
        memcpy(place_at(places, step * i), &r[i], 16);
        memcpy(place_at(places, step * i) + 16, &r[i + 4], 16);
    }
#else
    NAME(columns_8)(r);
    for (size_t i = 0; i < 8; i++) {
#if LANES == 16
        const NAME(half) low = FIRST(r[i]), high = SECOND(r[i]);
        memcpy(place_at(places, step * i), &low, 32);
        memcpy(place_at(places, step * (i + 8)), &high, 32);
#else
        memcpy(place_at(places, step * i), &r[i], 32);
#endif
    }
#endif
}

/* Inputs of `blocks` blocks each; only the last may be short. */
TARGET static void NAME(chunks)(const uint8_t *const *inputs, const uint32_t *sizes, uint32_t blocks,
                                const uint64_t *counters, uint32_t start_flags, uint32_t end_flags,
                                uint8_t *const *out) {
    V cv[8], m[16], low, high, size = NAME(all)(64);
    const uint8_t *at[LANES];
    uint8_t last[LANES][64];
    uint32_t words[LANES];

    for (int i = 0; i < 8; i++) {
        cv[i] = NAME(all)(IV[i]);
    }
    for (int i = 0; i < LANES; i++) {
        words[i] = (uint32_t)counters[i];
    }
    memcpy(&low, words, sizeof low);
    for (int i = 0; i < LANES; i++) {
        words[i] = (uint32_t)(counters[i] >> 32);
    }
    memcpy(&high, words, sizeof high);
    for (uint32_t block = 0; block < blocks; block++) {
        uint32_t flags = block == 0 ? start_flags : 0;
        for (int i = 0; i < LANES; i++) {
            at[i] = inputs[i] + block * 64;
        }
        if (block + 1 == blocks) {
            flags |= end_flags;
            for (int i = 0; i < LANES; i++) {
                const uint32_t left = sizes[i] - block * 64;
                words[i] = left < 64 ? left : 64;
                if (left < 64) {
                    copy_short(last[i], at[i], left);
                    at[i] = last[i];
                }
            }
            memcpy(&size, words, sizeof size);
        }
        NAME(load_half)(at, sizeof *at, 0, m);
        NAME(load_half)(at, sizeof *at, 32, m + 8);
        NAME(compress)(cv, m, low, high, size, flags);
    }
    NAME(store)(cv, out, sizeof *out);
}

/* Inputs of one block each, whole ones. */
TARGET static void NAME(shorts)(const uint8_t *const *inputs, const uint32_t *sizes, uint8_t *outs) {
    V cv[8], m[16], size;
    const V zero = NAME(all)(0);
    const uint8_t *at[LANES];
    _Alignas(64) uint8_t filled[LANES][64];
    uint8_t *out[LANES];

    for (int i = 0; i < LANES; i++) {
        at[i] = inputs[i];
        if (sizes[i] < 64) {
            copy_short(filled[i], inputs[i], sizes[i]);
            at[i] = filled[i];
        }
        out[i] = outs + 32 * i;
    }
    for (int i = 0; i < 8; i++) {
        cv[i] = NAME(all)(IV[i]);
    }
    memcpy(&size, sizes, sizeof size);
    NAME(load_half)(at, sizeof *at, 0, m);
    NAME(load_half)(at, sizeof *at, 32, m + 8);
    NAME(compress)(cv, m, zero, zero, size, CHUNK_START | CHUNK_END | ROOT);
    NAME(store)(cv, out, sizeof *out);
}

/* Inputs of 65 bytes: `prefix`, 32 bytes of the left and 32 of the right. Their words move up by a byte. */
TARGET static void NAME(nodes)(uint8_t prefix, const svm_blake3_pair *pairs) {
    V cv[8], m[16];
    const V zero = NAME(all)(0);

    for (int i = 0; i < 8; i++) {
        cv[i] = NAME(all)(IV[i]);
    }
    NAME(load_half)(&pairs->left, sizeof *pairs, 0, m);
    NAME(load_half)(&pairs->right, sizeof *pairs, 0, m + 8);
    const V last = m[15] >> 24;
    for (int i = 15; i > 0; i--) {
        m[i] = m[i] << 8 | m[i - 1] >> 24;
    }
    m[0] = m[0] << 8 | NAME(all)(prefix);
    NAME(compress)(cv, m, zero, zero, NAME(all)(64), CHUNK_START);
    const V rest[16] = {last, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero};
    NAME(compress)(cv, rest, zero, zero, NAME(all)(1), CHUNK_END | ROOT);
    NAME(store)(cv, &pairs->out, sizeof *pairs);
}

#undef V
