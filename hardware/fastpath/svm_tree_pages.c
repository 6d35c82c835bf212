/* Pages of the state tree: their memory, and how they are written down (supervm.storage.pages). */
#if defined(__linux__)
#define _DEFAULT_SOURCE
#endif

#include "svm_tree_types.h"

#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "heights are copied as they lie: this needs a little-endian machine"
#endif

enum { TAKE = 64, HUGE = 1 << 21, CHUNK_MIN = 1 << 14 };

static void push(svm_free_list *list, svm_free_cell *cell) {
    cell->next = list->first;
    list->first = cell;
    if (list->last == NULL) {
        list->last = cell;
    }
}

size_t svm_chunk_bytes(uint64_t bytes_max) {
    return bytes_max >= 32 * (uint64_t)HUGE ? HUGE : bytes_max >= 32 * (uint64_t)CHUNK_MIN ? HUGE / 32 : CHUNK_MIN;
}

/* A tree is walked far and wide: with large pages of the system, fewer of its translations are needed. */
void *svm_memory_new(size_t *size) {
#if defined(__linux__)
    if (*size >= HUGE) {
        *size = (*size + HUGE - 1) / HUGE * HUGE;
        void *memory = aligned_alloc(HUGE, *size);
        if (memory != NULL) {
            madvise(memory, *size, MADV_HUGEPAGE); /* where it can't, nothing is lost */
        }
        return memory;
    }
#endif
    return malloc(*size);
}

/* Moves up to TAKE cells of a size from what no thread has; or a new piece to cut from. Under the lock. */
static bool refill(svm_store *store, svm_cells *mine, uint32_t cells) {
    svm_free_list *from = &store->cells.free[cells], *to = &mine->free[cells];
    for (uint32_t i = 0; i < TAKE && from->first != NULL; i++) {
        svm_free_cell *cell = from->first;
        from->first = cell->next;
        push(to, cell);
    }
    if (from->first == NULL) {
        from->last = NULL;
    }
    if (to->first != NULL) {
        return true;
    }
    /* What is left of the old piece becomes a free cell of its size. */
    const size_t left = mine->left / SVM_CELL;
    if (left >= svm_page_cells(0, 0, 0) && left <= SVM_CELLS_MAX) {
        push(&mine->free[left], (svm_free_cell *)(void *)mine->rest);
    }
    if (store->cells.left >= (size_t)cells * SVM_CELL) {
        mine->rest = store->cells.rest;
        mine->left = store->cells.left;
        store->cells.left = 0;
        return true;
    }
    size_t size = store->chunk_bytes;
    svm_chunk *chunk = svm_memory_new(&size);
    if (chunk == NULL) {
        mine->left = 0;
        return false;
    }
    chunk->next = store->chunks;
    chunk->size = store->chunk_bytes;
    store->chunks = chunk;
    store->held += store->chunk_bytes;
    mine->rest = (uint8_t *)chunk + (sizeof *chunk + SVM_CELL - 1) / SVM_CELL * SVM_CELL;
    mine->left = store->chunk_bytes - (size_t)(mine->rest - (uint8_t *)chunk);
    return true;
}

svm_page *svm_page_new(svm_store *store, svm_cells *mine, uint32_t children, uint32_t leaves, uint32_t inner) {
    const bool keeps = svm_bits(children | leaves) > SVM_INNER_ABOVE;
    const uint32_t cells = svm_page_cells(svm_bits(children), svm_bits(leaves), keeps ? svm_bits(inner) : 0);
    const size_t size = (size_t)cells * SVM_CELL;
    svm_free_list *list = &mine->free[cells];
    if (list->first == NULL && mine->left < size) {
        svm_lock_take(&store->lock);
        const bool got = refill(store, mine, cells);
        svm_lock_give(&store->lock);
        if (!got) {
            return NULL;
        }
    }
    svm_page *page;
    if (list->first != NULL) {
        page = (svm_page *)(void *)list->first;
        list->first = list->first->next;
        if (list->first == NULL) {
            list->last = NULL;
        } else {
            __builtin_prefetch(list->first);
        }
    } else {
        page = (svm_page *)(void *)mine->rest;
        mine->rest += size;
        mine->left -= size;
    }
    page->used = 0;
    page->keeps = keeps;
    page->cells = (uint16_t)cells;
    page->children = (uint16_t)children;
    page->leaves = (uint16_t)leaves;
    page->inner = (uint16_t)inner;
    return page;
}

void svm_page_free(svm_cells *cells, svm_page *page) {
    const uint32_t size = page->cells;
    push(&cells->free[size], (svm_free_cell *)(void *)page);
}

