/* The pages that an update needs: found in memory, or asked for a level at a time and checked. */
#include "svm_tree_types.h"

#include <stdlib.h>

enum { TOGETHER = 128, KEEP_BYTES = 1 << 22 };

static const uint8_t ROOT_PATH[SVM_HASH];

static const svm_step *steps_of(const svm_tree *tree, uint32_t *count) {
    *count = (uint32_t)(tree->steps.size / sizeof(svm_step));
    return (const svm_step *)(const void *)tree->steps.bytes;
}

static const uint8_t *step_path(const svm_tree *tree, const svm_step *step) {
    return step->lo < step->hi ? svm_path(tree, step->lo) : ROOT_PATH;
}

static bool add_step(svm_buffer *steps, svm_child *of, uint32_t lo, uint32_t hi) {
    const svm_step step = {of, lo, hi};
    if (!svm_buffer_room(steps, sizeof step)) {
        return false;
    }
    memcpy(steps->bytes + steps->size, &step, sizeof step);
    steps->size += sizeof step;
    return true;
}

/* Lists what of this level is not in memory. */
static bool list_missing(svm_tree *tree) {
    uint32_t count;
    const svm_step *steps = steps_of(tree, &count);
    tree->missing.size = 0;
    tree->missing_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (steps[i].of->page != NULL) {
            steps[i].of->page->used = tree->updates;
            tree->hits++;
            continue;
        }
        if (!svm_buffer_room(&tree->missing, 1 + SVM_PAGE_KEY_MAX)) {
            return false;
        }
        uint8_t *out = tree->missing.bytes + tree->missing.size;
        out[0] = (uint8_t)svm_page_key(out + 1, step_path(tree, &steps[i]), tree->depth, steps[i].of->height);
        tree->missing.size += 1 + (size_t)out[0];
        tree->missing_count++;
        tree->misses++;
    }
    return true;
}

/* Goes down, level by level, to the first at which something is missing, or to the end. */
static uint32_t descend(svm_tree *tree) {
    while (tree->missing_count == 0) {
        uint32_t count;
        const svm_step *steps = steps_of(tree, &count);
        tree->next_steps.size = 0;
        for (uint32_t i = 0; i < count; i++) {
            svm_page *page = steps[i].of->page;
            svm_child *children = svm_page_children(page);
            uint32_t lo = steps[i].lo;
            while (lo < steps[i].hi) {
                const uint32_t slot = svm_sorted_nibble(tree, lo, tree->depth);
                uint32_t end = lo + 1;
                while (end < steps[i].hi && svm_sorted_nibble(tree, end, tree->depth) == slot) {
                    end++;
                }
                if (page->children >> slot & 1) {
                    svm_child *child = children + svm_bits(page->children & ((1u << slot) - 1));
                    if (!add_step(&tree->next_steps, child, lo, end)) {
                        return SVM_TREE_NO_MEMORY;
                    }
                }
                lo = end;
            }
        }
        const svm_buffer done = tree->steps;
        tree->steps = tree->next_steps;
        tree->next_steps = done;
        if (tree->steps.size == 0) {
            tree->stage = SVM_LOADED;
            return SVM_TREE_OK;
        }
        tree->depth++;
        if (!list_missing(tree)) {
            return SVM_TREE_NO_MEMORY;
        }
    }
    return SVM_TREE_OK;
}

uint32_t svm_load_begin(svm_tree *tree) {
    tree->stage = SVM_LOADING;
    tree->depth = 0;
    tree->missing_count = 0;
    svm_buffer_reset(&tree->steps, KEEP_BYTES);
    svm_buffer_reset(&tree->next_steps, KEEP_BYTES);
    svm_buffer_reset(&tree->missing, KEEP_BYTES);
    if (!tree->rooted || tree->whole) {
        tree->stage = SVM_LOADED;
        return SVM_TREE_OK;
    }
    if (!add_step(&tree->steps, &tree->root, 0, tree->count) || !list_missing(tree)) {
        return SVM_TREE_NO_MEMORY;
    }
    return descend(tree);
}

typedef struct {
    const uint8_t *bytes;
    uint32_t size; /* UINT32_MAX: there is none */
    uint32_t reason;
    const svm_step *step;
    svm_page *page;
    uint8_t found[SVM_HASH];
} supplied;

typedef struct {
    svm_tree *tree;
    supplied *pages;
    uint32_t count;
    uint32_t failed; /* atomic: no memory */
} checking;

