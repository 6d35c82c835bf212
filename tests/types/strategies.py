"""Hypothesis strategies for the ledger's values, canonical by construction."""

from hypothesis import strategies as st

from supervm.types.address import PUBLIC_KEY_BYTES
from supervm.types.batch import Batch, BatchHeader, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind, bitmap_of
from supervm.types.genesis import Genesis, GenesisGas, GenesisToken
from supervm.types.limits import Limits
from supervm.types.operations import (
    Burn,
    Mint,
    ObjectCreate,
    ObjectDelete,
    ObjectFreeze,
    ObjectMutate,
    ObjectShare,
    ObjectTransfer,
    Operation,
    Output,
    TokenCreate,
    Transfer,
    encode_operations,
)
from supervm.types.receipt import Event, ObjectVersion, Receipt, Status
from supervm.types.state import Account, Object, OwnerKind, Token, shared_owner
from supervm.types.transaction import (
    Access,
    Authorization,
    Body,
    Input,
    Lane,
    Transaction,
    encode_transaction,
)
from supervm.types.validators import Validator, ValidatorSet

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
u128 = st.integers(0, 2**128 - 1)
b32 = st.binary(min_size=32, max_size=32)
# Never the 32 zero bytes that mean "no account".
addresses = b32.filter(any)
signatures = st.binary(min_size=64, max_size=64)
small = st.binary(max_size=40)
symbols = st.text("ABCXYZ019", min_size=1, max_size=16).map(str.encode)


def ascending(items: st.SearchStrategy[bytes], maximum: int) -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.sets(items, max_size=maximum).map(lambda found: tuple(sorted(found)))


outputs = st.builds(Output, addresses, u128)
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Transfer, b32, st.lists(outputs, min_size=1, max_size=5).map(tuple)),
    st.builds(TokenCreate, symbols, st.integers(0, 18), u128, st.booleans()),
    st.builds(Mint, b32, b32, u128),
    st.builds(Burn, b32, u128),
    st.builds(ObjectCreate, u32, st.just(OwnerKind.OWNED), b32, small),
    st.builds(
        ObjectCreate,
        u32,
        st.sampled_from([OwnerKind.SHARED, OwnerKind.IMMUTABLE]),
        st.just(bytes(32)),
        small,
    ),
    st.builds(ObjectMutate, b32, small),
    st.builds(ObjectTransfer, b32, b32),
    st.builds(ObjectShare, b32),
    st.builds(ObjectFreeze, b32),
    st.builds(ObjectDelete, b32),
)
payloads = st.lists(operations, min_size=1, max_size=6).map(encode_operations)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Input, ...]:
    ids = draw(ascending(b32.filter(any), 4))
    return tuple(Input(each, draw(u64), draw(st.sampled_from(Access))) for each in ids)


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    sender = draw(addresses)
    sponsored = draw(st.booleans())
    fee_payer = draw(addresses) if sponsored else sender
    native = draw(st.booleans())
    return Body(
        chain_id=draw(b32),
        sender=sender,
        fee_payer=fee_payer,
        sponsor_nonce=draw(u64) if fee_payer != sender else 0,
        nonce=draw(u64),
        expiry_epoch=draw(u64),
        lane=draw(st.sampled_from(Lane)),
        gas_limit=draw(u64),
        max_price=draw(u64),
        tip_price=draw(u64),
        gas_token=draw(b32),
        max_fee=draw(u128),
        relays=tuple(draw(st.lists(b32, max_size=2))),
        inputs=draw(inputs()),
        payload_kind=1 if native else draw(st.integers(2, 2**16 - 1)),
        payload=draw(payloads if native else small),
    )


@st.composite
def authorizations(draw: st.DrawFn) -> Authorization:
    suite = draw(st.sampled_from(sorted(PUBLIC_KEY_BYTES)))
    size = PUBLIC_KEY_BYTES[suite]
    return Authorization(suite, draw(st.binary(min_size=size, max_size=size)), draw(signatures))


@st.composite
def transaction_bytes(draw: st.DrawFn) -> bytes:
    body = draw(bodies())
    signed = [draw(authorizations()) for _ in range(2 if body.is_sponsored else 1)]
    return encode_transaction(body.encode(), signed)


transactions = transaction_bytes().map(Transaction.decode)

versions = st.lists(st.builds(ObjectVersion, b32, u64), max_size=3).map(tuple)
receipts = st.builds(
    Receipt,
    digest=b32,
    lane=st.sampled_from(Lane),
    status=st.sampled_from(Status),
    code=st.text("ABab01", max_size=20),
    gas_used=u64,
    fee=u128,
    gas_token=b32,
    created=versions,
    written=versions,
    deleted=versions,
    events=st.lists(st.builds(Event, b32, small, small), max_size=3).map(tuple),
    return_value=small,
    height=u64,
    index=u32,
)

