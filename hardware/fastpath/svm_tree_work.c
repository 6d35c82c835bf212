/* One thread's memory while it builds, and the hashing of what it built: level by level, many nodes at a time. */
#include "svm_tree_types.h"

#include <stdlib.h>

#include "svm_blake3.h"

_Alignas(SVM_HASH) const uint8_t SVM_NO_HASH[SVM_HASH];

enum { KEEP_BYTES = 1 << 22, AHEAD = 16 };

uint8_t *svm_work_more(svm_work *work) {
    if (work->arena_at < work->arena_count) {
        work->arena_at++;
    }
    if (work->arena_at == work->arena_count) {
        if (work->arena_count == work->arena_room) {
            const uint32_t room = work->arena_room * 2 + 8;
            uint8_t **arena = realloc(work->arena, room * sizeof *arena);
            if (arena == NULL) {
                work->error = SVM_TREE_NO_MEMORY;
                return NULL;
            }
            work->arena = arena;
            work->arena_room = room;
        }
        uint8_t *more = malloc(SVM_ARENA_BYTES);
        if (more == NULL) {
            work->error = SVM_TREE_NO_MEMORY;
            return NULL;
        }
        work->arena[work->arena_count++] = more;
    }
    work->arena_next = work->arena[work->arena_at];
    work->arena_left = SVM_ARENA_BYTES;
    return svm_work_hash(work);
}

bool svm_work_changes(svm_work *work, uint32_t lo, uint32_t hi) {
    const svm_tree *tree = work->tree;
    const size_t count = hi - lo;
    work->first = lo;
    svm_buffer_reset(&work->leaves, KEEP_BYTES);
    svm_buffer_reset(&work->leaf_hashes, KEEP_BYTES);
    if (!svm_buffer_room(&work->leaves, count * SVM_LEAF) || !svm_buffer_room(&work->leaf_hashes, count * SVM_HASH)) {
        work->error = SVM_TREE_NO_MEMORY;
        return false;
    }
    work->leaves.size = count * SVM_LEAF;
    uint8_t *leaf = work->leaves.bytes;
    for (uint32_t i = lo; i < hi; i++, leaf += SVM_LEAF) {
        if (hi - i > AHEAD) {
            __builtin_prefetch(svm_path(tree, i + AHEAD));
            __builtin_prefetch(svm_path(tree, i + AHEAD) + SVM_HASH);
        }
        memcpy(leaf, svm_path(tree, i), SVM_LEAF);
    }
    svm_blake3_nodes(0, work->leaves.bytes, (uint32_t)count, work->leaf_hashes.bytes);
    leaf = work->leaves.bytes;
    for (size_t i = 0; tree->lean && i < count; i++, leaf += SVM_LEAF) {
        memcpy(leaf + SVM_HASH, work->leaf_hashes.bytes + SVM_HASH * i, SVM_HASH);
    }
    work->leaves_hashed += (uint32_t)count;
    return true;
}

static void hash_some(svm_buffer *jobs, uint8_t prefix, uint32_t *hashed) {
    const uint32_t count = (uint32_t)(jobs->size / sizeof(svm_blake3_pair));
    svm_blake3_pairs(prefix, (const svm_blake3_pair *)(const void *)jobs->bytes, count);
    *hashed += count;
    svm_buffer_reset(jobs, KEEP_BYTES);
}

void svm_work_hash_all(svm_work *work) {
    if (work->error == SVM_TREE_OK) {
        hash_some(&work->leaf_jobs, 0, &work->leaves_hashed);
        for (uint32_t bits = work->deepest + 1; bits > 0; bits--) {
            hash_some(&work->jobs[bits - 1], 1, &work->nodes_hashed);
        }
    } else {
        svm_buffer_reset(&work->leaf_jobs, 0);
        for (uint32_t bits = 0; bits < SVM_BITS; bits++) {
            svm_buffer_reset(&work->jobs[bits], 0);
        }
    }
    work->deepest = 0;
    while (work->arena_count > KEEP_BYTES / SVM_ARENA_BYTES) {
        free(work->arena[--work->arena_count]);
    }
    work->arena_at = 0;
    work->arena_next = work->arena_count == 0 ? NULL : work->arena[0];
    work->arena_left = work->arena_count == 0 ? 0 : SVM_ARENA_BYTES;
}

void svm_work_free(svm_work *work) {
    free(work->leaves.bytes);
    free(work->leaf_hashes.bytes);
    free(work->items.bytes);
    free(work->leaf_jobs.bytes);
    for (uint32_t bits = 0; bits < SVM_BITS; bits++) {
        free(work->jobs[bits].bytes);
    }
    for (uint32_t i = 0; i < work->arena_count; i++) {
        free(work->arena[i]);
    }
    free(work->arena);
}

svm_work *svm_work_take(svm_tree *tree) {
    for (uint32_t i = 0;; i = i + 1 == tree->works_count ? 0 : i + 1) {
        if (__atomic_exchange_n(&tree->works[i].taken, 1, __ATOMIC_ACQUIRE) == 0) {
            return &tree->works[i];
        }
    }
}

void svm_work_give(svm_work *work) {
    svm_cells_give_back(&work->tree->store, &work->cells);
    __atomic_store_n(&work->taken, 0, __ATOMIC_RELEASE);
}
