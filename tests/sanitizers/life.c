/* The lives of an engine and its blocks, for the sanitizers: every way of executing, calls out of order, and memory
 * that ends at any point.
 *
 *     life FILE ways      prints for each case what came of it, if that is the same in every way
 *     life FILE ahead     applies each case's transactions ahead of their block, and prints what came of it
 *     life FILE memory    lets each request for memory fail in turn, and then all after it
 *     life FILE order     calls what may not be called yet, or any more
 *     life FILE chain     has one engine do all cases, each the block after the one before, and prints what came of each
 *
 * FILE holds cases, one after the other. Linked so that requests for memory come here first. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case.h"

/* Memory that fails. Request number `failing` fails, counted from 1, and with `for_good` all after it. */
static atomic_ulong asked;
static atomic_ulong failing;
static atomic_int for_good;
static atomic_ulong refused;

static int refuses(void) {
    const unsigned long at = atomic_load(&failing);
    if (at == 0) {
        return 0;
    }
    const unsigned long now = atomic_fetch_add(&asked, 1) + 1;
    const int no = now == at || (now > at && atomic_load(&for_good));
    if (no) {
        atomic_fetch_add(&refused, 1);
    }
    return no;
}

static void fail_from(unsigned long at, int good) {
    atomic_store(&asked, 0);
    atomic_store(&refused, 0);
    atomic_store(&for_good, good);
    atomic_store(&failing, at);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);

void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size) { return refuses() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size) { return refuses() ? NULL : __real_calloc(count, size); }
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size) { return refuses() ? NULL : __real_realloc(memory, size); }
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size) {
    return refuses() ? 12 : __real_posix_memalign(memory, alignment, size);
}
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    return refuses() ? 11 : __real_pthread_create(thread, attributes, start, argument);
}

static const uint8_t SEED[32] = {1, 2, 3};

static const struct {
    uint32_t threads, mode;
} WAYS[] = {{1, SVM_MODE_SERIAL},    {2, SVM_MODE_PARTITIONED}, {3, SVM_MODE_AUTO},
            {2, SVM_MODE_BLOCK_STM}, {3, SVM_MODE_BLOCK_STM},   {8, SVM_MODE_BLOCK_STM}};
enum { WAYS_COUNT = sizeof WAYS / sizeof *WAYS };

#define EXPECT(what)                                                                                                   \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                                         \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void every_way(const svm_case *of) {
    svm_ended first = {0}, again;
    for (int way = 0; way < WAYS_COUNT; way++) {
        svm_pool *pool = svm_pool_new(WAYS[way].threads);
        /* Once with a memory too small for anything, once with one that keeps all, where the second block finds
         * what the first looked up; it is not committed, so that the second is the same block. */
        for (uint64_t bound = 0; bound < 2; bound++) {
            svm_engine *engine = svm_engine_new(bound, 0, SEED, pool);
            EXPECT(engine != NULL);
            for (int turn = 0; turn < 2; turn++) {
                svm_case_run(of, engine, WAYS[way].mode, turn == 1, &again);
                if (way + turn + (int)bound == 0) {
                    first = again;
                }
                EXPECT(svm_ended_same(&first, &again));
            }
            svm_engine_free(engine);
        }
        /* And with the whole state loaded before. */
        svm_engine *engine = svm_engine_new(0, 1, SEED, pool);
        uint32_t at;
        EXPECT(svm_engine_load(engine, of->entries, of->entries_size, of->entries_count, &at) == SVM_ENGINE_OK);
        svm_case_run(of, engine, WAYS[way].mode, 1, &again);
        EXPECT(svm_ended_same(&first, &again));
        svm_engine_free(engine);
        svm_pool_free(pool);
    }
    svm_ended_print(&first);
    printf("\n");
}

