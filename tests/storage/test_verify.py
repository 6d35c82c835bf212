"""Deep checks: state against tree, chain against its own execution (STO-37)."""

from contextlib import aclosing

import attrs
import pytest

from supervm.contracts.storage import Delete, Put, StoreCorrupt
from supervm.kernel.context import SystemClock
from supervm.storage import verify
from supervm.storage.creation import GAS_KEY, first_state
from supervm.storage.errors import ChainMismatch
from supervm.storage.pace import Pace
from supervm.storage.pruning import Sweeper
from supervm.storage.spaces import (
    STATE,
    Horizon,
    body_key,
    certificate_key,
    header_key,
    receipts_key,
    seal,
    state_key,
)
from supervm.storage.state_tree import NativeTree
from supervm.storage.verify import Replay, verify_chain, verify_kept, verify_slice, verify_tree
from supervm.types import merkle, smt
from supervm.types.codec import pack_transactions
from supervm.types.errors import ProofInvalid
from supervm.types.state import Account, account_key
from tests.storage.ledger_support import (
    CERTIFICATE,
    GAS,
    GAS_STATE,
    GENESIS,
    add_block,
    address,
    changes_of,
    ledger_on,
    opened_store,
    receipts_of,
    set_balance,
)

BLOCKS = [
    [set_balance(number, 1) for number in range(60)],
    [],
    [set_balance(number, 0) for number in range(0, 60, 2)],
    [set_balance(number, number + 1) for number in range(100)],
]
ENTRIES = len(first_state(GENESIS, GAS_STATE)) + 97


@pytest.fixture
async def store(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        async with ledger_on(store) as ledger:
            for block in BLOCKS:
                await add_block(ledger, block)
        yield store


@pytest.fixture
async def scratch(tmp_path):
    async with opened_store("memory", tmp_path / "scratch") as store:
        yield store


async def test_a_good_state_makes_its_root(store):
    async with ledger_on(store) as ledger:
        assert await verify_tree(ledger) == ENTRIES
        assert sum([await verify_slice(ledger, first) for first in range(256)]) == ENTRIES


async def test_a_state_larger_than_memory_is_checked_in_ranges(store, monkeypatch):
    monkeypatch.setattr(verify, "LEAVES_MAX", 10)
    held, seen = [], []
    right = verify._wrong_part

    def wrong_part(pages, height, parts):
        held.append(sum(map(len, parts.values())))
        return right(pages, height, parts)

    monkeypatch.setattr(verify, "_wrong_part", wrong_part)
    async with ledger_on(store) as ledger:
        assert await verify_tree(ledger, lambda done, of: seen.append(done)) == ENTRIES
    assert len(seen) > 5 and seen[-1] == verify.PARTS and seen == sorted(set(seen))
    assert sum(held) == ENTRIES and max(held) <= 10


@pytest.mark.parametrize("passes", [10, 10**6])
async def test_an_entry_lost_added_or_changed_behind_the_tree_is_found(store, monkeypatch, passes):
    monkeypatch.setattr(verify, "LEAVES_MAX", passes)
    there, absent = account_key(address(5)), account_key(address(500))
    row, new = state_key(there), state_key(absent)
    value = Account(balance=77).encode()
    for damage in (Delete(row), Put(row, seal(row, value)), Put(new, seal(new, value))):
        good = await store.get(damage.key)
        await store.write([damage])
        first = smt.key_hash(damage.key[1:])[0]
        async with ledger_on(store) as ledger:
            with pytest.raises(StoreCorrupt, match=f"begins with {first:02x}"):
                await verify_tree(ledger)
            with pytest.raises(StoreCorrupt, match=f"begins with {first:02x}"):
                await verify_slice(ledger, first)
            await verify_slice(ledger, (first + 1) % 256)
        await store.write([Delete(damage.key) if good is None else Put(damage.key, good)])
    async with ledger_on(store) as ledger:
        await verify_tree(ledger)


async def test_a_flipped_bit_in_any_state_entry_is_named(store):
    rows = [(key, value) async for key, value in store.scan(STATE, b"\x02")]
    for key, value in rows[:: len(rows) // 7]:
        await store.write([Put(key, value[:-9] + bytes([value[-9] ^ 1]) + value[-8:])])
        async with ledger_on(store) as ledger:
            with pytest.raises(StoreCorrupt, match=key.hex()):
                await verify_tree(ledger)
        await store.write([Put(key, value)])


@attrs.frozen
class Done:
    changes: dict
    receipts: list


def execute(state, block):
    """These tests' execution: a transaction sets a key. It reads only what it said it would."""
    assert GAS_KEY in state
    return Done(changes_of(block.transactions), receipts_of(block.header.height, block.transactions))


def check_certificate(header, certificate):
    if certificate != CERTIFICATE:
        raise ProofInvalid("ProofInvalid", "not final", certificate)


REPLAY = Replay(
    touched=lambda block: changes_of(block.transactions),
    execute=execute,
    check_certificate=check_certificate,
)


async def verified(store, scratch, replay=REPLAY):
    async with (
        ledger_on(store) as ledger,
        aclosing(verify_chain(ledger, scratch, GENESIS, GAS, replay)) as steps,
    ):
        return [(step.height, step.tip, step.transactions) async for step in steps]


async def test_a_good_chain_verifies_block_by_block(store, scratch):
    assert await verified(store, scratch) == [(0, 4, 0), (1, 4, 60), (2, 4, 60), (3, 4, 90), (4, 4, 190)]


async def test_a_chain_is_verified_by_the_specification_alone(store, scratch, monkeypatch):
    def grow(*_):
        raise AssertionError("what made the chain must not judge it")

    monkeypatch.setattr(NativeTree, "grow", grow)
    assert (await verified(store, scratch))[-1] == (4, 4, 190)


async def mismatch(store, scratch, replay=REPLAY):
    with pytest.raises(ChainMismatch) as caught:
        await verified(store, scratch, replay)
    return caught.value


async def test_an_execution_that_changes_something_else_is_a_state_root_mismatch(store, scratch):
    def other(state, block):
        done = execute(state, block)
        if block.header.height == 3:
            done.changes[account_key(address(1))] = Account(balance=9).encode()
        return done

    error = await mismatch(store, scratch, attrs.evolve(REPLAY, execute=other))
    assert (error.height, error.what) == (3, "state root of height 3")


async def test_another_receipt_is_named(store, scratch):
    def other(state, block):
        done = execute(state, block)
        if block.header.height == 4:
            done.receipts[17] = attrs.evolve(done.receipts[17], gas_used=1)
        return done

    error = await mismatch(store, scratch, attrs.evolve(REPLAY, execute=other))
    assert (error.height, error.what) == (4, "receipt 17")


async def test_receipts_stored_otherwise_with_a_right_seal_are_found(store, scratch):
    forged = [attrs.evolve(each, gas_used=7).encode() for each in receipts_of(1, BLOCKS[0])]
    key = receipts_key(1, 0)
    await store.write([Put(key, seal(key, pack_transactions(forged)))])
    assert (await mismatch(store, scratch)).height == 1


async def test_a_certificate_that_proves_nothing_is_found(store, scratch):
    def refuse_second(header, certificate):
        if header.height == 2:
            raise ProofInvalid("ProofInvalid", "wrongly signed", certificate)

    error = await mismatch(store, scratch, attrs.evolve(REPLAY, check_certificate=refuse_second))
    assert (error.height, error.what) == (2, "certificate")


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"receipts_root": b"\x09" * 32}, "receipts root"),
        ({"base_price": 1}, "base price"),
    ],
)
async def test_a_header_that_shows_something_else_is_found(tmp_path, scratch, wrong, what):
    async with opened_store("memory", tmp_path / "bad") as store:
        async with ledger_on(store) as ledger:
            await add_block(ledger, BLOCKS[0])
            await add_block(ledger, BLOCKS[2], **wrong)
        error = await mismatch(store, scratch)
        assert (error.height, error.what) == (2, what)


