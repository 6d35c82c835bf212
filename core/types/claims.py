"""What a transaction asks of a validator's locks and of its accounts' funds (CONS-10..14). Values only.

A *slot* is what a lock is on: one nonce of an account, one nonce of a sponsor, one version of an owned
object, one key image. Slots are opaque bytes of a kind and a name; those of nonces form *chains*, which
are used up in order.
"""

from collections.abc import Mapping

import attrs

from supervm.types.address import Address
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest

NONCE_LOCK = b"\x01"
SPONSOR_NONCE_LOCK = b"\x02"
OBJECT_LOCK = b"\x03"
IMAGE_LOCK = b"\x04"
"""`IMAGE_LOCK || pool || image`: a key image or nullifier that a PRIVATE transaction reveals."""

IN_FLIGHT_MAX = 64
"""Nonces of one chain that may be locked at a time, from the account's next one on (CONS-12)."""

SLOT_BYTES_MAX = 128
SLOTS_MAX = 512
SPENDS_MAX = 1024
MAKES_MAX = 64

Account = tuple[Address, bytes]
"""An address and a token: what has a balance."""

CHAIN_BYTES = 33
"""Of the slot of a nonce: a kind and an address, before the number."""


@attrs.frozen
class Claim:
    """One transaction as locks see it: a function of its signed bytes and of who owns its inputs.

    `slots`: what accepting it locks (CONS-10). `spends`: `max_spend`, the most that it debits (EXEC-4).
    `makes`: ids of the objects that it creates. `price`: what new locks are ranked by when they run short.
    """

    transaction: Digest
    slots: tuple[bytes, ...]
    spends: tuple[tuple[Account, int], ...] = ()
    makes: tuple[bytes, ...] = ()
    price: int = 0
    fast: bool = False

    def spend(self, account: Account) -> int:
        """The most that it debits one account of one token."""
        return sum(amount for each, amount in self.spends if each == account)

    def accounts(self) -> tuple[Address, ...]:
        """Who signed it: the sender and a sponsor. Nobody for a PRIVATE transaction without a sender."""
        return tuple(slot[1:CHAIN_BYTES] for slot in self.slots if chain_of(slot) is not None)

    def needs(self) -> tuple[bytes, ...]:
        """The slots just before its own: whatever uses them up must come first."""
        return tuple(before for slot in self.slots if (before := slot_before(slot)) is not None)

    def gives(self) -> tuple[bytes, ...]:
        """The slots whose successors can be used once this is done: its own, and what it creates."""
        return self.slots + tuple(object_lock(each, 0) for each in self.makes)

    def write(self, writer: Writer) -> None:
        writer.bytes32(self.transaction, "transaction").count(len(self.slots), "slots")
        for slot in self.slots:
            writer.byte_string(slot, "slot")
        writer.count(len(self.spends), "spends")
        for (address, token), amount in self.spends:
            # A sum of 256 outputs and a reserve may pass 128 bits; no balance covers it then.
            writer.bytes32(address).bytes32(token).fixed(amount.to_bytes(20, "little"), 20, "amount")
        writer.count(len(self.makes), "makes")
        for each in self.makes:
            writer.bytes32(each, "makes")
        writer.u64(self.price, "price").boolean(self.fast)

    @classmethod
    def read(cls, reader: Reader) -> "Claim":
        transaction = reader.bytes32("claim.transaction")
        count = reader.count("claim.slots", SLOTS_MAX, item_bytes_min=5)
        slots = tuple(reader.byte_string("claim.slot", SLOT_BYTES_MAX) for _ in range(count))
        count = reader.count("claim.spends", SPENDS_MAX, item_bytes_min=84)
        spends = tuple(
            (
                (reader.bytes32("claim.address"), reader.bytes32("claim.token")),
                int.from_bytes(reader.fixed(20, "claim.amount"), "little"),
            )
            for _ in range(count)
        )
        count = reader.count("claim.makes", MAKES_MAX, item_bytes_min=32)
        makes = tuple(reader.bytes32("claim.makes") for _ in range(count))
        return cls(transaction, slots, spends, makes, reader.u64("claim.price"), reader.boolean("claim.fast"))


def chain_of(slot: bytes) -> tuple[bytes, int] | None:
    """The chain (kind and address) and the nonce of a nonce's slot; None for objects and key images."""
    if slot[:1] not in (NONCE_LOCK, SPONSOR_NONCE_LOCK):
        return None
    return slot[:CHAIN_BYTES], int.from_bytes(slot[CHAIN_BYTES:], "little")


def chains_of(address: Address) -> tuple[bytes, bytes]:
    """The two chains through which an account can be debited: its nonces, and those it sponsors."""
    return NONCE_LOCK + address, SPONSOR_NONCE_LOCK + address


def chain_slot(chain: bytes, nonce: int) -> bytes:
    return chain + nonce.to_bytes(8, "little")


def slot_before(slot: bytes) -> bytes | None:
    """The slot of the nonce or version before; for version 1 that of the creation. None where none is."""
    if slot[:1] in (NONCE_LOCK, SPONSOR_NONCE_LOCK, OBJECT_LOCK):
        number = int.from_bytes(slot[CHAIN_BYTES:], "little")
        return chain_slot(slot[:CHAIN_BYTES], number - 1) if number else None
    return None


def object_lock(object_id: bytes, version: int) -> bytes:
    return OBJECT_LOCK + object_id + version.to_bytes(8, "little")


@attrs.frozen
class Facts:
    """What the application says of the accounts that a batch names, as of its last executed block.

    `nonces`: the next of each chain; none means 0. `balances`: with the credits of the FAST transactions
    in the batch's past that are applied, nothing deducted (CONS-13); none means 0.
    """

    height: int
    nonces: Mapping[bytes, int]
    balances: Mapping[Account, int]


@attrs.frozen
class Examined:
    """The application's part of an accept: all that doesn't rest on locks (EXEC-8, CONS-14, EXEC-20).

    `claims`: of each transaction of the batch, in its order; of refused ones too, as far as their bytes
    say, since others may have certified them. `refused`: by index the code. `gas` is their sum by the
    header's rule. `malformed` says what is wrong with the batch as such; empty if nothing is. `all_fast`:
    every transaction travels as FAST, so that none waits for its block to be final.
    """

    facts: Facts
    claims: tuple[Claim, ...]
    refused: Mapping[int, str] = attrs.Factory(dict)
    gas: int = 0
    malformed: str = ""
    all_fast: bool = False


EXECUTED_CODES = frozenset({"AlreadyExecuted", "NonceUsed"})
"""Refusals that say that a transaction, or another in its place, is in an executed block."""