/* Once with a memory that keeps nothing, once with one that keeps what it looked up: nothing of what was applied. */
static void ahead(const svm_case *of) {
    svm_ended first = {0}, again;
    svm_pool *pool = svm_pool_new(1);
    for (uint64_t bound = 0; bound < 2; bound++) {
        svm_engine *engine = svm_engine_new(bound, 0, SEED, pool);
        svm_cache_stats stats;
        EXPECT(engine != NULL);
        for (int turn = 0; turn < 2; turn++) {
            svm_case_run(of, engine, SVM_CASE_AHEAD, 0, &again);
            if (turn + (int)bound == 0) {
                first = again;
            }
            EXPECT(svm_ended_same(&first, &again));
        }
        svm_engine_stats(engine, &stats);
        EXPECT(bound == 0 || stats.entries == 0);
        svm_engine_free(engine);
    }
    svm_pool_free(pool);
    svm_ended_print(&first);
    printf("\n");
}

/* One life of an engine, on a pool. True where it went well. */
static int whole_life(const svm_case *of, svm_pool *pool, uint32_t mode, svm_ended *ended) {
    svm_engine *engine = svm_engine_new(0, 0, SEED, pool);
    uint32_t at, error = SVM_ENGINE_NO_MEMORY;
    memset(ended, 0, sizeof *ended);
    if (engine != NULL) {
        error = svm_engine_load(engine, of->entries, of->entries_size, of->entries_count / 2, &at);
        EXPECT(error == SVM_ENGINE_NO_MEMORY || error == SVM_ENGINE_BAD_STATE || error == SVM_ENGINE_OK);
        if (error != SVM_ENGINE_NO_MEMORY) {
            svm_case_run(of, engine, mode, 1, ended);
            error = ended->error;
            EXPECT(error == SVM_ENGINE_NO_MEMORY || error == SVM_ENGINE_OK);
        }
        if (error == SVM_ENGINE_NO_MEMORY) {
            /* With memory again, the engine does the block as if nothing had been. */
            svm_ended later;
            const unsigned long was = atomic_exchange(&failing, 0);
            svm_engine_clear(engine);
            svm_case_run(of, engine, mode, 1, &later);
            EXPECT(later.error == SVM_ENGINE_OK);
            atomic_store(&failing, was);
        }
    }
    svm_engine_free(engine);
    return error == SVM_ENGINE_OK;
}

/* A pool with as many threads as the system gives, or none. */
static void pools_without_memory(void) {
    for (unsigned long at = 1; at < 8; at++) {
        for (int good = 0; good < 2; good++) {
            fail_from(at, good);
            svm_pool *pool = svm_pool_new(4);
            fail_from(0, 0);
            EXPECT(pool != NULL || at < 3);
            EXPECT(svm_pool_threads(pool) <= 4);
            svm_pool_free(pool);
        }
    }
}

/* How often memory ended in one way of doing a case. */
static unsigned long memory_ends_in(const svm_case *of, svm_pool *pool, uint32_t mode) {
    unsigned long tried = 0;
    svm_ended whole, cut;
    EXPECT(whole_life(of, pool, mode, &whole));
    for (int good = 0; good < 2; good++) {
        for (unsigned long at = 1;; at++) {
            fail_from(at, good);
            const int went_well = whole_life(of, pool, mode, &cut);
            const unsigned long no = atomic_load(&refused);
            fail_from(0, 0);
            if (went_well) {
                EXPECT(svm_ended_same(&whole, &cut));
            }
            if (no == 0) {
                EXPECT(went_well);
                break;
            }
            tried++;
        }
    }
    return tried;
}

