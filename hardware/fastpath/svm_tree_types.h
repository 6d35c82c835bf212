/* What the files of the state tree share. Not for others.
 *
 * A page in memory is its 16 slots without the empty ones, and hashes of nodes inside it where that pays:
 *
 *     svm_page | svm_child of each slot that is a child | 64 bytes of each that is a leaf | 32 of each inner node
 *
 * all in the order of slots. Nodes of a page are numbered as in a heap: 1 is its one node, 2 to 15 are inside, 16 to
 * 31 are the slots. */
#ifndef SVM_TREE_TYPES_H
#define SVM_TREE_TYPES_H

#include "svm_blake3.h"
#include "svm_tree.h"

#include <stdbool.h>
#include <string.h>

#if !defined(_WIN32)
#include <pthread.h>
typedef pthread_mutex_t svm_lock;
#define svm_lock_new(lock) pthread_mutex_init(lock, NULL)
#define svm_lock_free(lock) pthread_mutex_destroy(lock)
#define svm_lock_take(lock) pthread_mutex_lock(lock)
#define svm_lock_give(lock) pthread_mutex_unlock(lock)
#else
/* A pool is its caller there. */
typedef int svm_lock;
#define svm_lock_new(lock) (void)(lock)
#define svm_lock_free(lock) (void)(lock)
#define svm_lock_take(lock) (void)(lock)
#define svm_lock_give(lock) (void)(lock)
#endif

enum {
    SVM_HASH = 32,
    SVM_LEAF = 64,
    SVM_SLOTS = 16,
    SVM_DEPTH_MAX = 63, /* of a page, in nibbles */
    SVM_BITS = 256,
    SVM_SLICES = 256,   /* one for each first byte of kh */
    SVM_PAGE_SPACE = 3,
    SVM_PAGE_FORMAT_1 = 1,
    SVM_PAGE_KEY_MAX = 2 + 32 + 8,
    SVM_CHILD_WRITTEN = 40,
    SVM_CELL = 16, /* pages take whole cells */
    SVM_INNER_ABOVE = 4 /* pages with more slots than this keep the hashes of their inner nodes */
};

typedef struct svm_page svm_page;

typedef struct {
    uint8_t hash[SVM_HASH];
    uint64_t height; /* at which it was written */
    svm_page *page;  /* NULL where it isn't in memory */
} svm_child;

struct svm_page {
    uint32_t used; /* the update that last needed it */
    uint16_t cells;
    uint16_t leaves, children; /* slots by kind */
    uint16_t inner;            /* nodes 2 to 15 that are over two leaves or more, or over a child */
    uint32_t keeps;            /* whether their hashes are kept */
};

static inline uint32_t svm_bits(uint32_t mask) {
    mask -= mask >> 1 & 0x5555u;
    mask = (mask & 0x3333u) + (mask >> 2 & 0x3333u);
    mask = (mask + (mask >> 4)) & 0x0f0fu;
    return (mask + (mask >> 8)) & 0x1fu;
}

static inline uint32_t svm_lowest(uint32_t mask) { return (uint32_t)__builtin_ctz(mask); }

static inline svm_child *svm_page_children(const svm_page *page) { return (svm_child *)(uintptr_t)(page + 1); }

static inline uint8_t *svm_page_leaves(const svm_page *page) {
    return (uint8_t *)(svm_page_children(page) + svm_bits(page->children));
}

static inline uint8_t *svm_page_inner(const svm_page *page) {
    return svm_page_leaves(page) + (size_t)SVM_LEAF * svm_bits(page->leaves);
}

static inline uint32_t svm_page_cells(uint32_t children, uint32_t leaves, uint32_t inner) {
    const size_t size = sizeof(svm_page) + children * sizeof(svm_child) + leaves * SVM_LEAF + inner * SVM_HASH;
    return (uint32_t)((size + SVM_CELL - 1) / SVM_CELL);
}

/* Pages of up to 16 children, 16 leaves and 14 inner nodes. */
#define SVM_CELLS_MAX                                                                                                  \
    ((sizeof(svm_page) + SVM_SLOTS * (SVM_LEAF > sizeof(svm_child) ? SVM_LEAF : sizeof(svm_child)) +                   \
      14 * SVM_HASH + SVM_CELL - 1) /                                                                                  \
     SVM_CELL)

static inline uint32_t svm_nibble(const uint8_t *path, uint32_t depth) {
    return depth & 1 ? path[depth >> 1] & 15u : path[depth >> 1] >> 4;
}

/* Memory of pages: free cells by size, and a rest to cut new ones from. */

typedef struct svm_free_cell {
    struct svm_free_cell *next;
} svm_free_cell;

