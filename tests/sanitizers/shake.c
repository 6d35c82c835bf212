/* Lets other threads go first at some of Block-STM's yield points, by each thread's own chance: for the thread sanitizer,
 * which must see threads that nobody else keeps in order. */
#define _POSIX_C_SOURCE 200809L
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

void svm_test_yield(void);
void svm_test_yield(void) {
    static atomic_uint threads;
    static _Thread_local uint32_t chance;
    if (chance == 0) {
        chance = (atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) + 1) * 2654435761u;
        chance |= 1;
    }
    /* xorshift32, Marsaglia 2003 */
    chance ^= chance << 13;
    chance ^= chance >> 17;
    chance ^= chance << 5;
    if (chance % 512 == 0) {
        const struct timespec while_others_work = {.tv_nsec = 20000};
        nanosleep(&while_others_work, NULL);
    } else if (chance % 16 == 0) {
        sched_yield();
    }
}
