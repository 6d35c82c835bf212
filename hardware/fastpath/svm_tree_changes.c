/* Packed changes, hashed and in the order of the tree. */
#include "svm_tree_types.h"

#include <stdlib.h>

#include "svm_blake3.h"

enum { CHUNK = 4096, TOGETHER = 256, FEW = 24 };

static uint32_t size_at(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t prefix_of(const uint8_t *path) {
    uint64_t prefix = 0;
    for (int i = 0; i < 8; i++) {
        prefix = prefix << 8 | path[i];
    }
    return prefix;
}

const uint8_t *svm_change_value(const svm_tree *tree, uint32_t index, uint32_t *size) {
    const uint8_t *at = tree->packed + tree->offsets[index];
    at += 1 + at[0];
    *size = size_at(at);
    return at + 4;
}

static bool find_offsets(svm_tree *tree, size_t size, uint32_t *at) {
    size_t end = 0;
    for (uint32_t i = 0; i < tree->count; i++) {
        *at = i;
        tree->offsets[i] = end;
        if (size - end < 1 || size - end - 1 < (size_t)tree->packed[end] + 4) {
            return false;
        }
        end += 1 + (size_t)tree->packed[end];
        const uint32_t value = size_at(tree->packed + end);
        end += 4;
        if (size - end < value) {
            return false;
        }
        end += value;
    }
    return end == size;
}

typedef struct {
    svm_tree *tree;
    uint32_t (*counts)[SVM_SLICES]; /* by chunk, of each first byte; then where they go */
    uint32_t twice;                 /* atomic */
} sorting;

/* Hashes the keys of a chunk and counts their first bytes. */
static void hash_chunk(void *context, uint32_t chunk) {
    sorting *of = context;
    svm_tree *tree = of->tree;
    const uint8_t *keys[TOGETHER];
    uint32_t sizes[TOGETHER], *counts = of->counts[chunk];
    uint32_t end = chunk * CHUNK + CHUNK;
    end = end < tree->count ? end : tree->count;
    for (uint32_t first = chunk * CHUNK; first < end; first += TOGETHER) {
        const uint32_t here = end - first < TOGETHER ? end - first : TOGETHER;
        for (uint32_t i = 0; i < here; i++) {
            const uint8_t *at = tree->packed + tree->offsets[first + i];
            sizes[i] = at[0];
            keys[i] = at + 1;
        }
        uint8_t *out = tree->hashes + (size_t)SVM_HASH * first;
        svm_blake3_many(keys, sizes, here, out);
        for (uint32_t i = 0; i < here; i++) {
            counts[out[SVM_HASH * i]]++;
        }
    }
}

static void scatter_chunk(void *context, uint32_t chunk) {
    const sorting *of = context;
    svm_tree *tree = of->tree;
    uint32_t end = chunk * CHUNK + CHUNK;
    end = end < tree->count ? end : tree->count;
    for (uint32_t i = chunk * CHUNK; i < end; i++) {
        const uint8_t *path = tree->hashes + (size_t)SVM_HASH * i;
        tree->sorted[of->counts[chunk][path[0]]++] = (svm_sorted){prefix_of(path), i, 0};
    }
}

static bool before(const svm_tree *tree, const svm_sorted *a, const svm_sorted *b) {
    if (a->prefix != b->prefix) {
        return a->prefix < b->prefix;
    }
    return memcmp(tree->hashes + (size_t)SVM_HASH * a->index, tree->hashes + (size_t)SVM_HASH * b->index, SVM_HASH) < 0;
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
    return byte < 8 ? one->prefix >> (56 - 8 * byte) & 255u : tree->hashes[(size_t)SVM_HASH * one->index + byte];
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

static void sort_slice(void *context, uint32_t slice) {
    sorting *of = context;
    svm_tree *tree = of->tree;
    svm_sorted *first = tree->sorted + tree->slices[slice];
    const uint32_t count = tree->slices[slice + 1] - tree->slices[slice];
    sort(tree, first, count, 1);
    for (uint32_t i = 1; i < count; i++) {
        if (!before(tree, &first[i - 1], &first[i])) {
            __atomic_store_n(&of->twice, 1, __ATOMIC_RELAXED);
        }
    }
}

uint32_t svm_changes_read(svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at) {
    const uint32_t chunks = (count + CHUNK - 1) / CHUNK;
    /* A change takes at least 5 bytes. */
    if (count > UINT32_MAX - CHUNK || size / 5 < count) {
        *at = (uint32_t)(size / 5);
        return size / 5 < count ? SVM_TREE_BAD_CHANGES : SVM_TREE_TOO_LARGE;
    }
    tree->packed = packed;
    tree->count = count;
    tree->offsets = malloc(((size_t)count + 1) * sizeof *tree->offsets);
    tree->hashes = malloc(((size_t)count + 1) * SVM_HASH);
    tree->sorted = malloc(((size_t)count + 1) * sizeof *tree->sorted);
    sorting of = {tree, calloc((size_t)chunks + 1, sizeof *of.counts), 0};
    if (tree->offsets == NULL || tree->hashes == NULL || tree->sorted == NULL || of.counts == NULL) {
        free(of.counts);
        return SVM_TREE_NO_MEMORY;
    }
    if (!find_offsets(tree, size, at)) {
        free(of.counts);
        return SVM_TREE_BAD_CHANGES;
    }
    svm_pool_run(tree->pool, hash_chunk, &of, chunks);
    uint32_t sum = 0;
    for (uint32_t slice = 0; slice < SVM_SLICES; slice++) {
        tree->slices[slice] = sum;
        for (uint32_t chunk = 0; chunk < chunks; chunk++) {
            const uint32_t here = of.counts[chunk][slice];
            of.counts[chunk][slice] = sum;
            sum += here;
        }
    }
    tree->slices[SVM_SLICES] = sum;
    svm_pool_run(tree->pool, scatter_chunk, &of, chunks);
    svm_pool_run(count < CHUNK ? NULL : tree->pool, sort_slice, &of, SVM_SLICES);
    free(of.counts);
    return of.twice != 0 ? SVM_TREE_TWICE : SVM_TREE_OK;
}
