/* New pages from old ones and sorted changes: what they hold first, then their hashes, level by level. */
#include "svm_tree_types.h"

#include <stdlib.h>

#include "svm_blake3.h"

static const uint8_t NO_HASH[SVM_HASH];

/* Work: one thread's memory. */

enum { KEEP_BYTES = 1 << 22, TOGETHER = 64 };

uint8_t *svm_work_hash(svm_work *work) {
    if (work->arena_at == work->arena_count || work->arena_used + SVM_HASH > SVM_ARENA_BYTES) {
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
        work->arena_used = 0;
    }
    uint8_t *hash = work->arena[work->arena_at] + work->arena_used;
    work->arena_used += SVM_HASH;
    return hash;
}

bool svm_work_node(svm_work *work, uint32_t bits, uint8_t *out, const uint8_t *left, const uint8_t *right) {
    svm_buffer *jobs = &work->jobs[bits];
    if (jobs->room - jobs->size < sizeof(svm_node_job) && !svm_buffer_room(jobs, sizeof(svm_node_job))) {
        work->error = SVM_TREE_NO_MEMORY;
        return false;
    }
    const svm_node_job job = {out, left, right};
    memcpy(jobs->bytes + jobs->size, &job, sizeof job);
    jobs->size += sizeof job;
    work->deepest = bits > work->deepest ? bits : work->deepest;
    return true;
}

bool svm_work_leaf(svm_work *work, uint8_t *out, const uint8_t *leaf) {
    svm_buffer *jobs = &work->leaf_jobs;
    if (jobs->room - jobs->size < sizeof(svm_leaf_job) && !svm_buffer_room(jobs, sizeof(svm_leaf_job))) {
        work->error = SVM_TREE_NO_MEMORY;
        return false;
    }
    const svm_leaf_job job = {out, leaf};
    memcpy(jobs->bytes + jobs->size, &job, sizeof job);
    jobs->size += sizeof job;
    return true;
}

static void hash_leaves(svm_work *work) {
    uint8_t from[TOGETHER * SVM_LEAF], to[TOGETHER * SVM_HASH];
    const svm_leaf_job *jobs = (const svm_leaf_job *)(const void *)work->leaf_jobs.bytes;
    const size_t count = work->leaf_jobs.size / sizeof *jobs;
    for (size_t first = 0; first < count; first += TOGETHER) {
        const uint32_t here = count - first < TOGETHER ? (uint32_t)(count - first) : TOGETHER;
        for (uint32_t i = 0; i < here; i++) {
            memcpy(from + SVM_LEAF * i, jobs[first + i].leaf, SVM_LEAF);
        }
        svm_blake3_nodes(0, from, here, to);
        for (uint32_t i = 0; i < here; i++) {
            memcpy(jobs[first + i].out, to + SVM_HASH * i, SVM_HASH);
        }
    }
    work->leaves_hashed += (uint32_t)count;
    svm_buffer_reset(&work->leaf_jobs, KEEP_BYTES);
}

static void hash_level(svm_work *work, uint32_t bits) {
    uint8_t from[TOGETHER * 2 * SVM_HASH], to[TOGETHER * SVM_HASH];
    svm_buffer *of = &work->jobs[bits];
    const svm_node_job *jobs = (const svm_node_job *)(const void *)of->bytes;
    const size_t count = of->size / sizeof *jobs;
    for (size_t first = 0; first < count; first += TOGETHER) {
        const uint32_t here = count - first < TOGETHER ? (uint32_t)(count - first) : TOGETHER;
        for (uint32_t i = 0; i < here; i++) {
            memcpy(from + 2 * SVM_HASH * i, jobs[first + i].left, SVM_HASH);
            memcpy(from + 2 * SVM_HASH * i + SVM_HASH, jobs[first + i].right, SVM_HASH);
        }
        svm_blake3_nodes(1, from, here, to);
        for (uint32_t i = 0; i < here; i++) {
            memcpy(jobs[first + i].out, to + SVM_HASH * i, SVM_HASH);
        }
    }
    work->nodes_hashed += (uint32_t)count;
    svm_buffer_reset(of, KEEP_BYTES);
}

