"""Transactions: the body that is signed, and the authorizations that sign it (EXEC-6).

`Transaction.decode` is the only door for bytes from outside. What comes out of it is canonical, within
the limits, and agrees with itself; whether the signatures are right is `supervm.crypto`'s to say, and
whether the ledger can pay is execution's.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import attrs

from supervm.types import digests
from supervm.types.address import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Address, address_of
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest, digest
from supervm.types.errors import DecodeError
from supervm.types.limits import AUTHORIZATIONS_MAX, DEFAULT_LIMITS, RELAYS_MAX, Limits
from supervm.types.operations import Operation, decode_operations
from supervm.types.state import NATIVE_TOKEN

BODY_FORMAT = 1
PAYLOAD_NATIVE = 1
"""The payload kind of native operations. Other kinds belong to plugins and stay opaque here."""

NO_ACCOUNT = bytes(32)
"""Sender and fee payer of a PRIVATE transaction that names no account."""

_HEAD = struct.Struct("<B32s32s32sQQQBQQQ32sQQH")
_INPUT = struct.Struct("<32sQB")
_PAYLOAD = struct.Struct("<HI")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")


class Lane(IntEnum):
    """How a transaction becomes final; AUTO lets the router choose (EXEC-10, EXEC-11)."""

    AUTO = 0
    FAST = 1
    ORDERED = 2
    PRIVATE = 3


class Access(IntEnum):
    """What a transaction may do with an input (EXEC-3). CREDIT (6) is never declared."""

    READ = 0
    WRITE = 1
    TRANSFER = 2
    SHARE = 3
    FREEZE = 4
    DELETE = 5


_LANES = tuple(Lane)
_ACCESSES = tuple(Access)


@attrs.frozen
class Input:
    """An object that the transaction uses. For a shared one, `version` is its initial version."""

    id: bytes
    version: int
    access: Access


@attrs.frozen
class Authorization:
    """A signature over the transaction digest, with the key it verifies under."""

    suite: int
    public_key: bytes
    signature: bytes

    @property
    def address(self) -> Address:
        return address_of(self.suite, self.public_key)


class Signer(Protocol):
    """Who can sign: `supervm.crypto.keys.KeyPair` is one."""

    @property
    def suite(self) -> int: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over a 32-byte digest."""
        ...


@attrs.frozen(kw_only=True)
class Body:
    """What is signed. Prices are in micro base units per gas, `max_fee` in base units of `gas_token`
    (0 where that is the native token: there the gas limit and `max_price` bound the fee).

    `fee_payer` None means the sender. `expiry_epoch` 0 means never. `inputs` are strictly ascending by
    id. In a PRIVATE body that names no account, sender and fee payer are 32 zero bytes.
    """

    chain_id: bytes
    sender: Address
    fee_payer: Address = attrs.field(
        default=attrs.Factory(lambda self: self.sender, takes_self=True),
    )
    sponsor_nonce: int = 0
    nonce: int
    expiry_epoch: int = 0
    lane: Lane = Lane.AUTO
    gas_limit: int
    max_price: int
    tip_price: int = 0
    gas_token: bytes = NATIVE_TOKEN
    max_fee: int = 0
    relays: tuple[bytes, ...] = ()
    inputs: tuple[Input, ...] = ()
    payload_kind: int = PAYLOAD_NATIVE
    payload: bytes

    @property
    def is_sponsored(self) -> bool:
        return self.fee_payer != self.sender

    def encode(self) -> bytes:
        """Return the body's bytes. A value that does not fit its field is `InvalidInput`."""
        writer = (
            Writer()
            .u8(BODY_FORMAT)
            .bytes32(self.chain_id, "chain_id")
            .bytes32(self.sender, "sender")
            .bytes32(self.fee_payer, "fee_payer")
            .u64(self.sponsor_nonce, "sponsor_nonce")
            .u64(self.nonce, "nonce")
            .u64(self.expiry_epoch, "expiry_epoch")
            .u8(self.lane, "lane")
            .u64(self.gas_limit, "gas_limit")
            .u64(self.max_price, "max_price")
            .u64(self.tip_price, "tip_price")
            .bytes32(self.gas_token, "gas_token")
            .u128(self.max_fee, "max_fee")
            .count(len(self.relays), "relays")
        )
        for relay in self.relays:
            writer.bytes32(relay, "relay")
        writer.count(len(self.inputs), "inputs")
        for each in self.inputs:
            writer.bytes32(each.id, "input.id").u64(each.version, "input.version").u8(each.access)
        writer.u16(self.payload_kind, "payload_kind").byte_string(self.payload, "payload")
        return writer.done()

    @classmethod
    def decode(cls, data: bytes, limits: Limits = DEFAULT_LIMITS) -> "Body":
        """Read a body alone; raises `DecodeError`."""
        body, end = _read_body(data, limits)
        if end != len(data):
            raise DecodeError("TrailingBytes", "body", f"{len(data) - end} bytes", "send exactly one body")
        return body


