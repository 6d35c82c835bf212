/* How a block is executed: the choice by its own conflicts, and the ways (EXEC-34, EXEC-38). */
#include "svm_engine_types.h"

#include <stddef.h>
#include <stdlib.h>

enum {
    SMALL = 256,     /* transactions below which sharing out costs more than it brings */
    COSTLY_KEYS = 6, /* keys a transaction from which Block-STM's bookkeeping is the smaller part */
    /* Measured, in nanoseconds: executing a transaction and a key of it, and finding groups over them. Only their
     * ratios count. */
    RUN_TX = 20,
    RUN_KEY = 30,
    DEAL_TX = 30,
    DEAL_KEY = 16
};

/* Whether groups could pay: finding them is one thread's work, and takes a part of what executing takes. */
static bool worth_dealing(const svm_block *block) {
    const uint64_t run = (uint64_t)RUN_TX * block->count + (uint64_t)RUN_KEY * block->keys_count;
    const uint64_t deal = (uint64_t)DEAL_TX * block->count + (uint64_t)DEAL_KEY * block->keys_count;
    return deal + run / block->workers_count < run - run / 8;
}

enum { AHEAD = 6, AHEAD_OBJECTS = 3, OBJECTS_FEW = 4 };

/* A compiler may take a function that only prefetches for one without effect, and drop its calls. */
#if defined(__GNUC__)
#define IN_PLACE static inline __attribute__((always_inline))
#else
#define IN_PLACE static inline
#endif

/* Asks for what a transaction will need, before its turn: the first of its slots. */
IN_PLACE void prefetch_slots(const svm_block *block, uint32_t index) {
    if (index < block->count) {
        const svm_tx *tx = &block->txs[index];
        const uint32_t few = tx->keys_count < 4 ? tx->keys_count : 4;
        for (uint32_t i = 0; i < few; i++) {
            __builtin_prefetch(&block->slots[block->slot_of[tx->keys + i]], 1);
        }
    }
}

static void run_one(svm_worker *worker, uint32_t index) {
    if (worker->block->txs[index].skip) {
        worker->block->outcomes[index].status = SVM_SKIPPED;
        worker->block->outcomes[index].detail = NULL;
    } else {
        svm_execute_direct(worker, index);
    }
}

/* Objects lie anywhere in memory: the first of a transaction are asked for while those before it run. The others
 * aren't: the processor looks that far ahead by itself, and many requests at once hold each other up. */
IN_PLACE void prefetch_objects(const svm_block *block, uint32_t index) {
    if (index < block->count) {
        const svm_tx *tx = &block->txs[index];
        const uint32_t *slots = block->slot_of + tx->keys + 1 + tx->sponsored;
        const uint32_t few = tx->inputs < OBJECTS_FEW ? tx->inputs : OBJECTS_FEW;
        for (uint32_t i = 0; i < few; i++) {
            const uint8_t *object = (const uint8_t *)block->slots[slots[i]].now.object;
            __builtin_prefetch(object);
            __builtin_prefetch((const uint8_t *)((uintptr_t)object + offsetof(svm_object, deleted)));
        }
    }
}

static void run_serial(svm_block *block) {
    for (uint32_t i = 0; i < block->count; i++) {
        prefetch_slots(block, i + AHEAD);
        prefetch_objects(block, i + AHEAD_OBJECTS);
        run_one(&block->workers[0], i);
    }
}

/* Groups: transactions that share a key are in one, so that groups can be executed side by side. */

static uint32_t group_of(uint32_t *parents, uint32_t slot) {
    while (parents[slot] != slot) {
        parents[slot] = parents[parents[slot]];
        slot = parents[slot];
    }
    return slot;
}

typedef struct {
    svm_block *block;
    uint32_t *order;  /* transactions, by the worker that takes them, ascending for each */
    uint32_t *starts; /* by worker */
} shares;

static void run_share(void *context, uint32_t index) {
    const shares *job = context;
    for (uint32_t i = job->starts[index]; i < job->starts[index + 1]; i++) {
        if (i + AHEAD < job->starts[index + 1]) {
            prefetch_slots(job->block, job->order[i + AHEAD]);
        }
        run_one(&job->block->workers[index], job->order[i]);
    }
}

