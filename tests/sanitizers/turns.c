/* A pool whose threads take turns; see turns.h. They are contexts of one thread of the system, so that a turn costs next
 * to nothing and nothing else on the machine has a say. What runs between two yields is one step: every order of the
 * steps that threads could take by themselves may be drawn, as long as no thread yields with a lock in its hands. */
#define _XOPEN_SOURCE 700
#include "turns.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include "svm_pool.h"

enum { THREADS_MAX = 64, STACK_BYTES = 1 << 20, NOBODY = -1 };

static uint64_t chance = 1, stays = 1, taken, yields, yields_max = UINT64_MAX;

struct svm_pool {
    uint32_t threads;
};

typedef struct {
    ucontext_t context;
    void *stack;
    int running;
} member;

static struct {
    member members[THREADS_MAX];
    ucontext_t caller;
    uint32_t count, running;
    int now; /* whose turn it is; NOBODY outside a run */
    void (*task)(void *, uint32_t);
    void *context;
    uint32_t next, end;
} run = {.now = NOBODY};

static uint64_t draw(uint64_t below) {
    /* xorshift64*, Vigna 2016 */
    chance ^= chance >> 12;
    chance ^= chance << 25;
    chance ^= chance >> 27;
    return (chance * UINT64_C(2685821657736338717) >> 32) % below;
}

void svm_turns_seed(uint64_t seed) {
    chance = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15);
    taken = 0;
    /* From a new turn at every step to long ways alone, in which others stand still. */
    static const uint64_t lengths[] = {1, 2, 4, 8, 32, 128};
    stays = lengths[draw(sizeof lengths / sizeof *lengths)];
}

uint64_t svm_turns_taken(void) { return taken; }
void svm_turns_bound(uint64_t bound) { yields_max = bound; }

static int drawn(void) {
    uint32_t left = (uint32_t)draw(run.running);
    for (uint32_t i = 0; i < run.count; i++) {
        if (run.members[i].running && left-- == 0) {
            return (int)i;
        }
    }
    abort();
}

void svm_test_yield(void);
void svm_test_yield(void) {
    if (run.now == NOBODY) {
        return;
    }
    if (++yields > yields_max) {
        fprintf(stderr, "no end after %llu yields\n", (unsigned long long)yields_max);
        _Exit(3);
    }
    if (draw(stays) != 0) {
        return;
    }
    member *const me = &run.members[run.now];
    const int next = drawn();
    if (next != run.now) {
        taken++;
        run.now = next;
        swapcontext(&me->context, &run.members[next].context);
    }
}

static void serve(void) {
    while (run.next < run.end) {
        run.task(run.context, run.next++);
    }
    run.members[run.now].running = 0;
    if (--run.running != 0) {
        run.now = drawn();
        setcontext(&run.members[run.now].context);
    }
    run.now = NOBODY;
    setcontext(&run.caller);
}

svm_pool *svm_pool_new(uint32_t threads) {
    svm_pool *pool = malloc(sizeof *pool);
    if (pool != NULL) {
        pool->threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
    }
    return pool;
}

void svm_pool_run(svm_pool *pool, void (*task)(void *, uint32_t), void *context, uint32_t count) {
    const uint32_t threads = pool == NULL ? 1 : pool->threads < count ? pool->threads : count;
    if (threads < 2) {
        for (uint32_t i = 0; i < count; i++) {
            task(context, i);
        }
        return;
    }
    run.task = task;
    run.context = context;
    run.next = 0;
    run.end = count;
    run.count = run.running = threads;
    yields = 0;
    for (uint32_t i = 0; i < threads; i++) {
        member *one = &run.members[i];
        if (one->stack == NULL) {
            one->stack = malloc(STACK_BYTES); /* for all runs to come */
        }
        if (one->stack == NULL || getcontext(&one->context) != 0) {
            fprintf(stderr, "no thread\n");
            _Exit(4);
        }
        one->context.uc_stack.ss_sp = one->stack;
        one->context.uc_stack.ss_size = STACK_BYTES;
        one->context.uc_link = NULL;
        makecontext(&one->context, serve, 0);
        one->running = 1;
    }
    run.now = drawn();
    swapcontext(&run.caller, &run.members[run.now].context);
}

void svm_pool_free(svm_pool *pool) { free(pool); }
uint32_t svm_pool_threads(const svm_pool *pool) { return pool == NULL ? 1 : pool->threads; }
