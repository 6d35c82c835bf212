/* The entry that libFuzzer looks for. */
#include "target.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    svm_fuzz_one(bytes, size, 0);
    return 0;
}
