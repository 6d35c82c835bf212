/* An update of the state tree from its changes to its pages: the phases, in order. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "svm_tree_types.h"

#include <stdlib.h>
#include <time.h>

/* Memory that is kept from one update to the next, of each kind, where the bound is not smaller. */
enum { KEEP_BYTES = 1 << 26 };

uint64_t svm_tree_now_ns(void) {
    struct timespec now;
#if defined(_WIN32)
    timespec_get(&now, TIME_UTC);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool svm_buffer_room(svm_buffer *buffer, size_t more) {
    if (buffer->room - buffer->size >= more) {
        return true;
    }
    size_t room = buffer->room < 512 ? 1024 : buffer->room * 2;
    room = room - buffer->size < more ? buffer->size + more : room;
    uint8_t *bytes = realloc(buffer->bytes, room);
    if (bytes == NULL) {
        return false;
    }
    buffer->bytes = bytes;
    buffer->room = room;
    return true;
}

bool svm_buffer_new(svm_buffer *buffer, size_t size) {
    buffer->size = 0;
    if (buffer->room >= size) {
        return true;
    }
    free(buffer->bytes);
    buffer->room = 0;
    buffer->bytes = svm_memory_new(&size);
    if (buffer->bytes == NULL) {
        return false;
    }
    buffer->room = size;
    return true;
}

void svm_buffer_reset(svm_buffer *buffer, size_t keep) {
    buffer->size = 0;
    if (buffer->room > keep) {
        free(buffer->bytes);
        buffer->bytes = NULL;
        buffer->room = 0;
    }
}

svm_tree *svm_tree_new(uint64_t bytes_max, uint32_t lean, svm_pool *pool) {
    svm_tree *tree = calloc(1, sizeof *tree);
    if (tree == NULL) {
        return NULL;
    }
    tree->pool = pool;
    tree->lean = lean != 0;
    tree->bytes_max = lean != 0 ? UINT64_MAX : bytes_max;
    tree->works_count = svm_pool_threads(pool);
    tree->works = calloc(tree->works_count, sizeof *tree->works);
    if (tree->works == NULL) {
        free(tree);
        return NULL;
    }
    for (uint32_t i = 0; i < tree->works_count; i++) {
        tree->works[i].tree = tree;
    }
    svm_lock_new(&tree->store.lock);
    tree->store.chunk_bytes = svm_chunk_bytes(bytes_max);
    svm_tree_clear(tree, NULL, 0);
    return tree;
}

static void drop_undo(svm_tree *tree, svm_unit *unit, size_t most) {
    while (unit->undo != NULL) {
        svm_piece *piece = unit->undo;
        unit->undo = piece->next;
        if (tree->pieces_count < most) {
            piece->next = tree->pieces;
            tree->pieces = piece;
            tree->pieces_count++;
        } else {
            free(piece);
        }
    }
}

static void end_update(svm_tree *tree) {
    const size_t most = tree->bytes_max / 16 < KEEP_BYTES ? (size_t)tree->bytes_max / 16 : KEEP_BYTES;
    const size_t keep = most / SVM_SLICES;
    svm_buffer_reset(&tree->leaves_held, most);
    svm_buffer_reset(&tree->sorted_held, most);
    svm_buffer_reset(&tree->order_held, most);
    tree->packed = NULL;
    tree->count = 0;
    tree->missing_count = 0;
    tree->written_count = tree->stale_count = 0;
    for (uint32_t i = 0; i <= SVM_SLICES; i++) {
        svm_unit *unit = &tree->units[i];
        svm_buffer_reset(&unit->fresh, keep);
        svm_buffer_reset(&unit->left, keep);
        drop_undo(tree, unit, most / SVM_PIECE_BYTES);
        svm_buffer_reset(&unit->made, keep);
        svm_buffer_reset(&unit->written, keep);
        svm_buffer_reset(&unit->stale, keep);
        unit->written_count = unit->stale_count = 0;
        unit->fresh_cells = unit->left_cells = 0;
        unit->error = SVM_TREE_OK;
    }
    svm_buffer_reset(&tree->written, most);
    svm_buffer_reset(&tree->stale, most);
    tree->stage = SVM_IDLE;
}

void svm_tree_free(svm_tree *tree) {
    if (tree == NULL) {
        return;
    }
    end_update(tree);
    for (uint32_t i = 0; i <= SVM_SLICES; i++) {
        free(tree->units[i].fresh.bytes);
        free(tree->units[i].left.bytes);
        free(tree->units[i].made.bytes);
        free(tree->units[i].written.bytes);
        free(tree->units[i].stale.bytes);
    }
    for (uint32_t i = 0; i < tree->works_count; i++) {
        svm_work_free(&tree->works[i]);
    }
    free(tree->works);
    while (tree->pieces != NULL) {
        svm_piece *piece = tree->pieces;
        tree->pieces = piece->next;
        free(piece);
    }
    free(tree->leaves_held.bytes);
    free(tree->sorted_held.bytes);
    free(tree->order_held.bytes);
    free(tree->steps.bytes);
    free(tree->next_steps.bytes);
    free(tree->missing.bytes);
    free(tree->written.bytes);
    free(tree->stale.bytes);
    svm_store_clear(&tree->store);
    svm_lock_free(&tree->store.lock);
    free(tree);
}

void svm_tree_clear(svm_tree *tree, const uint8_t *root, uint64_t height) {
    end_update(tree);
    svm_store_clear(&tree->store);
    tree->pages = tree->cells = 0;
    root = tree->lean ? NULL : root;
    tree->rooted = root != NULL;
    tree->whole = root == NULL;
    memset(&tree->root, 0, sizeof tree->root);
    tree->root.height = height;
    if (root != NULL) {
        memcpy(tree->root.hash, root, SVM_HASH);
    }
    memset(tree->passed, 0, sizeof tree->passed);
    tree->updates = 0;
    tree->hand = 0;
}

void svm_tree_stats_of(const svm_tree *tree, svm_tree_stats *stats) {
    *stats = (svm_tree_stats){tree->pages, tree->cells * SVM_CELL, tree->store.held, tree->bytes_max,
                              tree->hits,  tree->misses,           tree->evicted};
}

void svm_tree_timing_of(const svm_tree *tree, svm_tree_timing *timing) { *timing = tree->timing; }

uint32_t svm_tree_open(svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count, uint64_t height,
                       uint32_t *at) {
    const uint64_t began = svm_tree_now_ns();
    *at = 0;
    if (tree->stage != SVM_IDLE || (tree->rooted && height <= tree->root.height)) {
        return SVM_TREE_ORDER;
    }
    if (tree->updates == UINT32_MAX - 1) { /* stamps begin anew; everything counts as just used */
        tree->updates = 0;
        memset(tree->passed, 0, sizeof tree->passed);
    }
    tree->updates++;
    tree->height = height;
    tree->emit = false;
    tree->timing = (svm_tree_timing){.changes = count, .threads = svm_pool_threads(tree->pool)};
    uint32_t error = svm_changes_read(tree, packed, size, count, at);
    const uint64_t sorted = svm_tree_now_ns();
    if (error == SVM_TREE_OK) {
        error = svm_load_begin(tree);
    }
    if (error != SVM_TREE_OK) {
        end_update(tree);
    }
    tree->timing.sort_ns = sorted - began;
    tree->timing.load_ns = svm_tree_now_ns() - sorted;
    return error;
}

uint32_t svm_tree_missing(svm_tree *tree, const uint8_t **packed, size_t *size, uint32_t *count) {
    *packed = tree->missing.bytes;
    *size = tree->missing.size;
    *count = tree->stage == SVM_LOADING ? tree->missing_count : 0;
    return tree->stage == SVM_LOADING || tree->stage == SVM_LOADED ? SVM_TREE_OK : SVM_TREE_ORDER;
}

uint32_t svm_tree_supply(svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count,
                         svm_tree_refusal *refusal) {
    if (tree->stage != SVM_LOADING) {
        return SVM_TREE_ORDER;
    }
    const uint64_t began = svm_tree_now_ns();
    const uint32_t error = svm_load_supply(tree, packed, size, count, refusal);
    tree->timing.load_ns += svm_tree_now_ns() - began;
    return error;
}

uint32_t svm_tree_build(svm_tree *tree, uint32_t emit, uint8_t root[32]) {
    if (tree->stage != SVM_LOADED || (emit != 0 && tree->lean)) {
        return SVM_TREE_ORDER;
    }
    const uint64_t began = svm_tree_now_ns();
    tree->stage = SVM_BUILT; /* what it made until an error is dropped by abort */
    const uint32_t error = svm_build(tree, emit != 0, root);
    tree->timing.build_ns = svm_tree_now_ns() - began;
    if (error != SVM_TREE_OK) {
        svm_tree_abort(tree);
    }
    return error;
}

void svm_tree_written(const svm_tree *tree, const uint8_t **bytes, size_t *size, uint32_t *count) {
    *bytes = tree->written.bytes;
    *size = tree->written.size;
    *count = tree->written_count;
}

void svm_tree_stale(const svm_tree *tree, const uint8_t **bytes, size_t *size, uint32_t *count) {
    *bytes = tree->stale.bytes;
    *size = tree->stale.size;
    *count = tree->stale_count;
}

uint32_t svm_tree_commit(svm_tree *tree) {
    if (tree->stage != SVM_BUILT) {
        return SVM_TREE_ORDER;
    }
    const uint64_t began = svm_tree_now_ns();
    for (uint32_t i = 0; i <= SVM_SLICES; i++) {
        const svm_unit *unit = &tree->units[i];
        svm_page *const *left = (svm_page *const *)(void *)unit->left.bytes;
        const size_t count = unit->left.size / sizeof *left;
        for (size_t k = 0; k < count; k++) {
            svm_page_free(&tree->store.cells, left[k]);
        }
        tree->pages += unit->fresh.size / sizeof(svm_page *);
        tree->pages -= count;
        tree->cells += unit->fresh_cells;
        tree->cells -= unit->left_cells;
    }
    tree->root = tree->fresh_root;
    tree->rooted = true;
    end_update(tree);
    svm_evict(tree);
    tree->timing.commit_ns = svm_tree_now_ns() - began;
    return SVM_TREE_OK;
}

void svm_tree_abort(svm_tree *tree) {
    if (tree->stage == SVM_BUILT) {
        svm_work *work = svm_work_take(tree);
        work->error = SVM_TREE_OK;
        for (uint32_t i = 0; i <= SVM_SLICES; i++) {
            const svm_unit *unit = &tree->units[i];
            svm_page *const *fresh = (svm_page *const *)(void *)unit->fresh.bytes;
            svm_undo_all(work, unit);
            for (size_t k = 0; k < unit->fresh.size / sizeof *fresh; k++) {
                svm_page_free(&tree->store.cells, fresh[k]);
            }
        }
        const bool undone = work->error == SVM_TREE_OK;
        svm_work_give(work);
        if (!undone) { /* no memory for it: what the pages were is known by their hashes alone */
            svm_tree_lose(tree);
        }
    }
    if (tree->stage != SVM_IDLE) {
        end_update(tree);
        svm_evict(tree);
    }
}
