#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

/* Block-STM's scheduler and its versions (EXEC-35..37). */
#include "svm_stm.h"

#include <stdlib.h>
#if !defined(_WIN32)
#include <sched.h>
#endif

enum { NONE = 0, EXECUTE = 1, VALIDATE = 2 };

#define BASE UINT32_MAX

#if !defined(SVM_REFUTED_MAX)
#define SVM_REFUTED_MAX 16 /* refutations of one transaction (EXEC-37); tests take fewer */
#endif

/* Tests let other threads go first at these points, so that what seldom happens does. */
#if defined(SVM_TEST_YIELD)
void svm_test_yield(void);
#else
#define svm_test_yield() ((void)0)
#endif

typedef struct {
    uint32_t kind, tx, incarnation;
} task;

static const task NO_TASK = {NONE, 0, 0};

/* Versions. */

svm_own *svm_stm_load(svm_worker *w, uint32_t slot) {
    svm_stm *stm = w->stm;
    svm_own *own = &w->own[w->own_count];
    w->own_of[slot] = w->own_count++;
    w->own_seen[slot] = w->own_now;
    own->written = false;
    own->seen.slot = slot;

    svm_test_yield();
    svm_lock(&stm->locks[slot]);
    const svm_written *found = stm->written[slot];
    while (found != NULL && found->tx >= w->index) {
        found = found->below;
    }
    if (found == NULL) {
        own->value = w->block->slots[slot].now;
        own->seen.tx = BASE;
        own->seen.incarnation = 0;
    } else {
        own->value = found->value;
        own->seen.tx = found->tx;
        own->seen.incarnation = found->incarnation;
        if (found->estimate && w->blocked_by == 0) {
            w->blocked_by = found->tx + 1;
        }
    }
    svm_unlock(&stm->locks[slot]);
    return own;
}

/* Writes a transaction's value of a slot; true where it had written none there. */
static bool put_version(svm_worker *w, uint32_t slot, const svm_value *value) {
    svm_stm *stm = w->stm;
    bool fresh = false;
    svm_written *spare = NULL;

    for (;;) {
        svm_test_yield();
        svm_lock(&stm->locks[slot]);
        svm_written **link = &stm->written[slot];
        while (*link != NULL && (*link)->tx > w->index) {
            link = &(*link)->below;
        }
        svm_written *at = *link;
        if (at == NULL || at->tx != w->index) {
            if (spare == NULL) {
                /* Memory is not asked for under the lock. */
                svm_unlock(&stm->locks[slot]);
                spare = svm_arena_take(&w->arena, sizeof *spare);
                if (spare == NULL) {
                    w->error = SVM_ENGINE_NO_MEMORY;
                    return true;
                }
                continue;
            }
            spare->below = at;
            *link = at = spare;
            at->tx = w->index;
            fresh = true;
        }
        at->value = *value;
        at->incarnation = w->incarnation;
        at->estimate = false;
        svm_unlock(&stm->locks[slot]);
        return fresh;
    }
}

static void drop_version(svm_stm *stm, uint32_t slot, uint32_t tx) {
    svm_test_yield();
    svm_lock(&stm->locks[slot]);
    svm_written **link = &stm->written[slot];
    while (*link != NULL && (*link)->tx > tx) {
        link = &(*link)->below;
    }
    if (*link != NULL && (*link)->tx == tx) {
        *link = (*link)->below;
    }
    svm_unlock(&stm->locks[slot]);
}

static void mark_estimates(svm_stm *stm, uint32_t tx) {
    const svm_stm_tx *of = &stm->txs[tx];
    for (uint32_t i = 0; i < of->writes_count; i++) {
        const uint32_t slot = of->writes[i];
        svm_test_yield();
        svm_lock(&stm->locks[slot]);
        svm_written *at = stm->written[slot];
        while (at != NULL && at->tx > tx) {
            at = at->below;
        }
        if (at != NULL && at->tx == tx) {
            at->estimate = true;
        }
        svm_unlock(&stm->locks[slot]);
    }
}

