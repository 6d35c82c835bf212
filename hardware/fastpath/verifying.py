"""The C driver of signature checks, through cffi. Importing this raises ImportError where it was not built.

It does no arithmetic of a curve: it asks libraries through the addresses of their functions, which whoever
opened them gives. A whole batch is one call, with the global lock released, on as many threads as asked.
"""

from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import attrs

from supervm.hardware._fastpath import ffi, lib
from supervm.hardware.fastpath.layout import ScanLimits

ED25519: int = lib.SVM_ED25519
SECP256K1: int = lib.SVM_SECP256K1
MESSAGE_BYTES_MAX: int = lib.svm_verify_message_max()
"""Longer messages are not for a batch."""

FUNCTIONS = frozenset(
    {
        "ed25519_open",
        "ed25519_verify_mb8",
        "secp256k1_context",
        "secp256k1_key",
        "secp256k1_signature",
        "secp256k1_verify",
    }
)
"""What a driver can be given, as `svm_verify.h` says; all but the context are functions."""

U32 = "I"
COLUMNS = 5
"""Of an item: suite, key, signature, message and message size; offsets are from the first byte of theirs."""

assert array("Q").itemsize == 8, "offsets are 64-bit"
assert array(U32).itemsize == 4 and ffi.sizeof("svm_verify_item") == COLUMNS * 4, "five u32 and no padding"


@attrs.frozen(eq=False)
class Driver:
    """Functions of libraries, ready for use by any number of threads. Make it with `make_driver`."""

    library: Any = attrs.field(repr=False)

    def able(self, suite: int) -> bool:
        """Whether it can answer for a suite."""
        return bool(lib.svm_verify_able(self.library, suite))

    def verify(self, data: bytes, messages: bytes, items: Sequence[int], threads: int = 1) -> bytes:
        """Return 1 for each item that is right and 0 for each other, in order.

        `items` is flat, `COLUMNS` numbers each, of suites that it is able to. Offsets are the caller's to get
        right. Blocks; a pool of threads serves one caller at a time.
        """
        table = items if isinstance(items, array) and items.typecode == U32 else array(U32, items)
        count = len(table) // COLUMNS
        right = ffi.new("uint8_t[]", count)
        pool = _pool(threads) if threads > 1 else ffi.NULL
        rows = ffi.from_buffer("svm_verify_item[]", table)
        lib.svm_verify_items(
            self.library, pool, ffi.from_buffer(data), ffi.from_buffer(messages), rows, count, right
        )
        return bytes(ffi.buffer(right))

    def transactions(
        self,
        data: bytes,
        starts: "array[int]",
        ends: "array[int]",
        limits: ScanLimits,
        digests: bytes | None,
        known: bytes,
        threads: int,
    ) -> tuple[bytes, bytes]:
        """Return (a verdict of `svm_verify.h` for each transaction, their digests, 32 bytes each).

        The i-th is data[starts[i]:ends[i]]; `digests` are made here where None. `known` has a 1 for each that
        is taken as signed, and a 0 for each other. Blocks, as `verify` does.
        """
        count = len(starts)
        assert len(ends) == len(known) == count and (digests is None or len(digests) == 32 * count)
        verdicts = ffi.new("uint8_t[]", known)
        made = ffi.new("uint8_t[]", 32 * count)
        if digests is not None:
            ffi.memmove(made, digests, 32 * count)
        failed = lib.svm_verify_transactions(
            self.library,
            _pool(threads) if threads > 1 else ffi.NULL,
            ffi.new("svm_scan_limits *", attrs.asdict(limits)),
            ffi.from_buffer(data),
            len(data),
            ffi.from_buffer("uint64_t[]", starts),
            ffi.from_buffer("uint64_t[]", ends),
            count,
            made,
            digests is not None,
            verdicts,
        )
        if failed == 1:
            raise MemoryError("no memory to verify a batch")
        assert not failed, "a transaction beyond the bytes"
        return bytes(ffi.buffer(verdicts, count)), bytes(ffi.buffer(made))


def fingerprints(data: bytes, starts: "array[int]", ends: "array[int]", threads: int) -> bytes:
    """blake3 of all the bytes of each transaction data[starts[i]:ends[i]], 32 bytes each."""
    made = ffi.new("uint8_t[]", 32 * len(starts))
    failed = lib.svm_verify_fingerprints(
        _pool(threads) if threads > 1 else ffi.NULL,
        ffi.from_buffer(data),
        len(data),
        ffi.from_buffer("uint64_t[]", starts),
        ffi.from_buffer("uint64_t[]", ends),
        len(starts),
        made,
    )
    assert not failed, "a transaction beyond the bytes"
    return bytes(ffi.buffer(made))


def make_driver(addresses: Mapping[str, int]) -> Driver:
    """Return a driver that calls what lies at these addresses, by the names of `FUNCTIONS`."""
    assert addresses.keys() <= FUNCTIONS, (
        f"{sorted(addresses.keys() - FUNCTIONS)} are no functions of a driver"
    )
    library = ffi.new("svm_verify_library *")
    for name, address in addresses.items():
        setattr(library, name, ffi.cast(ffi.typeof(getattr(library, name)), address))
    return Driver(library)


@cache
def _pool(threads: int) -> Any:
    """A pool for each number of threads that was ever asked for; they are few, and stay."""
    return ffi.gc(lib.svm_pool_new(threads), lib.svm_pool_free)