static void memory_ends(const svm_case *of) {
    unsigned long tried = 0;
    pools_without_memory();
    for (int way = 0; way < WAYS_COUNT; way++) {
        svm_pool *pool = svm_pool_new(WAYS[way].threads);
        tried += memory_ends_in(of, pool, WAYS[way].mode);
        svm_pool_free(pool);
    }
    svm_pool *pool = svm_pool_new(1);
    svm_engine *engine = svm_engine_new(0, 0, SEED, pool);
    svm_ended ended;
    EXPECT(engine != NULL);
    svm_case_run(of, engine, SVM_CASE_AHEAD, 0, &ended);
    svm_engine_free(engine);
    if (ended.error == SVM_ENGINE_OK) { /* some cases are for the specification */
        tried += memory_ends_in(of, pool, SVM_CASE_AHEAD);
    }
    svm_pool_free(pool);
    printf("%lu\n", tried);
}

static void out_of_order(const svm_case *of) {
    svm_pool *pool = svm_pool_new(2);
    svm_engine *engine = svm_engine_new(0, 0, SEED, pool);
    svm_block *block, *other;
    const uint8_t *bytes, *other_bytes;
    size_t other_size;
    const uint64_t *starts;
    uint8_t root[32];
    size_t size;
    uint32_t at, count;
    svm_block_stats stats;

    EXPECT(engine != NULL);
    EXPECT(svm_block_new(engine, &of->facts, of->data, of->offsets, of->count, NULL, of->executed, of->executed_count,
                         &block, &at) == SVM_ENGINE_OK);
    EXPECT(svm_block_new(engine, &of->facts, of->data, of->offsets, of->count, NULL, NULL, 0, &other, &at) ==
           SVM_ENGINE_ORDER);
    EXPECT(other == NULL);
    EXPECT(svm_engine_load(engine, of->entries, of->entries_size, of->entries_count, &at) == SVM_ENGINE_ORDER);
    EXPECT(svm_block_commit(block) == SVM_ENGINE_ORDER);
    EXPECT(svm_block_changes(block, &bytes, &size, &count) == SVM_ENGINE_ORDER);
    EXPECT(svm_block_details(block, NULL, 0) == 0);
    svm_block_receipts(block, &bytes, &starts, &count, root);
    EXPECT(count == 0);
    svm_block_missing(block, &bytes, &size, &count);
    EXPECT(count == 0 || svm_block_execute(block, SVM_MODE_AUTO) == SVM_ENGINE_ORDER);
    EXPECT(count == 0 || svm_block_apply(block, &other_bytes, &other_size) == SVM_ENGINE_ORDER);
    uint8_t *answer = svm_case_answer(of, bytes, count, &size);
    EXPECT(answer != NULL);
    EXPECT(svm_block_supply(block, answer, size, count + 1, &at) == SVM_ENGINE_ORDER);
    if (size > 0) {
        EXPECT(svm_block_supply(block, answer, size - 1, count, &at) == SVM_ENGINE_BAD_STATE);
    }
    EXPECT(svm_block_supply(block, answer, size, count, &at) == SVM_ENGINE_OK);
    EXPECT(count == 0 || svm_block_supply(block, answer, size, count, &at) == SVM_ENGINE_ORDER);
    free(answer);
    EXPECT(svm_block_execute(block, SVM_MODE_BLOCK_STM) == SVM_ENGINE_OK);
    EXPECT(svm_block_execute(block, SVM_MODE_BLOCK_STM) == SVM_ENGINE_ORDER);
    EXPECT(svm_block_apply(block, &bytes, &size) == SVM_ENGINE_ORDER);
    EXPECT(svm_block_changes(block, &bytes, &size, &count) == SVM_ENGINE_OK);
    EXPECT(svm_block_commit(block) == SVM_ENGINE_OK);
    EXPECT(svm_block_commit(block) == SVM_ENGINE_ORDER);
    EXPECT(svm_block_changes(block, &bytes, &size, &count) == SVM_ENGINE_ORDER);
    svm_block_stats_of(block, &stats);
    EXPECT(stats.transactions == of->count);
    svm_block_free(block);
    svm_block_free(NULL);

    /* A block given up at each step. */
    for (int step = 0; step < 5; step++) {
        svm_engine_clear(engine);
        EXPECT(svm_block_new(engine, &of->facts, of->data, of->offsets, of->count, NULL, of->executed,
                             of->executed_count, &block, &at) == SVM_ENGINE_OK);
        if (step > 0) {
            svm_block_missing(block, &bytes, &size, &count);
            answer = svm_case_answer(of, bytes, count, &size);
            EXPECT(svm_block_supply(block, answer, size, count, &at) == SVM_ENGINE_OK);
            free(answer);
        }
        if (step == 4) { /* what was applied ahead is no block to be kept */
            const uint32_t error = svm_block_apply(block, &bytes, &size);
            EXPECT(error == SVM_ENGINE_OK || error == SVM_ENGINE_UNKNOWN || error == SVM_ENGINE_ORDER);
            EXPECT(svm_block_apply(block, &bytes, &size) == SVM_ENGINE_ORDER);
            EXPECT(svm_block_execute(block, SVM_MODE_AUTO) == SVM_ENGINE_ORDER);
            EXPECT(svm_block_commit(block) == SVM_ENGINE_ORDER);
            EXPECT(svm_block_changes(block, &bytes, &size, &count) == SVM_ENGINE_ORDER);
            EXPECT(error != SVM_ENGINE_OK || svm_block_details(block, NULL, 0) <= of->count);
            svm_block_receipts(block, &bytes, &starts, &count, root);
            EXPECT(count == 0);
            svm_block_free(block);
            continue;
        }
        if (step > 1) {
            EXPECT(svm_block_execute(block, SVM_MODE_AUTO) == SVM_ENGINE_OK);
        }
        if (step > 2) {
            EXPECT(svm_block_changes(block, &bytes, &size, &count) == SVM_ENGINE_OK);
        }
        svm_block_free(block);
    }
    svm_engine_free(engine);
    svm_engine_free(NULL);
    svm_pool_free(pool);
    svm_pool_free(NULL);
}

