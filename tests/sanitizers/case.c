#include "case.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "svm_blake3.h"

typedef struct {
    const uint8_t *at, *end;
    bool short_of;
} reader;

static const uint8_t *take(reader *r, size_t size) {
    if ((size_t)(r->end - r->at) < size) {
        r->short_of = true;
        r->at = r->end;
        return NULL;
    }
    const uint8_t *taken = r->at;
    r->at += size;
    return taken;
}

static uint64_t number(reader *r, size_t size) {
    const uint8_t *bytes = take(r, size);
    uint64_t value = 0;
    for (size_t i = size; bytes != NULL && i > 0; i--) {
        value = value << 8 | bytes[i - 1];
    }
    return value;
}

static void id(reader *r, uint8_t out[32]) {
    const uint8_t *bytes = take(r, 32);
    if (bytes != NULL) {
        memcpy(out, bytes, 32);
    }
}

static void read_facts(reader *r, svm_block_facts *facts) {
    uint64_t *gas = (uint64_t *)&facts->gas;
    facts->height = number(r, 8);
    facts->epoch = number(r, 8);
    id(r, facts->chain_id);
    facts->inputs_max = (uint32_t)number(r, 4);
    facts->outputs_max = (uint32_t)number(r, 4);
    facts->payload_bytes_max = (uint32_t)number(r, 4);
    facts->transaction_bytes_max = (uint32_t)number(r, 4);
    facts->object_bytes_max = (uint32_t)number(r, 4);
    for (size_t i = 0; i < sizeof facts->gas / sizeof *gas; i++) {
        gas[i] = number(r, 8);
    }
    facts->price = number(r, 8);
    facts->collects = (uint32_t)number(r, 1) & 1;
    id(r, facts->collector);
}

size_t svm_case_read(const uint8_t *bytes, size_t size, svm_case *found) {
    reader r = {bytes, bytes + size, false};

    memset(found, 0, sizeof *found);
    read_facts(&r, &found->facts);
    found->entries_count = (uint32_t)number(&r, 4);
    found->entries_size = (size_t)number(&r, 4);
    found->entries = take(&r, found->entries_size);
    const uint64_t count = number(&r, 4);
    if (r.short_of || count > (size_t)(r.end - r.at) / 4) {
        return 0;
    }
    const reader first = r;
    size_t total = 0;
    for (uint64_t i = 0; i < count; i++) {
        const size_t one = (size_t)number(&r, 4);
        take(&r, one);
        total += one;
    }
    found->executed_count = (uint32_t)number(&r, 4);
    found->executed = take(&r, (size_t)found->executed_count * 32);
    if (r.short_of) {
        return 0;
    }
    found->count = (uint32_t)count;
    found->data = malloc(total + (total == 0));
    found->offsets = malloc((size_t)(count + 1) * sizeof *found->offsets);
    if (found->data == NULL || found->offsets == NULL) {
        svm_case_free(found);
        return 0;
    }
    reader again = first;
    uint64_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        const size_t one = (size_t)number(&again, 4);
        memcpy(found->data + at, take(&again, one), one);
        found->offsets[i] = at;
        at += one;
    }
    found->offsets[count] = at;
    return (size_t)(r.at - bytes);
}

void svm_case_free(svm_case *found) {
    free(found->data);
    free(found->offsets);
    found->data = NULL;
    found->offsets = NULL;
}

const uint8_t *svm_case_entry(const svm_case *of, const uint8_t *key, uint32_t key_size, uint32_t *size) {
    reader r = {of->entries, of->entries + of->entries_size, false};
    for (uint32_t i = 0; i < of->entries_count; i++) {
        const uint64_t named = number(&r, 1);
        const uint8_t *name = take(&r, (size_t)named);
        const uint64_t bytes = number(&r, 4);
        const uint8_t *value = take(&r, (size_t)bytes);
        if (r.short_of) {
            break;
        }
        if (named == key_size && memcmp(name, key, key_size) == 0) {
            *size = (uint32_t)bytes;
            return value;
        }
    }
    *size = 0;
    return NULL;
}

uint8_t *svm_case_answer(const svm_case *of, const uint8_t *asked, uint32_t count, size_t *size) {
    uint8_t *answer = malloc(of->entries_size + (size_t)count * 4 + 1);
    *size = 0;
    for (uint32_t i = 0; answer != NULL && i < count; i++) {
        uint32_t bytes;
        const uint8_t *value = svm_case_entry(of, asked + 1, asked[0], &bytes);
        asked += 1 + asked[0];
        for (uint32_t k = 0; k < 4; k++) {
            answer[(*size)++] = (uint8_t)(bytes >> 8 * k);
        }
        if (bytes != 0) {
            memcpy(answer + *size, value, bytes);
            *size += bytes;
        }
    }
    return answer;
}

