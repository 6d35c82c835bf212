/* A pool of threads that run the same task for many indexes. */
#ifndef SVM_POOL_H
#define SVM_POOL_H

#include <stdint.h>

typedef struct svm_pool svm_pool;

/* `threads` counts the caller's: a pool of 1 starts none. At most SVM_POOL_THREADS_MAX are used.
 * NULL where there is no memory. Threads that the system refuses are done without. */
svm_pool *svm_pool_new(uint32_t threads);

/* How many threads work in a run, the caller's included. A NULL pool has 1. */
uint32_t svm_pool_threads(const svm_pool *pool);

/* Calls task(context, i) once for each i below `count`, in any order, on any thread; returns when all are
 * done. What the tasks wrote is seen by the caller. A NULL pool runs them here, in order. One run at a
 * time: a second caller waits. */
void svm_pool_run(svm_pool *pool, void (*task)(void *context, uint32_t index), void *context, uint32_t count);

/* Ends the threads and frees the pool. No run may be under way. */
void svm_pool_free(svm_pool *pool);

#endif
