"""The commonest transaction, read in one step: a transfer of native coins to one account, paid by its sender.

Its bytes have one layout, so that one `struct` reads all of it. Everything else, and whatever is wrong with
bytes of this length, is for `Transaction.decode`.
"""

import struct
from typing import NamedTuple

from supervm.types.address import SIGNATURE_BYTES, Address, Suite
from supervm.types.digests import Digest
from supervm.types.operations import Operation, Output, Transfer
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import (
    BODY_FORMAT,
    NO_ACCOUNT,
    PAYLOAD_NATIVE,
    Authorization,
    Body,
    Lane,
    Transaction,
)

# format, chain, sender | fee payer, sponsor nonce | nonce, expiry, lane, gas limit, prices | gas token |
# max fee | relays, inputs, payload kind and size, operations, tag, token, outputs | to, amount | keys
_SAYS = struct.Struct("<x32s32s32x8xQQBQQQ32xQQ47x32sQQ107x")
_FEE_PAYER, _SPONSOR_NONCE, _GAS_TOKEN, _AFTER_FEE, _TO, _KEYS = 65, 97, 146, 194, 241, 289
_ONE_TRANSFER = struct.pack("<HHHIHB32sH", 0, 0, PAYLOAD_NATIVE, 85, 1, Transfer.TAG, NATIVE_TOKEN, 1)
_ONE_KEY = struct.pack("<HBI", 1, Suite.ED25519, 32)
_SIGNATURE = struct.pack("<I", SIGNATURE_BYTES)
_KEY_AT = _KEYS + len(_ONE_KEY)
_SIGNATURE_AT = _KEY_AT + 32 + len(_SIGNATURE)
_PAYLOAD_AT = _KEYS - 85
PLAIN_BYTES = _SIGNATURE_AT + SIGNATURE_BYTES
_NO_NONCE = bytes(8)
_LANES = tuple(Lane)

assert _SAYS.size == PLAIN_BYTES and _AFTER_FEE + len(_ONE_TRANSFER) == _TO


class Plain(NamedTuple):
    """What such a transaction says, by the names of `Body`, and where its coins go."""

    chain_id: bytes
    sender: Address
    nonce: int
    expiry_epoch: int
    lane: int
    gas_limit: int
    max_price: int
    tip_price: int
    max_fee: int
    to: Address
    amount: int


def read_plain(data: bytes) -> Plain | None:
    """What these bytes say if they are the canonical ones of such a transaction, else None.

    Whether its key and signature are right isn't looked at.
    """
    if (
        len(data) != PLAIN_BYTES
        or data[0] != BODY_FORMAT
        or data[_AFTER_FEE:_TO] != _ONE_TRANSFER
        or data[_GAS_TOKEN : _GAS_TOKEN + 32] != NATIVE_TOKEN
        or data[_SPONSOR_NONCE : _SPONSOR_NONCE + 8] != _NO_NONCE
        or data[_KEYS:_KEY_AT] != _ONE_KEY
        or data[_KEY_AT + 32 : _SIGNATURE_AT] != _SIGNATURE
    ):
        return None
    (
        chain_id,
        sender,
        nonce,
        expiry_epoch,
        lane,
        gas_limit,
        max_price,
        tip_price,
        fee_low,
        fee_high,
        to,
        low,
        high,
    ) = _SAYS.unpack(data)
    if data[_FEE_PAYER:_SPONSOR_NONCE] != sender or sender == NO_ACCOUNT or lane > Lane.ORDERED:
        return None
    return Plain(
        chain_id,
        sender,
        nonce,
        expiry_epoch,
        lane,
        gas_limit,
        max_price,
        tip_price,
        fee_low | fee_high << 64,
        to,
        low | high << 64,
    )


class PlainTransaction(Transaction):
    """A `Transaction` of these bytes whose parts are made when somebody asks for them. `plain` has it all.

    `digest` is that of its body.
    """

    __slots__ = ("plain",)
    plain: Plain

    def __init__(self, data: bytes, digest: Digest, plain: Plain) -> None:
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "plain", plain)

    @property
    def body_bytes(self) -> bytes:
        return self.data[:_KEYS]

    @property
    def body(self) -> Body:
        said = self.plain
        return Body(
            chain_id=said.chain_id,
            sender=said.sender,
            fee_payer=said.sender,
            sponsor_nonce=0,
            nonce=said.nonce,
            expiry_epoch=said.expiry_epoch,
            lane=_LANES[said.lane],
            gas_limit=said.gas_limit,
            max_price=said.max_price,
            tip_price=said.tip_price,
            gas_token=NATIVE_TOKEN,
            max_fee=said.max_fee,
            payload=self.data[_PAYLOAD_AT:_KEYS],
        )

    @property
    def authorizations(self) -> tuple[Authorization, ...]:
        key, signature = self.data[_KEY_AT : _KEY_AT + 32], self.data[_SIGNATURE_AT:]
        return (Authorization(Suite.ED25519, key, signature),)

    @property
    def operations(self) -> tuple[Operation, ...]:
        return (Transfer(NATIVE_TOKEN, (Output(self.plain.to, self.plain.amount),)),)


def sender_of(transaction: Transaction) -> Address:
    """Whose nonce a transaction uses."""
    if isinstance(transaction, PlainTransaction):
        return transaction.plain.sender
    return transaction.body.sender


def lane_asked(transaction: Transaction) -> Lane:
    """The lane that a transaction asks for."""
    if isinstance(transaction, PlainTransaction):
        return _LANES[transaction.plain.lane]
    return transaction.body.lane
