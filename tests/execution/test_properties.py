"""Random blocks of good and bad transactions: total, deterministic, and not a unit lost (EXEC-33, GAS-22)."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervm.execution import (
    GAS_STATE_KEY,
    BlockResult,
    Fetched,
    block_keys,
    execute_block,
    max_spend,
    recorded_supply,
    supply,
)
from supervm.execution.working import decode_value
from supervm.plugins.gas.flat import FlatPolicy
from supervm.types.codec import U64_MAX, U128_MAX
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
)
from supervm.types.receipt import Receipt, Status
from supervm.types.state import NATIVE_TOKEN, Object, OwnerKind, account_key, object_key
from supervm.types.transaction import Access, Input, Lane, Transaction

from .builders import (
    ALICE,
    BOB,
    BURNING,
    CAROL,
    COLLECTOR,
    FLAT,
    FUNDS,
    GAS_LIMIT,
    PRICE,
    State,
    account,
    apply,
    balance,
    block_of,
    immutable,
    owned,
    shared,
    state_of,
    transaction,
)

PEOPLE = (ALICE, BOB, CAROL, COLLECTOR)
GOLD, PEARL, UNKNOWN = b"g" * 32, b"p" * 32, b"u" * 32
OBJECTS: dict[bytes, Object] = {
    b"1" * 32: owned(ALICE, 1),
    b"2" * 32: owned(ALICE, 5, b""),
    b"3" * 32: owned(BOB, 1),
    b"4" * 32: shared(3, 2),
    b"5" * 32: shared(1, 1),
    b"6" * 32: immutable(2),
    b"7" * 32: Object(4, OwnerKind.OWNED, ALICE, 7, True, b""),
}

people = st.sampled_from(PEOPLE)
tokens = st.sampled_from((NATIVE_TOKEN, GOLD, GOLD, PEARL, UNKNOWN))
ids = st.sampled_from((*OBJECTS, b"8" * 32))
amounts = st.sampled_from((0, 1, 2, 3, 50, 1_000, FUNDS // 2, FUNDS, U128_MAX)) | st.integers(0, 100)
short = st.binary(max_size=12)
operations = st.one_of(
    st.builds(
        Transfer, tokens, st.lists(st.builds(Output, people, amounts), min_size=1, max_size=4).map(tuple)
    ),
    st.builds(TokenCreate, st.just(b"NEW"), st.just(2), amounts, st.booleans()),
    st.builds(Mint, tokens, people, amounts),
    st.builds(Burn, tokens, amounts),
    st.builds(
        lambda kind, owner, data: ObjectCreate(
            1, kind, owner if kind is OwnerKind.OWNED else bytes(32), data
        ),
        st.sampled_from(OwnerKind),
        people,
        short,
    ),
    st.builds(ObjectMutate, ids, short),
    st.builds(ObjectTransfer, ids, people),
    st.builds(ObjectShare, ids),
    st.builds(ObjectFreeze, ids),
    st.builds(ObjectDelete, ids),
)


@st.composite
def wild(draw: Callable[[Any], Any], state: State, sender: bytes) -> Transaction:
    """Anything that decodes."""
    fields: dict[str, Any] = {}
    if draw(st.booleans()):
        fields["gas_limit"] = draw(st.sampled_from((0, 12_000, 20_000, 30_000, U64_MAX)))
    if draw(st.booleans()):
        fields["max_price"] = draw(st.sampled_from((0, 1, PRICE // 2, 10 * PRICE, U64_MAX)))
    if draw(st.integers(0, 9)) == 0:
        fields["lane"] = draw(st.sampled_from(Lane))
    if draw(st.integers(0, 9)) == 0:
        fields["gas_token"], fields["max_fee"] = GOLD, 5
    if draw(st.integers(0, 9)) == 0:
        fields["expiry_epoch"] = draw(st.integers(0, 3))
    payer = draw(st.sampled_from((sender, sender, ALICE, BOB)))
    if payer != sender:
        fields |= {"fee_payer": payer, "sponsor_nonce": account(state, payer).sponsor_nonce}
    inputs = []
    for object_id in draw(st.sets(ids, max_size=4)):
        version = declared_version(state, object_id) + draw(st.sampled_from((0, 0, 0, 1, 2)))
        inputs.append(Input(object_id, version, draw(st.sampled_from(Access))))
    nonce = account(state, sender).nonce + draw(st.sampled_from((0, 0, 0, 0, 0, 1, 2)))
    return transaction(
        *draw(st.lists(operations, min_size=1, max_size=4)),
        sender=sender,
        nonce=nonce,
        inputs=inputs,
        **fields,
    )


@st.composite
def sound(draw: Callable[[Any], Any], state: State, sender: bytes) -> Transaction:
    """What the sender may do with what he has; it mostly succeeds."""
    done: list[Operation] = []
    inputs = []
    for object_id in draw(st.sets(ids, max_size=3)):
        data = state.get(object_key(object_id))
        one = None if data is None else Object.decode(data)
        if one is None or one.deleted or (one.owner_kind is OwnerKind.OWNED and one.owner != sender):
            continue
        most = {
            OwnerKind.OWNED: Access.DELETE,
            OwnerKind.SHARED: Access.WRITE,
            OwnerKind.IMMUTABLE: Access.READ,
        }
        access = Access(draw(st.integers(0, most[one.owner_kind])))
        inputs.append(Input(object_id, declared_version(state, object_id), access))
        if access is not Access.READ:
            done += [ObjectMutate(object_id, draw(short))] * draw(st.integers(0, 2))
            done += draw(st.sampled_from(((), ENDINGS[access](object_id, draw(people)))))
    token = draw(st.sampled_from((NATIVE_TOKEN, GOLD, PEARL)))
    part = balance(state, sender, token) // draw(st.sampled_from((3, 10, 1_000)))
    done.append(Transfer(token, (Output(draw(people), part), Output(draw(people), 0))))
    done += draw(
        st.lists(operations.filter(lambda each: type(each) in (ObjectCreate, TokenCreate)), max_size=1)
    )
    if sender == ALICE and draw(st.booleans()):
        done += [Mint(GOLD, draw(people), draw(st.integers(0, 100))), Burn(GOLD, 0)]
    return transaction(
        *draw(st.permutations(done)) if not inputs else done,
        sender=sender,
        nonce=account(state, sender).nonce,
        inputs=inputs,
        gas_limit=60_000,
    )


ENDINGS: dict[Access, Callable[[bytes, bytes], tuple[Operation, ...]]] = {
    Access.WRITE: lambda object_id, to: (),
    Access.TRANSFER: lambda object_id, to: (ObjectTransfer(object_id, to),),
    Access.SHARE: lambda object_id, to: (ObjectShare(object_id),),
    Access.FREEZE: lambda object_id, to: (ObjectFreeze(object_id),),
    Access.DELETE: lambda object_id, to: (ObjectDelete(object_id),),
}


def declared_version(state: State, object_id: bytes) -> int:
    """The version that an input of this object declares."""
    data = state.get(object_key(object_id))
    if data is None:
        return 1
    one = Object.decode(data)
    return one.initial_version if one.owner_kind is OwnerKind.SHARED else one.version


@st.composite
def blocks(draw: Callable[[Any], Any]) -> list[Transaction]:
    """Up to a dozen transactions, good and bad, each drawn for the state that those before it leave."""
    state = first_state(FLAT)
    found: list[Transaction] = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from((sound, sound, sound, wild, wild, None)))
        if kind is not None:
            found.append(draw(kind(state, draw(people))))
            execute(state, found[-1:], FLAT)
        elif found:
            found.append(draw(st.sampled_from(found)))
    return found or [transaction(ObjectDelete(b"8" * 32))]


policies = st.sampled_from((FLAT, BURNING))
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def first_state(policy: FlatPolicy) -> State:
    return state_of(
        {ALICE: FUNDS, BOB: 30_000, CAROL: 2_500, COLLECTOR: 1_000_000},
        tokens={GOLD: {ALICE: 100, BOB: 3}, PEARL: {CAROL: U128_MAX}},
        objects=OBJECTS,
        gas=policy,
    )


def execute(state: State, block: list[Transaction], policy: FlatPolicy, **facts: Any) -> BlockResult:
    result = execute_block(state, block_of(block, **facts), policy)
    apply(state, result.changes)
    return result


def one_by_one(
    block: list[Transaction], policy: FlatPolicy
) -> Iterator[tuple[State, State, Transaction, Receipt]]:
    """Each transaction that is not a repetition in a block of its own: states before and after."""
    state, seen = first_state(policy), set[bytes]()
    for one in block:
        before = dict(state)
        result = execute(state, [one], policy, executed=frozenset(seen))
        seen.add(one.digest)
        if result.receipts:
            yield before, dict(state), one, result.receipts[0]


@many
@given(blocks(), policies)
def test_every_token_is_conserved_and_every_entry_is_canonical(
    block: list[Transaction], policy: FlatPolicy
) -> None:
    state = first_state(policy)
    result = execute(state, block, policy)
    assert supply(state) == recorded_supply(state)
    for key, value in state.items():
        decode_value(key, value)
    assert [receipt.digest for receipt in result.receipts] == list(dict.fromkeys(one.digest for one in block))
    for receipt in result.receipts:
        assert Receipt.decode(receipt.encode()) == receipt
        assert (receipt.code == "") == (receipt.status is Status.COMMITTED)


@many
@given(blocks(), policies)
def test_the_same_block_gives_the_same_bytes_whatever_holds_the_state(
    block: list[Transaction], policy: FlatPolicy
) -> None:
    state = first_state(policy)
    before = dict(state)
    given_ = block_of(block)
    expected = execute_block(state, given_, policy)
    fetched = {key: state.get(key) for key in block_keys(block, policy, state[GAS_STATE_KEY])}
    backwards = dict(sorted(state.items(), reverse=True))
    for held in (Fetched(fetched), MappingProxyType(state), backwards, state):
        assert execute_block(held, given_, policy) == expected
    assert list(expected.changes) == sorted(expected.changes)
    assert state == before, "execution changed its input"
    decoded = [Transaction.decode(one.data) for one in block]
    assert execute_block(state, block_of(decoded), policy) == expected


@many
@given(blocks(), policies)
def test_a_block_is_its_transactions_one_after_the_other(
    block: list[Transaction], policy: FlatPolicy
) -> None:
    if any(one.body.sender == COLLECTOR or one.body.fee_payer == COLLECTOR for one in block):
        return  # who spends the block's fees has them only when the block has ended
    together = first_state(policy)
    outcomes = execute(together, block, policy).receipts
    alone = list(one_by_one(block, policy))
    assert alone[-1][1] == together
    assert [each[3].code for each in alone] == [each.code for each in outcomes]
    assert [each[3].fee for each in alone] == [each.fee for each in outcomes]


@many
@given(blocks(), policies)
def test_a_failure_keeps_nonce_fee_and_versions_and_a_void_keeps_nothing(
    block: list[Transaction], policy: FlatPolicy
) -> None:
    for before, after, one, receipt in one_by_one(block, policy):
        changed = changes(before, after)
        sender, payer = one.body.sender, one.body.fee_payer
        if receipt.status is Status.VOID:
            assert not changed and receipt.fee == receipt.gas_used == 0
            continue
        assert account(after, sender).nonce == account(before, sender).nonce + 1
        assert receipt.gas_used <= one.body.gas_limit
        if receipt.status is Status.FAILED:
            assert not (receipt.created or receipt.deleted or receipt.events)
            bumped = {object_key(each.id) for each in receipt.written}
            fee_keys = {account_key(COLLECTOR)} if policy is FLAT else {b"\x03" + NATIVE_TOKEN}
            assert changed <= {account_key(sender), account_key(payer)} | fee_keys | bumped
            for key in bumped:
                was, now = decode_value(key, before[key]), decode_value(key, after[key])
                assert isinstance(was, Object) and isinstance(now, Object)
                assert now.version == was.version + 1
                assert now == Object(now.version, was.owner_kind, was.owner, was.type, False, was.data)


@many
@given(blocks(), policies)
def test_exec_2_each_owned_input_at_its_declared_version_moves_on_by_one(
    block: list[Transaction], policy: FlatPolicy
) -> None:
    for before, after, one, receipt in one_by_one(block, policy):
        listed = {each.id: each.version for each in (*receipt.written, *receipt.deleted)}
        for declared in one.body.inputs:
            was = decode_value(object_key(declared.id), before.get(object_key(declared.id)))
            now = decode_value(object_key(declared.id), after.get(object_key(declared.id)))
            if was is None or receipt.status is Status.VOID:
                assert was == now
                continue
            assert isinstance(was, Object) and isinstance(now, Object)
            mine = was.owner_kind is OwnerKind.OWNED and was.owner == one.body.sender and not was.deleted
            if mine and was.version == declared.version:
                assert now.version == was.version + 1 == listed[declared.id]
            elif was.owner_kind is OwnerKind.SHARED and receipt.status is Status.COMMITTED:
                assert now.version - was.version == (declared.id in listed) <= 1
            else:
                assert now == was and declared.id not in listed


@many
@given(blocks(), policies)
def test_exec_4_nobody_is_debited_more_than_the_signed_bytes_say(
    block: list[Transaction], policy: FlatPolicy
) -> None:
    for before, after, one, _ in one_by_one(block, policy):
        spend = max_spend(one)
        for address in PEOPLE:
            for token in (NATIVE_TOKEN, GOLD, PEARL):
                lost = balance(before, address, token) - balance(after, address, token)
                assert lost <= spend.get((address, token), 0)


@many
@given(blocks(), st.integers(1, 5), policies)
def test_what_is_conserved_in_a_block_is_conserved_along_a_chain(
    transactions: list[Transaction], size: int, policy: FlatPolicy
) -> None:
    state, executed = first_state(policy), set[bytes]()
    for height, first in enumerate(range(0, len(transactions), size), 1):
        block = transactions[first : first + size]
        execute(state, block, policy, height=height, executed=frozenset(executed))
        executed.update(one.digest for one in block)
        assert supply(state) == recorded_supply(state)


def changes(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> set[bytes]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_the_limit_used_here_is_enough_for_any_of_these_transactions() -> None:
    # Else the properties above would only ever see transactions that run out of gas.
    dearest = [ObjectCreate(1, OwnerKind.IMMUTABLE, bytes(32), b"x" * 12)] * 4
    state = first_state(FLAT)
    (receipt,) = execute(state, [transaction(*dearest)], FLAT).receipts
    assert receipt.status is Status.COMMITTED and receipt.gas_used < GAS_LIMIT
