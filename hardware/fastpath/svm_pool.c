#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "svm_pool.h"

#include <stdlib.h>

#define SVM_POOL_THREADS_MAX 256

#if defined(_WIN32)

/* No POSIX threads: a pool is its caller. */
struct svm_pool {
    uint32_t threads;
};

svm_pool *svm_pool_new(uint32_t threads) {
    svm_pool *pool = malloc(sizeof *pool);
    (void)threads;
    if (pool != NULL) {
        pool->threads = 1;
    }
    return pool;
}

void svm_pool_run(svm_pool *pool, void (*task)(void *, uint32_t), void *context, uint32_t count) {
    (void)pool;
    for (uint32_t i = 0; i < count; i++) {
        task(context, i);
    }
}

void svm_pool_free(svm_pool *pool) { free(pool); }

#else

#include <pthread.h>
#include <stdatomic.h>

struct svm_pool {
    uint32_t threads; /* the caller's included */
    pthread_t *started;
    pthread_mutex_t caller; /* held by the run under way */
    pthread_mutex_t lock;   /* over all that follows */
    pthread_cond_t begin;
    pthread_cond_t done;
    uint64_t run;  /* counts runs, so that a thread sees a new one */
    int open;      /* the run under way takes threads: its caller hasn't finished its part */
    uint32_t busy; /* threads that took it */
    int ending;
    void (*task)(void *, uint32_t);
    void *context;
    uint32_t count;
    atomic_uint next;
};

static void work(svm_pool *pool, void (*task)(void *, uint32_t), void *context, uint32_t count) {
    for (;;) {
        const uint32_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (i >= count) {
            return;
        }
        task(context, i);
    }
}

static void *serve(void *argument) {
    svm_pool *pool = argument;
    uint64_t seen = 0;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->ending && (!pool->open || pool->run == seen)) {
            pthread_cond_wait(&pool->begin, &pool->lock);
        }
        if (pool->ending) {
            break;
        }
        seen = pool->run;
        pool->busy++;
        void (*const task)(void *, uint32_t) = pool->task;
        void *const context = pool->context;
        const uint32_t count = pool->count;
        pthread_mutex_unlock(&pool->lock);
        work(pool, task, context, count);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0) {
            pthread_cond_signal(&pool->done);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

svm_pool *svm_pool_new(uint32_t threads) {
    svm_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        return NULL;
    }
    threads = threads < 1 ? 1 : threads > SVM_POOL_THREADS_MAX ? SVM_POOL_THREADS_MAX : threads;
    pool->started = calloc(threads, sizeof *pool->started);
    if (pool->started == NULL) {
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->caller, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->threads = 1;
    while (pool->threads < threads && pthread_create(&pool->started[pool->threads - 1], NULL, serve, pool) == 0) {
        pool->threads++;
    }
    return pool;
}

void svm_pool_run(svm_pool *pool, void (*task)(void *, uint32_t), void *context, uint32_t count) {
    if (pool == NULL || pool->threads == 1 || count < 2) {
        for (uint32_t i = 0; i < count; i++) {
            task(context, i);
        }
        return;
    }
    pthread_mutex_lock(&pool->caller);
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->context = context;
    pool->count = count;
    pool->open = 1;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    pool->run++;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    work(pool, task, context, count);
    pthread_mutex_lock(&pool->lock);
    /* Every index is taken: a thread that wakes up only now is not waited for. On a busy machine it may be late. */
    pool->open = 0;
    while (pool->busy != 0) {
        pthread_cond_wait(&pool->done, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    pthread_mutex_unlock(&pool->caller);
}

void svm_pool_free(svm_pool *pool) {
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->ending = 1;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i + 1 < pool->threads; i++) {
        pthread_join(pool->started[i], NULL);
    }
    pthread_cond_destroy(&pool->begin);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->caller);
    free(pool->started);
    free(pool);
}

#endif

uint32_t svm_pool_threads(const svm_pool *pool) { return pool == NULL ? 1 : pool->threads; }