/* Finds the groups and deals them out, each to the worker with the least so far. `most`: the largest share. */
static bool deal(svm_block *block, shares *job, uint32_t *most) {
    const uint32_t workers = block->workers_count;
    uint32_t *parents = malloc(((size_t)block->slots_count + 1) * sizeof *parents);
    uint32_t *sizes = calloc((size_t)block->slots_count + 1, sizeof *sizes);
    uint32_t *taken_by = malloc(((size_t)block->slots_count + 1) * sizeof *taken_by);
    uint32_t *shared = calloc((size_t)workers + 1, sizeof *shared);
    bool good = parents != NULL && sizes != NULL && taken_by != NULL && shared != NULL;

    if (good) {
        for (uint32_t i = 0; i < block->slots_count; i++) {
            parents[i] = i;
        }
        for (uint32_t i = 0; i < block->count; i++) {
            const svm_tx *tx = &block->txs[i];
            uint32_t root = group_of(parents, block->slot_of[tx->keys]);
            for (uint32_t k = 1; k < tx->keys_count; k++) {
                const uint32_t other = group_of(parents, block->slot_of[tx->keys + k]);
                /* The lower number is the root: it was touched first. */
                if (other < root) {
                    parents[root] = other;
                    root = other;
                } else {
                    parents[other] = root;
                }
            }
        }
        for (uint32_t i = 0; i < block->count; i++) {
            const uint32_t root = group_of(parents, block->slot_of[block->txs[i].keys]);
            if (++sizes[root] > block->stats.largest_group) {
                block->stats.largest_group = sizes[root];
            }
        }
        for (uint32_t i = 0; i < block->slots_count; i++) {
            if (sizes[i] != 0) {
                block->stats.groups++;
                uint32_t least = 0;
                for (uint32_t k = 1; k < workers; k++) {
                    least = shared[k] < shared[least] ? k : least;
                }
                taken_by[i] = least;
                shared[least] += sizes[i];
            }
        }
        uint32_t start = 0;
        *most = 0;
        for (uint32_t k = 0; k < workers; k++) {
            *most = shared[k] > *most ? shared[k] : *most;
            job->starts[k] = start;
            start += shared[k];
            shared[k] = job->starts[k];
        }
        job->starts[workers] = start;
        for (uint32_t i = 0; i < block->count; i++) {
            const uint32_t root = group_of(parents, block->slot_of[block->txs[i].keys]);
            job->order[shared[taken_by[root]]++] = i;
        }
    }
    free(parents);
    free(sizes);
    free(taken_by);
    free(shared);
    return good;
}

/* True where the groups could be dealt out and, unless `always`, well enough to be worth it. */
static uint32_t run_partitioned(svm_block *block, bool always, bool *ran) {
    shares job = {.block = block};
    uint32_t most = 0, error = SVM_ENGINE_NO_MEMORY;

    *ran = false;
    job.order = malloc(((size_t)block->count + 1) * sizeof *job.order);
    job.starts = calloc((size_t)block->workers_count + 1, sizeof *job.starts);
    if (job.order != NULL && job.starts != NULL && deal(block, &job, &most)) {
        error = SVM_ENGINE_OK;
        /* Worth it where the longest share is at most three quarters of the whole. */
        if (always || (uint64_t)most * 4 <= (uint64_t)block->count * 3) {
            svm_pool_run(block->engine->pool, run_share, &job, block->workers_count);
            *ran = true;
        }
    }
    free(job.order);
    free(job.starts);
    return error;
}

static void chose(svm_block *block, enum svm_engine_mode mode, enum svm_engine_reason reason) {
    block->stats.mode = mode;
    block->stats.reason = reason;
}

static uint32_t run_stm(svm_block *block) {
    bool gave_up = false;
    const uint32_t error = svm_stm_run(block, &gave_up);
    if (error == SVM_ENGINE_OK && gave_up) {
        block->stats.gave_up = 1;
        run_serial(block); /* nothing of the attempt is in the slots */
    }
    return error;
}

static uint32_t choose_and_run(svm_block *block) {
    bool ran;
    if (block->workers_count == 1) {
        chose(block, SVM_MODE_SERIAL, SVM_REASON_ONE_THREAD);
        run_serial(block);
        return SVM_ENGINE_OK;
    }
    if (block->count < SMALL) {
        chose(block, SVM_MODE_SERIAL, SVM_REASON_SMALL);
        run_serial(block);
        return SVM_ENGINE_OK;
    }
    /* Groups are the components of a graph with a key a node; with two mentions a key and more, almost all of a
     * random one is a single component, and looking is not worth it. */
    if ((uint64_t)block->keys_count < 2 * (uint64_t)block->slots_count) {
        if (!worth_dealing(block)) {
            chose(block, SVM_MODE_SERIAL, SVM_REASON_CHEAP);
            run_serial(block);
            return SVM_ENGINE_OK;
        }
        chose(block, SVM_MODE_PARTITIONED, SVM_REASON_INDEPENDENT);
        const uint32_t error = run_partitioned(block, false, &ran);
        if (error != SVM_ENGINE_OK || ran) {
            return error;
        }
    }
    if ((uint64_t)block->keys_count >= COSTLY_KEYS * (uint64_t)block->count && block->workers_count > 2 &&
        block->slots_count >= block->count) {
        chose(block, SVM_MODE_BLOCK_STM, SVM_REASON_HEAVY);
        return run_stm(block);
    }
    chose(block, SVM_MODE_SERIAL, SVM_REASON_CONNECTED);
    run_serial(block);
    return SVM_ENGINE_OK;
}

uint32_t svm_execute_block(svm_block *block, uint32_t mode) {
    const uint32_t threads = svm_pool_threads(block->engine->pool);
    uint32_t error = SVM_ENGINE_OK;
    bool ran;

    block->workers = calloc(threads, sizeof *block->workers);
    if (block->workers == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    block->workers_count = block->stats.threads = threads;
    for (uint32_t i = 0; i < threads; i++) {
        if (!svm_worker_init(&block->workers[i], block)) {
            return SVM_ENGINE_NO_MEMORY;
        }
    }
    chose(block, mode, SVM_REASON_ASKED);
    switch (mode) {
    case SVM_MODE_SERIAL:
        run_serial(block);
        break;
    case SVM_MODE_PARTITIONED:
        error = run_partitioned(block, true, &ran);
        break;
    case SVM_MODE_BLOCK_STM:
        error = run_stm(block);
        break;
    default:
        error = choose_and_run(block);
    }
    for (uint32_t i = 0; i < threads; i++) {
        block->stats.executions += block->workers[i].executions;
        error = error != SVM_ENGINE_OK ? error : block->workers[i].error;
    }
    return error;
}
