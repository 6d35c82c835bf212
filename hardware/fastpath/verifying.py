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