static uint32_t little(const uint8_t *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint32_t read_changes(svm_block *block, svm_ended *ended) {
    const uint8_t *bytes;
    size_t size;
    const uint32_t error = svm_block_changes(block, &bytes, &size, &ended->changes);
    if (error != SVM_ENGINE_OK) {
        return error;
    }
    const uint8_t *end = bytes + size;
    for (uint32_t i = 0; i < ended->changes; i++) {
        const size_t one = 1 + (size_t)bytes[0] + 4 + little(bytes + 1 + bytes[0]);
        uint8_t hash[32];
        svm_blake3(bytes, one, hash);
        for (int k = 0; k < 32; k++) {
            ended->changed[k] ^= hash[k];
        }
        bytes += one;
    }
    return bytes == end ? SVM_ENGINE_OK : SVM_ENGINE_INVARIANT;
}

static uint32_t read_details(const svm_block *block, svm_ended *ended) {
    const uint32_t room = svm_block_details(block, NULL, 0);
    svm_detail *details = calloc((size_t)room + 1, sizeof *details);
    if (details == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    const uint32_t count = svm_block_details(block, details, room);
    for (uint32_t i = 0; i < count; i++) {
        const svm_detail *one = &details[i];
        ended->details = ended->details * 31 + one->index + one->code * 7 + one->first[0] + one->second[0] * 3 +
                         one->first[1] * 5 + one->second[1] * 11 + one->first[2] + one->id[0] + one->other[0];
    }
    free(details);
    return count == room ? SVM_ENGINE_OK : SVM_ENGINE_INVARIANT;
}

static uint32_t read_applied(svm_block *block, svm_ended *ended) {
    const uint8_t *bytes;
    size_t size;
    const uint32_t error = svm_block_apply(block, &bytes, &size);
    if (error == SVM_ENGINE_OK) {
        ended->receipts = (uint32_t)size;
        svm_blake3(bytes, size, ended->changed);
    }
    return error;
}

static uint32_t run_block(const svm_case *of, svm_block *block, uint32_t mode, int commit, svm_ended *ended) {
    const uint8_t *asked, *receipts;
    const uint64_t *starts;
    size_t size;
    uint32_t count, at, error;

    svm_block_missing(block, &asked, &size, &count);
    uint8_t *answer = svm_case_answer(of, asked, count, &size);
    if (answer == NULL) {
        return SVM_ENGINE_NO_MEMORY;
    }
    error = svm_block_supply(block, answer, size, count, &at);
    free(answer);
    if (error == SVM_ENGINE_OK && mode == SVM_CASE_AHEAD) {
        return read_applied(block, ended);
    }
    error = error != SVM_ENGINE_OK ? error : svm_block_execute(block, mode);
    if (error != SVM_ENGINE_OK) {
        return error;
    }
    svm_block_receipts(block, &receipts, &starts, &ended->receipts, ended->root);
    for (uint32_t i = 0; i < ended->receipts; i++) {
        uint8_t hash[32]; /* a sanitizer sees that each receipt is there, whole */
        svm_blake3(receipts + starts[i], (size_t)(starts[i + 1] - starts[i]), hash);
    }
    error = read_changes(block, ended);
    error = error != SVM_ENGINE_OK ? error : read_details(block, ended);
    if (error == SVM_ENGINE_OK && commit) {
        error = svm_block_commit(block);
    }
    svm_block_stats_of(block, &ended->stats);
    ended->committed = ended->stats.committed;
    ended->failed = ended->stats.failed;
    ended->voided = ended->stats.voided;
    ended->skipped = ended->stats.skipped;
    ended->gas_used = ended->stats.gas_used;
    return error;
}

void svm_case_run(const svm_case *of, svm_engine *engine, uint32_t mode, int commit, svm_ended *ended) {
    svm_block *block = NULL;
    uint32_t at;

    memset(ended, 0, sizeof *ended);
    if (mode == SVM_CASE_AHEAD) { /* any names will do, as long as all are told to be executed */
        uint8_t *names = malloc((size_t)of->count * 32 + 1);
        ended->error = SVM_ENGINE_NO_MEMORY;
        if (names != NULL) {
            for (uint32_t i = 0; i < of->count; i++) {
                svm_blake3(of->data + of->offsets[i], (size_t)(of->offsets[i + 1] - of->offsets[i]),
                           names + (size_t)i * 32);
            }
            ended->error = svm_block_new(engine, &of->facts, of->data, of->offsets, of->count, names, names,
                                         of->count, &block, &at);
            free(names);
        }
    } else {
        ended->error = svm_block_new(engine, &of->facts, of->data, of->offsets, of->count, NULL, of->executed,
                                     of->executed_count, &block, &at);
    }
    if (ended->error == SVM_ENGINE_OK) {
        ended->error = run_block(of, block, mode, commit, ended);
        svm_block_free(block);
    }
    if (ended->error != SVM_ENGINE_OK) {
        const svm_ended nothing = {.error = ended->error};
        *ended = nothing;
    }
}

int svm_ended_same(const svm_ended *one, const svm_ended *other) {
    return memcmp(one, other, offsetof(svm_ended, stats)) == 0;
}

uint8_t *svm_case_file(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    uint8_t *bytes = NULL;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0) {
        const long end = ftell(file);
        bytes = end < 0 ? NULL : malloc((size_t)end + 1);
        rewind(file);
        if (bytes != NULL) {
            *size = fread(bytes, 1, (size_t)end, file);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return bytes;
}

static void print_hex(const uint8_t *bytes) {
    for (int i = 0; i < 32; i++) {
        printf("%02x", bytes[i]);
    }
}

void svm_ended_print(const svm_ended *ended) {
    printf("%" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu64 " ", ended->error, ended->receipts, ended->changes,
           ended->gas_used);
    print_hex(ended->root);
    printf(" ");
    print_hex(ended->changed);
}