void svm_work_hash_all(svm_work *work) {
    if (work->error == SVM_TREE_OK) {
        hash_leaves(work);
        for (uint32_t bits = work->deepest + 1; bits > 0; bits--) {
            hash_level(work, bits - 1);
        }
    } else {
        svm_buffer_reset(&work->leaf_jobs, 0);
        for (uint32_t bits = 0; bits < SVM_BITS; bits++) {
            svm_buffer_reset(&work->jobs[bits], 0);
        }
    }
    work->deepest = 0;
    work->arena_at = 0;
    work->arena_used = 0;
    while (work->arena_count > KEEP_BYTES / SVM_ARENA_BYTES) {
        free(work->arena[--work->arena_count]);
    }
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

/* There are as many works as threads. */
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

/* Pages. */

static void note_made(svm_work *work, svm_page *page, const uint8_t *path, uint32_t depth) {
    svm_buffer *made = &work->unit->made;
    const svm_made one = {page, path, depth};
    if (!svm_buffer_room(made, sizeof one)) {
        svm_page_free(&work->cells, page);
        work->error = SVM_TREE_NO_MEMORY;
        return;
    }
    memcpy(made->bytes + made->size, &one, sizeof one);
    made->size += sizeof one;
    work->unit->made_cells += page->cells;
}

static void note_left(svm_work *work, svm_page *page, const uint8_t *path, uint32_t depth, uint64_t height, bool emit) {
    svm_unit *unit = work->unit;
    if (!svm_buffer_room(&unit->left, sizeof page) ||
        (emit && !svm_buffer_room(&unit->stale, 1 + SVM_PAGE_KEY_MAX))) {
        work->error = SVM_TREE_NO_MEMORY;
        return;
    }
    memcpy(unit->left.bytes + unit->left.size, &page, sizeof page);
    unit->left.size += sizeof page;
    unit->left_cells += page->cells;
    unit->stale_count++;
    if (emit) {
        uint8_t *out = unit->stale.bytes + unit->stale.size;
        out[0] = (uint8_t)svm_page_key(out + 1, path, depth, height);
        unit->stale.size += 1 + (size_t)out[0];
    }
}

/* The hash of a leaf, made now or with the rest. */
static const uint8_t *leaf_hash(svm_work *work, const uint8_t *leaf) {
    const uintptr_t from = (uintptr_t)work->leaves.bytes, at = (uintptr_t)leaf;
    if (from != 0 && at >= from && at < from + work->leaves.size) {
        return work->leaf_hashes.bytes + (at - from) / 2;
    }
    uint8_t *out = svm_work_hash(work);
    return out != NULL && svm_work_leaf(work, out, leaf) ? out : NO_HASH;
}

svm_grown svm_settle(svm_work *work, const svm_page *old, const svm_slots *slots, uint32_t dirty, uint32_t depth,
                     uint64_t height, bool root) {
    const uint32_t filled = slots->leaves | slots->children;
    svm_grown grown = {SVM_NOTHING, NULL, NULL, NULL, NULL, NULL};
    if (!root && slots->children == 0 && (filled & (filled - 1)) == 0) {
        if (filled != 0) {
            grown.kind = SVM_ONE_LEAF;
            grown.leaf = slots->at[svm_lowest(filled)];
        }
        return grown;
    }
    /* Nodes that are a hash, nodes that are one leaf, and nodes with a change below, by number. */
    uint32_t hashes = slots->children << 16, single = slots->leaves << 16, below = dirty << 16;
    const uint8_t *at[32];
    for (uint32_t i = 15; i >= 1; i--) {
        const uint32_t pair = 3u << 2 * i, two = single & pair;
        below |= (below & pair) != 0 ? 1u << i : 0;
        if ((hashes & pair) != 0 || two == pair) {
            hashes |= 1u << i;
        } else if (two != 0) {
            single |= 1u << i;
            at[i] = NULL;
        }
    }
    const bool keep = svm_bits(filled) > SVM_INNER_ABOVE;
    const uint32_t inner = hashes & 0xfffcu;
    svm_page *page =
        svm_page_new(&work->tree->store, &work->cells, slots->children, slots->leaves, keep ? inner : 0);
    if (page == NULL) {
        work->error = SVM_TREE_NO_MEMORY;
        return grown;
    }
    page->used = work->tree->updates;
    grown.kind = SVM_NEW_PAGE;
    grown.page = page;

    svm_child *child = svm_page_children(page);
    for (uint32_t left = slots->children; left != 0; left &= left - 1) {
        const uint32_t slot = svm_lowest(left);
        if (slots->fresh >> slot & 1) {
            const svm_grown *from = &slots->grown[slot];
            child->height = height;
            child->page = from->page;
            if (from->hash != NULL) {
                memcpy(child->hash, from->hash, SVM_HASH);
            } else {
                svm_work_node(work, 4 * depth + 4, child->hash, from->left, from->right);
            }
        } else {
            *child = *(const svm_child *)slots->at[slot];
        }
        at[16 + slot] = child->hash;
        child++;
    }
    uint8_t *leaf = svm_page_leaves(page);
    for (uint32_t left = slots->leaves; left != 0; left &= left - 1) {
        const uint32_t slot = svm_lowest(left);
        const uint8_t *from = slots->at[slot];
        memcpy(leaf, from, SVM_LEAF);
        /* A change's leaf is hashed with all others of its kind. */
        const uintptr_t first = (uintptr_t)work->leaves.bytes, here = (uintptr_t)from;
        at[16 + slot] = first != 0 && here >= first && here < first + work->leaves.size ? from : leaf;
        leaf += SVM_LEAF;
    }
    /* One leaf stands for every node above it that has no other. */
    for (uint32_t i = 15; i >= 1; i--) {
        if (single >> i & 1) {
            at[i] = at[single >> 2 * i & 1 ? 2 * i : 2 * i + 1];
        }
    }
    uint8_t *kept = keep ? svm_page_inner(page) + SVM_HASH * svm_bits(inner) : NULL;
    const uint8_t *before = old != NULL && old->inner != 0 ? svm_page_inner(old) : NULL;
    for (uint32_t i = 15; i >= 1; i--) {
        if ((hashes >> i & 1) == 0) {
            continue;
        }
        uint8_t *out = NULL;
        if (i > 1) {
            kept -= keep ? SVM_HASH : 0;
            if ((below >> i & 1) == 0 && before != NULL && (old->inner >> i & 1) != 0) {
                const uint8_t *same = before + SVM_HASH * svm_bits(old->inner & ((1u << i) - 1));
                if (keep) {
                    memcpy(kept, same, SVM_HASH);
                }
                at[i] = keep ? kept : same;
                continue;
            }
            out = keep ? kept : svm_work_hash(work);
            if (out == NULL) {
                return grown;
            }
            at[i] = out;
        }
        const uint8_t *sides[2];
        for (uint32_t side = 0; side < 2; side++) {
            const uint32_t node = 2 * i + side;
            sides[side] = hashes >> node & 1 ? at[node] : single >> node & 1 ? leaf_hash(work, at[node]) : NO_HASH;
        }
        if (i == 1) {
            grown.left = sides[0];
            grown.right = sides[1];
        } else {
            const uint32_t level = i < 4 ? 1 : i < 8 ? 2 : 3;
            svm_work_node(work, 4 * depth + level, out, sides[0], sides[1]);
        }
    }
    if (root && (single & 2) != 0) {
        grown.hash = leaf_hash(work, at[1]);
    } else if (root && filled == 0) {
        grown.hash = NO_HASH;
    }
    return grown;
}

/* Puts what a slot became; `grown` is not SVM_SAME. */
static void put(svm_slots *slots, uint32_t slot, const svm_grown *grown) {
    const uint32_t bit = 1u << slot;
    slots->leaves &= ~bit;
    slots->children &= ~bit;
    slots->fresh &= ~bit;
    if (grown->kind == SVM_ONE_LEAF) {
        slots->leaves |= bit;
        slots->at[slot] = grown->leaf;
    } else if (grown->kind == SVM_NEW_PAGE) {
        slots->children |= bit;
        slots->fresh |= bit;
        slots->grown[slot] = *grown;
    }
}

static svm_grown settle_and_note(svm_work *work, const svm_page *old, const svm_slots *slots, uint32_t dirty,
                                 uint32_t depth, const uint8_t *path) {
    const svm_grown grown = svm_settle(work, old, slots, dirty, depth, work->tree->height, false);
    if (grown.kind == SVM_NEW_PAGE) {
        note_made(work, grown.page, path, depth);
    }
    return grown;
}

/* The page at `depth` of two leaves or more, from nothing: items[first] and on. */
static svm_grown grow_fresh(svm_work *work, uint32_t depth, uint32_t first, uint32_t count) {
    const uint8_t *const *items = (const uint8_t *const *)(const void *)work->items.bytes;
    svm_slots slots;
    slots.leaves = slots.children = slots.fresh = 0;
    for (uint32_t at = first; at < first + count && work->error == SVM_TREE_OK;) {
        const uint32_t slot = svm_nibble(items[at], depth);
        uint32_t end = at + 1;
        while (end < first + count && svm_nibble(items[end], depth) == slot) {
            end++;
        }
        svm_grown grown = {SVM_ONE_LEAF, items[at], NULL, NULL, NULL, NULL};
        if (end - at > 1) {
            grown = grow_fresh(work, depth + 1, at, end - at);
        }
        put(&slots, slot, &grown);
        at = end;
    }
    return settle_and_note(work, NULL, &slots, 0xffff, depth, items[first]);
}

static bool add_item(svm_work *work, const uint8_t *leaf) {
    if (!svm_buffer_room(&work->items, sizeof leaf)) {
        work->error = SVM_TREE_NO_MEMORY;
        return false;
    }
    memcpy(work->items.bytes + work->items.size, &leaf, sizeof leaf);
    work->items.size += sizeof leaf;
    return true;
}

/* The leaf of the i-th of the sorted changes; NULL where it removes one. */
static const uint8_t *change_leaf(const svm_work *work, uint32_t i) {
    uint32_t size;
    (void)svm_change_value(work->tree, work->tree->sorted[i].index, &size);
    return size == 0 ? NULL : work->leaves.bytes + (size_t)SVM_LEAF * (i - work->first);
}

/* What a slot that holds `leaf` (NULL: nothing) becomes, its subtree being at `depth`. */
static svm_grown grow_leaf(svm_work *work, const uint8_t *leaf, uint32_t depth, uint32_t lo, uint32_t hi) {
    svm_grown grown = {SVM_SAME, NULL, NULL, NULL, NULL, NULL};
    const uint8_t *old = leaf;
    work->items.size = 0;
    for (uint32_t i = lo; i < hi; i++) {
        const int order = leaf == NULL ? 1 : memcmp(leaf, svm_path(work->tree, i), SVM_HASH);
        if (leaf != NULL && order <= 0) {
            if (order < 0 && !add_item(work, leaf)) {
                return grown;
            }
            leaf = NULL;
        }
        const uint8_t *change = change_leaf(work, i);
        if (change != NULL && !add_item(work, change)) {
            return grown;
        }
    }
    if (leaf != NULL && !add_item(work, leaf)) {
        return grown;
    }
    const uint32_t count = (uint32_t)(work->items.size / sizeof leaf);
    if (count == 0) {
        grown.kind = old == NULL ? SVM_SAME : SVM_NOTHING;
        return grown;
    }
    if (count == 1) {
        memcpy(&grown.leaf, work->items.bytes, sizeof grown.leaf);
        grown.kind = old != NULL && memcmp(old, grown.leaf, SVM_LEAF) == 0 ? SVM_SAME : SVM_ONE_LEAF;
        return grown;
    }
    return grow_fresh(work, depth, 0, count);
}

static svm_grown grow_page(svm_work *work, const svm_child *of, uint32_t depth, uint32_t lo, uint32_t hi);

static svm_grown grow_slot(svm_work *work, const svm_slots *slots, uint32_t slot, uint32_t depth, uint32_t lo,
                           uint32_t hi) {
    if (slots->children >> slot & 1) {
        return grow_page(work, slots->at[slot], depth, lo, hi);
    }
    return grow_leaf(work, slots->leaves >> slot & 1 ? slots->at[slot] : NULL, depth, lo, hi);
}

static svm_grown grow_page(svm_work *work, const svm_child *of, uint32_t depth, uint32_t lo, uint32_t hi) {
    const svm_tree *tree = work->tree;
    const uint8_t *path = svm_path(tree, lo);
    svm_slots slots;
    uint32_t dirty = 0;
    svm_slots_of(&slots, of->page);
    while (lo < hi && work->error == SVM_TREE_OK) {
        const uint32_t slot = svm_sorted_nibble(tree, lo, depth);
        uint32_t end = lo + 1;
        while (end < hi && svm_sorted_nibble(tree, end, depth) == slot) {
            end++;
        }
        const svm_grown grown = grow_slot(work, &slots, slot, depth + 1, lo, end);
        if (grown.kind != SVM_SAME) {
            put(&slots, slot, &grown);
            dirty |= 1u << slot;
        }
        lo = end;
    }
    if (dirty == 0 || work->error != SVM_TREE_OK) {
        return (svm_grown){SVM_SAME, NULL, NULL, NULL, NULL, NULL};
    }
    note_left(work, of->page, path, depth, of->height, tree->emit);
    return settle_and_note(work, of->page, &slots, dirty, depth, path);
}

/* Units. */

/* The leaves of the changes from `lo` to `hi`, and their hashes. */
static bool make_leaves(svm_work *work, uint32_t lo, uint32_t hi) {
    const svm_tree *tree = work->tree;
    const size_t count = hi - lo;
    const uint8_t *values[TOGETHER];
    uint32_t sizes[TOGETHER];
    uint8_t hashes[TOGETHER * SVM_HASH];
    work->first = lo;
    svm_buffer_reset(&work->leaves, KEEP_BYTES);
    svm_buffer_reset(&work->leaf_hashes, KEEP_BYTES);
    if (!svm_buffer_room(&work->leaves, count * SVM_LEAF) || !svm_buffer_room(&work->leaf_hashes, count * SVM_HASH)) {
        work->error = SVM_TREE_NO_MEMORY;
        return false;
    }
    work->leaves.size = count * SVM_LEAF;
    for (uint32_t first = lo; first < hi; first += TOGETHER) {
        const uint32_t here = hi - first < TOGETHER ? hi - first : TOGETHER;
        uint8_t *leaf = work->leaves.bytes + (size_t)SVM_LEAF * (first - lo);
        for (uint32_t i = 0; i < here; i++) {
            values[i] = svm_change_value(tree, tree->sorted[first + i].index, &sizes[i]);
        }
        svm_blake3_many(values, sizes, here, hashes);
        for (uint32_t i = 0; i < here; i++, leaf += SVM_LEAF) {
            memcpy(leaf, svm_path(tree, first + i), SVM_HASH);
            memcpy(leaf + SVM_HASH, hashes + SVM_HASH * i, SVM_HASH);
        }
    }
    svm_blake3_nodes(0, work->leaves.bytes, (uint32_t)count, work->leaf_hashes.bytes);
    work->leaves_hashed += (uint32_t)count;
    return true;
}

/* Writes down what the unit made, and forgets whose changes led there. */
static void emit(const svm_tree *tree, svm_unit *unit, bool emits) {
    svm_made *made = (svm_made *)(void *)unit->made.bytes;
    const size_t count = unit->made.size / sizeof *made;
    unit->written_count = (uint32_t)count;
    size_t size = 0;
    for (size_t i = 0; emits && i < count; i++) {
        size += 1 + SVM_PAGE_KEY_MAX + 4 + svm_page_written(made[i].page);
    }
    if (!svm_buffer_room(&unit->written, size)) {
        unit->error = SVM_TREE_NO_MEMORY;
        return;
    }
    for (size_t i = 0; emits && i < count; i++) {
        uint8_t *out = unit->written.bytes + unit->written.size;
        const uint32_t key = svm_page_key(out + 1, made[i].path, made[i].depth, tree->height);
        const uint32_t bytes = svm_page_written(made[i].page);
        out[0] = (uint8_t)key;
        out += 1 + key;
        for (uint32_t k = 0; k < 4; k++) {
            out[k] = (uint8_t)(bytes >> 8 * k);
        }
        svm_page_write(made[i].page, out + 4);
        unit->written.size += 1 + (size_t)key + 4 + bytes;
    }
}

static void run_unit(void *context, uint32_t number) {
    svm_tree *tree = context;
    const uint32_t slots = tree->top == 1 ? SVM_SLOTS : SVM_SLICES, wide = SVM_SLICES / slots;
    const uint32_t first = number * tree->share, end = first + tree->share;
    const uint32_t lo = tree->slices[first * wide], hi = tree->slices[end * wide];
    for (uint32_t slot = first; slot < end; slot++) {
        tree->grown[slot].kind = SVM_SAME;
    }
    if (lo == hi) {
        return;
    }
    svm_work *work = svm_work_take(tree);
    svm_unit *unit = &tree->units[number];
    work->unit = unit;
    work->error = SVM_TREE_OK;
    if (make_leaves(work, lo, hi)) {
        for (uint32_t slot = first; slot < end && work->error == SVM_TREE_OK; slot++) {
            const svm_slots *from = tree->top == 1 ? &tree->root_slots : &tree->tops[slot / SVM_SLOTS];
            const uint32_t slot_lo = tree->slices[slot * wide], slot_hi = tree->slices[(slot + 1) * wide];
            if (slot_lo == slot_hi) {
                continue;
            }
            svm_grown *grown = &tree->grown[slot];
            *grown = grow_slot(work, from, slot % SVM_SLOTS, tree->top, slot_lo, slot_hi);
            if (grown->kind == SVM_ONE_LEAF) {
                memcpy(tree->grown_leaf[slot], grown->leaf, SVM_LEAF);
                grown->leaf = tree->grown_leaf[slot];
            } else if (grown->kind == SVM_NEW_PAGE) {
                grown->hash = tree->grown_hash[slot];
                svm_work_node(work, 4 * tree->top, tree->grown_hash[slot], grown->left, grown->right);
            }
        }
    }
    svm_work_hash_all(work);
    if (work->error == SVM_TREE_OK) {
        emit(tree, unit, tree->emit);
    }
    unit->error = unit->error != SVM_TREE_OK ? unit->error : work->error;
    work->leaves.size = 0;
    svm_work_give(work);
}

/* The crown: the root page, and those right below it where units begin under them. */

static void view_tops(svm_tree *tree) {
    tree->root_slots.leaves = tree->root_slots.children = tree->root_slots.fresh = 0;
    if (tree->rooted) {
        svm_slots_of(&tree->root_slots, tree->root.page);
    }
    for (uint32_t i = 0; tree->top == 2 && i < SVM_SLOTS; i++) {
        svm_slots *slots = &tree->tops[i];
        slots->leaves = slots->children = slots->fresh = 0;
        if (tree->root_slots.children >> i & 1) {
            const svm_child *child = tree->root_slots.at[i];
            if (child->page != NULL) { /* else nothing below it changes */
                svm_slots_of(slots, child->page);
            }
        } else if (tree->root_slots.leaves >> i & 1) {
            const uint8_t *leaf = tree->root_slots.at[i];
            slots->leaves = 1u << svm_nibble(leaf, 1);
            slots->at[svm_nibble(leaf, 1)] = leaf;
        }
    }
}

static void settle_top(svm_work *work, uint32_t i) {
    svm_tree *tree = work->tree;
    svm_slots *slots = &tree->tops[i];
    const svm_child *child = tree->root_slots.children >> i & 1 ? tree->root_slots.at[i] : NULL;
    const uint8_t path = (uint8_t)(i << 4);
    uint32_t dirty = 0;
    for (uint32_t k = 0; k < SVM_SLOTS; k++) {
        const svm_grown *grown = &tree->grown[SVM_SLOTS * i + k];
        if (grown->kind != SVM_SAME) {
            put(slots, k, grown);
            dirty |= 1u << k;
        }
    }
    if (dirty == 0) {
        return;
    }
    if (child != NULL) {
        note_left(work, child->page, &path, 1, child->height, false);
    }
    const svm_page *old = child == NULL ? NULL : child->page;
    const svm_grown grown = svm_settle(work, old, slots, dirty, 1, tree->height, false);
    if (grown.kind == SVM_NEW_PAGE) {
        note_made(work, grown.page, NULL, 1);
    }
    tree->top_grown[i] = grown;
    put(&tree->root_slots, i, &grown);
    tree->root_dirty |= 1u << i;
}

static uint32_t build_crown(svm_tree *tree) {
    svm_work *work = svm_work_take(tree);
    svm_unit *unit = &tree->units[SVM_SLICES];
    work->unit = unit;
    work->error = SVM_TREE_OK;
    tree->root_dirty = 0;
    for (uint32_t i = 0; i < SVM_SLOTS && work->error == SVM_TREE_OK; i++) {
        tree->top_grown[i].kind = SVM_SAME;
        if (tree->top == 2) {
            settle_top(work, i);
        } else if (tree->grown[i].kind != SVM_SAME) {
            put(&tree->root_slots, i, &tree->grown[i]);
            tree->root_dirty |= 1u << i;
        }
    }
    if (work->error == SVM_TREE_OK) {
        if (tree->rooted) {
            note_left(work, tree->root.page, NULL, 0, tree->root.height, false);
        }
        const svm_grown grown = svm_settle(work, tree->rooted ? tree->root.page : NULL, &tree->root_slots,
                                           tree->root_dirty, 0, tree->height, true);
        tree->fresh_root.page = grown.page;
        tree->fresh_root.height = tree->height;
        if (grown.kind == SVM_NEW_PAGE) {
            note_made(work, grown.page, NULL, 0);
            if (grown.hash == NULL) {
                svm_work_node(work, 0, tree->fresh_root.hash, grown.left, grown.right);
            }
        }
        svm_work_hash_all(work);
        if (work->error == SVM_TREE_OK && grown.hash != NULL) {
            memcpy(tree->fresh_root.hash, grown.hash, SVM_HASH);
        }
    } else {
        svm_work_hash_all(work);
    }
    const uint32_t error = work->error;
    svm_work_give(work);
    return error;
}

/* The whole. */

static bool add_bytes(svm_buffer *to, const svm_buffer *from) {
    if (!svm_buffer_room(to, from->size)) {
        return false;
    }
    if (from->size != 0) {
        memcpy(to->bytes + to->size, from->bytes, from->size);
    }
    to->size += from->size;
    return true;
}

static bool add_page(svm_tree *tree, const svm_page *page, const uint8_t *path, uint32_t depth) {
    const uint32_t bytes = svm_page_written(page);
    if (!svm_buffer_room(&tree->written, 1 + SVM_PAGE_KEY_MAX + 4 + (size_t)bytes)) {
        return false;
    }
    uint8_t *out = tree->written.bytes + tree->written.size;
    const uint32_t key = svm_page_key(out + 1, path, depth, tree->height);
    out[0] = (uint8_t)key;
    for (uint32_t i = 0; i < 4; i++) {
        out[1 + key + i] = (uint8_t)(bytes >> 8 * i);
    }
    svm_page_write(page, out + 1 + key + 4);
    tree->written.size += 1 + (size_t)key + 4 + bytes;
    tree->written_count++;
    return true;
}

static bool add_stale(svm_tree *tree, const svm_child *child, const uint8_t *path, uint32_t depth) {
    if (!svm_buffer_room(&tree->stale, 1 + SVM_PAGE_KEY_MAX)) {
        return false;
    }
    uint8_t *out = tree->stale.bytes + tree->stale.size;
    out[0] = (uint8_t)svm_page_key(out + 1, path, depth, child->height);
    tree->stale.size += 1 + (size_t)out[0];
    tree->stale_count++;
    return true;
}

/* All that units wrote, in the twin's order: children before their page, the root's last; of the stale it is first. */
static bool gather(svm_tree *tree) {
    bool fits = !tree->rooted || add_stale(tree, &tree->root, NULL, 0);
    svm_slots root;
    root.children = 0;
    if (tree->rooted) {
        svm_slots_of(&root, tree->root.page);
    }
    for (uint32_t number = 0; number < tree->units_count && fits; number++) {
        const svm_unit *unit = &tree->units[number];
        fits = add_bytes(&tree->written, &unit->written) && add_bytes(&tree->stale, &unit->stale);
        tree->written_count += unit->written_count;
        tree->stale_count += unit->stale_count;
        if (tree->top == 2 && number % SVM_SLOTS == SVM_SLOTS - 1) {
            const uint32_t i = number / SVM_SLOTS;
            const uint8_t path = (uint8_t)(i << 4);
            if (tree->top_grown[i].kind != SVM_SAME && (root.children >> i & 1) != 0) {
                fits = fits && add_stale(tree, root.at[i], &path, 1);
            }
            if (tree->top_grown[i].kind == SVM_NEW_PAGE) {
                fits = fits && add_page(tree, tree->top_grown[i].page, &path, 1);
            }
        }
    }
    return fits && add_page(tree, tree->fresh_root.page, NULL, 0);
}

enum { MANY = 1 << 15, SOME = 1 << 10 };

uint32_t svm_build(svm_tree *tree, bool emits, uint8_t *root) {
    /* Few changes are hashed together, so that lanes are full; many are shared out, so that their pages are near. */
    tree->top = tree->count >= MANY ? 2 : 1;
    tree->share = tree->count >= SOME ? 1 : SVM_SLOTS;
    tree->units_count = (tree->top == 2 ? SVM_SLICES : SVM_SLOTS) / tree->share;
    tree->emit = emits;
    for (uint32_t i = 0; i < tree->works_count; i++) {
        tree->works[i].nodes_hashed = tree->works[i].leaves_hashed = 0;
    }
    view_tops(tree);
    svm_pool_run(tree->pool, run_unit, tree, tree->units_count);
    for (uint32_t i = 0; i < tree->units_count; i++) {
        if (tree->units[i].error != SVM_TREE_OK) {
            return tree->units[i].error;
        }
    }
    const uint32_t error = build_crown(tree);
    if (error != SVM_TREE_OK) {
        return error;
    }
    memcpy(root, tree->fresh_root.hash, SVM_HASH);
    for (uint32_t i = 0; i < tree->works_count; i++) {
        tree->timing.nodes += tree->works[i].nodes_hashed;
        tree->timing.leaves += tree->works[i].leaves_hashed;
    }
    for (uint32_t i = 0; i <= SVM_SLICES; i++) {
        tree->timing.written += (uint32_t)(tree->units[i].made.size / sizeof(svm_made));
        tree->timing.stale += (uint32_t)(tree->units[i].left.size / sizeof(svm_page *));
    }
    return !emits || gather(tree) ? SVM_TREE_OK : SVM_TREE_NO_MEMORY;
}