async def test_a_chain_whose_headers_show_older_roots_verifies(tmp_path, scratch):
    """As under a consensus that orders ahead of execution: root height two below, receipts in groups."""
    async with opened_store("memory", tmp_path / "lagging") as store:
        async with ledger_on(store) as ledger:
            roots, receipts_roots = [ledger.tip.state_root], []
            shown = 0
            for height, block in enumerate(BLOCKS, 1):
                root_height = max(0, height - 2) if height != 3 else 0
                covered = receipts_roots[shown:root_height]
                await add_block(
                    ledger,
                    block,
                    root_height=root_height,
                    state_root=roots[root_height],
                    receipts_root=merkle.root(covered),
                )
                shown = root_height
                roots.append(ledger.tip.state_root)
                receipts_roots.append(ledger.tip.receipts_root)
        assert (await verified(store, scratch))[-1] == (4, 4, 190)


async def kept_checked(ledger):
    def is_final(header, certificate):
        if certificate != CERTIFICATE:
            raise ProofInvalid("ProofInvalid", "not final", certificate)

    async with aclosing(verify_kept(ledger, ledger.tip, ledger.horizon.blocks, is_final)) as steps:
        return [step async for step in steps]


async def pruned_store(store):
    async with ledger_on(store) as ledger:
        await ledger.raise_horizon(Horizon(3, 3))
        await Sweeper(ledger, Pace(SystemClock())).sweep()


async def test_a_pruned_chain_is_checked_as_far_as_it_is_there(store):
    await pruned_store(store)
    async with ledger_on(store) as ledger:
        steps = await kept_checked(ledger)
        assert [step.height for step in steps] == [1, 2, 3, 4]
        assert steps[-1].transactions == 30 + 100
        assert await verify_tree(ledger) == ENTRIES


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        (certificate_key(1), b"no", "certificate"),
        (receipts_key(3, 0), pack_transactions([]), "receipts root"),
        (receipts_key(3, 0), None, "receipts root"),
    ],
)
async def test_a_pruned_chain_with_something_else_in_it_is_refused(store, key, value, what):
    await pruned_store(store)
    await store.write([Delete(key) if value is None else Put(key, seal(key, value))])
    async with ledger_on(store) as ledger:
        with pytest.raises(ChainMismatch, match=what):
            await kept_checked(ledger)


async def test_a_pruned_chain_with_another_header_is_refused(store):
    await pruned_store(store)
    async with ledger_on(store) as ledger:
        header = await ledger.header(2)
    other = attrs.evolve(header, timestamp_ms=header.timestamp_ms + 1).encode()
    await store.write([Put(header_key(2), seal(header_key(2), other))])
    async with ledger_on(store) as ledger:
        with pytest.raises(ChainMismatch, match="parent"):
            await kept_checked(ledger)
    await store.write([Put(header_key(2), seal(header_key(2), header.encode())), Delete(body_key(3))])
    async with ledger_on(store) as ledger:
        with pytest.raises(StoreCorrupt):
            await kept_checked(ledger)
