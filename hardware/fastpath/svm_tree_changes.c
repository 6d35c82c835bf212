/* Packed changes, hashed and in the order of the tree. */
#include "svm_tree_types.h"

#include <stdlib.h>

enum { CHUNK = 2048, TOGETHER = 128, FEW = 16 };

static uint32_t size_at(const uint8_t *at) {
    uint32_t size;
    memcpy(&size, at, 4);
    return size;
}

static uint64_t prefix_of(const uint8_t *path) {
    uint64_t prefix;
    memcpy(&prefix, path, 8);
    return __builtin_bswap64(prefix);
}

/* Where each chunk of changes begins in `packed`; false where the bytes are no changes, and `at` says which is none. */
static bool find_chunks(const svm_tree *tree, size_t size, size_t *chunks, uint32_t *at) {
    const uint8_t *packed = tree->packed;
    size_t end = 0;
    for (uint32_t i = 0; i < tree->count; i++) {
        *at = i;
        if (i % CHUNK == 0) {
            chunks[i / CHUNK] = end;
        }
        if (size - end < 1 || size - end - 1 < (size_t)packed[end] + 4) {
            return false;
        }
        end += 1 + (size_t)packed[end];
        const uint32_t value = size_at(packed + end);
        end += 4;
        if (size - end < value) {
            return false;
        }
        end += value;
    }
    *at = tree->count;
    return end == size;
}

typedef struct {
    svm_tree *tree;
    size_t *chunks;                 /* where each begins */
    uint32_t (*counts)[SVM_SLICES]; /* by chunk, of each first byte; then where they go */
    uint32_t twice;                 /* atomic */
} sorting;

/* Hashes the keys and values of a chunk into leaves, and counts their first bytes. */
static void hash_chunk(void *context, uint32_t chunk) {
    sorting *of = context;
    svm_tree *tree = of->tree;
    const uint8_t *keys[TOGETHER], *values[TOGETHER], *at = tree->packed + of->chunks[chunk];
    uint32_t key_sizes[TOGETHER], value_sizes[TOGETHER], *counts = of->counts[chunk];
    uint8_t paths[TOGETHER * SVM_HASH], hashes[TOGETHER * SVM_HASH];
    uint32_t end = chunk * CHUNK + CHUNK;
    end = end < tree->count ? end : tree->count;
    for (uint32_t first = chunk * CHUNK; first < end; first += TOGETHER) {
        const uint32_t here = end - first < TOGETHER ? end - first : TOGETHER;
        for (uint32_t i = 0; i < here; i++) {
            key_sizes[i] = at[0];
            keys[i] = at + 1;
            at += 1 + at[0];
            value_sizes[i] = size_at(at);
            values[i] = at + 4;
            at += 4 + (size_t)value_sizes[i];
        }
        svm_blake3_many(keys, key_sizes, here, paths);
        svm_blake3_many(values, value_sizes, here, hashes);
        uint8_t *leaf = tree->leaves + (size_t)SVM_LEAF * first;
        for (uint32_t i = 0; i < here; i++, leaf += SVM_LEAF) {
            memcpy(leaf, paths + SVM_HASH * i, SVM_HASH);
            memcpy(leaf + SVM_HASH, value_sizes[i] == 0 ? SVM_NO_HASH : hashes + SVM_HASH * i, SVM_HASH);
            counts[leaf[0]]++;
        }
    }
}

static void scatter_chunk(void *context, uint32_t chunk) {
    const sorting *of = context;
    svm_tree *tree = of->tree;
    uint32_t end = chunk * CHUNK + CHUNK;
    end = end < tree->count ? end : tree->count;
    for (uint32_t i = chunk * CHUNK; i < end; i++) {
        const uint8_t *leaf = tree->leaves + (size_t)SVM_LEAF * i;
        const uint32_t removes = memcmp(leaf + SVM_HASH, SVM_NO_HASH, SVM_HASH) == 0;
        tree->sorted[of->counts[chunk][leaf[0]]++] = (svm_sorted){prefix_of(leaf), i, removes};
    }
}

static const uint8_t *path_of(const svm_tree *tree, const svm_sorted *one) {
    return tree->leaves + (size_t)SVM_LEAF * one->index;
}

static bool before(const svm_tree *tree, const svm_sorted *a, const svm_sorted *b) {
    return a->prefix != b->prefix ? a->prefix < b->prefix
                                  : memcmp(path_of(tree, a), path_of(tree, b), SVM_HASH) < 0;
}

static void insert(const svm_tree *tree, svm_sorted *first, uint32_t count) {
    for (uint32_t i = 1; i < count; i++) {
        const svm_sorted one = first[i];
        uint32_t k = i;
        while (k > 0 && before(tree, &one, &first[k - 1])) {
            first[k] = first[k - 1];
            k--;
        }
        first[k] = one;
    }
}

static uint32_t byte_of(const svm_tree *tree, const svm_sorted *one, uint32_t byte) {
    return byte < 8 ? one->prefix >> (56 - 8 * byte) & 255u : path_of(tree, one)[byte];
}