accounts = st.builds(Account, u64, u64, u128).filter(lambda account: not account.is_empty)
tokens = st.builds(Token, symbols, st.integers(0, 18), b32, st.booleans(), u128)
objects = st.one_of(
    st.builds(Object, u64, st.just(OwnerKind.OWNED), b32, u32, st.just(False), small),
    st.builds(Object, u64, st.just(OwnerKind.OWNED), b32, u32, st.just(True), st.just(b"")),
    st.builds(Object, u64, st.just(OwnerKind.SHARED), u64.map(shared_owner), u32, st.just(False), small),
    st.builds(Object, u64, st.just(OwnerKind.IMMUTABLE), st.just(bytes(32)), u32, st.just(False), small),
)


@st.composite
def batch_headers(draw: st.DrawFn, items: tuple[bytes, ...] | None = None) -> BatchHeader:
    return batch_header(
        chain_id=draw(b32),
        epoch=draw(u64),
        builder=draw(b32),
        sequence=draw(u64),
        attempt=draw(st.integers(0, 3)),
        after=draw(ascending(b32, 3)),
        transactions=items or draw(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=4)),
        gas=draw(u64),
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    items = tuple(draw(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=4)))
    return Batch(draw(batch_headers(items)), draw(signatures), items)


@st.composite
def signed_bitmaps(draw: st.DrawFn) -> tuple[bytes, tuple[bytes, ...]]:
    numbers = draw(st.sets(st.integers(0, 11), max_size=4))
    return bitmap_of(numbers, 12), tuple(draw(signatures) for _ in numbers)


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    kind = draw(st.sampled_from(VoteKind))
    return Certificate(kind, draw(u64), draw(u64), draw(b32), *draw(signed_bitmaps()))


@st.composite
def batch_certificates(draw: st.DrawFn, header: BatchHeader | None = None) -> BatchCertificate:
    return BatchCertificate(header or draw(batch_headers()), draw(signatures), *draw(signed_bitmaps()))


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    held = tuple(draw(st.lists(batches(), max_size=2)))
    body = BlockBody(
        draw(small),
        tuple(draw(st.lists(small, max_size=2))),
        tuple(draw(batch_certificates(batch.header)) for batch in held),
    )
    height = draw(u64)
    header = BlockHeader(
        chain_id=draw(b32),
        epoch=draw(u64),
        height=height,
        parent=draw(b32),
        proposer=draw(b32),
        timestamp_ms=draw(u64),
        root_height=draw(st.integers(0, height)),
        state_root=draw(b32),
        receipts_root=draw(b32),
        base_price=draw(u64),
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=draw(b32),
        next_validators_digest=draw(b32),
    )
    return Block(header, body, held)


@st.composite
def validator_sets(draw: st.DrawFn) -> ValidatorSet:
    ids = draw(ascending(b32, 5).filter(bool))
    return ValidatorSet(tuple(Validator(each, draw(b32), draw(st.integers(1, 2**32))) for each in ids))


@st.composite
def entries(draw: st.DrawFn) -> tuple[tuple[bytes, int], ...]:
    return tuple((each, draw(st.integers(1, 2**100))) for each in draw(ascending(addresses, 4)))


@st.composite
def geneses(draw: st.DrawFn) -> Genesis:
    ids = draw(ascending(addresses, 2))
    names = sorted(draw(st.sets(st.text("abc_", min_size=1, max_size=8), max_size=3)))
    return Genesis(
        name=draw(st.text("abc -1", min_size=1, max_size=20)),
        created_ms=draw(u64),
        development=draw(st.booleans()),
        epoch_blocks=draw(st.integers(1, 2**64 - 1)),
        native_symbol=draw(symbols),
        native_decimals=draw(st.integers(0, 18)),
        validators=draw(validator_sets()),
        accounts=draw(entries()),
        tokens=tuple(
            GenesisToken(
                id=each,
                symbol=draw(symbols),
                decimals=draw(st.integers(0, 18)),
                minter=draw(b32),
                fixed=draw(st.booleans()),
                balances=draw(entries()),
            )
            for each in ids
        ),
        gas=GenesisGas(
            component="flat",
            parameters=tuple((name, draw(st.text("0189x ", max_size=9))) for name in names),
        ),
        limits=Limits(payload_bytes_max=draw(st.integers(1, 2**32 - 1))),
    )
