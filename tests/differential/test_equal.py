"""C and the specification give the same bytes, whatever the block and the way it is executed (EXEC-34, 39).

This is a short slice; `python -m tests.differential.compare` goes on for as long as one likes.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervm.contracts.gas import FixedRulePolicy
from supervm.execution import BlockInput, BlockResult, execute_block
from supervm.execution.engine import (
    BlockEngine,
    NativeEngine,
    TwinEngine,
    choose_engine,
    native_facts,
    pack_entries,
)
from supervm.execution.errors import Code
from supervm.execution.working import GAS_STATE_KEY
from supervm.types.codec import U128_MAX
from supervm.types.operations import (
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
from supervm.types.state import (
    NATIVE_TOKEN,
    OBJECT,
    Account,
    Object,
    OwnerKind,
    Token,
    account_key,
    shared_owner,
    token_id,
    token_key,
)
from supervm.types.transaction import Access, Input, Lane, Transaction
from tests import needs
from tests.differential.compare import BLOCKS_A_WORLD, Tally, compare_world
from tests.differential.generate import World, world
from tests.differential.making import FUNDS, Maker
from tests.differential.profiles import ORDINARY
from tests.differential.ways import WAYS, Way, check_equal, start

native = needs.c_engine
SEED = bytes(32)


@native
def test_random_blocks_give_the_same_bytes_in_every_way_and_every_outcome_occurs() -> None:
    tally = Tally()
    for seed in range(36):
        compare_world(seed, BLOCKS_A_WORLD, tally)
    # That one a decoder refuses; of 256 keys with a stake `test_stakes` has a state.
    left_out = {Code.OBJECT_TOO_LARGE, Code.STAKES_FULL}
    wanted = {code.value for code in Code} - left_out
    seen = set(tally.outcomes)
    assert wanted | {"COMMITTED", "SKIPPED", "TokenNotAccepted"} <= seen, wanted - seen
    from supervm.hardware.fastpath.engine import Mode, Reason

    told = {f"mode {mode.name.lower()}" for mode in Mode if mode is not Mode.AUTO}
    told |= {f"reason {reason.name.lower()}" for reason in Reason}
    assert told <= set(tally.done), told - set(tally.done)


@native
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(10**6, 10**9))
def test_any_seed_does(seed: int) -> None:
    compare_world(seed, 4, Tally())


@native
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_in_any_timing_give_the_same_bytes(threads: int) -> None:
    """A hundred times the same block, all of it in conflict (EXEC-39)."""
    of, block = conflicting()
    wanted = execute_block(of.state, block, of.gas)
    engine = NativeEngine(threads=threads, bytes_max=0, seed=SEED, mode="block_stm")
    for _ in range(100):
        check_equal(run_engine(engine, of, block), wanted)
    assert engine.last is not None
    assert engine.last.executions >= len(wanted.receipts)
    assert engine.last.validations > 0


def run_engine(engine: BlockEngine, of: World, block: BlockInput) -> BlockResult:
    with engine.open_block(block, of.gas, of.state[GAS_STATE_KEY]) as run:
        run.supply([of.state.get(key) for key in run.missing()])
        return run.execute()


def conflicting() -> tuple[World, BlockInput]:
    for seed in range(100):
        of = world(seed)
        for _ in range(6):
            block = of.block()
            if len(block.transactions) >= 40 and len(of.people) <= 5:
                return of, block
            of.follow(block, execute_block(of.state, block, of.gas).changes)
    raise AssertionError("no world has such a block")


def test_a_policy_without_a_simple_rule_is_executed_by_the_specification() -> None:
    of = world(1)

    class Plain:
        """The same policy, without the rule that C could follow."""

        def __getattr__(self, name: str) -> object:
            if name == "fixed_rule":
                raise AttributeError(name)
            return getattr(of.gas, name)

    assert isinstance(of.gas, FixedRulePolicy)
    assert not isinstance(Plain(), FixedRulePolicy)
    engine = choose_engine(native=True, threads=2, bytes_max=0, seed=SEED)
    block = of.block()
    with engine.open_block(block, Plain(), of.state[GAS_STATE_KEY]) as run:  # type: ignore[arg-type]
        assert GAS_STATE_KEY in run.missing()
        run.supply([of.state.get(key) for key in run.missing()])
        check_equal(run.execute(), execute_block(of.state, block, of.gas))


def test_without_c_the_specification_is_the_engine() -> None:
    assert isinstance(choose_engine(native=False, threads=2, bytes_max=0, seed=SEED), TwinEngine)


@native
def test_what_was_supplied_once_is_not_asked_for_again_until_it_is_forgotten() -> None:
    of = world(3)
    engine = NativeEngine(threads=1, bytes_max=0, seed=SEED)
    block = of.block()
    while not block.transactions:
        block = of.block()
    with engine.open_block(block, of.gas, of.state[GAS_STATE_KEY]) as run:
        asked = run.missing()
        assert asked and len(set(asked)) == len(asked)
        run.supply([of.state.get(key) for key in asked])
        run.execute()
    with engine.open_block(block, of.gas, of.state[GAS_STATE_KEY]) as run:
        assert run.missing() == []
    engine.forget()
    with engine.open_block(block, of.gas, of.state[GAS_STATE_KEY]) as run:
        assert sorted(run.missing()) == sorted(asked)


@native
def test_what_a_skipped_transaction_made_earlier_is_there_though_the_engine_forgot_it() -> None:
    of = world(2)
    minter = of.people[0]
    of.state[account_key(minter)] = Account(0, 0, FUNDS).encode()
    maker = Maker(of.chance, of.state, of.people, of.limits, ORDINARY[0])
    made = maker.signed(maker.body(minter, (), [TokenCreate(b"GOLD", 6, 1_000, False)]))
    first = of.block_of([made])
    of.follow(first, execute_block(of.state, first, of.gas).changes)
    maker.nonces[minter] = 1
    used = maker.signed(maker.body(minter, (), [Mint(token_id(made.digest, 0), minter, 5)]))
    second = of.block_of([made, used])
    assert second.executed == {made.digest}
    wanted = execute_block(of.state, second, of.gas)
    assert [receipt.code for receipt in wanted.receipts] == [""]
    engine = NativeEngine(threads=1, bytes_max=0, seed=SEED)
    check_equal(run_engine(engine, of, second), wanted)


@native
@pytest.mark.parametrize("overdrawn", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_mutations_of_a_transaction_that_fails_later_leave_only_the_next_version(
    way: Way, overdrawn: bool
) -> None:
    """An owned object, mutated twice, then more paid than there is (EXEC-2, EXEC-9)."""
    of = world(2)
    owner, other = of.people[:2]
    of.state[account_key(owner)] = Account(0, 0, FUNDS).encode()
    ids = sorted(bytes([at]) * 32 for at in (7, 8))
    for each in ids:
        of.state[OBJECT + each] = Object(3, OwnerKind.OWNED, owner, 1, data=b"as it was").encode()
    maker = Maker(of.chance, of.state, of.people, of.limits, ORDINARY[0])
    inputs = [Input(each, 3, Access.WRITE) for each in ids]
    writes: list[Operation] = [ObjectMutate(ids[0], b"once"), ObjectMutate(ids[0], b"and again")]
    pays = Transfer(NATIVE_TOKEN, (Output(other, FUNDS * 2 if overdrawn else 1),))
    block = of.block_of([maker.signed(maker.body(owner, inputs, [*writes, pays]))])
    wanted = execute_block(of.state, block, of.gas)
    assert wanted.receipts[0].code == ("InsufficientFunds" if overdrawn else "")
    first, second = (Object.decode(wanted.changes[OBJECT + each] or b"") for each in ids)
    assert (first.version, second.version) == (4, 4)
    assert (first.data, second.data) == (b"as it was" if overdrawn else b"and again", b"as it was")
    start(way, of.state).run(block, of.gas, of.state, wanted)


def own_objects(owner: bytes, sizes: Sequence[int]) -> dict[bytes, Object]:
    """Objects of this owner at version 3, by id, ascending."""
    made = [Object(3, OwnerKind.OWNED, owner, 1, data=bytes(range(size))) for size in sizes]
    ids = sorted(blake3(owner + bytes((at,))).digest() for at in range(len(made)))
    return dict(zip(ids, made, strict=True))


def scripts(a: bytes, b: bytes, c: bytes) -> list[tuple[dict[bytes, Access], list[Operation]]]:
    """What may become of three objects of one's own: accesses other than WRITE, and operations."""
    in_turn: list[Operation] = [ObjectMutate(each, b"new bytes") for each in (a, b, c)]
    late = ObjectMutate(b, b"late")
    return [
        ({}, in_turn),
        ({}, in_turn[::-1]),
        ({}, [in_turn[0], ObjectMutate(a, bytes(70)), *in_turn[1:], in_turn[0]]),
        ({b: Access.DELETE}, [*in_turn, ObjectDelete(b)]),
        ({b: Access.DELETE}, [in_turn[0], ObjectDelete(b), late]),
        ({b: Access.DELETE}, [ObjectDelete(b), in_turn[0], late]),
        ({b: Access.TRANSFER}, [*in_turn, ObjectTransfer(b, bytes(range(32)))]),
        ({a: Access.FREEZE, c: Access.SHARE}, [ObjectFreeze(a), *in_turn[1:], ObjectShare(c)]),
        ({b: Access.FREEZE}, [in_turn[0], ObjectFreeze(b), late]),
        ({b: Access.READ}, in_turn),
        ({b: Access.READ}, [in_turn[0], in_turn[2]]),
        ({}, [Transfer(NATIVE_TOKEN, (Output(a, 1),)), *in_turn]),
        ({}, [ObjectCreate(1, OwnerKind.OWNED, a, bytes(3)), *in_turn]),
        ({}, [Transfer(NATIVE_TOKEN, (Output(a, 2 * FUNDS),))]),
    ]


