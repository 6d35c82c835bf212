/* What this processor can do, by the names of TIER-70, one bit each. */
#ifndef SVM_CPU_H
#define SVM_CPU_H

#include <stdint.h>

enum svm_feature {
    SVM_SSE4_2 = 1 << 0,
    SVM_AVX2 = 1 << 1,
    SVM_AVX512F = 1 << 2,
    SVM_SHA_NI = 1 << 3,
    SVM_AES = 1 << 4,
    SVM_BMI2 = 1 << 5,
    SVM_NEON = 1 << 6,
    SVM_SVE = 1 << 7,
    SVM_SHA2_ARM = 1 << 8
};

/* Only what the operating system lets a program use: registers it doesn't save don't count. */
uint32_t svm_cpu_features(void);

/* What compiled this library, as "gcc 12.2.0"; a constant. */
const char *svm_compiler(void);

#endif
