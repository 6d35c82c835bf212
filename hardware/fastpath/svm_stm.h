/* Block-STM: versions of values by the transaction that wrote them, and who read which (EXEC-35).
 *
 * After Gelashvili et al., "Block-STM: Scaling Blockchain Execution by Turning Ordering Curse to a Performance
 * Blessing" (2022). Only the engine's files include this. */
#ifndef SVM_STM_H
#define SVM_STM_H

#include "svm_engine_types.h"

/* What a transaction wrote under a slot's key. Of one slot, from the highest transaction down. */
typedef struct svm_written {
    svm_value value;
    struct svm_written *below;
    uint32_t tx, incarnation;
    bool estimate; /* its transaction was aborted, and will probably write here again */
} svm_written;

/* A read: whose value it saw. `tx` is UINT32_MAX for the state before the block. */
typedef struct {
    uint32_t slot, tx, incarnation;
} svm_seen;

/* A value that the execution under way holds of its own. */
typedef struct svm_own {
    svm_value value;
    svm_seen seen;
    bool written;
} svm_own;

/* What an execution read. It is put down whole and never changed: who validates an incarnation may still look at its
 * reads while the next one puts down its own. */
typedef struct {
    uint32_t count;
    svm_seen seen[];
} svm_reads;

enum svm_stm_status { SVM_READY, SVM_EXECUTING, SVM_EXECUTED, SVM_ABORTING };

typedef struct {
    uint8_t lock; /* over the other fields */
    uint8_t status;
    uint32_t incarnation;
    uint32_t refuted; /* how often validation found it to have read what is no more */
    uint32_t waiting; /* first of those that wait for this one, + 1 */
    uint32_t next;    /* of who waits with it, + 1 */
    svm_reads *reads; /* of the last execution; not under the lock */
    uint32_t *writes; /* slots; of who executes it, or aborts it */
    uint32_t writes_count;
} svm_stm_tx;

typedef struct svm_stm {
    svm_block *block;
    svm_stm_tx *txs;
    svm_written **written; /* by slot, the highest */
    uint8_t *locks;        /* by slot */
    uint32_t count;
    uint32_t execution, validation; /* the next of each */
    uint32_t decreased, active;
    uint32_t done, give_up, error;
    uint64_t executions, validations, aborts;
} svm_stm;

/* A lock for a few instructions. */
static inline void svm_lock(uint8_t *lock) {
    while (__atomic_test_and_set(lock, __ATOMIC_ACQUIRE)) {
        while (__atomic_load_n(lock, __ATOMIC_RELAXED)) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
        }
    }
}

static inline void svm_unlock(uint8_t *lock) { __atomic_clear(lock, __ATOMIC_RELEASE); }

/* The value of the highest transaction below, noted as read; an estimate is noted, and its stale value given:
 * the execution goes on to its end, which is near, and is done again. */
svm_own *svm_stm_load(svm_worker *w, uint32_t slot);

static inline svm_own *svm_stm_own(svm_worker *w, uint32_t slot) {
    if (w->own_seen[slot] == w->own_now) {
        return &w->own[w->own_of[slot]];
    }
    return svm_stm_load(w, slot);
}

static inline const svm_value *svm_stm_value(svm_worker *w, uint32_t slot) { return &svm_stm_own(w, slot)->value; }

static inline svm_value *svm_stm_change(svm_worker *w, uint32_t slot) {
    svm_own *own = svm_stm_own(w, slot);
    if (w->saving) {
        svm_undo *undo = &w->undo[w->undo_count++];
        undo->slot = slot;
        undo->value = own->value;
    }
    own->written = true;
    return &own->value;
}

static inline void svm_stm_raise(svm_worker *w, uint32_t slot, const svm_object *object) {
    svm_stm_change(w, slot)->object = object;
}

static inline void svm_stm_restore(svm_worker *w, uint32_t slot, svm_value value) {
    svm_stm_own(w, slot)->value = value;
}

#endif
