"""Transactions and entries made by joining parts are those that the types encode."""

import random

import attrs
from hypothesis import given
from hypothesis import strategies as st

from supervm.bench.books import SUPPLY_KEY, Books, supply_entry
from supervm.bench.packing import (
    CHAIN_ID,
    GAS_LIMIT,
    MAX_PRICE,
    TRANSFER_BYTES,
    Mutation,
    account_value,
    concatenate,
    digests_of,
    object_value,
    pack_accounts,
    pack_mutations,
    pack_object,
    pack_transfers,
    unpack,
)
from supervm.bench.transfers import BALANCE, TransferPlan, Transfers
from supervm.crypto.packed import verify_packed
from supervm.types.operations import ObjectMutate, Output, encode_operations
from supervm.types.operations import Transfer as TransferOperation
from supervm.types.state import (
    NATIVE_TOKEN,
    Account,
    Object,
    OwnerKind,
    Token,
    account_key,
    object_key,
    shared_owner,
    token_key,
)
from supervm.types.transaction import Access, Authorization, Body, Input, Transaction, encode_transaction

NOBODY = Authorization(1, bytes(32), bytes(64))
PEOPLE = [bytes((each + 1,)) * 32 for each in range(5)]


def encoded(body: Body) -> bytes:
    return encode_transaction(body.encode(), [NOBODY])


def body(sender: bytes, nonce: int, payload: bytes, inputs: tuple[Input, ...] = ()) -> Body:
    return Body(
        chain_id=CHAIN_ID,
        sender=sender,
        nonce=nonce,
        gas_limit=GAS_LIMIT,
        max_price=MAX_PRICE,
        inputs=inputs,
        payload=payload,
    )


ACCOUNTS = st.integers(0, len(PEOPLE) - 1)


@given(st.lists(st.tuples(ACCOUNTS, ACCOUNTS, st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1))))
def test_a_packed_transfer_is_what_the_types_encode(transfers: list[tuple[int, int, int, int]]) -> None:
    packed = pack_transfers(transfers, PEOPLE.__getitem__)
    assert len(packed) == len(transfers)
    for data, (sender, recipient, amount, nonce) in zip(packed.transactions(), transfers, strict=True):
        payload = encode_operations([TransferOperation(NATIVE_TOKEN, (Output(PEOPLE[recipient], amount),))])
        assert data == encoded(body(PEOPLE[sender], nonce, payload))
        assert len(data) == TRANSFER_BYTES


@given(
    st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=64),
    st.integers(1, 2**64 - 1),
    st.binary(max_size=40),
)
def test_a_packed_mutation_is_what_the_types_encode(ids: set[bytes], version: int, data: bytes) -> None:
    ordered = sorted(ids)
    packed = pack_mutations([Mutation(PEOPLE[0], 7, ordered, version, data)])
    payload = encode_operations([ObjectMutate(each, data) for each in ordered])
    inputs = tuple(Input(each, version, Access.WRITE) for each in ordered)
    assert packed.data == encoded(body(PEOPLE[0], 7, payload, inputs))
    Transaction.decode(packed.data)


def test_signed_transfers_are_signed_by_their_senders() -> None:
    work = Transfers(TransferPlan(accounts=4, block=20, signed=True)).next()
    verified = verify_packed(work.blocks[0].data, work.blocks[0].offsets)
    assert verified.all_signed
    assert verified.digests[:32] == Transaction.decode(work.blocks[0].transactions(1)[0]).digest


def test_concatenated_blocks_hold_their_transactions_in_order() -> None:
    one = pack_transfers([(0, 1, 5, 0)], PEOPLE.__getitem__)
    other = pack_mutations([Mutation(PEOPLE[2], 0, [PEOPLE[0]], 1, b"x")])
    both = concatenate([one, other, one])
    assert both.transactions() == [*one.transactions(), *other.transactions(), *one.transactions()]
    assert both.transactions(2) == [*one.transactions(), *other.transactions()]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**128 - 1))
