/* Bytes as a block with the state that it needs (case.h): whatever they are, the ways to execute agree on them. Applied ahead of a
 * block they are too, where what comes of it is the differential tests'. */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "case.h"
#include "target.h"

static const uint8_t SEED[32] = {7};
static const uint32_t THREADS[] = {1, 2, 3};
static const uint32_t MODES[] = {SVM_MODE_SERIAL, SVM_MODE_PARTITIONED, SVM_MODE_BLOCK_STM};
enum { WAYS = 3, TRANSACTIONS_MAX = 64, ENTRIES_MAX = 256 };

void svm_fuzz_one(const uint8_t *bytes, size_t size, int tell) {
    static svm_pool *pools[WAYS];
    static svm_engine *engines[WAYS];
    svm_case of;
    svm_ended first, again;

    for (int way = 0; way < WAYS && engines[way] == NULL; way++) {
        pools[way] = svm_pool_new(THREADS[way]);
        engines[way] = svm_engine_new(0, 0, SEED, pools[way]);
        EXPECT(engines[way] != NULL);
    }
    if (svm_case_read(bytes, size, &of) == 0) {
        return;
    }
    /* Limits are the chain's, not a stranger's. */
    const svm_block_facts *facts = &of.facts;
    const bool bounded = facts->inputs_max <= 1024 && facts->outputs_max <= 1024 &&
                         facts->payload_bytes_max <= 1 << 20 && facts->transaction_bytes_max <= 1 << 20 &&
                         facts->object_bytes_max <= 1 << 20;
    if (bounded && of.count <= TRANSACTIONS_MAX && of.entries_count <= ENTRIES_MAX) {
        for (int way = 0; way < WAYS; way++) {
            svm_engine_clear(engines[way]);
            svm_case_run(&of, engines[way], MODES[way], 1, &again);
            if (way == 0) {
                first = again;
            }
            EXPECT(svm_ended_same(&first, &again));
        }
        svm_engine_clear(engines[0]);
        svm_case_run(&of, engines[0], SVM_CASE_AHEAD, 0, &again);
        if (tell) {
            svm_ended_print(&first);
        }
    }
    svm_case_free(&of);
}
