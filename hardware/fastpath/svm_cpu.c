#include "svm_cpu.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *svm_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) "." TEXT(__GNUC_PATCHLEVEL__);
#elif defined(_MSC_VER)
    return "msvc " TEXT(_MSC_VER);
#else
    return "unknown";
#endif
}

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__) || defined(_M_IX86)

#if defined(_MSC_VER)
#include <intrin.h>
static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
    int words[4];
    __cpuidex(words, (int)leaf, (int)subleaf);
    for (int i = 0; i < 4; i++) {
        out[i] = (uint32_t)words[i];
    }
}
static uint64_t enabled_state(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}
/* The instruction by its bytes: the intrinsic needs a compiler flag that the rest must not have. */
static uint64_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
#endif

/* Bits from Intel's Software Developer's Manual, volume 2A, CPUID. */
uint32_t svm_cpu_features(void) {
    uint32_t basic[4], one[4], seven[4] = {0, 0, 0, 0}, found = 0;
    uint64_t state = 0;

    cpuid(0, 0, basic);
    if (basic[0] < 1) {
        return 0;
    }
    cpuid(1, 0, one);
    if (basic[0] >= 7) {
        cpuid(7, 0, seven);
    }
    if (one[2] >> 27 & 1) { /* OSXSAVE: the system manages extended registers */
        state = enabled_state();
    }
    const int saves_ymm = (state & 0x06) == 0x06;
    const int saves_zmm = (state & 0xe6) == 0xe6;
    if (one[2] >> 20 & 1) {
        found |= SVM_SSE4_2;
    }
    if (one[2] >> 25 & 1) {
        found |= SVM_AES;
    }
    if (seven[1] >> 8 & 1) {
        found |= SVM_BMI2;
    }
    if (seven[1] >> 29 & 1) {
        found |= SVM_SHA_NI;
    }
    if (saves_ymm && (seven[1] >> 5 & 1)) {
        found |= SVM_AVX2;
    }
    if (saves_zmm && (seven[1] >> 16 & 1)) {
        found |= SVM_AVX512F;
    }
    return found;
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

/* Bits from the kernel's arch/arm64 ELF hwcaps. */
uint32_t svm_cpu_features(void) {
    const unsigned long hwcap = getauxval(AT_HWCAP);
    uint32_t found = 0;
    if (hwcap >> 1 & 1) {
        found |= SVM_NEON;
    }
    if (hwcap >> 3 & 1) {
        found |= SVM_AES;
    }
    if (hwcap >> 6 & 1) {
        found |= SVM_SHA2_ARM;
    }
    if (hwcap >> 22 & 1) {
        found |= SVM_SVE;
    }
    return found;
}

#elif defined(__aarch64__) || defined(_M_ARM64)

/* AArch64 has NEON; asking for more differs by system, so the rest is not claimed. */
uint32_t svm_cpu_features(void) { return SVM_NEON; }

#else

uint32_t svm_cpu_features(void) { return 0; }

#endif
