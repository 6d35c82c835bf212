/* Scans each input of a file from memory of exactly its size, so that a sanitizer sees any read beyond.
 * File: for each input u32 length (little-endian) and its bytes. Prints "error count digest" a line. */
#include <stdio.h>
#include <stdlib.h>

#include "svm_cpu.h"
#include "svm_scan.h"

enum { RECORDS_MAX = 64 };

int main(int argc, char **argv) {
    const svm_scan_limits limits = {65535, 262144, 131072, 256, 2};
    uint8_t head[4];
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (file == NULL) {
        return 2;
    }
    (void)svm_cpu_features();
    while (fread(head, 1, 4, file) == 4) {
        const size_t size =
            (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        uint8_t *data = malloc(size == 0 ? 1 : size);
        svm_scan_record *records = malloc(RECORDS_MAX * sizeof *records);
        uint32_t count, sum = 0;
        if (data == NULL || records == NULL || fread(data, 1, size, file) != size) {
            return 3;
        }
        const uint32_t error = svm_scan_transactions(data, size, &limits, records, RECORDS_MAX, &count);
        for (uint32_t i = 0; i < count; i++) {
            sum = sum * 31 + records[i].error;
            sum = sum * 31 + records[i].body_end;
        }
        printf("%u %u %u\n", (unsigned)error, (unsigned)count, (unsigned)sum);
        free(records);
        free(data);
    }
    fclose(file);
    return 0;
}
