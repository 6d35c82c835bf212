/* Threads that take turns: one runs at a time, and the next one is drawn by a seed at each svm_test_yield. The same
 * seed gives the same order of everything, on any machine. turns.c stands in for svm_pool.c. */
#ifndef SVM_TURNS_H
#define SVM_TURNS_H

#include <stdint.h>

/* Draws the turns of the runs to come by this seed. */
void svm_turns_seed(uint64_t seed);

/* Turns that changed hands since the seed was set. */
uint64_t svm_turns_taken(void);

/* Ends the program with exit status 3 where one run takes more yields than this. */
void svm_turns_bound(uint64_t yields);

#endif