static void check_some(void *context, uint32_t share) {
    checking *of = context;
    svm_tree *tree = of->tree;
    const uint32_t first = share * TOGETHER;
    const uint32_t end = of->count - first < TOGETHER ? of->count : first + TOGETHER;
    const uint8_t *ready[TOGETHER];
    svm_unit unit; /* these pages are no update's */
    memset(&unit, 0, sizeof unit);
    svm_work *work = svm_work_take(tree);
    work->unit = &unit;
    work->error = SVM_TREE_OK;
    for (uint32_t i = first; i < end; i++) {
        supplied *one = &of->pages[i];
        svm_grown node;
        ready[i - first] = NULL;
        if (one->size == UINT32_MAX) {
            one->reason = SVM_PAGE_MISSING;
            continue;
        }
        one->page =
            svm_page_read(work, one->bytes, one->size, step_path(tree, one->step), tree->depth, &node, &one->reason);
        if (one->page == NULL) {
            continue;
        }
        if (node.hash != NULL) {
            ready[i - first] = node.hash;
        } else {
            svm_work_node(work, 4 * tree->depth, one->found, node.left, node.right);
        }
    }
    svm_work_hash_all(work);
    for (uint32_t i = first; i < end && work->error == SVM_TREE_OK; i++) {
        supplied *one = &of->pages[i];
        if (ready[i - first] != NULL) {
            memcpy(one->found, ready[i - first], SVM_HASH);
        }
        if (one->page != NULL && memcmp(one->found, one->step->of->hash, SVM_HASH) != 0) {
            one->reason = SVM_PAGE_HASH;
        }
    }
    if (work->error != SVM_TREE_OK) {
        __atomic_store_n(&of->failed, 1, __ATOMIC_RELAXED);
    }
    svm_work_give(work);
    free(unit.fresh.bytes);
    free(unit.made.bytes);
}

static uint32_t read_supply(svm_tree *tree, supplied *pages, const uint8_t *packed, size_t size) {
    uint32_t steps_count, at = 0;
    const svm_step *steps = steps_of(tree, &steps_count);
    for (uint32_t i = 0; i < steps_count; i++) {
        if (steps[i].of->page != NULL) {
            continue;
        }
        if (size < 4) {
            return SVM_TREE_BAD_SUPPLY;
        }
        supplied *one = &pages[at++];
        one->size = (uint32_t)packed[0] | (uint32_t)packed[1] << 8 | (uint32_t)packed[2] << 16 |
                    (uint32_t)packed[3] << 24;
        one->bytes = packed + 4;
        one->step = &steps[i];
        packed += 4;
        size -= 4;
        if (one->size != UINT32_MAX) {
            if (size < one->size) {
                return SVM_TREE_BAD_SUPPLY;
            }
            packed += one->size;
            size -= one->size;
        }
    }
    return size == 0 ? SVM_TREE_OK : SVM_TREE_BAD_SUPPLY;
}

uint32_t svm_load_supply(svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count,
                         svm_tree_refusal *refusal) {
    if (count != tree->missing_count) {
        return SVM_TREE_BAD_SUPPLY;
    }
    supplied *pages = calloc((size_t)count + 1, sizeof *pages);
    if (pages == NULL) {
        return SVM_TREE_NO_MEMORY;
    }
    uint32_t error = read_supply(tree, pages, packed, size);
    if (error == SVM_TREE_OK) {
        checking of = {tree, pages, count, 0};
        svm_pool_run(tree->pool, check_some, &of, (count + TOGETHER - 1) / TOGETHER);
        error = of.failed != 0 ? SVM_TREE_NO_MEMORY : SVM_TREE_OK;
    }
    for (uint32_t i = 0; i < count && error == SVM_TREE_OK; i++) {
        if (pages[i].reason != 0) {
            error = SVM_TREE_BAD_PAGE;
            refusal->at = i;
            refusal->reason = pages[i].reason;
            memcpy(refusal->found, pages[i].found, SVM_HASH);
            memcpy(refusal->wanted, pages[i].step->of->hash, SVM_HASH);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (pages[i].page != NULL && error == SVM_TREE_OK) {
            pages[i].step->of->page = pages[i].page;
            tree->pages++;
            tree->cells += pages[i].page->cells;
        } else if (pages[i].page != NULL) {
            svm_page_free(&tree->store.cells, pages[i].page);
        }
    }
    free(pages);
    if (error != SVM_TREE_OK) {
        return error;
    }
    tree->missing_count = 0;
    return descend(tree);
}
