"""Canonical transactions and state entries made fast, by joining what differs between parts that don't.

Making 200,000 transactions through `supervm.client.build` takes a minute; here it takes under a second. The
bytes are those of docs/reference/encoding.md; tests compare them with what `supervm.types` encodes.
Unsigned transactions carry a key and a signature of zeros, for work whose clock leaves signatures out.
"""

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

import attrs
from blake3 import blake3
from nacl.bindings import crypto_sign

from supervm.types.digests import TRANSACTION
from supervm.types.state import ACCOUNT, OBJECT
from supervm.types.transaction import Access, Lane

CHAIN_ID = blake3(b"supervm/bench/chain").digest()
GAS_LIMIT = 10_000_000
MAX_PRICE = 10_000

_NO_KEY = bytes(32)
_NO_SIGNATURE = bytes(64)
_ED25519 = b"\x01\x00\x01\x20\x00\x00\x00"  # one authorization, suite 1, a key of 32 bytes follows
_SIGNATURE = b"\x40\x00\x00\x00"
_ZERO_8 = bytes(8)
_TRANSFER, _MUTATE = 0, 5
_NATIVE_PAYLOAD = 1
_TOKEN = bytes(32)

_FORMAT_AND_CHAIN = b"\x01" + CHAIN_ID
_AFTER_NONCE = struct.pack("<QBQQQ32sQQH", 0, Lane.AUTO, GAS_LIMIT, MAX_PRICE, 0, _TOKEN, 0, 0, 0)
_TRANSFER_PAYLOAD = struct.pack("<HB32sH", 1, _TRANSFER, _TOKEN, 1)
_TRANSFER_MIDDLE = (
    _AFTER_NONCE
    + struct.pack("<H", 0)
    + struct.pack("<HI", _NATIVE_PAYLOAD, len(_TRANSFER_PAYLOAD) + 48)
    + _TRANSFER_PAYLOAD
)
_UNSIGNED = _ED25519 + _NO_KEY + _SIGNATURE + _NO_SIGNATURE

TRANSFER_BYTES = 33 + 64 + 16 + len(_TRANSFER_MIDDLE) + 48 + len(_UNSIGNED)
"""The size of a transfer of the native token to one account, signed with ed25519."""

Transfer = tuple[int, int, int, int]
"""Of accounts by their number: sender, recipient, amount in base units, nonce of the sender."""


