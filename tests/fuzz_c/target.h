/* What the fuzz targets share. Each is one file with svm_fuzz_one; libFuzzer calls it, or replay.c. */
#ifndef SVM_FUZZ_TARGET_H
#define SVM_FUZZ_TARGET_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Runs one input. `tell`: also prints, in words without an end of line, what judge.py must come to as well. */
void svm_fuzz_one(const uint8_t *bytes, size_t size, int tell);

#define EXPECT(what)                                                                                                   \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                                         \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#endif