static bool still_reads(svm_stm *stm, uint32_t tx) {
    const svm_reads *reads = __atomic_load_n(&stm->txs[tx].reads, __ATOMIC_ACQUIRE);
    if (reads == NULL) {
        return true; /* skipped: it read nothing */
    }
    for (uint32_t i = 0; i < reads->count; i++) {
        const svm_seen *seen = &reads->seen[i];
        svm_test_yield();
        svm_lock(&stm->locks[seen->slot]);
        const svm_written *at = stm->written[seen->slot];
        while (at != NULL && at->tx >= tx) {
            at = at->below;
        }
        const bool same = at == NULL ? seen->tx == BASE
                                     : !at->estimate && at->tx == seen->tx && at->incarnation == seen->incarnation;
        svm_unlock(&stm->locks[seen->slot]);
        if (!same) {
            return false;
        }
    }
    return true;
}

/* The scheduler: the lowest index first, validation before execution. */

static uint32_t load(const uint32_t *counter) { return __atomic_load_n(counter, __ATOMIC_SEQ_CST); }
static uint32_t next_of(uint32_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST); }
static void leave(svm_stm *stm) { __atomic_fetch_sub(&stm->active, 1, __ATOMIC_SEQ_CST); }

static void lower(svm_stm *stm, uint32_t *counter, uint32_t to) {
    uint32_t now = load(counter);
    svm_test_yield();
    while (now > to && !__atomic_compare_exchange_n(counter, &now, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    svm_test_yield();
    __atomic_fetch_add(&stm->decreased, 1, __ATOMIC_SEQ_CST);
}

static void check_done(svm_stm *stm) {
    const uint32_t observed = load(&stm->decreased);
    const uint32_t execution = load(&stm->execution), validation = load(&stm->validation);
    svm_test_yield();
    if ((execution < validation ? execution : validation) >= stm->count && load(&stm->active) == 0 &&
        observed == load(&stm->decreased)) {
        __atomic_store_n(&stm->done, 1, __ATOMIC_SEQ_CST);
    }
}

static task try_incarnate(svm_stm *stm, uint32_t tx) {
    if (tx < stm->count) {
        svm_stm_tx *of = &stm->txs[tx];
        svm_lock(&of->lock);
        if (of->status == SVM_READY) {
            of->status = SVM_EXECUTING;
            const task found = {EXECUTE, tx, of->incarnation};
            svm_unlock(&of->lock);
            return found;
        }
        svm_unlock(&of->lock);
    }
    leave(stm);
    return NO_TASK;
}

static task next_task(svm_stm *stm) {
    const uint32_t validation = load(&stm->validation), execution = load(&stm->execution);
    if (validation < execution) {
        if (validation >= stm->count) {
            check_done(stm);
            return NO_TASK;
        }
        __atomic_fetch_add(&stm->active, 1, __ATOMIC_SEQ_CST);
        svm_test_yield();
        const uint32_t tx = next_of(&stm->validation);
        svm_test_yield();
        if (tx < stm->count) {
            svm_stm_tx *of = &stm->txs[tx];
            svm_lock(&of->lock);
            if (of->status == SVM_EXECUTED) {
                const task found = {VALIDATE, tx, of->incarnation};
                svm_unlock(&of->lock);
                return found;
            }
            svm_unlock(&of->lock);
        }
        leave(stm);
        return NO_TASK;
    }
    if (execution >= stm->count) {
        check_done(stm);
        return NO_TASK;
    }
    __atomic_fetch_add(&stm->active, 1, __ATOMIC_SEQ_CST);
    svm_test_yield();
    return try_incarnate(stm, next_of(&stm->execution));
}

/* Lets `tx` wait for `blocker`; false where that is executed already. */
static bool wait_for(svm_stm *stm, uint32_t tx, uint32_t blocker) {
    svm_stm_tx *of = &stm->txs[blocker];
    svm_test_yield();
    svm_lock(&of->lock);
    if (of->status == SVM_EXECUTED) {
        svm_unlock(&of->lock);
        return false;
    }
    svm_stm_tx *one = &stm->txs[tx];
    /* Locks are taken from the lower index to the higher: a transaction waits for one below it. */
    svm_lock(&one->lock);
    one->status = SVM_ABORTING;
    svm_unlock(&one->lock);
    one->next = of->waiting;
    of->waiting = tx + 1;
    svm_unlock(&of->lock);
    return true;
}

static void set_ready(svm_stm *stm, uint32_t tx) {
    svm_stm_tx *of = &stm->txs[tx];
    svm_lock(&of->lock);
    of->incarnation++;
    of->status = SVM_READY;
    svm_unlock(&of->lock);
}

static task finish_execution(svm_stm *stm, uint32_t tx, uint32_t incarnation, bool new_place) {
    svm_stm_tx *of = &stm->txs[tx];
    svm_lock(&of->lock);
    of->status = SVM_EXECUTED;
    uint32_t waiting = of->waiting;
    of->waiting = 0;
    svm_unlock(&of->lock);
    svm_test_yield();
    uint32_t lowest = UINT32_MAX;
    while (waiting != 0) {
        const uint32_t one = waiting - 1;
        waiting = stm->txs[one].next;
        lowest = one < lowest ? one : lowest;
        set_ready(stm, one);
    }
    if (lowest != UINT32_MAX) {
        lower(stm, &stm->execution, lowest);
    }
    svm_test_yield();
    if (load(&stm->validation) > tx) {
        if (!new_place) {
            const task found = {VALIDATE, tx, incarnation};
            return found;
        }
        lower(stm, &stm->validation, tx);
    }
    leave(stm);
    return NO_TASK;
}

/* Executions. */

/* Room for a read of every key, and a write. */
static bool make_room(svm_worker *w, const svm_tx *tx) {
    const uint32_t room = tx->keys_count + 8;
    if (room > w->own_room) {
        svm_own *more = realloc(w->own, room * sizeof *more);
        if (more == NULL) {
            return false;
        }
        w->own = more;
        w->own_room = room;
    }
    return true;
}

/* Puts down what an execution read and wrote; true where it wrote a slot that the one before didn't. */
static bool record(svm_worker *w, uint32_t tx) {
    svm_stm *stm = w->stm;
    svm_stm_tx *of = &stm->txs[tx];
    uint32_t *writes = svm_arena_take(&w->arena, ((size_t)w->own_count + 1) * sizeof *writes);
    svm_reads *reads = svm_arena_take(&w->arena, sizeof *reads + (size_t)w->own_count * sizeof *reads->seen);
    uint32_t writes_count = 0;
    bool new_place = false;

    if (writes == NULL || reads == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY;
        return true;
    }
    for (uint32_t i = 0; i < w->own_count; i++) {
        const svm_own *own = &w->own[i];
        reads->seen[i] = own->seen;
        if (own->written) {
            writes[writes_count++] = own->seen.slot;
            new_place |= put_version(w, own->seen.slot, &own->value);
        }
    }
    /* Places that only the execution before wrote are emptied. */
    for (uint32_t i = 0; i < of->writes_count; i++) {
        const uint32_t slot = of->writes[i];
        if (w->own_seen[slot] != w->own_now || !w->own[w->own_of[slot]].written) {
            drop_version(stm, slot, tx);
            /* Who read it must be looked at again, as with a new one. */
            new_place = true;
        }
    }
    svm_test_yield();
    reads->count = w->own_count;
    __atomic_store_n(&of->reads, reads, __ATOMIC_RELEASE);
    of->writes = writes;
    of->writes_count = writes_count;
    return new_place;
}

static task execute(svm_worker *w, task at) {
    svm_stm *stm = w->stm;
    const svm_tx *tx = &stm->block->txs[at.tx];

    if (tx->skip) {
        stm->block->outcomes[at.tx].status = SVM_SKIPPED;
        stm->block->outcomes[at.tx].detail = NULL;
        return finish_execution(stm, at.tx, at.incarnation, false);
    }
    for (;;) {
        if (!make_room(w, tx)) {
            w->error = SVM_ENGINE_NO_MEMORY;
            return NO_TASK;
        }
        w->index = at.tx;
        w->incarnation = at.incarnation;
        w->own_count = 0;
        w->own_now++;
        w->blocked_by = 0;
        svm_execute_optimistic(w, at.tx);
        if (w->error != SVM_ENGINE_OK) {
            return NO_TASK;
        }
        if (w->blocked_by == 0) {
            break;
        }
        __atomic_fetch_add(&stm->aborts, 1, __ATOMIC_RELAXED);
        if (wait_for(stm, at.tx, w->blocked_by - 1)) {
            leave(stm);
            return NO_TASK;
        }
        /* It was executed in the meantime: at once again. */
    }
    const bool new_place = record(w, at.tx);
    svm_test_yield();
    return finish_execution(stm, at.tx, at.incarnation, new_place);
}

static task validate(svm_worker *w, task at) {
    svm_stm *stm = w->stm;
    svm_stm_tx *of = &stm->txs[at.tx];
    bool aborted = false;

    __atomic_fetch_add(&stm->validations, 1, __ATOMIC_RELAXED);
    svm_lock(&of->lock);
    const bool current = of->status == SVM_EXECUTED && of->incarnation == at.incarnation;
    svm_unlock(&of->lock);
    svm_test_yield();
    if (current && !still_reads(stm, at.tx)) {
        svm_lock(&of->lock);
        if (of->status == SVM_EXECUTED && of->incarnation == at.incarnation) {
            of->status = SVM_ABORTING;
            aborted = true;
            if (++of->refuted >= SVM_REFUTED_MAX) {
                __atomic_store_n(&stm->give_up, 1, __ATOMIC_SEQ_CST);
            }
        }
        svm_unlock(&of->lock);
    }
    if (aborted) {
        __atomic_fetch_add(&stm->aborts, 1, __ATOMIC_RELAXED);
        svm_test_yield();
        mark_estimates(stm, at.tx);
        set_ready(stm, at.tx);
        svm_test_yield();
        lower(stm, &stm->validation, at.tx + 1);
        if (load(&stm->execution) > at.tx) {
            return try_incarnate(stm, at.tx);
        }
    }
    leave(stm);
    return NO_TASK;
}

static void work(void *context, uint32_t index) {
    svm_stm *stm = context;
    svm_worker *w = &stm->block->workers[index];
    task at = NO_TASK;
    uint32_t idle = 0;
    while (!load(&stm->done) && !load(&stm->give_up)) {
        if (at.kind == EXECUTE) {
            at = execute(w, at);
        } else if (at.kind == VALIDATE) {
            at = validate(w, at);
        } else {
            at = next_task(stm);
            idle = at.kind == NONE ? idle + 1 : 0;
#if !defined(_WIN32)
            if (idle > 64) {
                sched_yield(); /* others may have no processor of their own */
            }
#endif
        }
        if (w->error != SVM_ENGINE_OK) {
            __atomic_store_n(&stm->error, w->error, __ATOMIC_SEQ_CST);
            __atomic_store_n(&stm->give_up, 1, __ATOMIC_SEQ_CST);
        }
    }
}

static bool make_workers_ready(svm_stm *stm) {
    svm_block *block = stm->block;
    for (uint32_t i = 0; i < block->workers_count; i++) {
        svm_worker *w = &block->workers[i];
        w->stm = stm;
        w->own_of = calloc((size_t)block->slots_count + 1, sizeof *w->own_of);
        w->own_seen = calloc((size_t)block->slots_count + 1, sizeof *w->own_seen);
        if (w->own_of == NULL || w->own_seen == NULL) {
            return false;
        }
    }
    return true;
}

/* Values of the highest writers become the slots'. */
static void install(const svm_stm *stm) {
    for (uint32_t slot = 0; slot < stm->block->slots_count; slot++) {
        const svm_written *last = stm->written[slot];
        if (last != NULL) {
            stm->block->slots[slot].now = last->value;
            stm->block->slots[slot].changed = SVM_CHANGED;
        }
    }
}

uint32_t svm_stm_run(svm_block *block, bool *gave_up) {
    svm_stm stm = {.block = block, .count = block->count};
    uint32_t error = SVM_ENGINE_NO_MEMORY;

    stm.txs = calloc((size_t)block->count + 1, sizeof *stm.txs);
    stm.written = calloc((size_t)block->slots_count + 1, sizeof *stm.written);
    stm.locks = calloc((size_t)block->slots_count + 1, 1);
    if (stm.txs != NULL && stm.written != NULL && stm.locks != NULL && make_workers_ready(&stm)) {
        svm_pool_run(block->engine->pool, work, &stm, block->workers_count);
        error = stm.error;
        *gave_up = stm.give_up && error == SVM_ENGINE_OK;
        if (!stm.give_up) {
            install(&stm);
        }
    }
    block->stats.validations = stm.validations;
    block->stats.aborts = stm.aborts;
    free(stm.txs);
    free(stm.written);
    free(stm.locks);
    return error;
}
