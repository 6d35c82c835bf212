/* Bytes as updates of the state tree: a tree that keeps all, a lean one, and one that keeps nothing and reads its pages
 * again must come to the same roots, and a page with a wrong bit must be refused.
 *
 * Input: a byte of choices, then steps of two bytes: a key's number and what it gets (0: removed). Key 255 ends an
 * update, 254 drops it, 253 spoils a bit of the next page that is read, 252 takes the rest of the input as packed
 * changes. judge.py follows the same steps. */
#include <inttypes.h>
#include <string.h>

#include "svm_tree.h"
#include "target.h"

enum { PAGES_MAX = 4096, CHANGES_MAX = 252, CHANGE_BYTES = 1 + 2 + 4 + 64, UPDATES_MAX = 24 };

typedef struct {
    uint8_t *key, *bytes;
    uint32_t key_size, size;
} page;

static page pages[PAGES_MAX];
static uint32_t pages_count;
static svm_pool *pools[2];
static uint32_t spoil; /* 0: nothing; else which bit, + 1 */
static uint8_t newest[32];
static uint64_t newest_height; /* 0: no tree yet */

typedef struct {
    uint8_t packed[CHANGES_MAX * CHANGE_BYTES];
    uint8_t seen[256];
    size_t size;
    uint32_t count;
    int twice;
} changes;

static uint32_t little(const uint8_t *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint8_t *copy(const uint8_t *bytes, size_t size) {
    uint8_t *made = malloc(size + (size == 0));
    EXPECT(made != NULL);
    memcpy(made, bytes, size);
    return made;
}

static page *find(const uint8_t *key, uint32_t size) {
    for (uint32_t i = 0; i < pages_count; i++) {
        if (pages[i].key_size == size && memcmp(pages[i].key, key, size) == 0) {
            return &pages[i];
        }
    }
    return NULL;
}

static void drop(page *one) {
    free(one->key);
    free(one->bytes);
    *one = pages[--pages_count];
}

/* Answers what the tree asks for from what was written down. False where a bit was spoilt: the tree refuses the page
 * where it can see it, or asks for a child that there isn't. */
static int load(svm_tree *tree) {
    const uint8_t *asked;
    size_t size;
    uint32_t count;
    int spoilt = 0;
    for (;;) {
        EXPECT(svm_tree_missing(tree, &asked, &size, &count) == SVM_TREE_OK);
        if (count == 0) {
            return !spoilt;
        }
        size_t total = 0;
        const uint8_t *at = asked;
        for (uint32_t i = 0; i < count; i++) {
            const page *one = find(at + 1, at[0]);
            EXPECT(one != NULL || spoilt);
            total += 4 + (one == NULL ? 0 : one->size);
            at += 1 + at[0];
        }
        uint8_t *answer = malloc(total), *next = answer;
        EXPECT(answer != NULL);
        at = asked;
        for (uint32_t i = 0; i < count; i++) {
            const page *one = find(at + 1, at[0]);
            const uint32_t bytes = one == NULL ? UINT32_MAX : one->size;
            for (int k = 0; k < 4; k++) {
                *next++ = (uint8_t)(bytes >> 8 * k);
            }
            if (one != NULL) {
                memcpy(next, one->bytes, one->size);
                next += one->size;
            }
            at += 1 + at[0];
        }
        if (spoil != 0) {
            const uint32_t bit = (spoil - 1) % ((uint32_t)total * 8);
            answer[bit / 8] ^= (uint8_t)(1u << bit % 8);
            spoil = 0;
            spoilt = 1;
        }
        svm_tree_refusal refusal = {0};
        const uint32_t error = svm_tree_supply(tree, answer, total, count, &refusal);
        free(answer);
        if (error != SVM_TREE_OK) {
            EXPECT(spoilt && (error == SVM_TREE_BAD_SUPPLY || (error == SVM_TREE_BAD_PAGE && refusal.at < count)));
            return 0;
        }
    }
}

static void keep_written(const svm_tree *tree) {
    const uint8_t *at;
    size_t size;
    uint32_t count;
    svm_tree_stale(tree, &at, &size, &count);
    for (uint32_t i = 0; i < count; i++) {
        page *one = find(at + 1, at[0]);
        EXPECT(one != NULL);
        drop(one);
        at += 1 + at[0];
    }
    svm_tree_written(tree, &at, &size, &count);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *value = at + 1 + at[0] + 4;
        EXPECT(pages_count < PAGES_MAX && find(at + 1, at[0]) == NULL);
        page *one = &pages[pages_count++];
        one->key_size = at[0];
        one->key = copy(at + 1, at[0]);
        one->size = little(value - 4);
        one->bytes = copy(value, one->size);
        at = value + one->size;
    }
}

static void open_tree(svm_tree *tree, const changes *made, uint64_t height) {
    uint32_t at;
    const uint32_t error = svm_tree_open(tree, made->packed, made->size, made->count, height, &at);
    EXPECT(error == (made->twice ? SVM_TREE_TWICE : SVM_TREE_OK));
}

