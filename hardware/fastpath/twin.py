"""The fast path in plain Python: the same records for the same bytes, and the judge of the C code.

Encoding: EXEC-6. It checks structure only. Whether a signature is right, a payload means something or a
nonce is next is asked elsewhere.
"""

import struct

import attrs

from supervm.hardware.fastpath.layout import U32_MAX, Scan, ScanError, ScanLimits

ID_SIZE = 32
NO_ACCOUNT = bytes(ID_SIZE)
INPUT_SIZE = ID_SIZE + 8 + 1  # id, version, access
LANE_PRIVATE = 3
LANE_LAST = 3
ACCESS_LAST = 5
KEY_SIZES = {1: 32, 2: 33, 3: 65}  # by suite: ed25519, secp256k1 compressed, sm2 uncompressed
SIGNATURE_SIZE = 64
PRICES_SIZE = 8 + 8 + 8 + ID_SIZE + 16  # gas_limit, max_price, tip_price, gas_token, max_fee


class Refused(Exception):
    """Inside this module: the field that ends a scan. `error` is why."""

    def __init__(self, error: ScanError) -> None:
        super().__init__(error.name)
        self.error = error


@attrs.define
class Cursor:
    """The bytes from `at` to `end`, read in order."""

    data: bytes
    at: int
    end: int

    def take(self, size: int) -> bytes:
        if self.end - self.at < size:
            raise Refused(ScanError.TRUNCATED)
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def scan_transactions(packed: bytes, limits: ScanLimits) -> Scan:
    """Scan a batch: u16 count, then for each transaction u32 length and its bytes. Never raises."""
    if len(packed) > U32_MAX:
        return Scan(ScanError.TOO_LARGE, 0, b"")
    batch = Cursor(packed, 0, len(packed))
    rows: list[bytes] = []
    error = ScanError.OK
    try:
        count = batch.integer(2)
        if count > limits.transactions_max:
            raise Refused(ScanError.TOO_MANY_TRANSACTIONS)
        for _ in range(count):
            size = batch.integer(4)
            start = batch.at
            batch.take(size)
            rows.append(_row(packed, start, size, limits))
        if batch.at != batch.end:
            raise Refused(ScanError.TRAILING_BYTES)
    except Refused as refused:
        error = refused.error
    return Scan(error, len(rows), b"".join(rows))


def _row(packed: bytes, start: int, size: int, limits: ScanLimits) -> bytes:
    try:
        found = _scan_one(Cursor(packed, start, start + size), limits)
    except Refused as refused:
        return struct.pack("=8I", refused.error, start, size, 0, 0, 0, 0, 0)
    return struct.pack("=8I", ScanError.OK, start, size, *found)


def _scan_one(one: Cursor, limits: ScanLimits) -> tuple[int, int, int, int, int]:
    """Gives body_end, payload, payload_size, authorization, authorization_count."""
    if one.end - one.at > limits.transaction_bytes_max:
        raise Refused(ScanError.TOO_LARGE)
    if one.integer(1) != 1:
        raise Refused(ScanError.UNKNOWN_FORMAT)
    one.take(ID_SIZE)  # chain_id
    sender = one.take(ID_SIZE)
    fee_payer = one.take(ID_SIZE)
    sponsor_nonce = one.integer(8)
    nonce = one.integer(8)
    one.take(8)  # expiry_epoch
    lane = one.integer(1)
    sponsored = sender != fee_payer
    if not sponsored and sponsor_nonce != 0:
        raise Refused(ScanError.SPONSOR_NONCE)
    if lane > LANE_LAST:
        raise Refused(ScanError.UNKNOWN_LANE)
    one.take(PRICES_SIZE)
    relays = one.integer(2)
    if relays > limits.relays_max:
        raise Refused(ScanError.TOO_MANY_RELAYS)
    one.take(relays * ID_SIZE)
    inputs = _scan_inputs(one, limits)
    # Without an account a body is private, authenticates itself inside its payload, and has no nonce.
    nameless = sender == NO_ACCOUNT
    if (nameless or fee_payer == NO_ACCOUNT) and (lane != LANE_PRIVATE or sponsored or nonce or inputs):
        raise Refused(ScanError.NAMELESS)
    one.take(2)  # payload kind
    payload_size = one.integer(4)
    if payload_size > limits.payload_bytes_max:
        raise Refused(ScanError.PAYLOAD_TOO_LARGE)
    payload = one.at
    one.take(payload_size)
    body_end = one.at

    count = one.integer(2)
    if count != (0 if nameless else 2 if sponsored else 1):
        raise Refused(ScanError.AUTHORIZATION_COUNT)
    authorization = one.at
    for _ in range(count):
        _scan_authorization(one)
    if one.at != one.end:
        raise Refused(ScanError.TRAILING_BYTES)
    return body_end, payload, payload_size, authorization, count


def _scan_inputs(one: Cursor, limits: ScanLimits) -> int:
    count = one.integer(2)
    if count > limits.inputs_max:
        raise Refused(ScanError.TOO_MANY_INPUTS)
    before: bytes | None = None
    for _ in range(count):
        entry = one.take(INPUT_SIZE)
        if before is not None and before >= entry[:ID_SIZE]:
            raise Refused(ScanError.INPUTS_UNSORTED)
        if entry[-1] > ACCESS_LAST:
            raise Refused(ScanError.UNKNOWN_ACCESS)
        before = entry[:ID_SIZE]
    return count


def _scan_authorization(one: Cursor) -> None:
    suite = one.integer(1)
    if suite not in KEY_SIZES:
        raise Refused(ScanError.UNKNOWN_SUITE)
    key_size = one.integer(4)
    if key_size != KEY_SIZES[suite]:
        raise Refused(ScanError.KEY_SIZE)
    one.take(key_size)
    signature_size = one.integer(4)
    if signature_size != SIGNATURE_SIZE:
        raise Refused(ScanError.SIGNATURE_SIZE)
    one.take(signature_size)
