"""Receipts as they were encoded by this node itself, each read no further than somebody asks.

Execution in C encodes a block's receipts, and the ledger stores them so. What every block is counted by is
read from their heads; the rest of a receipt only where it is looked at.
"""

import struct
from collections.abc import Sequence
from typing import overload

import attrs

from supervm.types import merkle
from supervm.types.digests import Digest
from supervm.types.receipt import Receipt, Status
from supervm.types.transaction import Lane

_FIRST = struct.Struct("<32sBBI")  # after the format: digest, lane, status, and the length of the code
_CHARGED = struct.Struct("<QQQ32s")  # after the code: gas used, fee, token
_PLACE = struct.Struct("<QI")  # at the end: height, index
_LANES = tuple(Lane)
_STATUSES = tuple(Status)
assert [*map(int, _LANES)] == [*range(len(_LANES))] and [*map(int, _STATUSES)] == [*range(len(_STATUSES))]


@attrs.frozen
class ReceiptHead:
    """Of a `Receipt`, the fields that have no lists, by the same names."""

    digest: Digest
    lane: Lane
    status: Status
    code: str
    gas_used: int
    fee: int
    gas_token: bytes
    height: int
    index: int


def read_head(data: bytes) -> ReceiptHead:
    """The head of a receipt that is known to be one."""
    digest, lane, status, code_bytes = _FIRST.unpack_from(data, 1)
    code_at = 1 + _FIRST.size
    charged_at = code_at + code_bytes
    gas_used, fee_low, fee_high, token = _CHARGED.unpack_from(data, charged_at)
    return ReceiptHead(
        digest,
        _LANES[lane],
        _STATUSES[status],
        data[code_at:charged_at].decode("ascii") if code_bytes else "",
        gas_used,
        fee_low | fee_high << 64,
        token,
        *_PLACE.unpack_from(data, len(data) - _PLACE.size),
    )


class PackedReceipts(Sequence[Receipt]):
    """Receipts in block order. `encoded` and `heads` are theirs; an item is decoded when it is asked for.

    `root`: their Merkle root, for who has it already.
    """

    __slots__ = ("_decoded", "encoded", "heads", "root")

    def __init__(self, encoded: Sequence[bytes], root: Digest | None = None) -> None:
        self.encoded = tuple(encoded)
        self.root = merkle.root(self.encoded) if root is None else root
        self.heads = tuple([read_head(data) for data in self.encoded])
        self._decoded: dict[int, Receipt] = {}

    @classmethod
    def of(cls, receipts: Sequence[Receipt]) -> "PackedReceipts":
        """These receipts, encoded unless they are already."""
        if isinstance(receipts, PackedReceipts):
            return receipts
        return cls([receipt.encode() for receipt in receipts])

    def __len__(self) -> int:
        return len(self.encoded)

    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Receipt, ...]: ...
    def __getitem__(self, index: int | slice) -> Receipt | tuple[Receipt, ...]:
        if isinstance(index, slice):
            return tuple([self[at] for at in range(*index.indices(len(self)))])
        at = range(len(self))[index]
        found = self._decoded.get(at)
        if found is None:
            found = self._decoded[at] = Receipt.decode(self.encoded[at])
        return found

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedReceipts):
            return self.encoded == other.encoded
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedReceipts({list(self)!r})"


def heads_of(receipts: Sequence[Receipt]) -> Sequence[Receipt | ReceiptHead]:
    """What of them costs nothing to read: their heads where they are packed, else themselves."""
    return receipts.heads if isinstance(receipts, PackedReceipts) else receipts
