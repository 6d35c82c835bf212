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
    uint16_t leaves, children, inner; /* slots by kind; nodes 2 to 15 whose hash is kept */
    uint32_t unused;
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
    return svm_page_leaves(page) + SVM_LEAF * svm_bits(page->leaves);
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
    uint64_t held;
} svm_store;

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
/* Empties it; memory above `keep` bytes goes back. */
void svm_buffer_reset(svm_buffer *buffer, size_t keep);

/* The hashing that building asks for: leaves first, then nodes from the deepest level up. */

typedef struct {
    uint8_t *out;
    const uint8_t *left, *right;
} svm_node_job;

typedef struct {
    uint8_t *out;
    const uint8_t *leaf;
} svm_leaf_job;

enum { SVM_ARENA_BYTES = 1 << 16 };

/* One thread's, while it builds. */
typedef struct svm_work {
    struct svm_tree *tree;
    struct svm_unit *unit;
    svm_cells cells;
    svm_buffer leaves;       /* 64 bytes of each change, ascending; a removal's value hash is zeros */
    svm_buffer leaf_hashes;  /* theirs */
    svm_buffer items;        /* leaves of a subtree that is built from nothing: pointers */
    svm_buffer jobs[SVM_BITS]; /* nodes, by depth in bits */
    svm_buffer leaf_jobs;
    uint32_t deepest;
    uint8_t **arena; /* hashes that no page keeps */
    uint32_t arena_count, arena_room, arena_at;
    size_t arena_used;
    uint32_t first;  /* the change that `leaves` begins with */
    uint32_t nodes_hashed, leaves_hashed;
    uint32_t error;
    uint32_t taken; /* by a thread; atomic */
} svm_work;

uint8_t *svm_work_hash(svm_work *work);
bool svm_work_node(svm_work *work, uint32_t bits, uint8_t *out, const uint8_t *left, const uint8_t *right);
bool svm_work_leaf(svm_work *work, uint8_t *out, const uint8_t *leaf);
/* Does all hashing asked for, and forgets what the arena holds. */
void svm_work_hash_all(svm_work *work);
void svm_work_free(svm_work *work);

/* What a subtree becomes. */

enum svm_grown_kind { SVM_SAME, SVM_NOTHING, SVM_ONE_LEAF, SVM_NEW_PAGE };

typedef struct {
    enum svm_grown_kind kind;
    const uint8_t *leaf; /* 64 bytes */
    svm_page *page;
    const uint8_t *left, *right; /* what its hash is made of */
    const uint8_t *hash;         /* or that itself */
} svm_grown;

/* A page under work: what stands in each slot. */
typedef struct {
    uint32_t leaves, children, fresh; /* fresh: children that are new */
    const void *at[SVM_SLOTS];        /* 64 bytes, or svm_child; of the fresh svm_grown */
    svm_grown grown[SVM_SLOTS];
} svm_slots;

typedef struct {
    svm_page *page;
    const uint8_t *path;
    uint32_t depth;
} svm_made;

/* One share of the tree's build: some slots below the crown, and what came of them. */
typedef struct svm_unit {
    svm_buffer made; /* svm_made, in the order of writing */
    svm_buffer left; /* svm_page *, replaced ones */
    svm_buffer written, stale;
    uint32_t written_count, stale_count;
    uint64_t made_cells, left_cells;
    uint32_t error;
} svm_unit;

typedef struct {
    uint64_t prefix; /* the first 8 bytes of kh, big-endian */
    uint32_t index;
    uint32_t unused;
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
    uint64_t *offsets; /* of each change in `packed` */
    uint8_t *hashes;   /* kh of each change */
    svm_sorted *sorted;
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
    uint32_t root_dirty;
    bool emit;
    svm_work *works;
    uint32_t works_count;
    svm_child fresh_root;
    svm_buffer written, stale;
    uint32_t written_count, stale_count;
    svm_tree_timing timing;
};

/* Where the i-th of the sorted changes lies. */
static inline const uint8_t *svm_path(const struct svm_tree *tree, uint32_t i) {
    return tree->hashes + (size_t)SVM_HASH * tree->sorted[i].index;
}

static inline uint32_t svm_sorted_nibble(const struct svm_tree *tree, uint32_t i, uint32_t depth) {
    return depth < 16 ? (uint32_t)(tree->sorted[i].prefix >> (60 - 4 * depth)) & 15u
                      : svm_nibble(svm_path(tree, i), depth);
}

uint64_t svm_tree_now_ns(void);

/* svm_tree_changes.c */
uint32_t svm_changes_read(struct svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count, uint32_t *at);
/* The value of a change; `size` 0: removed. */
const uint8_t *svm_change_value(const struct svm_tree *tree, uint32_t index, uint32_t *size);

/* svm_tree_pages.c */
uint32_t svm_page_key(uint8_t *out, const uint8_t *path, uint32_t depth, uint64_t height);
uint32_t svm_page_written(const svm_page *page);
void svm_page_write(const svm_page *page, uint8_t *out);
/* The page that the bytes are, its inner nodes and hash asked of `work`; NULL and why where they are none. */
svm_page *svm_page_read(svm_work *work, const uint8_t *bytes, size_t size, const uint8_t *path, uint32_t depth,
                        svm_grown *node, uint32_t *reason);
void svm_slots_of(svm_slots *slots, const svm_page *page);

/* svm_tree_build.c */
/* A page of these slots at `depth`, its inner nodes asked of the work: or the leaf or nothing that it comes to, unless
 * it is the root's. `old` had them but for the `dirty`. */
svm_grown svm_settle(svm_work *work, const svm_page *old, const svm_slots *slots, uint32_t dirty, uint32_t depth,
                     uint64_t height, bool root);
uint32_t svm_build(struct svm_tree *tree, bool emit, uint8_t *root);
svm_work *svm_work_take(struct svm_tree *tree);
void svm_work_give(svm_work *work);

/* svm_tree_load.c */
uint32_t svm_load_begin(struct svm_tree *tree);
uint32_t svm_load_supply(struct svm_tree *tree, const uint8_t *packed, size_t size, uint32_t count,
                         svm_tree_refusal *refusal);

/* svm_tree_evict.c */
void svm_evict(struct svm_tree *tree);

#endif
