"""The C library through cffi. Importing this raises ImportError where it was not built."""

from supervm.hardware._fastpath import ffi, lib
from supervm.hardware.fastpath.layout import COLUMNS, U32_MAX, Scan, ScanError, ScanLimits

# TIER-70's names, by the library's bits.
FEATURES = {
    "sse4_2": lib.SVM_SSE4_2,
    "avx2": lib.SVM_AVX2,
    "avx512f": lib.SVM_AVX512F,
    "sha_ni": lib.SVM_SHA_NI,
    "aes": lib.SVM_AES,
    "bmi2": lib.SVM_BMI2,
    "neon": lib.SVM_NEON,
    "sve": lib.SVM_SVE,
    "sha2_arm": lib.SVM_SHA2_ARM,
}
RECORD_BYTES = COLUMNS * 4
assert ffi.sizeof("svm_scan_record") == RECORD_BYTES, "the record has eight u32 and no padding"


def cpu_features() -> frozenset[str]:
    """What this processor offers and the operating system lets us use."""
    found = lib.svm_cpu_features()
    return frozenset(name for name, bit in FEATURES.items() if found & bit)


def compiler() -> str:
    """What compiled the library, e.g. `gcc 12.2.0`."""
    text: bytes = ffi.string(lib.svm_compiler())
    return text.decode("ascii", "replace").strip()


def scan_transactions(packed: bytes, limits: ScanLimits) -> Scan:
    """As the twin. The global lock is released while the C code runs; the caller must not change `packed`."""
    if len(packed) > U32_MAX:
        return Scan(ScanError.TOO_LARGE, 0, b"")
    # The count is the batch's own word: a transaction takes at least its 4 length bytes, which bounds it.
    stated = int.from_bytes(packed[:2], "little")
    room = min(stated, limits.transactions_max, len(packed) // 4 + 1)
    records = ffi.new("svm_scan_record[]", room + 1)
    count = ffi.new("uint32_t *")
    bounds = ffi.new(
        "svm_scan_limits *",
        {
            "transactions_max": limits.transactions_max,
            "transaction_bytes_max": limits.transaction_bytes_max,
            "payload_bytes_max": limits.payload_bytes_max,
            "inputs_max": limits.inputs_max,
            "relays_max": limits.relays_max,
        },
    )
    error = lib.svm_scan_transactions(ffi.from_buffer(packed), len(packed), bounds, records, room, count)
    return Scan(ScanError(error), count[0], bytes(ffi.buffer(records, count[0] * RECORD_BYTES)))