typedef struct {
    svm_free_cell *first, *last;
} svm_free_list;

typedef struct {
    svm_free_list free[SVM_CELLS_MAX + 1];
    uint8_t *rest;
    size_t left;
} svm_cells;

typedef struct svm_chunk {
    struct svm_chunk *next;
    size_t size;
} svm_chunk;

typedef struct {
    svm_lock lock;
    svm_cells cells; /* what no thread has */
    svm_chunk *chunks;
    size_t chunk_bytes;
    uint64_t held;
} svm_store;

/* Memory for `free`, of large pages of the system where it is large; its size may grow. */
void *svm_memory_new(size_t *size);
/* The size of the pieces that memory is got in, under this bound on it all. */
size_t svm_chunk_bytes(uint64_t bytes_max);
void svm_store_clear(svm_store *store);
/* A page with its masks set and the rest not; NULL where there is no memory. `mine` is the thread's own. */
svm_page *svm_page_new(svm_store *store, svm_cells *mine, uint32_t children, uint32_t leaves, uint32_t inner);
/* Without a lock: for a thread that is alone, or on cells of its own. */
void svm_page_free(svm_cells *cells, svm_page *page);
void svm_cells_give_back(svm_store *store, svm_cells *mine);

/* Growing arrays. */

typedef struct {
    uint8_t *bytes;
    size_t size, room;
} svm_buffer;

/* Makes room for `more` bytes beyond `size`; false where there is no memory. */
bool svm_buffer_room(svm_buffer *buffer, size_t more);
/* Empties it and makes room for `size` bytes, walked in no order. */
bool svm_buffer_new(svm_buffer *buffer, size_t size);
/* Empties it; memory above `keep` bytes goes back. */
void svm_buffer_reset(svm_buffer *buffer, size_t keep);

/* The hashing that building asks for: leaves first, then nodes from the deepest level up. */

enum { SVM_ARENA_BYTES = 1 << 16 };

/* One thread's, while it builds. */
typedef struct svm_work {
    struct svm_tree *tree;
    struct svm_unit *unit;
    svm_cells cells;
    svm_buffer leaves;      /* 64 bytes of each change, ascending */
    svm_buffer leaf_hashes; /* theirs */
    svm_buffer items;       /* leaves of a subtree that is built from nothing: pointers */
    svm_buffer jobs[SVM_BITS]; /* nodes to hash, by depth in bits */
    svm_buffer leaf_jobs;      /* and leaves that no change brings */
    uint32_t deepest;
    uint8_t **arena; /* hashes that no page keeps */
    uint32_t arena_count, arena_room, arena_at;
    uint8_t *arena_next;
    size_t arena_left;
    uint32_t first; /* the change that `leaves` begins with */
    uint32_t nodes_hashed, leaves_hashed;
    uint32_t error;
    uint32_t taken; /* by a thread; atomic */
} svm_work;

/* A work that no thread has: there are as many as threads. */
svm_work *svm_work_take(struct svm_tree *tree);
void svm_work_give(svm_work *work);
void svm_work_free(svm_work *work);

/* The leaves of the sorted changes from `lo` to `hi`, and their hashes. */
bool svm_work_changes(svm_work *work, uint32_t lo, uint32_t hi);
/* Does all hashing asked for. */
void svm_work_hash_all(svm_work *work);

extern const uint8_t SVM_NO_HASH[SVM_HASH];

uint8_t *svm_work_more(svm_work *work);

/* Room for a hash until the next `svm_work_hash_all`. */
static inline uint8_t *svm_work_hash(svm_work *work) {
    if (work->arena_left == 0) {
        return svm_work_more(work);
    }
    work->arena_next += SVM_HASH;
    work->arena_left -= SVM_HASH;
    return work->arena_next - SVM_HASH;
}

static inline void svm_work_ask(svm_work *work, svm_buffer *jobs, uint8_t *out, const uint8_t *left,
                                const uint8_t *right) {
    if (jobs->room - jobs->size < sizeof(svm_blake3_pair) && !svm_buffer_room(jobs, sizeof(svm_blake3_pair))) {
        work->error = SVM_TREE_NO_MEMORY;
        return;
    }
    svm_blake3_pair *job = (svm_blake3_pair *)(void *)(jobs->bytes + jobs->size);
    job->out = out;
    job->left = left;
    job->right = right;
    jobs->size += sizeof *job;
}

/* Asks for a node's hash, at a depth in bits. */
static inline void svm_work_node(svm_work *work, uint32_t bits, uint8_t *out, const uint8_t *left,
                                 const uint8_t *right) {
    svm_work_ask(work, &work->jobs[bits], out, left, right);
    work->deepest = bits > work->deepest ? bits : work->deepest;
}

