/* Block-STM in orders of its threads' steps that are drawn by seeds, against one thread.
 *
 *     interleave FILE FIRST COUNT
 *
 * Runs each case of FILE by 2, 3, 4 or 8 threads that take turns (turns.h), in as many orders as COUNT says. Prints
 * what came of each case, then how many orders aborted something, how many gave up, and how often threads changed.
 * Where an order gives something else than one thread does, or no end, it names the seed and exits with 1 or 3. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case.h"
#include "turns.h"

static const uint8_t SEED[32] = {1, 2, 3};
static const uint32_t THREADS[] = {2, 3, 4, 8};
static const uint64_t YIELDS_MAX = 400000;

static void run_case(const svm_case *of, uint32_t threads, uint32_t mode, svm_ended *ended) {
    svm_pool *pool = svm_pool_new(threads);
    svm_engine *engine = pool == NULL ? NULL : svm_engine_new(0, 0, SEED, pool);
    if (engine == NULL) {
        fprintf(stderr, "no memory\n");
        exit(4);
    }
    svm_case_run(of, engine, mode, 1, ended);
    svm_engine_free(engine);
    svm_pool_free(pool);
}

int main(int argc, char **argv) {
    size_t size = 0;
    uint8_t *bytes = argc == 4 ? svm_case_file(argv[1], &size) : NULL;
    if (bytes == NULL) {
        return 2;
    }
    const uint64_t first = strtoull(argv[2], NULL, 10), count = strtoull(argv[3], NULL, 10);
    uint32_t number = 0;
    svm_turns_bound(YIELDS_MAX);
    for (size_t at = 0; at < size; number++) {
        svm_case one;
        svm_ended wanted, ended;
        const size_t used = svm_case_read(bytes + at, size - at, &one);
        if (used == 0) {
            return 2;
        }
        run_case(&one, 1, SVM_MODE_SERIAL, &wanted);
        uint64_t aborted = 0, gave_up = 0, turns = 0;
        for (uint64_t seed = first; seed < first + count; seed++) {
            const uint32_t threads = THREADS[seed % (sizeof THREADS / sizeof *THREADS)];
            fprintf(stderr, "case %" PRIu32 ", seed %" PRIu64 ", %" PRIu32 " threads\n", number, seed, threads);
            svm_turns_seed(seed);
            run_case(&one, threads, SVM_MODE_BLOCK_STM, &ended);
            if (!svm_ended_same(&wanted, &ended)) {
                fprintf(stderr, "not what one thread gives\n");
                return 1;
            }
            aborted += ended.stats.aborts != 0;
            gave_up += ended.stats.gave_up;
            turns += svm_turns_taken();
        }
        svm_ended_print(&wanted);
        printf(" %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", aborted, gave_up, turns);
        svm_case_free(&one);
        at += used;
    }
    free(bytes);
    return 0;
}
