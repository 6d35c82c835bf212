/* A pool whose threads take turns; see turns.h. What runs between two yields is one step: every order of the steps that
 * threads could take by themselves may be drawn, as long as no thread yields with a lock in its hands. */
#define _POSIX_C_SOURCE 200809L
#include "turns.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "svm_pool.h"

enum { THREADS_MAX = 64 };

/* Each is read and written by the thread whose turn it is. */
static uint64_t chance = 1, taken, yields, yields_max = UINT64_MAX, stays;

struct svm_pool {
    uint32_t threads;
};

typedef struct {
    pthread_t thread;
    pthread_cond_t turn;
    uint32_t number;
    int running;
} member;

static struct {
    pthread_mutex_t lock; /* over the rest; whose turn it is doesn't hold it */
    member members[THREADS_MAX];
    uint32_t count, running, now;
    void (*task)(void *, uint32_t);
    void *context;
    uint32_t next, end;
} run = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local member *self; /* NULL outside a run */

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

/* Under the lock: gives the turn to a running one, drawn. */
static void pass_on(void) {
    uint32_t left = (uint32_t)draw(run.running);
    for (uint32_t i = 0; i < run.count; i++) {
        if (run.members[i].running && left-- == 0) {
            run.now = i;
            pthread_cond_signal(&run.members[i].turn);
            return;
        }
    }
}

static void wait_for_turn(const member *me) {
    while (run.now != me->number) {
        pthread_cond_wait(&run.members[me->number].turn, &run.lock);
    }
}

void svm_test_yield(void);
void svm_test_yield(void) {
    if (self == NULL) {
        return;
    }
    if (++yields > yields_max) {
        fprintf(stderr, "no end after %llu yields\n", (unsigned long long)yields_max);
        _Exit(3);
    }
    if (draw(stays) != 0) {
        return;
    }
    pthread_mutex_lock(&run.lock);
    pass_on();
    taken += run.now != self->number;
    wait_for_turn(self);
    pthread_mutex_unlock(&run.lock);
}

static void *serve(void *argument) {
    member *me = argument;
    self = me;
    pthread_mutex_lock(&run.lock);
    wait_for_turn(me);
    pthread_mutex_unlock(&run.lock);
    while (run.next < run.end) {
        run.task(run.context, run.next++);
    }
    pthread_mutex_lock(&run.lock);
    me->running = 0;
    if (--run.running != 0) {
        pass_on();
    }
    pthread_mutex_unlock(&run.lock);
    return NULL;
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
    run.now = UINT32_MAX;
    yields = 0;
    for (uint32_t i = 0; i < threads; i++) {
        member *one = &run.members[i];
        one->number = i;
        one->running = 1;
        pthread_cond_init(&one->turn, NULL);
        if (pthread_create(&one->thread, NULL, serve, one) != 0) {
            fprintf(stderr, "no thread\n");
            _Exit(4);
        }
    }
    pthread_mutex_lock(&run.lock);
    pass_on();
    pthread_mutex_unlock(&run.lock);
    for (uint32_t i = 0; i < threads; i++) {
        pthread_join(run.members[i].thread, NULL);
        pthread_cond_destroy(&run.members[i].turn);
    }
}

void svm_pool_free(svm_pool *pool) { free(pool); }
uint32_t svm_pool_threads(const svm_pool *pool) { return pool == NULL ? 1 : pool->threads; }
