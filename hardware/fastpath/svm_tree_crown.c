/* The whole build: units below, shared out to threads, and the crown above them. */
#include "svm_tree_types.h"

#include <stdlib.h>

/* Few changes are hashed together, so that lanes are full; many are shared out, so that their pages are near. */
enum { MANY = 1 << 15, SOME = 1 << 10 };

/* Units. */

/* Writes down what the unit made, and forgets whose changes led there. */
static void emit(const svm_tree *tree, svm_unit *unit) {
    const svm_made *made = (const svm_made *)(const void *)unit->made.bytes;
    const size_t count = unit->made.size / sizeof *made;
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += 1 + SVM_PAGE_KEY_MAX + 4 + svm_page_written(made[i].page);
    }
    if (!svm_buffer_room(&unit->written, size)) {
        unit->error = SVM_TREE_NO_MEMORY;
        return;
    }
    uint8_t *out = unit->written.bytes;
    for (size_t i = 0; i < count; i++) {
        const uint32_t key = svm_page_key(out + 1, made[i].path, made[i].depth, tree->height);
        const uint32_t bytes = svm_page_written(made[i].page);
        out[0] = (uint8_t)key;
        memcpy(out + 1 + key, &bytes, 4);
        svm_page_write(made[i].page, out + 1 + key + 4);
        out += 1 + key + 4 + bytes;
    }
    unit->written.size = (size_t)(out - unit->written.bytes);
}