/* One engine from block to block: what a commit leaves is read by the blocks after it, when the memory of the block
 * that wrote it is given back. */
static void one_engine(const uint8_t *bytes, size_t size) {
    enum { CASES_MAX = 256 };
    static svm_ended ended[CASES_MAX];
    for (int way = 0; way < WAYS_COUNT; way++) {
        svm_pool *pool = svm_pool_new(WAYS[way].threads);
        svm_engine *engine = svm_engine_new(0, 0, SEED, pool);
        EXPECT(engine != NULL);
        size_t at = 0;
        for (int number = 0; at < size; number++) {
            svm_case one;
            svm_ended again;
            const size_t used = svm_case_read(bytes + at, size - at, &one);
            EXPECT(used != 0 && number < CASES_MAX);
            svm_case_run(&one, engine, WAYS[way].mode, 1, &again);
            if (way == 0) {
                ended[number] = again;
                svm_ended_print(&again);
                printf("\n");
            }
            EXPECT(svm_ended_same(&ended[number], &again));
            svm_case_free(&one);
            at += used;
        }
        svm_engine_free(engine);
        svm_pool_free(pool);
    }
}

int main(int argc, char **argv) {
    size_t size = 0;
    uint8_t *bytes = argc == 3 ? svm_case_file(argv[1], &size) : NULL;
    if (bytes == NULL) {
        return 2;
    }
    if (strcmp(argv[2], "chain") == 0) {
        one_engine(bytes, size);
        size = 0;
    }
    for (size_t at = 0; at < size;) {
        svm_case one;
        const size_t used = svm_case_read(bytes + at, size - at, &one);
        EXPECT(used != 0);
        if (strcmp(argv[2], "ways") == 0) {
            every_way(&one);
        } else if (strcmp(argv[2], "ahead") == 0) {
            ahead(&one);
        } else if (strcmp(argv[2], "memory") == 0) {
            memory_ends(&one);
        } else {
            out_of_order(&one);
        }
        svm_case_free(&one);
        at += used;
    }
    free(bytes);
    return 0;
}
