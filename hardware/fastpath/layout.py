"""What a scan of packed transactions is asked and what it answers; shared by the C path and its twin."""

from collections.abc import Iterator
from enum import IntEnum

import attrs

U32_MAX = 2**32 - 1
COLUMNS = 8  # u32 columns of one record, in the order of `ScanRecord`


class ScanError(IntEnum):
    """Why a transaction, or the batch itself, is refused. Values are `enum svm_scan_error`."""

    OK = 0
    TRUNCATED = 1
    TRAILING_BYTES = 2
    TOO_LARGE = 3
    UNKNOWN_FORMAT = 4
    UNKNOWN_LANE = 5
    TOO_MANY_RELAYS = 6
    TOO_MANY_INPUTS = 7
    INPUTS_UNSORTED = 8
    UNKNOWN_ACCESS = 9
    PAYLOAD_TOO_LARGE = 10
    AUTHORIZATION_COUNT = 11
    UNKNOWN_SUITE = 12
    KEY_SIZE = 13
    SIGNATURE_SIZE = 14
    SPONSOR_NONCE = 15
    NAMELESS = 16
    TOO_MANY_TRANSACTIONS = 17


def _u32(instance: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    if not 0 <= value <= U32_MAX:
        raise ValueError(f"{attribute.name} is {value}; use 0 to {U32_MAX}")


@attrs.frozen(kw_only=True)
class ScanLimits:
    """Counts and bytes a scan admits; defaults as EXEC-7. Each fits in 32 bits."""

    transactions_max: int = attrs.field(default=65_535, validator=_u32)
    transaction_bytes_max: int = attrs.field(default=262_144, validator=_u32)
    payload_bytes_max: int = attrs.field(default=131_072, validator=_u32)
    inputs_max: int = attrs.field(default=256, validator=_u32)
    relays_max: int = attrs.field(default=2, validator=_u32)


@attrs.frozen
class ScanRecord:
    """One transaction. Offsets are from the first byte of the batch; 0 after `size` where refused.

    `start`, `size`: its bytes. `body_end`: where the signed part ends. `payload`, `payload_size`: the
    payload without its length. `authorization`: the first authorization's suite byte.
    """

    error: ScanError
    start: int
    size: int
    body_end: int
    payload: int
    payload_size: int
    authorization: int
    authorization_count: int


@attrs.frozen
class Scan:
    """What a scan found: `error` of the batch itself, and the records before it as native u32 columns.

    `table` holds `count` records of eight u32; hot paths index it, and `records()` is for people.
    """

    error: ScanError
    count: int
    table: bytes = attrs.field(repr=False)

    def columns(self) -> memoryview:
        """A view of shape (count, 8) of u32; all zeros can't happen, so an empty scan gives no view."""
        assert self.count > 0, "an empty scan has no table"
        return memoryview(self.table).cast("B").cast("I", (self.count, COLUMNS))

    def records(self) -> Iterator[ScanRecord]:
        """Each record as a value, in the order of the batch."""
        flat = memoryview(self.table).cast("I").tolist()
        for at in range(0, self.count * COLUMNS, COLUMNS):
            yield ScanRecord(ScanError(flat[at]), *flat[at + 1 : at + COLUMNS])