@attrs.frozen(eq=False)
class Transaction:
    """A canonical transaction. Two are equal when all their bytes are.

    `digest` names the transaction and is what is signed; it leaves the signatures out, so that a
    re-signed body is the same transaction. `operations` is empty for payload kinds other than native.
    """

    data: bytes
    body_bytes: bytes = attrs.field(repr=False)
    body: Body
    authorizations: tuple[Authorization, ...]
    digest: Digest
    operations: tuple[Operation, ...]

    @classmethod
    def decode(cls, data: bytes, limits: Limits = DEFAULT_LIMITS) -> "Transaction":
        """Read the one encoding of a transaction; anything else raises `DecodeError`."""
        if len(data) > limits.transaction_bytes_max:
            most = f"at most {limits.transaction_bytes_max} bytes"
            raise DecodeError("TooLarge", "transaction", f"{len(data)} bytes", most)
        body, end = _read_body(data, limits)
        authorizations = _read_authorizations(data, end, body)
        operations: tuple[Operation, ...] = ()
        if body.payload_kind == PAYLOAD_NATIVE:
            operations = decode_operations(body.payload, limits)
        body_bytes = data[:end]
        return cls(
            data, body_bytes, body, authorizations, digest(digests.TRANSACTION, body_bytes), operations
        )

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def __eq__(self, other: object) -> bool:
        return self.data == other.data if isinstance(other, Transaction) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


def signing_digest(body_bytes: bytes) -> Digest:
    """Return the 32 bytes that are signed and that name the transaction."""
    return digest(digests.TRANSACTION, body_bytes)


def digest_of(data: bytes) -> Digest:
    """Return the digest of a transaction that was decoded once, a stored one, without decoding it again.

    Only what says where the body ends is read. Bytes too short for that raise `DecodeError`.
    """
    try:
        inputs_at = _HEAD.size + 32 * _U16.unpack_from(data, _HEAD.size - 2)[0]
        payload_at = inputs_at + 2 + _INPUT.size * _U16.unpack_from(data, inputs_at)[0] + _PAYLOAD.size
        end = payload_at + _U32.unpack_from(data, payload_at - 4)[0]
    except struct.error:
        end = len(data) + 1
    if end > len(data):
        raise DecodeError("Truncated", "transaction", f"{len(data)} bytes", "a whole transaction")
    return signing_digest(data[:end])


def sign(body_bytes: bytes, signer: Signer) -> Authorization:
    """Sign a body's bytes."""
    return Authorization(signer.suite, signer.public_key, signer.sign(signing_digest(body_bytes)))


def encode_transaction(body_bytes: bytes, authorizations: Sequence[Authorization]) -> bytes:
    """Return body || list of authorizations, unchecked."""
    writer = Writer().raw(body_bytes).count(len(authorizations), "authorizations")
    for each in authorizations:
        writer.u8(each.suite, "suite").byte_string(each.public_key).byte_string(each.signature)
    return writer.done()


def build(body: Body, signers: Sequence[Signer], limits: Limits = DEFAULT_LIMITS) -> Transaction:
    """Encode and sign a body: by the sender, then by the fee payer where that is another.

    What cannot be a valid transaction raises `InvalidInput`, before it leaves this machine.
    """
    body_bytes = body.encode()
    authorizations = [sign(body_bytes, signer) for signer in signers]
    return Transaction.decode(encode_transaction(body_bytes, authorizations), limits)


def _read_body(data: bytes, limits: Limits) -> tuple[Body, int]:
    """Read a body at the start of `data`; return it and where it ends."""
    if len(data) < _HEAD.size:
        raise DecodeError("Truncated", "body", f"{len(data)} bytes", f"at least {_HEAD.size} bytes")
    (
        body_format,
        chain_id,
        sender,
        fee_payer,
        sponsor_nonce,
        nonce,
        expiry_epoch,
        lane,
        gas_limit,
        max_price,
        tip_price,
        gas_token,
        fee_low,
        fee_high,
        relay_count,
    ) = _HEAD.unpack_from(data)
    if body_format != BODY_FORMAT:
        raise DecodeError(
            "UnknownFormat", "body.format", body_format, f"this release reads format {BODY_FORMAT}"
        )
    if lane >= len(_LANES):
        raise DecodeError("OutOfRange", "body.lane", lane, "0 AUTO, 1 FAST, 2 ORDERED, 3 PRIVATE")
    offset = _HEAD.size
    relays: tuple[bytes, ...] = ()
    if relay_count:
        relays, offset = _read_relays(data, offset, relay_count)
    if len(data) - offset < 2:
        raise DecodeError("Truncated", "body.inputs", f"{len(data) - offset} bytes left", "a u16 count")
    input_count = _U16.unpack_from(data, offset)[0]
    offset += 2
    inputs: tuple[Input, ...] = ()
    if input_count:
        inputs, offset = _read_inputs(data, offset, input_count, limits)
    if len(data) - offset < 6:
        left = f"{len(data) - offset} bytes left"
        raise DecodeError("Truncated", "body.payload", left, "a u16 kind and a u32 length")
    payload_kind, payload_size = _PAYLOAD.unpack_from(data, offset)
    offset += 6
    if payload_size > limits.payload_bytes_max:
        most = f"at most {limits.payload_bytes_max} bytes"
        raise DecodeError("TooLarge", "body.payload", f"{payload_size} bytes", most)
    end = offset + payload_size
    if end > len(data):
        left = f"{len(data) - offset} bytes left"
        raise DecodeError("Truncated", "body.payload", left, f"{payload_size} bytes are needed")
    body = Body(
        chain_id=chain_id,
        sender=sender,
        fee_payer=fee_payer,
        sponsor_nonce=sponsor_nonce,
        nonce=nonce,
        expiry_epoch=expiry_epoch,
        lane=_LANES[lane],
        gas_limit=gas_limit,
        max_price=max_price,
        tip_price=tip_price,
        gas_token=gas_token,
        max_fee=fee_low | fee_high << 64,
        relays=relays,
        inputs=inputs,
        payload_kind=payload_kind,
        payload=data[offset:end],
    )
    if sponsor_nonce and fee_payer == sender:
        raise DecodeError("NonCanonical", "body.sponsor_nonce", sponsor_nonce, "0 unless sponsored")
    if sender == NO_ACCOUNT or fee_payer == NO_ACCOUNT:
        _check_nameless(body)
    return body, end