@attrs.frozen
class Packed:
    """Canonical transactions one after the other: the i-th is data[offsets[i]:offsets[i + 1]]."""

    data: bytes = attrs.field(repr=False)
    offsets: "array[int]" = attrs.field(repr=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def transactions(self, count: int | None = None) -> list[bytes]:
        """The first `count` of them, or all, each by itself."""
        stop = len(self) if count is None else min(count, len(self))
        return [self.data[self.offsets[at] : self.offsets[at + 1]] for at in range(stop)]


@attrs.frozen
class KeyRing:
    """Secret keys by account number, as libsodium takes them (seed || public key)."""

    secrets: Sequence[bytes] = attrs.field(repr=False)

    def sign(self, account: int, body: bytes) -> bytes:
        """The list of one authorization that ends a transaction with this body."""
        secret = self.secrets[account]
        digest = blake3(TRANSACTION + body).digest()
        return _ED25519 + secret[32:] + _SIGNATURE + crypto_sign(digest, secret)[:64]


def pack_transfers(transfers: Iterable[Transfer], address: Callable[[int], bytes]) -> Packed:
    """Unsigned transfers of the native token, from accounts to accounts by their number."""
    parts: list[bytes] = []
    count = 0
    for sender, recipient, amount, nonce in transfers:
        payer = address(sender)
        parts += (
            _FORMAT_AND_CHAIN,
            payer,
            payer,
            _ZERO_8,
            nonce.to_bytes(8, "little"),
            _TRANSFER_MIDDLE,
            address(recipient),
            amount.to_bytes(16, "little"),
            _UNSIGNED,
        )
        count += 1
    return _of_equal_size(b"".join(parts), TRANSFER_BYTES, count)


def pack_signed_transfers(
    transfers: Iterable[Transfer], address: Callable[[int], bytes], keys: KeyRing
) -> Packed:
    """The same, signed; about 20,000 a second."""
    parts: list[bytes] = []
    count = 0
    for sender, recipient, amount, nonce in transfers:
        payer = address(sender)
        head = _FORMAT_AND_CHAIN + payer + payer + _ZERO_8 + nonce.to_bytes(8, "little")
        body = head + _TRANSFER_MIDDLE + address(recipient) + amount.to_bytes(16, "little")
        parts += (body, keys.sign(sender, body))
        count += 1
    return _of_equal_size(b"".join(parts), TRANSFER_BYTES, count)


@attrs.frozen
class Mutation:
    """One transaction that gives each of its inputs new data by an `ObjectMutate`.

    `ids` are ascending, and all at `version` (for shared ones their initial version).
    """

    sender: bytes
    nonce: int
    ids: Sequence[bytes]
    version: int
    data: bytes


def pack_mutations(mutations: Iterable[Mutation]) -> Packed:
    """Unsigned transactions of object mutations."""
    made = [_mutation(each) for each in mutations]
    offsets = array("Q", accumulate(map(len, made), initial=0))
    return Packed(b"".join(made), offsets)


def _mutation(of: Mutation) -> bytes:
    count = len(of.ids)
    at_version = of.version.to_bytes(8, "little") + bytes((Access.WRITE,))
    new_data = len(of.data).to_bytes(4, "little") + of.data
    tag = bytes((_MUTATE,))
    operations = tag + (new_data + tag).join(of.ids) + new_data
    return b"".join(
        (
            _FORMAT_AND_CHAIN,
            of.sender,
            of.sender,
            _ZERO_8,
            of.nonce.to_bytes(8, "little"),
            _AFTER_NONCE,
            count.to_bytes(2, "little"),
            at_version.join(of.ids),
            at_version,
            struct.pack("<HIH", _NATIVE_PAYLOAD, 2 + len(operations), count),
            operations,
            _UNSIGNED,
        )
    )


def digests_of(packed: Packed) -> bytes:
    """The digests of transactions that bear one ed25519 signature, 32 bytes each."""
    bodies = [each[: -len(_UNSIGNED)] for each in packed.transactions()]
    return b"".join([blake3(TRANSACTION + body).digest() for body in bodies])


def concatenate(parts: Sequence[Packed]) -> Packed:
    """All their transactions in their order."""
    offsets = array("Q", [0])
    start = 0
    for part in parts:
        offsets.extend(start + each for each in part.offsets[1:])
        start += len(part.data)
    return Packed(b"".join(part.data for part in parts), offsets)


def account_value(nonce: int, balance: int) -> bytes:
    """The entry of an account: u8 format, u64 nonce, u64 sponsor nonce, u128 balance."""
    return b"\x01" + nonce.to_bytes(8, "little") + _ZERO_8 + balance.to_bytes(16, "little")


def pack_accounts(addresses: Sequence[bytes], balance: int) -> bytes:
    """Entries of accounts that all hold `balance`, as `pack_entries` writes them."""
    before, value = bytes((33,)) + ACCOUNT, account_value(0, balance)
    after = len(value).to_bytes(4, "little") + value
    return before + (after + before).join(addresses) + after if addresses else b""


def object_value(version: int, owner_kind: int, owner: bytes, data: bytes) -> bytes:
    """The entry of an object of type 0 that is not deleted."""
    return struct.pack("<BQB32sI?I", 1, version, owner_kind, owner, 0, False, len(data)) + data


def pack_object(id_: bytes, value: bytes) -> bytes:
    """The entry of an object, as `pack_entries` writes it."""
    return bytes((33,)) + OBJECT + id_ + len(value).to_bytes(4, "little") + value


def unpack(packed: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """What `supervm.execution.engine.pack_entries` packed; None where an entry was removed."""
    at, end = 0, len(packed)
    while at < end:
        value_at = at + 1 + packed[at] + 4
        value_end = value_at + int.from_bytes(packed[value_at - 4 : value_at], "little")
        yield packed[at + 1 : value_at - 4], packed[value_at:value_end] or None
        at = value_end


def _of_equal_size(data: bytes, size: int, count: int) -> Packed:
    assert len(data) == size * count, (len(data), size, count)
    return Packed(data, array("Q", range(0, size * (count + 1), size)))
