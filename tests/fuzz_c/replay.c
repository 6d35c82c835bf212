/* Runs the inputs of a file again, each u32 size and its bytes, and prints a line for each. */
#include <string.h>

#include "target.h"

static int next_input(FILE *file, uint8_t **bytes, size_t *size) {
    uint8_t head[4];
    if (fread(head, 1, 4, file) != 4) {
        return 0;
    }
    *size = (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    *bytes = malloc(*size + (*size == 0)); /* of exactly that size, so that a sanitizer sees a read beyond */
    return *bytes != NULL && fread(*bytes, 1, *size, file) == *size;
}

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    if (file == NULL) {
        return 2;
    }
    while (next_input(file, &bytes, &size)) {
        svm_fuzz_one(bytes, size, 1);
        printf("\n");
        fflush(stdout); /* the lines are those of the inputs before the one that fails */
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    return 0;
}
