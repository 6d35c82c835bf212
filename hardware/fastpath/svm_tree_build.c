/* New pages from old ones and sorted changes. What they hold is settled here; their hashes are asked of the work, which
 * makes them together (svm_tree_work.c).
 *
 * A page whose slots are filled as before is changed in its place, and what was there is noted to undo it: pages stay
 * where they are, in the order of the tree, and a processor reads on ahead of the walk. */
#include "svm_tree_types.h"

#include <stdlib.h>

/* Changes from which a page's subtrees are hashed one by one; lines of a page that are read ahead from above. */
enum { FLUSH = 4096, SOON = 4 };

/* Notes. */

static bool note(svm_work *work, svm_buffer *to, const void *what, size_t size) {
    if (to->room - to->size < size && !svm_buffer_room(to, size)) {
        work->error = SVM_TREE_NO_MEMORY;
        return false;
    }
    memcpy(to->bytes + to->size, what, size);
    to->size += size;
    return true;
}

static void note_made(svm_work *work, const svm_page *page, const uint8_t *path, uint32_t depth) {
    work->unit->written_count++;
    if (work->tree->emit) {
        note(work, &work->unit->made, &(svm_made){page, path, depth}, sizeof(svm_made));
    }
}

void svm_note_stale(svm_work *work, const uint8_t *path, uint32_t depth, uint64_t height) {
    uint8_t key[1 + SVM_PAGE_KEY_MAX];
    work->unit->stale_count++;
    if (work->tree->emit) {
        key[0] = (uint8_t)svm_page_key(key + 1, path, depth, height);
        note(work, &work->unit->stale, key, 1 + (size_t)key[0]);
    }
}

static void note_left(svm_work *work, const svm_page *page) {
    note(work, &work->unit->left, &page, sizeof page);
    work->unit->left_cells += page->cells;
}

/* Undoing. */

svm_piece *svm_piece_new(svm_tree *tree) {
    svm_lock_take(&tree->store.lock);
    svm_piece *piece = tree->pieces;
    if (piece != NULL) {
        tree->pieces = piece->next;
        tree->pieces_count--;
    }
    svm_lock_give(&tree->store.lock);
    return piece != NULL ? piece : malloc(sizeof *piece);
}

/* Where a record of up to `most` bytes goes; NULL where there is no memory. */
static uint8_t *undo_room(svm_work *work, size_t most) {
    svm_piece *piece = work->unit->undo;
    if (piece == NULL || sizeof piece->bytes - piece->size < most) {
        svm_piece *next = svm_piece_new(work->tree);
        if (next == NULL) {
            work->error = SVM_TREE_NO_MEMORY;
            return NULL;
        }
        next->next = piece;
        next->size = 0;
        work->unit->undo = piece = next;
    }
    return piece->bytes + piece->size;
}

static uint8_t *save(uint8_t *out, const void *what, size_t size) {
    memcpy(out, what, size);
    return out + size;
}

static const uint8_t *restore(void *what, const uint8_t *from, size_t size) {
    memcpy(what, from, size);
    return from + size;
}

/* Settling a page. */

/* Bit i is set where bit 2i or bit 2i + 1 is. */
static uint32_t pairs_of(uint32_t mask) {
    mask = (mask | mask >> 1) & 0x5555u;
    mask = (mask | mask >> 1) & 0x3333u;
    mask = (mask | mask >> 2) & 0x0f0fu;
    return (mask | mask >> 4) & 0xffu;
}

/* The nodes that have one of these slots below them, and the slots. */
static uint32_t above(uint32_t slots) {
    const uint32_t eights = pairs_of(slots), fours = pairs_of(eights), twos = pairs_of(fours);
    return slots << 16 | eights << 8 | fours << 4 | twos << 2 | (twos != 0 ? 2 : 0);
}

/* The nodes that are over two leaves or more, or over a child. */
static uint32_t hashes_of(uint32_t leaves, uint32_t children) {
    uint32_t hashes = above(children), nodes = leaves;
    uint32_t twice = 0;
    for (uint32_t shift = 8; shift > 0; shift /= 2) {
        const uint32_t both = nodes & nodes >> 1 & 0x5555u;
        twice = pairs_of(both | twice);
        hashes |= twice << shift;
        nodes = pairs_of(nodes);
    }
    return hashes;
}

/* The slots below a node. */
static uint32_t slots_below(uint32_t node) {
    const uint32_t level = 31 - (uint32_t)__builtin_clz(node), wide = 16 >> level;
    return ((1u << wide) - 1) << (node - (1u << level)) * wide;
}

