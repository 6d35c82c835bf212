"""C fast paths, each with a pure-Python twin that gives the same bytes (TIER-70).

The choice is made once, at import: C where it was built, unless `SUPERVM_NATIVE=off`. `report()` says
what runs and why; nothing else in a node depends on it.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from supervm.hardware.fastpath import twin
from supervm.hardware.fastpath.layout import Scan, ScanError, ScanLimits, ScanRecord
from supervm.types import merkle

__all__ = [
    "BLOCKS_NATIVE",
    "NATIVE",
    "FastPath",
    "Scan",
    "ScanError",
    "ScanLimits",
    "ScanRecord",
    "compiler",
    "cpu_features",
    "report",
    "scan_transactions",
]

DEFAULT_LIMITS = ScanLimits()
PYTHON = "python"


@attrs.frozen
class FastPath:
    """Which path runs, `native`, `native(FEATURE)` or `python`, and why."""

    path: str
    reason: str

    @property
    def native(self) -> bool:
        """Whether compiled code runs, and not its twin."""
        return self.path != PYTHON


def _choose() -> tuple[bool, str]:
    if os.environ.get("SUPERVM_NATIVE", "on").strip().lower() == "off":
        return False, "SUPERVM_NATIVE is off"
    try:
        from supervm.hardware.fastpath import native
    except ImportError as error:
        return False, f"the C library is not installed ({error}); reinstall where a C compiler is"
    assert native.RECORD_BYTES == 32, "the record's layout is part of the contract with the twin"
    return True, "the C library is loaded"


NATIVE, _REASON = _choose()


def _choose_blocks() -> tuple[bool, str]:
    """The block engine and the hashing under it: only where C hashes as the blake3 package does."""
    if not NATIVE:
        return False, _REASON
    from supervm.hardware.fastpath import hashing

    wrong = hashing.self_check()
    if not wrong:
        merkle.use(hashing.list_root)
    return not wrong, wrong or f"{_REASON}; {hashing.lanes()} inputs are hashed side by side"


BLOCKS_NATIVE, _BLOCKS_REASON = _choose_blocks()

if NATIVE:
    from supervm.hardware.fastpath import native as _native

    _scan = _native.scan_transactions
else:
    _scan = twin.scan_transactions


def scan_transactions(packed: bytes, limits: ScanLimits = DEFAULT_LIMITS) -> Scan:
    """Check the structure of many canonical transactions at once (EXEC-6), without decoding them.

    `packed` is u16 count, then for each transaction u32 length and its bytes. Never raises for bad
    bytes: each record says what is wrong with its transaction, `Scan.error` what is wrong with the batch.
    Blocks for as long as the bytes take to read; the C path releases the global lock.
    """
    return _scan(packed, limits)


def cpu_features() -> frozenset[str] | None:
    """The processor's features by the names of TIER-70, as the C library sees them; None without it."""
    return _native.cpu_features() if NATIVE else None


def compiler() -> str | None:
    """What compiled the C library; None without it."""
    return _native.compiler() if NATIVE else None


def report() -> Mapping[str, FastPath]:
    """Each fast path's name, what runs for it, and why."""
    path = "native" if NATIVE else PYTHON
    found = {name: FastPath(path, _REASON) for name in ("scan_transactions", "verify_signatures")}
    found["execute_block"] = FastPath("native" if BLOCKS_NATIVE else PYTHON, _BLOCKS_REASON)
    return MappingProxyType(found)
