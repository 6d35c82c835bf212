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

static bool same_hash(const uint8_t *a, const uint8_t *b) {
    uint64_t x[4], y[4];
    memcpy(x, a, SVM_HASH);
    memcpy(y, b, SVM_HASH);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

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
static bool change(svm_work *work, const svm_slots *slots, uint32_t depth) {
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
    for (uint32_t left = slots->children & slots->dirty; left != 0; left &= left - 1) {
        const uint32_t slot = svm_lowest(left);
        svm_child *child = svm_child_of(page, slot);
        out = save(out, child, sizeof *child);
        put_child(work, child, &slots->grown[slot], depth);
    }
    for (uint32_t left = slots->leaves & slots->dirty; left != 0; left &= left - 1) {
        const uint32_t slot = svm_lowest(left);
        uint8_t *second = svm_leaf_of(page, slot) + SVM_HASH;
        out = save(out, second, SVM_HASH);
        memcpy(second, slots->grown[slot].leaf + SVM_HASH, SVM_HASH);
    }
    work->unit->undo->size += (size_t)(out - first);
    return true;
}

/* Fills a new page. */
static void fill(svm_work *work, svm_page *page, const svm_slots *slots, uint32_t depth) {
    svm_child *child = svm_page_children(page);
    for (uint32_t left = slots->children; left != 0; left &= left - 1, child++) {
        const uint32_t slot = svm_lowest(left);
        if (slots->dirty >> slot & 1) {
            put_child(work, child, &slots->grown[slot], depth);
        } else {
            *child = *svm_child_of(slots->old, slot);
        }
    }
    uint8_t *leaf = (uint8_t *)child;
    for (uint32_t left = slots->leaves; left != 0; left &= left - 1, leaf += SVM_LEAF) {
        const uint32_t slot = svm_lowest(left);
        memcpy(leaf, slots->dirty >> slot & 1 ? slots->grown[slot].leaf : svm_leaf_of(slots->old, slot), SVM_LEAF);
    }
}

/* Asking for the hashes of a page's nodes. */

/* Where the hash of a node is or will be, SVM_NO_HASH's for nothing. That of a leaf which no one holds is made only
 * where a node above it is: until then its place is the leaf's, plus one. */
typedef uintptr_t place;

static const uint8_t *hash_at(svm_work *work, place of) {
    return of & 1 ? svm_work_leaf(work, (const uint8_t *)(of - 1)) : (const uint8_t *)of;
}

/* The place of a leaf in a page; `from` is what a change brings, NULL where none does. */
static place leaf_place(const svm_work *work, const uint8_t *leaf, const uint8_t *from) {
    if (work->tree->lean) {
        return (place)leaf + SVM_HASH;
    }
    if (from != NULL && svm_work_has(work, from)) { /* hashed with the others */
        return (place)(work->leaf_hashes.bytes + (size_t)(from - work->leaves.bytes) / 2);
    }
    return (place)leaf + 1;
}

/* The subtree of a page of few slots that is being joined with its neighbours. */
typedef struct {
    place at;
    uint32_t slot;  /* one of its */
    uint32_t level; /* in the page: 0 is all of it, 4 a slot; of one leaf alone, any */
    bool leaf;
} part;

/* Asks for the nodes over a part up to that at `level`, which have nothing else below. */
static bool raise(svm_work *work, part *of, uint32_t level, uint32_t depth) {
    const place none = (place)SVM_NO_HASH;
    while (!of->leaf && of->level > level) {
        uint8_t *out = svm_work_hash(work);
        if (out == NULL) {
            return false;
        }
        of->level--;
        const bool right = of->slot >> (3 - of->level) & 1;
        svm_work_node(work, 4 * depth + of->level, out, (const uint8_t *)(right ? none : of->at),
                      (const uint8_t *)(right ? of->at : none));
        of->at = (place)out;
    }
    return true;
}

/* All nodes of a page of few slots: the two parts that split lowest are joined, again and again. */
static void ask_few(svm_work *work, const svm_page *page, const svm_slots *slots, uint32_t depth, svm_grown *grown) {
    part parts[SVM_INNER_ABOVE];
    uint32_t count = 0;
    const svm_child *child = svm_page_children(page);
    const uint8_t *leaf = svm_page_leaves(page);
    for (uint32_t left = page->leaves | page->children; left != 0; left &= left - 1, count++) {
        const uint32_t slot = svm_lowest(left);
        part *of = &parts[count];
        of->slot = slot;
        of->level = 4;
        of->leaf = page->leaves >> slot & 1;
        if (of->leaf) {
            of->at = leaf_place(work, leaf, slots->dirty >> slot & 1 ? slots->grown[slot].leaf : NULL);
            leaf += SVM_LEAF;
        } else {
            of->at = (place)child->hash;
            child++;
        }
    }
    while (count > 1) {
        uint32_t lowest = 0, least = parts[0].slot ^ parts[1].slot;
        for (uint32_t i = 1; i + 1 < count; i++) {
            const uint32_t apart = parts[i].slot ^ parts[i + 1].slot;
            lowest = apart < least ? i : lowest;
            least = apart < least ? apart : least;
        }
        part *left = &parts[lowest], *right = left + 1;
        const uint32_t level = (uint32_t)__builtin_clz(least) - 28;
        if (!raise(work, left, level + 1, depth) || !raise(work, right, level + 1, depth)) {
            return;
        }
        if (level == 0) {
            grown->left = hash_at(work, left->at);
            grown->right = hash_at(work, right->at);
            return;
        }
        uint8_t *out = svm_work_hash(work);
        if (out == NULL) {
            return;
        }
        svm_work_node(work, 4 * depth + level, out, hash_at(work, left->at), hash_at(work, right->at));
        *left = (part){(place)out, left->slot, level, false};
        count--;
        for (uint32_t i = lowest + 1; i < count; i++) {
            parts[i] = parts[i + 1];
        }
    }
    if (raise(work, &parts[0], 1, depth)) {
        const bool right = parts[0].slot >> 3 & 1;
        grown->left = right ? SVM_NO_HASH : (const uint8_t *)parts[0].at;
        grown->right = right ? (const uint8_t *)parts[0].at : SVM_NO_HASH;
    }
}

/* By the number of the node. */
typedef place places[32];

static void locate(const svm_work *work, const svm_page *page, const svm_slots *slots, places at) {
    const place none = (place)SVM_NO_HASH;
    for (uint32_t slot = 0; slot < SVM_SLOTS; slot++) {
        at[16 + slot] = none;
    }
    place child = (place)svm_page_children(page);
    for (uint32_t left = page->children; left != 0; left &= left - 1, child += sizeof(svm_child)) {
        at[16 + svm_lowest(left)] = child;
    }
    place leaf = child + (work->tree->lean ? SVM_HASH : 1);
    for (uint32_t left = page->leaves; left != 0; left &= left - 1, leaf += SVM_LEAF) {
        at[16 + svm_lowest(left)] = leaf;
    }
    const uint32_t changed = slots == NULL || work->tree->lean ? 0 : page->leaves & slots->dirty;
    for (uint32_t left = changed; left != 0; left &= left - 1) {
        const uint32_t slot = svm_lowest(left);
        at[16 + slot] = leaf_place(work, svm_leaf_of(page, slot), slots->grown[slot].leaf);
    }
    place inner = (place)svm_page_inner(page) + (place)SVM_HASH * svm_bits(page->inner);
    for (uint32_t node = 15; node > 1; node--) {
        /* Over one leaf, or nothing, a node is what is below. Which it is can't be foreseen, so nothing branches. */
        const place low = at[2 * node], high = at[2 * node + 1], is = 0 - (place)(page->inner >> node & 1);
        const place up = low ^ ((low ^ high) & (0 - (place)(low == none)));
        inner -= SVM_HASH & is;
        at[node] = up ^ ((up ^ inner) & is);
    }
}

/* Nodes as they were are taken from the page before; gives the others of `ask`. */
static uint32_t take_kept(const svm_page *old, uint32_t below, uint32_t ask, const places at) {
    const uint8_t *from = svm_page_inner(old);
    for (uint32_t left = old->inner; left != 0; left &= left - 1, from += SVM_HASH) {
        const uint32_t bit = left & (0u - left);
        if (ask & ~below & bit) {
            memcpy((uint8_t *)at[svm_lowest(left)], from, SVM_HASH);
            ask &= ~bit;
        }
    }
    return ask;
}

/* Nodes of a page that keeps its inner ones, those in `ask`. */
static void ask_some(svm_work *work, uint32_t ask, uint32_t depth, const places at, svm_grown *grown) {
    for (; ask != 0; ask &= ask - 1) {
        const uint32_t node = svm_lowest(ask);
        svm_work_node(work, 4 * depth + (node < 4 ? 1 : node < 8 ? 2 : 3), (uint8_t *)at[node],
                      hash_at(work, at[2 * node]), hash_at(work, at[2 * node + 1]));
    }
    grown->left = hash_at(work, at[2]);
    grown->right = hash_at(work, at[3]);
}

static void ask_hashes(svm_work *work, const svm_page *page, const svm_slots *slots, uint32_t depth,
                       svm_grown *grown) {
    const svm_page *old = slots->old;
    if (!page->keeps) {
        ask_few(work, page, slots, depth, grown);
        return;
    }
    places at;
    uint32_t ask = page->inner;
    locate(work, page, slots, at);
    if (old == page) {
        ask &= above(slots->dirty);
    } else if (old != NULL && old->keeps) {
        ask = take_kept(old, above(slots->dirty), ask, at);
    }
    ask_some(work, ask, depth, at, grown);
}

/* Takes back what was done to a page, and asks for what its inner nodes were. */
static const uint8_t *undo_page(svm_work *work, const uint8_t *from) {
    svm_undo undo;
    places at;
    svm_grown unused;
    from = restore(&undo, from, sizeof undo);
    for (uint32_t left = undo.page->children & undo.dirty; left != 0; left &= left - 1) {
        from = restore(svm_child_of(undo.page, svm_lowest(left)), from, sizeof(svm_child));
    }
    for (uint32_t left = undo.page->leaves & undo.dirty; left != 0; left &= left - 1) {
        from = restore(svm_leaf_of(undo.page, svm_lowest(left)) + SVM_HASH, from, SVM_HASH);
    }
    if (undo.page->keeps) {
        locate(work, undo.page, NULL, at);
        ask_some(work, undo.page->inner & above(undo.dirty), 0, at, &unused);
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
    grown->moved = false;
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
    svm_page *page = slots->old;
    /* Each slot stays of its kind, and no leaf becomes another key's. */
    if (page != NULL && page->leaves == slots->leaves && page->children == slots->children && !slots->moved) {
        if (!change(work, slots, depth)) {
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
        fill(work, page, slots, depth);
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
        ask_hashes(work, page, slots, depth, grown);
    } else { /* the root's */
        grown->hash = filled == 0 ? SVM_NO_HASH : hash_at(work, leaf_place(work, svm_page_leaves(page), NULL));
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
        slots.grown[slot].moved = false;
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
    grown->kind = SVM_SAME;
    grown->moved = false;
    if (hi - lo == 1) {
        const uint8_t *change = change_leaf(work, lo);
        const bool removes = work->tree->sorted[lo].removes;
        if (leaf == NULL || same_hash(leaf, change)) {
            grown->leaf = change;
            grown->kind = removes                 ? (leaf == NULL ? SVM_SAME : SVM_NOTHING)
                          : leaf == NULL          ? SVM_ONE_LEAF
                          : same_hash(leaf + SVM_HASH, change + SVM_HASH) ? SVM_SAME
                                                  : SVM_ONE_LEAF;
            return;
        }
        if (removes) {
            return;
        }
    }
    if (!list_items(work, leaf, lo, hi)) {
        return;
    }
    const uint32_t count = (uint32_t)(work->items.size / sizeof leaf);
    if (count == 0) {
        grown->kind = leaf == NULL ? SVM_SAME : SVM_NOTHING;
    } else if (count == 1) {
        memcpy(&grown->leaf, work->items.bytes, sizeof grown->leaf);
        grown->moved = leaf != NULL && !same_hash(leaf, grown->leaf);
        grown->kind = leaf != NULL && memcmp(leaf, grown->leaf, SVM_LEAF) == 0 ? SVM_SAME : SVM_ONE_LEAF;
    } else {
        grow_fresh(work, depth, 0, count, grown);
    }
}

/* Changes of one slot, up to `hi`. */
typedef struct {
    uint32_t slot, hi;
} group;

static void read_ahead(const void *at, uint32_t from, uint32_t lines) {
    for (uint32_t line = from; line < lines; line++) {
        __builtin_prefetch((const uint8_t *)at + 64 * (size_t)line);
    }
}

/* The changes by slot; pages that they lead to are read ahead. */
static uint32_t groups_of(const svm_work *work, const svm_page *page, uint32_t depth, uint32_t lo, uint32_t hi,
                          group groups[SVM_SLOTS + 1]) {
    uint32_t count = 0, before = UINT32_MAX;
    for (uint32_t i = lo; i < hi; i++) {
        const uint32_t slot = svm_sorted_nibble(work->tree, i, depth);
        count += slot != before;
        groups[count].slot = before = slot;
        groups[count].hi = i + 1;
    }
    for (uint32_t i = 1; i <= count; i++) {
        if (page->children >> groups[i].slot & 1) {
            read_ahead(svm_child_of(page, groups[i].slot)->page, 0, SOON);
        }
    }
    return count;
}

/* Reads ahead the pages that changes go to from a page which is near already. */
static void read_ahead_below(const svm_work *work, const svm_page *page, uint32_t depth, uint32_t lo, uint32_t hi) {
    read_ahead(page, SOON, (page->cells + 3u) / 4);
    if (page->children == 0) {
        return;
    }
    uint32_t seen = ~(uint32_t)page->children;
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
    const bool many = hi - lo > FLUSH;
    uint8_t early[SVM_SLOTS][SVM_HASH];
    group groups[SVM_SLOTS + 1];
    svm_slots slots;
    svm_slots_of(&slots, of->page);
    const uint32_t count = groups_of(work, of->page, depth, lo, hi, groups);
    for (uint32_t i = 1; i <= count && work->error == SVM_TREE_OK; lo = groups[i++].hi) {
        const uint32_t slot = groups[i].slot;
        if (i < count && (of->page->children >> groups[i + 1].slot & 1)) {
            read_ahead_below(work, svm_child_of(of->page, groups[i + 1].slot)->page, depth + 1, groups[i].hi,
                             groups[i + 1].hi);
        }
        svm_grow_slot(work, &slots, slot, depth + 1, lo, groups[i].hi, &slots.grown[slot]);
        if (slots.grown[slot].kind == SVM_SAME) {
            continue;
        }
        if (many) {
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
