"""Reading one Bitcoin block: the raw network serialisation, witnesses included (BIP 144).

Only what a replay needs is kept: who is spent, who is paid. Witnesses and input scripts are stepped over.
The Merkle root over the transaction ids is checked, so that a damaged file is never measured.
"""

import hashlib

import attrs

BLOCK_BYTES_MAX = 4_000_000
"""A block's weight is at most 4,000,000, so its bytes are too (BIP 141)."""
MONEY_MAX = 21_000_000 * 100_000_000
"""Satoshi that can ever exist; an output above it is no output."""
HEADER_BYTES = 80
COINBASE_OUTPOINT = bytes(32) + b"\xff\xff\xff\xff"


class BlockInvalid(ValueError):
    """Bytes that are not one whole Bitcoin block; says where and why."""

    def __init__(self, offset: int, problem: str) -> None:
        super().__init__(f"not a Bitcoin block: {problem} at byte {offset}; give one raw block (BIP 144)")


@attrs.frozen
class PaidOutput:
    """`value` satoshi to whoever satisfies `script`."""

    value: int
    script: bytes


@attrs.frozen
class Payment:
    """One transaction: the outpoints (36 bytes: txid, u32 index) it spends, and its outputs."""

    txid: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[PaidOutput, ...]

    @property
    def total(self) -> int:
        """Satoshi over all outputs."""
        return sum(output.value for output in self.outputs)


@attrs.frozen
class BitcoinBlock:
    """`digest` is in wire order (reversed from the way it is printed); `time_s` is UTC seconds."""

    digest: bytes
    time_s: int
    payments: tuple[Payment, ...]


def read_block(data: bytes) -> BitcoinBlock:
    """The block in `data`. Raises BlockInvalid for anything that isn't exactly one whole block."""
    if len(data) > BLOCK_BYTES_MAX:
        raise BlockInvalid(BLOCK_BYTES_MAX, f"more than {BLOCK_BYTES_MAX} bytes")
    reader = _Reader(data)
    header = reader.take(HEADER_BYTES)
    # 60 bytes: four-byte version and lock time, one input of 41, one output of 9, two counts.
    payments = tuple(_payment(reader) for _ in range(reader.count(60)))
    if reader.offset != len(data):
        raise BlockInvalid(reader.offset, f"{len(data) - reader.offset} bytes follow the last transaction")
    if not payments or payments[0].inputs != (COINBASE_OUTPOINT,):
        raise BlockInvalid(HEADER_BYTES, "the first transaction is no coinbase")
    if _merkle_root([payment.txid for payment in payments]) != header[36:68]:
        raise BlockInvalid(36, "the Merkle root isn't that of the transactions")
    return BitcoinBlock(_hash(header), int.from_bytes(header[68:72], "little"), payments)


def _payment(reader: "_Reader") -> Payment:
    start = reader.offset
    reader.take(4)
    # A marker 0 where the input count would be, and a flag 1, announce witnesses (BIP 144).
    witnessed = reader.peek(2) == b"\x00\x01"
    if witnessed:
        reader.take(2)
    body = reader.offset
    inputs = []
    for _ in range(reader.count(41)):
        inputs.append(reader.take(36))
        reader.take(reader.size())
        reader.take(4)
    outputs = []
    for _ in range(reader.count(9)):
        at = reader.offset
        value = int.from_bytes(reader.take(8), "little")
        if value > MONEY_MAX:
            raise BlockInvalid(at, f"an output of {value} satoshi is more than there are")
        outputs.append(PaidOutput(value, reader.take(reader.size())))
    if not inputs or not outputs:
        raise BlockInvalid(body, "a transaction without inputs or outputs")
    end = reader.offset
    if witnessed:
        for _ in inputs:
            for _ in range(reader.count(1)):
                reader.take(reader.size())
    lock_time = reader.take(4)
    txid = _hash(reader.data[start : start + 4] + reader.data[body:end] + lock_time)
    return Payment(txid, tuple(inputs), tuple(outputs))


class _Reader:
    """A cursor that never leaves the data."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def peek(self, count: int) -> bytes:
        return self.data[self.offset : self.offset + count]

    def take(self, count: int) -> bytes:
        taken = self.peek(count)
        if len(taken) != count:
            raise BlockInvalid(self.offset, f"{count} bytes wanted, {len(taken)} left")
        self.offset += count
        return taken

    def size(self) -> int:
        """A variable-length integer in its shortest form."""
        at = self.offset
        first = self.take(1)[0]
        if first < 0xFD:
            return first
        width = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
        value = int.from_bytes(self.take(width), "little")
        if value < {2: 0xFD, 4: 0x10000, 8: 0x100000000}[width]:
            raise BlockInvalid(at, f"{value} is written longer than it needs")
        return value

    def count(self, bytes_each: int) -> int:
        """A number of items, refused at once when the rest of the data can't hold so many."""
        at = self.offset
        count = self.size()
        if count * bytes_each > len(self.data) - self.offset:
            raise BlockInvalid(at, f"{count} items can't fit in what is left")
        return count


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def _merkle_root(row: list[bytes]) -> bytes:
    while len(row) > 1:
        row += row[-1:] * (len(row) % 2)
        row = [_hash(row[i] + row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]