static void update(svm_tree *kept, svm_tree *lean, svm_tree *read, const changes *made, uint64_t height, int dropped,
                   int tell) {
    uint8_t root[32], other[32];
    svm_tree *const all[] = {kept, lean};
    open_tree(read, made, height);
    if (made->twice) {
        open_tree(kept, made, height);
        open_tree(lean, made, height);
        return;
    }
    while (!load(read)) {
        /* As a node does with a store that it can't trust: from the last root it knows. */
        svm_tree_abort(read);
        svm_tree_clear(read, newest_height == 0 ? NULL : newest, newest_height);
        open_tree(read, made, height);
    }
    EXPECT(svm_tree_build(read, 1, root) == SVM_TREE_OK);
    for (int i = 0; i < 2; i++) {
        open_tree(all[i], made, height);
        EXPECT(load(all[i]));
        EXPECT(svm_tree_build(all[i], 0, other) == SVM_TREE_OK);
        EXPECT(memcmp(root, other, 32) == 0);
        if (dropped) {
            svm_tree_abort(all[i]);
        } else {
            EXPECT(svm_tree_commit(all[i]) == SVM_TREE_OK);
        }
    }
    if (dropped) {
        svm_tree_abort(read);
        return;
    }
    keep_written(read);
    EXPECT(svm_tree_commit(read) == SVM_TREE_OK);
    memcpy(newest, root, 32);
    newest_height = height;
    for (int i = 0; tell && i < 32; i++) {
        printf("%02x", root[i]);
    }
    if (tell) {
        printf(" ");
    }
}

static void put(changes *made, uint8_t number, uint8_t value) {
    uint8_t *at = made->packed + made->size;
    if (made->count == CHANGES_MAX) {
        return;
    }
    made->twice |= made->seen[number];
    made->seen[number] = 1;
    *at++ = 2;
    *at++ = 1;
    *at++ = number;
    *at++ = value % 64;
    memset(at, 0, 3);
    memset(at + 3, value, value % 64);
    made->size += 1 + 2 + 4 + (size_t)(value % 64);
    made->count++;
}

/* Bytes that nobody packed. */
static void open_anything(svm_tree *tree, const uint8_t *bytes, size_t size, uint64_t height) {
    uint32_t at;
    const uint32_t count = size == 0 ? 0 : bytes[0];
    uint8_t *held = copy(bytes, size);
    const uint32_t error = svm_tree_open(tree, held, size, count, height, &at);
    EXPECT(error == SVM_TREE_OK || error == SVM_TREE_TWICE || error == SVM_TREE_BAD_CHANGES);
    if (error == SVM_TREE_OK) {
        uint8_t root[32];
        spoil = 0;
        EXPECT(load(tree));
        EXPECT(svm_tree_build(tree, 1, root) == SVM_TREE_OK);
        svm_tree_abort(tree);
    }
    free(held);
}

static void end_all(svm_tree **trees) {
    for (int i = 0; i < 4; i++) {
        svm_tree_free(trees[i]);
        trees[i] = NULL;
    }
}

void svm_fuzz_one(const uint8_t *bytes, size_t size, int tell) {
    static changes made;
    uint64_t height = 1;
    uint32_t updates = 0;
    if (size < 1) {
        return;
    }
    for (int i = 0; i < 2 && pools[i] == NULL; i++) {
        pools[i] = svm_pool_new(i == 0 ? 1 : 3);
        EXPECT(pools[i] != NULL);
    }
    /* Mostly trees that had other lives before, at times new ones, whose buffers are no larger than they must be. */
    static svm_tree *trees[2][4];
    /* Threads have to wake up: most inputs do without. */
    const int threads = (bytes[0] & 5) == 5;
    svm_tree **const of = trees[threads];
    if ((bytes[0] & 0xf8) == 0xf8) {
        end_all(of);
    }
    if (of[0] == NULL) {
        svm_pool *const pool = pools[threads];
        of[0] = svm_tree_new(UINT64_MAX, 0, pools[0]);
        of[1] = svm_tree_new(UINT64_MAX, 1, pool);
        of[2] = svm_tree_new(0, 0, pool);
        of[3] = svm_tree_new(40000, 0, pool);
    }
    for (int i = 0; i < 4; i++) {
        EXPECT(of[i] != NULL);
        svm_tree_clear(of[i], NULL, 0);
    }
    svm_tree *const kept = of[0], *const lean = of[1], *const read = of[bytes[0] & 2 ? 3 : 2];
    spoil = 0;
    newest_height = 0;
    memset(&made, 0, sizeof made);
    for (size_t at = 1; at + 1 < size && updates < UPDATES_MAX; at += 2) {
        if (bytes[at] >= 254) {
            update(kept, lean, read, &made, height++, bytes[at] == 254, tell);
            memset(&made, 0, sizeof made);
            updates++;
        } else if (bytes[at] == 253) {
            spoil = 1 + bytes[at + 1] * 37u;
        } else if (bytes[at] == 252) {
            open_anything(read, bytes + at + 1, size - at - 1, height++);
            break;
        } else {
            put(&made, bytes[at], bytes[at + 1]);
        }
    }
    svm_tree_abort(read);
    while (pages_count != 0) {
        drop(&pages[pages_count - 1]);
    }
}