def _read_relays(data: bytes, offset: int, count: int) -> tuple[tuple[bytes, ...], int]:
    if count > RELAYS_MAX:
        raise DecodeError("TooMany", "body.relays", count, f"at most {RELAYS_MAX}")
    end = offset + 32 * count
    if end > len(data):
        left = f"{len(data) - offset} bytes left"
        raise DecodeError("Truncated", "body.relays", left, f"{32 * count} bytes are needed")
    return tuple(data[at : at + 32] for at in range(offset, end, 32)), end


def _read_inputs(data: bytes, offset: int, count: int, limits: Limits) -> tuple[tuple[Input, ...], int]:
    if count > limits.inputs_max:
        raise DecodeError("TooMany", "body.inputs", count, f"at most {limits.inputs_max}")
    end = offset + _INPUT.size * count
    if end > len(data):
        left = f"{len(data) - offset} bytes left"
        raise DecodeError("Truncated", "body.inputs", left, f"{_INPUT.size * count} bytes are needed")
    inputs: list[Input] = []
    before = b""
    for object_id, version, access in _INPUT.iter_unpack(data[offset:end]):
        if object_id <= before:
            mend = "strictly ascending by id, without duplicates"
            raise DecodeError("NonCanonical", "body.inputs", object_id, mend)
        if access >= len(_ACCESSES):
            mend = "0 READ, 1 WRITE, 2 TRANSFER, 3 SHARE, 4 FREEZE, 5 DELETE"
            raise DecodeError("OutOfRange", "body.inputs.access", access, mend)
        inputs.append(Input(object_id, version, _ACCESSES[access]))
        before = object_id
    return tuple(inputs), end


def _check_nameless(body: Body) -> None:
    """A body without an account is PRIVATE and has none of what an account brings."""
    if body.lane is not Lane.PRIVATE:
        raise DecodeError("OutOfRange", "body.sender", body.sender, "an address; zeros only in lane PRIVATE")
    for name, wrong in (
        ("sender", body.sender != NO_ACCOUNT),
        ("fee_payer", body.fee_payer != NO_ACCOUNT),
        ("nonce", body.nonce != 0),
        ("inputs", bool(body.inputs)),
    ):
        if wrong:
            value = getattr(body, name)
            raise DecodeError("NonCanonical", f"body.{name}", value, "zero or empty without an account")


def _read_authorizations(data: bytes, offset: int, body: Body) -> tuple[Authorization, ...]:
    reader = Reader(data, offset)
    count = reader.count("authorizations", AUTHORIZATIONS_MAX, item_bytes_min=9)
    wanted = 0 if body.sender == NO_ACCOUNT else 2 if body.is_sponsored else 1
    if count != wanted:
        mend = f"exactly {wanted}: the sender, then the fee payer if that is another"
        raise DecodeError("OutOfRange", "authorizations", count, mend)
    authorizations = tuple(_read_authorization(reader) for _ in range(count))
    reader.finish("transaction")
    return authorizations


def _read_authorization(reader: Reader) -> Authorization:
    suite = reader.u8("authorization.suite")
    key_bytes = PUBLIC_KEY_BYTES.get(suite)
    if key_bytes is None:
        raise DecodeError("UnknownFormat", "authorization.suite", suite, "1 ed25519, 2 secp256k1, 3 sm2")
    public_key = reader.byte_string("authorization.public_key", key_bytes)
    if len(public_key) != key_bytes:
        raise DecodeError(
            "NonCanonical", "authorization.public_key", public_key, f"exactly {key_bytes} bytes"
        )
    signature = reader.byte_string("authorization.signature", SIGNATURE_BYTES)
    if len(signature) != SIGNATURE_BYTES:
        raise DecodeError(
            "NonCanonical", "authorization.signature", signature, f"exactly {SIGNATURE_BYTES} bytes"
        )
    return Authorization(suite, public_key, signature)
