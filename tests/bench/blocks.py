"""Small Bitcoin blocks for tests: right in form, with a Merkle root that fits."""

import hashlib
from collections.abc import Sequence

Outputs = Sequence[tuple[int, bytes]]


def make_block(payments: Sequence[Outputs], *, time_s: int = 1_556_771_671) -> bytes:
    """A block with a coinbase and one transaction for each list of (satoshi, script)."""
    transactions = [_transaction(bytes(32) + b"\xff" * 4, payments[0])]
    transactions += [
        _transaction(_hash(bytes([n, n])) + bytes(4), each) for n, each in enumerate(payments[1:])
    ]
    row = [_hash(data) for data in transactions]
    while len(row) > 1:
        row += row[-1:] * (len(row) % 2)
        row = [_hash(row[i] + row[i + 1]) for i in range(0, len(row), 2)]
    header = bytes(4) + bytes(32) + row[0] + time_s.to_bytes(4, "little") + bytes(8)
    return header + _size(len(transactions)) + b"".join(transactions)


def _transaction(outpoint: bytes, outputs: Outputs) -> bytes:
    paid = b"".join(value.to_bytes(8, "little") + _size(len(script)) + script for value, script in outputs)
    return bytes(4) + _size(1) + outpoint + _size(0) + bytes(4) + _size(len(outputs)) + paid + bytes(4)


def _size(value: int) -> bytes:
    return bytes([value]) if value < 0xFD else b"\xfd" + value.to_bytes(2, "little")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()