def test_an_account_entry_is_what_the_types_encode(nonce: int, balance: int) -> None:
    assert account_value(nonce, balance) == Account(nonce, 0, balance).encode()


@given(st.integers(1, 2**64 - 1), st.binary(max_size=40))
def test_an_object_entry_is_what_the_types_encode(version: int, data: bytes) -> None:
    owned = Object(version, OwnerKind.OWNED, PEOPLE[0], 0, False, data)
    shared = Object(version, OwnerKind.SHARED, shared_owner(3), 0, False, data)
    assert object_value(version, 0, PEOPLE[0], data) == owned.encode()
    assert object_value(version, 1, shared_owner(3), data) == shared.encode()
    assert dict(unpack(pack_object(PEOPLE[1], owned.encode()))) == {object_key(PEOPLE[1]): owned.encode()}


def test_the_first_state_holds_every_account_and_the_supply() -> None:
    world = Transfers(TransferPlan(accounts=3, block=2))
    found = {key: value for packed, _ in world.start() for key, value in unpack(packed)}
    wanted = {account_key(world.address(each)): Account(balance=BALANCE).encode() for each in range(3)}
    wanted[token_key(NATIVE_TOKEN)] = Token(b"SVM", 9, bytes(32), True, 3 * BALANCE).encode()
    assert found == wanted
    assert sum(count for _, count in world.start()) == len(wanted)
    assert pack_accounts([], BALANCE) == b""


def test_the_books_have_entries_as_the_types_encode_them() -> None:
    books = Books.opened(2, 1_000)
    assert books.enter([(0, 1, 30), (0, 1, 5), (1, 0, 1)]) == [(0, 1, 30, 0), (0, 1, 5, 1), (1, 0, 1, 0)]
    assert books.entry(0, 7) == Account(2, 0, 1_000 - 34 - 14).encode()
    assert books.entry(1, 7) == Account(1, 0, 1_000 + 34 - 7).encode()
    assert books.conserved()
    books.balances[0] += 1
    assert not books.conserved()
    assert supply_entry(5) == Token(b"SVM", 9, bytes(32), True, 5).encode()
    assert token_key(NATIVE_TOKEN) == SUPPLY_KEY


def test_a_seed_gives_the_same_work_and_another_seed_another() -> None:
    plan = TransferPlan(accounts=30, block=50, blocks=2, hot=5)
    first, second = Transfers(plan), Transfers(plan)
    assert [first.next() for _ in range(2)] == [second.next() for _ in range(2)]
    assert Transfers(attrs.evolve(plan, seed=2)).next() != Transfers(plan).next()


def test_hot_accounts_are_on_one_side_of_four_transfers_in_five() -> None:
    work = Transfers(TransferPlan(accounts=100, block=5_000, hot=5)).next()
    hot = [(one < 5, other < 5) for one, other, _, _ in work.transfers]
    assert (True, True) not in hot
    assert 0.77 < sum(map(any, hot)) / len(hot) < 0.83
    assert all(one != other for one, other, _, _ in work.transfers)


def test_distinct_amounts_never_come_twice() -> None:
    world = Transfers(TransferPlan(accounts=9, block=40, distinct=True))
    amounts = [each[2] for _ in range(3) for each in world.next().transfers]
    assert len(set(amounts)) == len(amounts) == 120


def test_addresses_of_many_accounts_are_all_there_and_differ() -> None:
    world = Transfers(TransferPlan(accounts=100_003, block=1))
    chosen = random.Random(1).sample(range(100_003), 1_000)
    assert len({world.address(each) for each in [*chosen, 100_002]}) >= 1_000
    assert len(world.address(100_002)) == 32


def test_digests_given_are_those_of_the_transactions() -> None:
    packed = pack_transfers([(0, 1, 5, 0), (1, 0, 7, 0)], PEOPLE.__getitem__)
    wanted = [Transaction.decode(each).digest for each in packed.transactions()]
    assert digests_of(packed) == b"".join(wanted)