static void grow_slots(svm_work *work, uint32_t first, uint32_t end, uint32_t wide) {
    svm_tree *tree = work->tree;
    for (uint32_t slot = first; slot < end && work->error == SVM_TREE_OK; slot++) {
        const svm_slots *from = tree->top == 1 ? &tree->root_slots : &tree->tops[slot / SVM_SLOTS];
        const uint32_t lo = tree->slices[slot * wide], hi = tree->slices[(slot + 1) * wide];
        if (lo == hi) {
            continue;
        }
        svm_grown *grown = &tree->grown[slot];
        svm_grow_slot(work, from, slot % SVM_SLOTS, tree->top, lo, hi, grown);
        if (grown->kind == SVM_ONE_LEAF) {
            memcpy(tree->grown_leaf[slot], grown->leaf, SVM_LEAF);
            grown->leaf = tree->grown_leaf[slot];
        } else if (grown->kind == SVM_NEW_PAGE) {
            grown->hash = tree->grown_hash[slot];
            svm_work_node(work, 4 * tree->top, tree->grown_hash[slot], grown->left, grown->right);
        }
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
    if (svm_work_changes(work, lo, hi)) {
        grow_slots(work, first, end, wide);
    }
    svm_work_hash_all(work);
    if (work->error == SVM_TREE_OK && tree->emit) {
        emit(tree, unit);
    }
    unit->error = unit->error != SVM_TREE_OK ? unit->error : work->error;
    work->leaves.size = 0;
    svm_work_give(work);
}

/* The crown: the root page, and those right below it where units begin under them. */

static void view_tops(svm_tree *tree) {
    svm_no_slots(&tree->root_slots);
    if (tree->rooted) {
        svm_slots_of(&tree->root_slots, tree->root.page);
    }
    tree->top_stale = 0;
    for (uint32_t i = 0; tree->top == 2 && i < SVM_SLOTS; i++) {
        svm_slots *slots = &tree->tops[i];
        svm_no_slots(slots);
        if (tree->root_slots.children >> i & 1) {
            const svm_child *child = svm_child_of(tree->root.page, i);
            tree->top_height[i] = child->height;
            if (child->page != NULL) { /* else nothing below it changes */
                svm_slots_of(slots, child->page);
            }
        } else if (tree->root_slots.leaves >> i & 1) {
            /* As if a page stood there already, with that leaf alone. */
            const uint8_t *leaf = svm_leaf_of(tree->root.page, i);
            const uint32_t slot = svm_nibble(leaf, 1);
            slots->grown[slot].kind = SVM_ONE_LEAF;
            slots->grown[slot].leaf = leaf;
            slots->grown[slot].moved = false;
            svm_put(slots, slot);
        }
    }
}

static void settle_top(svm_work *work, uint32_t i) {
    svm_tree *tree = work->tree;
    svm_slots *slots = &tree->tops[i];
    bool changed = false;
    for (uint32_t k = 0; k < SVM_SLOTS; k++) {
        const svm_grown *grown = &tree->grown[SVM_SLOTS * i + k];
        if (grown->kind != SVM_SAME) {
            slots->grown[k] = *grown;
            svm_put(slots, k);
            changed = true;
        }
    }
    if (!changed) {
        return;
    }
    tree->top_stale |= slots->old == NULL ? 0 : 1u << i;
    svm_settle(work, slots, 1, NULL, false, &tree->top_grown[i]);
    tree->root_slots.grown[i] = tree->top_grown[i];
    svm_put(&tree->root_slots, i);
}

static uint32_t build_crown(svm_tree *tree) {
    svm_work *work = svm_work_take(tree);
    work->unit = &tree->units[SVM_SLICES];
    work->error = SVM_TREE_OK;
    for (uint32_t i = 0; i < SVM_SLOTS && work->error == SVM_TREE_OK; i++) {
        tree->top_grown[i].kind = SVM_SAME;
        if (tree->top == 2) {
            settle_top(work, i);
        } else if (tree->grown[i].kind != SVM_SAME) {
            tree->root_slots.grown[i] = tree->grown[i];
            svm_put(&tree->root_slots, i);
        }
    }
    if (work->error == SVM_TREE_OK) {
        svm_grown grown;
        svm_settle(work, &tree->root_slots, 0, NULL, true, &grown);
        tree->fresh_root.page = grown.page;
        tree->fresh_root.height = tree->height;
        if (grown.kind == SVM_NEW_PAGE && grown.hash == NULL) {
            svm_work_node(work, 0, tree->fresh_root.hash, grown.left, grown.right);
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

/* What the units wrote, in order. */

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
    memcpy(out + 1 + key, &bytes, 4);
    svm_page_write(page, out + 1 + key + 4);
    tree->written.size += 1 + (size_t)key + 4 + bytes;
    tree->written_count++;
    return true;
}

static bool add_stale(svm_tree *tree, const uint8_t *path, uint32_t depth, uint64_t height) {
    if (!svm_buffer_room(&tree->stale, 1 + SVM_PAGE_KEY_MAX)) {
        return false;
    }
    uint8_t *out = tree->stale.bytes + tree->stale.size;
    out[0] = (uint8_t)svm_page_key(out + 1, path, depth, height);
    tree->stale.size += 1 + (size_t)out[0];
    tree->stale_count++;
    return true;
}

/* In the twin's order: children before their page, the root's last; of the stale it is first. */
static bool gather(svm_tree *tree) {
    bool fits = !tree->rooted || add_stale(tree, NULL, 0, tree->root.height);
    for (uint32_t number = 0; number < tree->units_count && fits; number++) {
        const svm_unit *unit = &tree->units[number];
        fits = add_bytes(&tree->written, &unit->written) && add_bytes(&tree->stale, &unit->stale);
        tree->written_count += unit->written_count;
        tree->stale_count += unit->stale_count;
        if (tree->top == 2 && number % SVM_SLOTS == SVM_SLOTS - 1) {
            const uint32_t i = number / SVM_SLOTS;
            const uint8_t path = (uint8_t)(i << 4);
            if (tree->top_stale >> i & 1) {
                fits = fits && add_stale(tree, &path, 1, tree->top_height[i]);
            }
            if (tree->top_grown[i].kind == SVM_NEW_PAGE) {
                fits = fits && add_page(tree, tree->top_grown[i].page, &path, 1);
            }
        }
    }
    return fits && add_page(tree, tree->fresh_root.page, NULL, 0);
}

uint32_t svm_build(svm_tree *tree, bool emits, uint8_t *root) {
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
        tree->timing.written += tree->units[i].written_count;
        tree->timing.fresh += (uint32_t)(tree->units[i].fresh.size / sizeof(svm_page *));
    }
    return !emits || gather(tree) ? SVM_TREE_OK : SVM_TREE_NO_MEMORY;
}