/* Whether a leaf is one of the changes', which are hashed with each other. */
static inline bool svm_work_has(const svm_work *work, const uint8_t *leaf) {
    return (uintptr_t)leaf - (uintptr_t)work->leaves.bytes < work->leaves.size;
}

/* The hash of a leaf that is no change's, once all hashing asked for is done. */
static inline const uint8_t *svm_work_leaf(svm_work *work, const uint8_t *leaf) {
    uint8_t *out = svm_work_hash(work);
    if (out == NULL) {
        return SVM_NO_HASH;
    }
    svm_work_ask(work, &work->leaf_jobs, out, leaf, leaf + SVM_HASH);
    return out;
}

/* What a subtree becomes. */

enum svm_grown_kind { SVM_SAME, SVM_NOTHING, SVM_ONE_LEAF, SVM_NEW_PAGE };

typedef struct {
    enum svm_grown_kind kind;
    const uint8_t *leaf; /* 64 bytes */
    svm_page *page;      /* another, or the old one changed in its place */
    const uint8_t *left, *right; /* what its hash is made of */
    const uint8_t *hash;         /* or that itself */
    uint64_t height;             /* at which it was or is written */
    bool moved;                  /* one leaf, of another key than the one that stood there */
} svm_grown;

/* A page under work: what became of the dirty slots, and what stands in the others, which are as in `old`. */
typedef struct {
    svm_page *old; /* NULL: there was none */
    uint32_t leaves, children, dirty;
    bool moved; /* a leaf is of another key */
    svm_grown grown[SVM_SLOTS];
} svm_slots;

typedef struct {
    const svm_page *page;
    const uint8_t *path;
    uint32_t depth;
} svm_made;

/* What was in a page before it was changed in its place: then follow svm_child of each dirty child and the value hash
 * of each dirty leaf, in the order of slots. Its inner nodes are hashed anew. */
typedef struct {
    svm_page *page;
    uint32_t dirty;
} svm_undo;

/* Undo in pieces, so that it never moves. */
enum { SVM_PIECE_BYTES = 1 << 16 };

typedef struct svm_piece {
    struct svm_piece *next; /* the one before */
    size_t size;
    uint8_t bytes[SVM_PIECE_BYTES - sizeof(void *) - sizeof(size_t)];
} svm_piece;

/* One share of the build, and what came of it. */
typedef struct svm_unit {
    svm_buffer fresh; /* svm_page *, new ones */
    svm_buffer left;  /* svm_page *, those that new ones replace */
    svm_piece *undo;
    svm_buffer made;  /* svm_made, in the order of writing; where pages are written down */
    svm_buffer written, stale;
    uint32_t written_count, stale_count;
    uint64_t fresh_cells, left_cells;
    uint32_t error;
} svm_unit;

typedef struct {
    uint64_t prefix; /* the first 8 bytes of kh, big-endian */
    uint32_t index;
    uint32_t removes;
} svm_sorted;

/* The changes from `lo` to `hi` go through the page of this child. */
typedef struct {
    svm_child *of;
    uint32_t lo, hi;
} svm_step;

enum svm_stage { SVM_IDLE, SVM_LOADING, SVM_LOADED, SVM_BUILT };

struct svm_tree {
    svm_pool *pool;
    svm_store store;
    uint64_t bytes_max;
    bool lean; /* the second half of a leaf in memory is its own hash, not its value's */
    uint64_t pages, cells;
    uint64_t hits, misses, evicted;

    bool rooted;     /* there is a newest tree */
    bool whole;      /* and all of it is in memory */
    svm_child root;  /* its root page; a state root as the hash */
    uint32_t updates;
    uint32_t hand;   /* where eviction goes on */
    uint32_t passed[SVM_SLICES]; /* the update at which it last came by */

    enum svm_stage stage;
    uint64_t height;
    const uint8_t *packed;
    uint32_t count;
    svm_buffer leaves_held, sorted_held, order_held;
    uint8_t *leaves; /* kh and value hash of each change, in the order of `packed` */
    svm_sorted *sorted, *order; /* the second while it sorts */
    uint32_t slices[SVM_SLICES + 1]; /* where each first byte begins in `sorted` */

    uint32_t depth; /* of the pages in `steps`, those that an update goes through, ascending */
    svm_buffer steps, next_steps;
    svm_buffer missing; /* their keys, packed */
    uint32_t missing_count;