void svm_cells_give_back(svm_store *store, svm_cells *mine) {
    svm_lock_take(&store->lock);
    for (uint32_t size = 0; size <= SVM_CELLS_MAX; size++) {
        svm_free_list *from = &mine->free[size], *to = &store->cells.free[size];
        if (from->first != NULL) {
            from->last->next = to->first;
            to->first = from->first;
            to->last = to->last == NULL ? from->last : to->last;
        }
    }
    if (mine->left > store->cells.left) {
        uint8_t *rest = store->cells.rest;
        const size_t left = store->cells.left;
        store->cells.rest = mine->rest;
        store->cells.left = mine->left;
        mine->rest = rest;
        mine->left = left;
    }
    /* The smaller rest is cut into cells, the largest first. */
    while (mine->left / SVM_CELL >= svm_page_cells(0, 0, 0)) {
        const size_t most = mine->left / SVM_CELL;
        const size_t cells = most < SVM_CELLS_MAX ? most : SVM_CELLS_MAX;
        push(&store->cells.free[cells], (svm_free_cell *)(void *)mine->rest);
        mine->rest += cells * SVM_CELL;
        mine->left -= cells * SVM_CELL;
    }
    svm_lock_give(&store->lock);
    memset(mine, 0, sizeof *mine);
}

void svm_store_clear(svm_store *store) {
    while (store->chunks != NULL) {
        svm_chunk *next = store->chunks->next;
        free(store->chunks);
        store->chunks = next;
    }
    memset(&store->cells, 0, sizeof store->cells);
    store->held = 0;
}

uint32_t svm_page_key(uint8_t *out, const uint8_t *path, uint32_t depth, uint64_t height) {
    uint32_t size = 2;
    out[0] = SVM_PAGE_SPACE;
    out[1] = (uint8_t)depth;
    for (uint32_t i = 0; i < depth / 2; i++) {
        out[size++] = path[i];
    }
    if (depth % 2 != 0) {
        out[size++] = path[depth / 2] & 0xf0u;
    }
    for (uint32_t i = 0; i < 8; i++) {
        out[size++] = (uint8_t)(height >> (56 - 8 * i));
    }
    return size;
}

uint32_t svm_page_written(const svm_page *page) {
    return 5 + SVM_LEAF * svm_bits(page->leaves) + SVM_CHILD_WRITTEN * svm_bits(page->children);
}

void svm_page_write(const svm_page *page, uint8_t *out) {
    const svm_child *child = svm_page_children(page);
    const uint8_t *leaf = svm_page_leaves(page);
    *out++ = SVM_PAGE_FORMAT_1;
    *out++ = (uint8_t)page->leaves;
    *out++ = (uint8_t)(page->leaves >> 8);
    *out++ = (uint8_t)page->children;
    *out++ = (uint8_t)(page->children >> 8);
    for (uint32_t left = page->leaves | page->children; left != 0; left &= left - 1) {
        if (page->leaves & left & (0u - left)) {
            memcpy(out, leaf, SVM_LEAF);
            leaf += SVM_LEAF;
            out += SVM_LEAF;
        } else {
            memcpy(out, child->hash, SVM_HASH);
            memcpy(out + SVM_HASH, &child->height, 8);
            child++;
            out += SVM_CHILD_WRITTEN;
        }
    }
}

void svm_slots_of(svm_slots *slots, svm_page *page) {
    slots->old = page;
    slots->leaves = page->leaves;
    slots->children = page->children;
    slots->dirty = 0;
    slots->moved = false;
}

/* Whether a leaf of slot `slot` of the page at `depth` on the way to `path` may stand there. */
static bool lies_below(const uint8_t *leaf, const uint8_t *path, uint32_t depth, uint32_t slot) {
    return memcmp(leaf, path, depth / 2) == 0 && (depth % 2 == 0 || (leaf[depth / 2] ^ path[depth / 2]) < 16) &&
           svm_nibble(leaf, depth) == slot;
}

svm_page *svm_page_read(svm_work *work, const uint8_t *bytes, size_t size, const uint8_t *path, uint32_t depth,
                        svm_grown *node, uint32_t *reason) {
    if (size < 5 || bytes[0] != SVM_PAGE_FORMAT_1) {
        *reason = SVM_PAGE_FORMAT;
        return NULL;
    }
    const uint32_t leaves = bytes[1] | (uint32_t)bytes[2] << 8, children = bytes[3] | (uint32_t)bytes[4] << 8;
    if ((leaves & children) != 0 || size != 5 + SVM_LEAF * svm_bits(leaves) + SVM_CHILD_WRITTEN * svm_bits(children)) {
        *reason = SVM_PAGE_LENGTH;
        return NULL;
    }
    if (depth == SVM_DEPTH_MAX && children != 0) {
        *reason = SVM_PAGE_DEEP;
        return NULL;
    }
    svm_slots slots;
    svm_no_slots(&slots);
    bytes += 5;
    for (uint32_t left = leaves | children; left != 0; left &= left - 1) {
        const uint32_t slot = svm_lowest(left);
        svm_grown *grown = &slots.grown[slot];
        grown->kind = SVM_ONE_LEAF;
        grown->leaf = grown->hash = bytes;
        grown->page = NULL;
        grown->moved = false;
        if (leaves >> slot & 1) {
            if (!lies_below(bytes, path, depth, slot)) {
                *reason = SVM_PAGE_FOREIGN;
                return NULL;
            }
            bytes += SVM_LEAF;
        } else {
            grown->kind = SVM_NEW_PAGE;
            memcpy(&grown->height, bytes + SVM_HASH, 8);
            bytes += SVM_CHILD_WRITTEN;
        }
        svm_put(&slots, slot);
    }
    *reason = 0;
    svm_settle(work, &slots, depth, NULL, true, node);
    return node->kind == SVM_NEW_PAGE ? node->page : NULL;
}
