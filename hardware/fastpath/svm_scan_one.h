/* The scan of one transaction, for C callers. */
#ifndef SVM_SCAN_ONE_H
#define SVM_SCAN_ONE_H

#include "svm_scan.h"

/* Reads one canonical transaction of `size` bytes; offsets in the record are from `data`. Gives what is wrong. */
uint32_t svm_scan_one_transaction(const uint8_t *data, size_t size, const svm_scan_limits *limits,
                                  svm_scan_record *record);

#endif
