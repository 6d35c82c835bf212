/* The bound on memory: pages that no update needed for longest go first.
 *
 * A hand goes round the 256 subtrees of the first byte of kh. On its way it lets go of pages that no update needed
 * since it last came by, the deepest first, until the rest fits; if a whole turn doesn't do, of all it meets. Pages on
 * the way to one that is kept are kept: an update that needs a page needs those above it too. */
#include "svm_tree_types.h"

/* Live pages take at most two thirds of the bound, so that room for the next ones is found without the system's. */
static uint64_t live_max(const svm_tree *tree) { return tree->bytes_max / 3 * 2; }

static bool fits(const svm_tree *tree) { return tree->cells * SVM_CELL <= live_max(tree); }

static void let_go(svm_tree *tree, svm_child *child) {
    tree->cells -= child->page->cells;
    tree->pages--;
    tree->evicted++;
    tree->whole = false;
    svm_page_free(&tree->store.cells, child->page);
    child->page = NULL;
}

/* Lets go of what lies below and was last needed before `since`, then of the page itself. */
static void sweep(svm_tree *tree, svm_child *child, uint32_t since) {
    svm_page *page = child->page;
    if (page == NULL) {
        return;
    }
    svm_child *children = svm_page_children(page);
    bool bare = true;
    for (uint32_t i = svm_bits(page->children); i > 0; i--) {
        sweep(tree, &children[i - 1], since);
        bare = bare && children[i - 1].page == NULL;
    }
    if (bare && page->used < since && !fits(tree)) {
        let_go(tree, child);
    }
}

/* The child that leads to the pages of one first byte, where it is in memory. */
static svm_child *slice_child(svm_tree *tree, uint32_t slice) {
    svm_child *child = &tree->root;
    for (uint32_t depth = 0; depth < 2 && child->page != NULL; depth++) {
        const uint32_t slot = depth == 0 ? slice >> 4 : slice & 15;
        if ((child->page->children >> slot & 1) == 0) {
            return NULL;
        }
        child = svm_page_children(child->page) + svm_bits(child->page->children & ((1u << slot) - 1));
    }
    return child->page == NULL ? NULL : child;
}

/* Pages move together into new memory, and the old is given back. */
static svm_page *move(svm_tree *tree, svm_store *to, svm_page *page) {
    svm_page *moved = svm_page_new(to, &to->cells, page->children, page->leaves, page->inner);
    if (moved == NULL) {
        return NULL;
    }
    memcpy(moved, page, (size_t)page->cells * SVM_CELL);
    svm_child *children = svm_page_children(moved);
    for (uint32_t i = 0; i < svm_bits(moved->children); i++) {
        if (children[i].page == NULL) {
            continue;
        }
        children[i].page = move(tree, to, children[i].page);
        if (children[i].page == NULL) {
            return NULL;
        }
    }
    return moved;
}

void svm_tree_lose(svm_tree *tree) {
    tree->evicted += tree->pages;
    tree->pages = tree->cells = 0;
    tree->root.page = NULL;
    tree->whole = false;
    svm_store_clear(&tree->store);
}

static void compact(svm_tree *tree) {
    svm_store fresh;
    memset(&fresh, 0, sizeof fresh);
    svm_lock_new(&fresh.lock);
    fresh.chunk_bytes = tree->store.chunk_bytes;
    svm_page *root = tree->root.page == NULL ? NULL : move(tree, &fresh, tree->root.page);
    if (root == NULL) {
        svm_store_clear(&fresh);
        svm_lock_free(&fresh.lock);
        svm_tree_lose(tree);
        return;
    }
    svm_store_clear(&tree->store);
    tree->store.cells = fresh.cells;
    tree->store.chunks = fresh.chunks;
    tree->store.held = fresh.held;
    svm_lock_free(&fresh.lock);
    tree->root.page = root;
}

void svm_evict(svm_tree *tree) {
    if (tree->bytes_max == UINT64_MAX) {
        return;
    }
    for (uint32_t step = 0; step < 2 * SVM_SLICES && !fits(tree); step++) {
        svm_child *child = slice_child(tree, tree->hand);
        if (child != NULL) {
            sweep(tree, child, step < SVM_SLICES ? tree->passed[tree->hand] : UINT32_MAX);
        }
        tree->passed[tree->hand] = tree->updates;
        tree->hand = (tree->hand + 1) % SVM_SLICES;
    }
    if (!fits(tree)) {
        svm_tree_lose(tree);
    } else if (tree->store.held > tree->bytes_max) {
        compact(tree);
        if (tree->store.held > tree->bytes_max) {
            svm_tree_lose(tree);
        }
    }
}