    uint32_t top;   /* slots below the crown are those of pages at this depth less one: 1 or 2 */
    uint32_t share; /* of them in a unit */
    svm_slots root_slots, tops[SVM_SLOTS];
    svm_grown grown[SVM_SLICES];
    uint8_t grown_leaf[SVM_SLICES][SVM_LEAF], grown_hash[SVM_SLICES][SVM_HASH];
    svm_unit units[SVM_SLICES + 1]; /* the last is the crown */
    uint32_t units_count;
    svm_grown top_grown[SVM_SLOTS]; /* pages right below the root's, where they are of the crown */
    uint64_t top_height[SVM_SLOTS]; /* at which those before them were written */
    uint32_t top_stale;
    bool emit;
    svm_work *works;
    uint32_t works_count;
    svm_child fresh_root;
    svm_buffer written, stale;
    uint32_t written_count, stale_count;
    svm_piece *pieces; /* for undo, not in use; under the store's lock */
    size_t pieces_count;
    svm_tree_timing timing;
};

/* Where the i-th of the sorted changes lies. */
static inline const uint8_t *svm_path(const struct svm_tree *tree, uint32_t i) {
    return tree->leaves + (size_t)SVM_LEAF * tree->sorted[i].index;
}

static inline uint32_t svm_sorted_nibble(const struct svm_tree *tree, uint32_t i, uint32_t depth) {
    return depth < 16 ? (uint32_t)(tree->sorted[i].prefix >> (60 - 4 * depth)) & 15u
                      : svm_nibble(svm_path(tree, i), depth);
}

uint64_t svm_tree_now_ns(void);

/* svm_tree_changes.c */
uint32_t svm_changes_read(struct svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at);

/* svm_tree_pages.c */
uint32_t svm_page_key(uint8_t *out, const uint8_t *path, uint32_t depth, uint64_t height);
uint32_t svm_page_written(const svm_page *page);
void svm_page_write(const svm_page *page, uint8_t *out);
/* The page that the bytes are, its inner nodes and hash asked of `work`; NULL and why where they are none. */
svm_page *svm_page_read(svm_work *work, const uint8_t *bytes, size_t size, const uint8_t *path, uint32_t depth,
                        svm_grown *node, uint32_t *reason);
void svm_slots_of(svm_slots *slots, svm_page *page);
/* The child in a slot that is one. */
static inline svm_child *svm_child_of(const svm_page *page, uint32_t slot) {
    return svm_page_children(page) + svm_bits(page->children & ((1u << slot) - 1));
}
/* The 64 bytes in a slot that is a leaf. */
static inline uint8_t *svm_leaf_of(const svm_page *page, uint32_t slot) {
    return svm_page_leaves(page) + (size_t)SVM_LEAF * svm_bits(page->leaves & ((1u << slot) - 1));
}

/* svm_tree_build.c */
/* The page at `depth` with these slots, its inner nodes asked of the work: or the leaf or nothing that it comes to,
 * unless it is the root's. The old page is changed in its place where its shape stays. */
void svm_settle(svm_work *work, const svm_slots *slots, uint32_t depth, const uint8_t *path, bool root,
                svm_grown *grown);
/* What a slot of a page at `depth` less one becomes with the changes from `lo` to `hi`. */
void svm_grow_slot(svm_work *work, const svm_slots *slots, uint32_t slot, uint32_t depth, uint32_t lo, uint32_t hi,
                   svm_grown *grown);

static inline void svm_no_slots(svm_slots *slots) {
    slots->old = NULL;
    slots->leaves = slots->children = slots->dirty = 0;
    slots->moved = false;
}

/* Puts what became of a slot, which stands in slots->grown already. */
static inline void svm_put(svm_slots *slots, uint32_t slot) {
    const uint32_t bit = 1u << slot;
    slots->dirty |= bit;
    slots->leaves &= ~bit;
    slots->children &= ~bit;
    slots->leaves |= slots->grown[slot].kind == SVM_ONE_LEAF ? bit : 0;
    slots->children |= slots->grown[slot].kind == SVM_NEW_PAGE ? bit : 0;
    slots->moved |= slots->grown[slot].moved;
}
void svm_note_stale(svm_work *work, const uint8_t *path, uint32_t depth, uint64_t height);
void svm_undo_all(svm_work *work, const svm_unit *unit);
svm_piece *svm_piece_new(struct svm_tree *tree);

/* svm_tree_crown.c */
uint32_t svm_build(struct svm_tree *tree, bool emit, uint8_t *root);

/* svm_tree_load.c */
uint32_t svm_load_begin(struct svm_tree *tree);
uint32_t svm_load_supply(struct svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count,
                         svm_tree_refusal *refusal);

/* svm_tree_evict.c */
/* Lets go of all pages. */
void svm_tree_lose(struct svm_tree *tree);
void svm_evict(struct svm_tree *tree);

#endif