/* Sorts in place by the bytes from `byte` on: each to its bucket by cycles, then bucket by bucket. */
static void sort(const svm_tree *tree, svm_sorted *first, uint32_t count, uint32_t byte) {
    uint32_t ends[256], next[256];
    if (count <= FEW || byte >= SVM_HASH) {
        insert(tree, first, count);
        return;
    }
    memset(ends, 0, sizeof ends);
    for (uint32_t i = 0; i < count; i++) {
        ends[byte_of(tree, &first[i], byte)]++;
    }
    for (uint32_t i = 0, sum = 0; i < 256; i++) {
        next[i] = sum;
        sum += ends[i];
        ends[i] = sum;
    }
    for (uint32_t bucket = 0; bucket < 256; bucket++) {
        while (next[bucket] < ends[bucket]) {
            svm_sorted one = first[next[bucket]];
            for (uint32_t to = byte_of(tree, &one, byte); to != bucket; to = byte_of(tree, &one, byte)) {
                const svm_sorted other = first[next[to]];
                first[next[to]++] = one;
                one = other;
            }
            first[next[bucket]++] = one;
        }
    }
    for (uint32_t bucket = 0, at = 0; bucket < 256; at = ends[bucket++]) {
        if (ends[bucket] - at > 1) {
            sort(tree, first + at, ends[bucket] - at, byte + 1);
        }
    }
}

/* From one array to the other by one byte, those with the same in their order. */
static void pass(const svm_sorted *from, svm_sorted *to, uint32_t count, uint32_t shift) {
    uint32_t next[256] = {0};
    for (uint32_t i = 0; i < count; i++) {
        next[from[i].prefix >> shift & 255]++;
    }
    for (uint32_t i = 0, sum = 0; i < 256; i++) {
        const uint32_t here = next[i];
        next[i] = sum;
        sum += here;
    }
    for (uint32_t i = 0; i < count; i++) {
        to[next[from[i].prefix >> shift & 255]++] = from[i];
    }
}

/* Sorts those of one first byte: by the next two, then the few that share them. */
static void sort_slice(void *context, uint32_t slice) {
    sorting *of = context;
    svm_tree *tree = of->tree;
    const uint32_t count = tree->slices[slice + 1] - tree->slices[slice];
    if (count < 2) {
        return; /* without a change there isn't even room for one */
    }
    svm_sorted *first = tree->sorted + tree->slices[slice];
    if (count <= FEW) {
        insert(tree, first, count);
    } else {
        pass(first, tree->order + tree->slices[slice], count, 40);
        pass(tree->order + tree->slices[slice], first, count, 48);
        for (uint32_t at = 0; at < count;) {
            uint32_t end = at + 1;
            while (end < count && first[end].prefix >> 40 == first[at].prefix >> 40) {
                end++;
            }
            sort(tree, first + at, end - at, 3);
            at = end;
        }
    }
    for (uint32_t i = 1; i < count; i++) {
        if (!before(tree, &first[i - 1], &first[i])) {
            __atomic_store_n(&of->twice, 1, __ATOMIC_RELAXED);
        }
    }
}

/* Where the changes of each first byte begin, and among them those of each chunk. */
static void place(sorting *of, uint32_t chunks) {
    uint32_t sum = 0;
    for (uint32_t slice = 0; slice < SVM_SLICES; slice++) {
        of->tree->slices[slice] = sum;
        for (uint32_t chunk = 0; chunk < chunks; chunk++) {
            const uint32_t here = of->counts[chunk][slice];
            of->counts[chunk][slice] = sum;
            sum += here;
        }
    }
    of->tree->slices[SVM_SLICES] = sum;
}

uint32_t svm_changes_read(svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at) {
    const uint32_t chunks = (count + CHUNK - 1) / CHUNK;
    if (size / 5 < count) { /* a change takes at least 5 bytes */
        *at = (uint32_t)(size / 5);
        return SVM_TREE_BAD_CHANGES;
    }
    if (count > UINT32_MAX / 4) {
        return SVM_TREE_TOO_LARGE;
    }
    tree->packed = packed;
    tree->count = count;
    sorting of = {tree, calloc((size_t)chunks + 1, sizeof *of.chunks), calloc((size_t)chunks + 1, sizeof *of.counts), 0};
    uint32_t error = SVM_TREE_OK;
    if (of.chunks == NULL || of.counts == NULL || !svm_buffer_new(&tree->leaves_held, (size_t)count * SVM_LEAF) ||
        !svm_buffer_new(&tree->sorted_held, count * sizeof *tree->sorted) ||
        !svm_buffer_new(&tree->order_held, count * sizeof *tree->order)) {
        error = SVM_TREE_NO_MEMORY;
    } else if (!find_chunks(tree, size, of.chunks, at)) {
        error = SVM_TREE_BAD_CHANGES;
    } else {
        tree->leaves = tree->leaves_held.bytes;
        tree->sorted = (svm_sorted *)(void *)tree->sorted_held.bytes;
        tree->order = (svm_sorted *)(void *)tree->order_held.bytes;
        svm_pool_run(tree->pool, hash_chunk, &of, chunks);
        place(&of, chunks);
        svm_pool_run(tree->pool, scatter_chunk, &of, chunks);
        svm_pool_run(count < CHUNK ? NULL : tree->pool, sort_slice, &of, SVM_SLICES);
        error = of.twice != 0 ? SVM_TREE_TWICE : SVM_TREE_OK;
    }
    free(of.chunks);
    free(of.counts);
    return error;
}