@native
@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], WAYS[3], WAYS[7]], ids=str)
def test_whatever_becomes_of_ones_own_objects_and_wherever_the_gas_ends_the_bytes_are_the_same(
    way: Way,
) -> None:
    """Transactions whose inputs are all the sender's own and at their versions, and some where one isn't."""
    of = world(2)
    maker = Maker(of.chance, of.state, of.people, of.limits, ORDINARY[0])
    turns: tuple[list[Transaction], ...] = ([], [], [])
    kinds = len(scripts(b"", b"", b""))
    for at in range(kinds * 30):
        owner = blake3(at.to_bytes(4, "big")).digest()
        of.state[account_key(owner)] = Account(0, 0, 10 if at % 97 == 5 else FUNDS).encode()
        objects = own_objects(owner, (5, 0, 40))
        if at % 11 == 7:
            last = list(objects)[-1]
            spoiled: dict[str, Any] = (
                {"owner": bytes(32), "owner_kind": OwnerKind.IMMUTABLE},
                {"owner": shared_owner(3), "owner_kind": OwnerKind.SHARED},
                {"owner": bytes(range(32))},
                {"version": 4},
                {"deleted": True, "data": b""},
            )[at % 5]
            objects[last] = attrs.evolve(objects[last], **spoiled)
        of.state.update((OBJECT + id_, each.encode()) for id_, each in objects.items())
        accesses, operations = scripts(*objects)[at % kinds]
        inputs = [Input(id_, 3, accesses.get(id_, Access.WRITE)) for id_ in objects]
        for nonce, turn in enumerate(turns):  # at versions that the turn before may have raised
            body = attrs.evolve(
                maker.body(owner, inputs, operations),
                nonce=nonce,
                lane=(Lane.AUTO, Lane.FAST)[at % 2],
                expiry_epoch=0,
                gas_limit=40_000 if nonce == 1 else 10_000 + 600 * (at // kinds),
                max_price=10_000,
            )
            turn.append(maker.signed(body, suite=1))
            inputs = [attrs.evolve(each, version=each.version + 1) for each in inputs]
    engine = start(way, of.state)
    codes = set()
    for transactions in ([*turns[0], *turns[1]], turns[2]):
        block = of.block_of(transactions)
        wanted = execute_block(of.state, block, of.gas)
        codes |= {receipt.code for receipt in wanted.receipts}
        engine.run(block, of.gas, of.state, wanted)
        engine.follow(wanted.changes)
        of.follow(block, wanted.changes)
    assert codes >= {
        "", "OutOfGas", "InsufficientFunds", "UndeclaredAccess", "AccessUsed", "OwnershipMismatch",
        "VersionMismatch", "ImmutableObject", "ObjectDeleted", "FeeUnfunded",
    }, codes  # fmt: skip


@native
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_state_that_can_not_be_stops_c_where_it_stops_the_specification(way: Way) -> None:
    """Balances that no supply covers, and a supply smaller than the fees."""
    from supervm.hardware.fastpath.engine import InvariantBroken

    stopped = went_on = 0
    for seed in range(40):
        of = world(seed, crowded=False)
        if seed % 2:
            of.state[token_key(NATIVE_TOKEN)] = Token(b"COIN", 6, of.people[0], False, 3).encode()
        for person in of.people[:2]:
            of.state[account_key(person)] = Account(0, 0, U128_MAX - 2).encode()
        block = of.block()
        try:
            wanted = execute_block(of.state, block, of.gas)
        except AssertionError:
            with pytest.raises(InvariantBroken):
                start(way, of.state).run(block, of.gas, of.state, BlockResult({}, (), b"", {}))
            stopped += 1
        else:
            start(way, of.state).run(block, of.gas, of.state, wanted)
            went_on += 1
    assert min(stopped, went_on) > 5, (stopped, went_on)


@native
def test_memory_stays_within_its_bound_however_long_the_chain() -> None:
    from supervm.hardware.fastpath import engine as c

    of = world(5)
    facts = native_facts(of.block_of([]), of.gas, of.gas.fixed_rule(of.state[GAS_STATE_KEY]))
    inner = c.NativeEngine(c.Pool(1), SEED, bytes_max=300_000)
    for part in range(40):
        keys = [b"\x01" + part.to_bytes(2, "little") + at.to_bytes(30, "little") for at in range(200)]
        inner.load(pack_entries([(key, b"\x01" + bytes(31) + b"\x01") for key in keys]), len(keys))
        with inner.open_block(facts, b"", array("Q", [0]), None, ()):
            pass
        assert inner.stats().bytes <= 300_000
    assert inner.stats().evicted > 0


@native
def test_bytes_that_are_no_transaction_are_named_and_nothing_is_kept() -> None:
    from supervm.hardware.fastpath import engine as c

    of = world(7)
    block = of.block()
    while len(block.transactions) < 5:
        block = of.block()
    inner = c.NativeEngine(c.Pool(2), SEED)
    facts = native_facts(block, of.gas, of.gas.fixed_rule(of.state[GAS_STATE_KEY]))
    parts = [each.data for each in block.transactions]
    parts[3] = parts[3][:-1]
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part))
    with (
        pytest.raises(c.BadTransaction) as caught,
        inner.open_block(facts, b"".join(parts), array("Q", ends), None, ()),
    ):
        pass
    assert caught.value.index == 3


@native
def test_entries_that_are_none_are_named() -> None:
    from supervm.hardware.fastpath import engine as c

    inner = c.NativeEngine(c.Pool(1), SEED)
    good = (b"\x01" + bytes(32), b"\x01" + bytes(31) + b"\x01")
    for key, value in (
        (b"\x01" + bytes(32), b"\x02" + bytes(32)),
        (b"\x01" + bytes(32), bytes(5)),
        (b"\x01" + bytes(31), b"\x01" + bytes(32)),
        (b"\x02" + bytes(64), b"\x01" + bytes(16)),
        (b"\x03" + bytes(32), b"\x01\x00\x00\x00\x00"),
        (b"\x04" + bytes(32), b"\x01" + bytes(60)),
        (b"\x09" + bytes(32), b"\x01"),
    ):
        packed = pack_entries([good, (key, value)])
        with pytest.raises(c.BadEntry) as caught:
            inner.load(packed, 2)
        assert caught.value.index == 1
    with pytest.raises(c.BadEntry):
        inner.load(pack_entries([good])[:-1], 1)