static bool same_hash(const uint8_t *a, const uint8_t *b) {
    uint64_t x[4], y[4];
    memcpy(x, a, SVM_HASH);
    memcpy(y, b, SVM_HASH);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

/* Whether a page can be changed in its place: each slot stays of its kind, and no leaf becomes another key's. */
static bool same_shape(const svm_slots *slots) {
    const svm_page *old = slots->old;
    if (old == NULL || old->leaves != slots->leaves || old->children != slots->children) {
        return false;
    }
    for (uint32_t left = slots->leaves & slots->dirty; left != 0; left &= left - 1) {
        const uint32_t slot = svm_lowest(left);
        if (!same_hash(svm_leaf_of(old, slot), slots->grown[slot].leaf)) {
            return false;
        }
    }
    return true;
}

/* Where the hash of each child and the bytes of each leaf are, by number of the node: those of a change where it is
 * hashed with the others. */
typedef const uint8_t *places[32];

static void put_child(svm_work *work, svm_child *child, const svm_grown *from, uint32_t depth) {
    child->height = from->height;
    child->page = from->page;
    if (from->hash != NULL) {
        memcpy(child->hash, from->hash, SVM_HASH);
    } else {
        svm_work_node(work, 4 * depth + 4, child->hash, from->left, from->right);
    }
}

/* Changes a page, noting what was there. */
static bool change(svm_work *work, const svm_slots *slots, uint32_t depth, places at) {
    svm_page *page = slots->old;
    uint8_t *out = undo_room(work, sizeof(svm_undo) + SVM_SLOTS * sizeof(svm_child));
    if (out == NULL) {
        return false;
    }
    const uint8_t *first = out;
    svm_undo *undo = (svm_undo *)(void *)out;
    undo->page = page;
    undo->dirty = slots->dirty;
    out += sizeof *undo;
    svm_child *child = svm_page_children(page);
    for (uint32_t left = slots->children; left != 0; left &= left - 1, child++) {
        const uint32_t slot = svm_lowest(left);
        if (slots->dirty >> slot & 1) {
            out = save(out, child, sizeof *child);
            put_child(work, child, &slots->grown[slot], depth);
        }
        at[16 + slot] = child->hash;
    }
    uint8_t *leaf = (uint8_t *)child;
    for (uint32_t left = slots->leaves; left != 0; left &= left - 1, leaf += SVM_LEAF) {
        const uint32_t slot = svm_lowest(left);
        at[16 + slot] = leaf;
        if (slots->dirty >> slot & 1) {
            const uint8_t *from = slots->grown[slot].leaf;
            out = save(out, leaf + SVM_HASH, SVM_HASH);
            memcpy(leaf + SVM_HASH, from + SVM_HASH, SVM_HASH);
            at[16 + slot] = svm_work_has(work, from) ? from : leaf;
        }
    }
    work->unit->undo->size += (size_t)(out - first);
    return true;
}

/* Fills a new page. */
static void fill(svm_work *work, svm_page *page, const svm_slots *slots, uint32_t depth, places at) {
    svm_child *child = svm_page_children(page);
    for (uint32_t left = slots->children; left != 0; left &= left - 1, child++) {
        const uint32_t slot = svm_lowest(left);
        if (slots->dirty >> slot & 1) {
            put_child(work, child, &slots->grown[slot], depth);
        } else {
            *child = *svm_child_of(slots->old, slot);
        }
        at[16 + slot] = child->hash;
    }
    uint8_t *leaf = (uint8_t *)child;
    for (uint32_t left = slots->leaves; left != 0; left &= left - 1, leaf += SVM_LEAF) {
        const uint32_t slot = svm_lowest(left);
        const uint8_t *from = slots->dirty >> slot & 1 ? slots->grown[slot].leaf : svm_leaf_of(slots->old, slot);
        memcpy(leaf, from, SVM_LEAF);
        at[16 + slot] = svm_work_has(work, from) ? from : leaf;
    }
}

/* The hash of a node, where it is or will be. */
static const uint8_t *side(svm_work *work, const svm_page *page, uint32_t hashes, const places at, uint32_t node) {
    if (hashes >> node & 1) {
        return at[node];
    }
    const uint32_t leaf = slots_below(node) & page->leaves;
    return leaf == 0 ? SVM_NO_HASH : svm_work_leaf(work, at[16 + svm_lowest(leaf)]);
}

/* Asks for the hash of each node that is new, from the bottom. `old`, where it is another page, has those that are not,
 * if it keeps them. */
static void ask_hashes(svm_work *work, svm_page *page, const svm_page *old, uint32_t below, uint32_t depth, places at,
                       svm_grown *grown) {
    const uint32_t hashes = page->inner | (uint32_t)page->children << 16;
    const uint32_t kept = old != NULL && old->keeps ? old->inner & ~below : 0;
    uint32_t ask = page->inner;
    uint8_t *inner = svm_page_inner(page);
    for (uint32_t left = page->keeps ? page->inner : 0; left != 0; left &= left - 1, inner += SVM_HASH) {
        at[svm_lowest(left)] = inner;
    }
    if (old == page) {
        ask &= ~kept;
    } else if (kept != 0) {
        const uint8_t *from = svm_page_inner(old);
        for (uint32_t left = old->inner; left != 0; left &= left - 1, from += SVM_HASH) {
            const uint32_t node = svm_lowest(left);
            if (ask & kept & 1u << node) {
                ask &= ~(1u << node);
                if (page->keeps) {
                    memcpy((uint8_t *)(uintptr_t)at[node], from, SVM_HASH);
                } else {
                    at[node] = from;
                }
            }
        }
    }
    while (ask != 0) {
        const uint32_t node = 31 - (uint32_t)__builtin_clz(ask);
        ask &= ~(1u << node);
        uint8_t *out = page->keeps ? (uint8_t *)(uintptr_t)at[node] : svm_work_hash(work);
        if (out == NULL) {
            return;
        }
        at[node] = out;
        const uint8_t *left = side(work, page, hashes, at, 2 * node), *right = side(work, page, hashes, at, 2 * node + 1);
        svm_work_node(work, 4 * depth + (node < 4 ? 1 : node < 8 ? 2 : 3), out, left, right);
    }
    grown->left = side(work, page, hashes, at, 2);
    grown->right = side(work, page, hashes, at, 3);
}

/* Takes back what was done to a page, and asks for what its inner nodes were. */
static const uint8_t *undo_page(svm_work *work, const uint8_t *from) {
    svm_undo undo;
    places at;
    svm_grown unused;
    from = restore(&undo, from, sizeof undo);
    svm_child *child = svm_page_children(undo.page);
    for (uint32_t left = undo.page->children; left != 0; left &= left - 1, child++) {
        if (undo.dirty >> svm_lowest(left) & 1) {
            from = restore(child, from, sizeof *child);
        }
        at[16 + svm_lowest(left)] = child->hash;
    }
    uint8_t *leaf = svm_page_leaves(undo.page);
    for (uint32_t left = undo.page->leaves; left != 0; left &= left - 1, leaf += SVM_LEAF) {
        if (undo.dirty >> svm_lowest(left) & 1) {
            from = restore(leaf + SVM_HASH, from, SVM_HASH);
        }
        at[16 + svm_lowest(left)] = leaf;
    }
    if (undo.page->keeps) {
        ask_hashes(work, undo.page, undo.page, above(undo.dirty), 0, at, &unused);
    }
    return from;
}

void svm_undo_all(svm_work *work, const svm_unit *unit) {
    for (const svm_piece *piece = unit->undo; piece != NULL; piece = piece->next) {
        const uint8_t *from = piece->bytes;
        while (from < piece->bytes + piece->size) {
            from = undo_page(work, from);
        }
        svm_work_hash_all(work);
    }
}

void svm_settle(svm_work *work, const svm_slots *slots, uint32_t depth, const uint8_t *path, bool root,
                svm_grown *grown) {
    const uint32_t filled = slots->leaves | slots->children;
    const bool lone = slots->children == 0 && (filled & (filled - 1)) == 0;
    grown->kind = SVM_NOTHING;
    if (lone && !root) {
        if (filled != 0) {
            const uint32_t slot = svm_lowest(filled);
            grown->kind = SVM_ONE_LEAF;
            grown->leaf = slots->dirty >> slot & 1 ? slots->grown[slot].leaf : svm_leaf_of(slots->old, slot);
        }
        if (slots->old != NULL) {
            note_left(work, slots->old);
        }
        return;
    }
    const uint32_t below = above(slots->dirty);
    places at;
    svm_page *page = slots->old;
    if (same_shape(slots)) {
        if (!change(work, slots, depth, at)) {
            return;
        }
    } else {
        const uint32_t inner = hashes_of(slots->leaves, slots->children) & 0xfffcu;
        page = svm_page_new(&work->tree->store, &work->cells, slots->children, slots->leaves, inner);
        if (page == NULL || !note(work, &work->unit->fresh, &page, sizeof page)) {
            work->error = SVM_TREE_NO_MEMORY;
            return;
        }
        work->unit->fresh_cells += page->cells;
        fill(work, page, slots, depth, at);
        if (slots->old != NULL) {
            note_left(work, slots->old);
        }
    }
    page->used = work->tree->updates;
    grown->kind = SVM_NEW_PAGE;
    grown->page = page;
    grown->height = work->tree->height;
    grown->hash = NULL;
    if (!lone) {
        ask_hashes(work, page, slots->old, below, depth, at, grown);
    } else {
        grown->hash = filled == 0 ? SVM_NO_HASH : svm_work_leaf(work, at[16 + svm_lowest(filled)]);
    }
    note_made(work, page, path, depth);
}

/* Growing. */

/* Each subtree of a page with many changes is hashed on its own, while its pages are near. No hash is then left to make
 * for a sibling, so the work may forget what it holds. */
static void hash_early(svm_work *work, svm_grown *grown, uint32_t depth, uint8_t *hash) {
    if (grown->kind == SVM_NEW_PAGE && grown->hash == NULL) {
        svm_work_node(work, 4 * depth, hash, grown->left, grown->right);
        grown->hash = hash;
    }
    svm_work_hash_all(work);
}

/* The page at `depth` of two leaves or more, from nothing: items[first] and on. */
static void grow_fresh(svm_work *work, uint32_t depth, uint32_t first, uint32_t count, svm_grown *grown) {
    const uint8_t *const *items = (const uint8_t *const *)(const void *)work->items.bytes;
    uint8_t early[SVM_SLOTS][SVM_HASH];
    svm_slots slots;
    svm_no_slots(&slots);
    for (uint32_t at = first; at < first + count && work->error == SVM_TREE_OK;) {
        const uint32_t slot = svm_nibble(items[at], depth);
        uint32_t end = at + 1;
        while (end < first + count && svm_nibble(items[end], depth) == slot) {
            end++;
        }
        slots.grown[slot].kind = SVM_ONE_LEAF;
        slots.grown[slot].leaf = items[at];
        if (end - at > 1) {
            grow_fresh(work, depth + 1, at, end - at, &slots.grown[slot]);
            if (count > FLUSH) {
                hash_early(work, &slots.grown[slot], depth + 1, early[slot]);
            }
        }
        svm_put(&slots, slot);
        at = end;
    }
    svm_settle(work, &slots, depth, items[first], false, grown);
}

static bool add_item(svm_work *work, const uint8_t *leaf) { return note(work, &work->items, &leaf, sizeof leaf); }

/* The leaf of the i-th of the sorted changes, also of one that removes. */
static const uint8_t *change_leaf(const svm_work *work, uint32_t i) {
    return work->leaves.bytes + (size_t)SVM_LEAF * (i - work->first);
}

/* What a slot with `leaf` (NULL: nothing) becomes by one change of its key, or of any where there is nothing. */
static void grow_one(const svm_work *work, const uint8_t *leaf, uint32_t i, svm_grown *grown) {
    const uint8_t *change = change_leaf(work, i);
    if (work->tree->sorted[i].removes) {
        grown->kind = leaf == NULL ? SVM_SAME : SVM_NOTHING;
    } else {
        grown->kind = leaf != NULL && same_hash(leaf + SVM_HASH, change + SVM_HASH) ? SVM_SAME : SVM_ONE_LEAF;
        grown->leaf = change;
    }
}

/* Lists the leaves of a slot after the changes from `lo` to `hi`; `leaf` (NULL: none) was its only one. */
static bool list_items(svm_work *work, const uint8_t *leaf, uint32_t lo, uint32_t hi) {
    work->items.size = 0;
    for (uint32_t i = lo; i < hi; i++) {
        const uint8_t *change = change_leaf(work, i);
        const int order = leaf == NULL ? 1 : memcmp(leaf, change, SVM_HASH);
        if (order < 0 && !add_item(work, leaf)) {
            return false;
        }
        if (order <= 0) {
            leaf = NULL;
        }
        if (!work->tree->sorted[i].removes && !add_item(work, change)) {
            return false;
        }
    }
    return leaf == NULL || add_item(work, leaf);
}

/* What a slot that holds `leaf` (NULL: nothing) becomes, its subtree being at `depth`. */
static void grow_leaf(svm_work *work, const uint8_t *leaf, uint32_t depth, uint32_t lo, uint32_t hi,
                      svm_grown *grown) {
    if (hi - lo == 1 && (leaf == NULL || same_hash(leaf, change_leaf(work, lo)))) {
        grow_one(work, leaf, lo, grown);
        return;
    }
    grown->kind = SVM_SAME;
    if (!list_items(work, leaf, lo, hi)) {
        return;
    }
    const uint32_t count = (uint32_t)(work->items.size / sizeof leaf);
    if (count == 0) {
        grown->kind = leaf == NULL ? SVM_SAME : SVM_NOTHING;
    } else if (count == 1) {
        memcpy(&grown->leaf, work->items.bytes, sizeof grown->leaf);
        grown->kind = leaf != NULL && memcmp(leaf, grown->leaf, SVM_LEAF) == 0 ? SVM_SAME : SVM_ONE_LEAF;
    } else {
        grow_fresh(work, depth, 0, count, grown);
    }
}

typedef struct {
    uint32_t slot, lo, hi;
} group;

static void read_ahead(const void *at, uint32_t from, uint32_t lines) {
    for (uint32_t line = from; line < lines; line++) {
        __builtin_prefetch((const uint8_t *)at + 64 * (size_t)line);
    }
}

/* The changes by slot; pages that they lead to are read ahead. */
static uint32_t groups_of(const svm_work *work, const svm_page *page, uint32_t depth, uint32_t lo, uint32_t hi,
                          group groups[SVM_SLOTS]) {
    const svm_tree *tree = work->tree;
    uint32_t count = 0;
    while (lo < hi) {
        const uint32_t slot = svm_sorted_nibble(tree, lo, depth), first = lo++;
        while (lo < hi && svm_sorted_nibble(tree, lo, depth) == slot) {
            lo++;
        }
        if (page->children >> slot & 1) {
            read_ahead(svm_child_of(page, slot)->page, 0, SOON);
        }
        groups[count++] = (group){slot, first, lo};
    }
    return count;
}

/* Reads ahead the pages that changes go to from a page which is near already. */
static void read_ahead_below(const svm_work *work, const svm_page *page, uint32_t depth, uint32_t lo, uint32_t hi) {
    uint32_t seen = ~(uint32_t)page->children;
    read_ahead(page, SOON, (page->cells + 3u) / 4);
    for (uint32_t i = lo; i < hi; i++) {
        const uint32_t slot = svm_sorted_nibble(work->tree, i, depth);
        if ((seen >> slot & 1) == 0) {
            seen |= 1u << slot;
            read_ahead(svm_child_of(page, slot)->page, 0, SOON);
        }
    }
}

static void grow_page(svm_work *work, const svm_child *of, uint32_t depth, uint32_t lo, uint32_t hi,
                      svm_grown *grown) {
    const uint8_t *path = change_leaf(work, lo);
    uint8_t early[SVM_SLOTS][SVM_HASH];
    group groups[SVM_SLOTS];
    svm_slots slots;
    svm_slots_of(&slots, of->page);
    const uint32_t count = groups_of(work, of->page, depth, lo, hi, groups);
    for (uint32_t i = 0; i < count && work->error == SVM_TREE_OK; i++) {
        const uint32_t slot = groups[i].slot;
        if (i + 1 < count && (of->page->children >> groups[i + 1].slot & 1)) {
            const group *next = &groups[i + 1];
            read_ahead_below(work, svm_child_of(of->page, next->slot)->page, depth + 1, next->lo, next->hi);
        }
        svm_grow_slot(work, &slots, slot, depth + 1, groups[i].lo, groups[i].hi, &slots.grown[slot]);
        if (slots.grown[slot].kind == SVM_SAME) {
            continue;
        }
        if (hi - lo > FLUSH) {
            hash_early(work, &slots.grown[slot], depth + 1, early[slot]);
        }
        svm_put(&slots, slot);
    }
    if (slots.dirty == 0 || work->error != SVM_TREE_OK) {
        grown->kind = SVM_SAME;
        return;
    }
    svm_note_stale(work, path, depth, of->height);
    svm_settle(work, &slots, depth, path, false, grown);
}

void svm_grow_slot(svm_work *work, const svm_slots *slots, uint32_t slot, uint32_t depth, uint32_t lo, uint32_t hi,
                   svm_grown *grown) {
    const uint32_t bit = 1u << slot;
    if (slots->dirty & bit) { /* the crown's, of a page that is not there yet */
        grow_leaf(work, slots->leaves & bit ? slots->grown[slot].leaf : NULL, depth, lo, hi, grown);
    } else if (slots->children & bit) {
        grow_page(work, svm_child_of(slots->old, slot), depth, lo, hi, grown);
    } else {
        grow_leaf(work, slots->leaves & bit ? svm_leaf_of(slots->old, slot) : NULL, depth, lo, hi, grown);
    }
}
