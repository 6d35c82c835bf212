"""A row that is damaged is named, never served, and comes back from what is here or from a peer (STO-43)."""

import os
import random

import pytest

from supervm.contracts.storage import Delete, Put
from supervm.storage.errors import RowDamaged
from supervm.storage.mending import Mender
from supervm.storage.pages import page_key
from supervm.storage.spaces import (
    BODIES,
    CERTIFICATES,
    HEADERS,
    INDEX,
    LEDGER_END,
    RECEIPTS,
    STALE,
    STATE,
    TREE,
    batch_key,
    body_key,
    certificate_key,
    header_key,
    index_key,
    receipts_key,
    seal,
    state_key,
    unseal,
    unseal_page,
)
from supervm.storage.verify import verify_tree
from supervm.types.errors import InvalidInput
from supervm.types.state import account_key
from tests.faults.chain import GENESIS, grow, state_at, transactions_at
from tests.faults.store import flipped
from tests.storage.ledger_support import CERTIFICATE, address, digest_of, ledger_on, opened_store, rows_of

RANGES = 7 * int(os.environ.get("FAULTS", "1"))
BLOCKS = 7
MIDDLE = 4
FUNDED = account_key(address(1))
ROWS = {
    "state": state_key(FUNDED),
    "root page": page_key(b"", 0, BLOCKS),
    "header": header_key(MIDDLE),
    "body": body_key(MIDDLE),
    "batch": batch_key(MIDDLE, 1),
    "receipts": receipts_key(MIDDLE, 0),
    "certificate": certificate_key(MIDDLE),
    "transaction's index entry": index_key(digest_of(transactions_at(MIDDLE)[0])),
}
LOCAL = {"root page", "transaction's index entry"}


@pytest.fixture
async def store(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        async with ledger_on(store, genesis=GENESIS) as ledger:
            for _ in range(BLOCKS):
                await grow(ledger)
        yield store


def on(store, **options):
    return ledger_on(store, genesis=GENESIS, **options)


def prove(header, certificate):
    if certificate != CERTIFICATE:
        raise InvalidInput("ProofInvalid", "no proof", certificate)


def sealed(key, stored):
    """A row's value as a peer gives it."""
    return unseal_page(key, stored) if key[:1] == TREE else unseal(key, stored)


async def damage(store, key, chance):
    """Flip a bit of a row, or lose it."""
    stored = await store.get(key)
    await store.write([Put(key, flipped(stored, chance)) if chance.random() < 0.5 else Delete(key)])


async def meet(ledger):
    """Ask for all there is at seven blocks; what each question gave, or how it was refused."""
    questions = {"tree": verify_tree(ledger)}
    for key in state_at(BLOCKS):
        questions[f"state {key.hex()}"] = ledger.get_state([key])
    for height in range(BLOCKS + 1):
        questions[f"header {height}"] = ledger.header(height)
        questions[f"block {height}"] = ledger.block(height)
        questions[f"receipts {height}"] = ledger.receipts(height)
        questions[f"certificate {height}"] = ledger.certificate(height)
        questions[f"index {height}"] = ledger.check_index(height)
    answers = {}
    for name, question in questions.items():
        try:
            answers[name] = await question
        except RowDamaged as error:
            answers[name] = error
    return answers


def refused(answers):
    return {name for name, answer in answers.items() if isinstance(answer, RowDamaged)}


async def mend(ledger, peer, rounds=6):
    """As a node does, with one peer that has every row."""
    mender = Mender(ledger)
    for _ in range(rounds):
        for row in ledger.aside.rows:
            if not await mender.at_hand(row.key):
                for key in await mender.wanted(row.key):
                    if key in peer:
                        await mender.given(key, sealed(key, peer[key]), prove)
        if not len(ledger.aside):
            return


READS = {
    "state": lambda ledger: ledger.get_state([FUNDED]),
    "root page": verify_tree,
    "header": lambda ledger: ledger.header(MIDDLE),
    "body": lambda ledger: ledger.block(MIDDLE),
    "batch": lambda ledger: ledger.block(MIDDLE),
    "receipts": lambda ledger: ledger.receipts(MIDDLE),
    "certificate": lambda ledger: ledger.certificate(MIDDLE),
    "transaction's index entry": lambda ledger: ledger.check_index(MIDDLE),
}


@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "lost"])
async def test_receipts_of_a_block_with_more_chunks_than_are_held_are_mended(store, monkeypatch, lost):
    monkeypatch.setattr("supervm.storage.records.RECEIPTS_CHUNK_BYTES", 1)
    monkeypatch.setattr("supervm.storage.mending.HELD_MAX", 3)
    async with on(store) as ledger:
        height = await grow(ledger)
        good, expected = await rows_of(store), await ledger.receipts(height)
        assert len(expected) > 6
    for number in (0, 4, len(expected) - 1):
        key = receipts_key(height, number)
        async with on(store) as ledger:
            await grow(ledger)  # the tip's receipts are looked at when it is opened
            await store.write([Delete(key) if lost else Put(key, flipped(good[key], random.Random(number)))])
            with pytest.raises(RowDamaged):
                await ledger.receipts(height)
            mender = Mender(ledger)
            for row in ledger.aside.rows:
                wanted = await mender.wanted(row.key)
                assert len(wanted) <= 3
                given = [
                    await mender.given(each, sealed(each, good[each]), prove)
                    for each in wanted
                    if each in good
                ]
                assert any(given), (number, lost)
            assert await ledger.receipts(height) == expected


@pytest.mark.parametrize("what", ROWS)
@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "lost"])
async def test_a_damaged_row_is_named_and_refused_until_the_right_one_is_back(store, what, lost):
    key, good, read = ROWS[what], await rows_of(store), READS[what]
    async with on(store) as ledger:
        expected = await read(ledger)
    async with on(store) as ledger:
        await store.write([Delete(key) if lost else Put(key, flipped(good[key], random.Random(what)))])
        for _ in range(2):
            with pytest.raises(RowDamaged, match=key.hex()):
                await read(ledger)
        assert [row.key for row in ledger.aside.rows] == [key]
        mender, before = Mender(ledger), await rows_of(store)
        assert await mender.at_hand(key) == (what in LOCAL)
        if what not in LOCAL:
            assert key in await mender.wanted(key)
            value = sealed(key, good[key])
            # What isn't right isn't taken, whoever says it.
            for wrong in (flipped(value, random.Random(1)), value + b"\x00", b""):
                assert not await mender.given(key, wrong, prove)
            assert await rows_of(store) == before
            with pytest.raises(RowDamaged, match=key.hex()):
                await read(ledger)
            assert await mender.given(key, value, prove)
        assert await rows_of(store) == good
        assert await read(ledger) == expected
        assert len(ledger.aside) == 0


@pytest.mark.parametrize("seed", range(RANGES))
async def test_whatever_range_of_rows_is_damaged_all_that_is_served_is_right_and_it_comes_back(store, seed):
    chance = random.Random(seed)
    good = await rows_of(store)
    space = (STATE, TREE, BODIES, RECEIPTS, INDEX, HEADERS, CERTIFICATES)[seed % 7]
    keys = sorted(key for key in good if key[:1] == space)
    first = chance.randrange(len(keys))
    hurt = keys[first : first + chance.randint(2, 6)]
    async with on(store) as ledger:
        truth = await meet(ledger)
    async with on(store) as ledger:
        for key in hurt:
            await damage(store, key, chance)
        met = await meet(ledger)
        told = met.keys() - refused(met)
        assert {name: met[name] for name in told} == {name: truth[name] for name in told}
        for _ in range(3):  # what lies behind a damaged row is met when that is back
            await mend(ledger, good)
            met = await meet(ledger)
        assert met == truth
        assert len(ledger.aside) == 0
        await grow(ledger)
        assert await ledger.get_state(list(state_at(BLOCKS + 1))) == state_at(BLOCKS + 1)


async def test_a_restart_knows_which_rows_are_set_aside(store):
    key = body_key(MIDDLE)
    good = await store.get(key)
    await store.write([Put(key, flipped(good, random.Random(1)))])
    async with on(store) as ledger:
        with pytest.raises(RowDamaged):
            await ledger.block(MIDDLE)
        await ledger.note_aside()
    async with on(store) as ledger:
        assert [row.key for row in ledger.aside.rows] == [key]
        assert key.hex() in ledger.aside.rows[0].why
        assert await Mender(ledger).given(key, unseal(key, good), prove)
    async with on(store) as ledger:
        assert len(ledger.aside) == 0
        assert (await ledger.block(MIDDLE)).header.height == MIDDLE


async def test_a_row_that_only_one_read_had_wrong_is_served_again_as_it_is(store):
    key = body_key(MIDDLE)
    good = await store.get(key)
    await store.write([Put(key, flipped(good, random.Random(1)))])
    async with on(store) as ledger:
        with pytest.raises(RowDamaged):
            await ledger.block(MIDDLE)
        await store.write([Put(key, good)])
        with pytest.raises(RowDamaged, match="set aside"):
            await ledger.block(MIDDLE)
        assert await Mender(ledger).at_hand(key)
        assert (await ledger.block(MIDDLE)).header.height == MIDDLE


async def test_a_state_entry_whose_seal_holds_but_which_the_tree_denies_is_not_served(store):
    """As a store may give an older value: only the tree tells."""
    key, good = state_key(FUNDED), await store.get(state_key(FUNDED))
    other = await store.get(state_key(account_key(address(2))))
    await store.write([Put(key, seal(key, unseal(state_key(account_key(address(2))), other)))])
    async with on(store) as ledger:
        with pytest.raises(RowDamaged, match=key.hex()):
            await ledger.prove(FUNDED)
        with pytest.raises(RowDamaged, match="set aside"):
            await ledger.get_state([FUNDED])
        with pytest.raises(RowDamaged, match="set aside"):
            await ledger.scan_state(b"")
        assert await Mender(ledger).given(key, unseal(key, good), prove)
        assert await ledger.get_state([FUNDED]) == {FUNDED: state_at(BLOCKS)[FUNDED]}


async def test_an_entry_that_a_block_has_changed_since_is_not_put_back(store):
    """The value was right when it was asked for; another one is by now."""
    key, old = state_key(FUNDED), await store.get(state_key(FUNDED))
    async with on(store) as ledger:
        marker = ledger.tip
        await grow(ledger)
        assert not await ledger.put_back({key: unseal(key, old)}, [key], marker)


async def test_a_row_under_a_key_that_never_was_goes(store):
    """A flipped bit in a key leaves a row that the tree knows nothing of."""
    key = state_key(FUNDED)
    moved = key[:-1] + bytes((key[-1] ^ 1,))
    good = await rows_of(store)
    await store.write([Delete(key), Put(moved, good[key])])
    async with on(store) as ledger:
        await meet(ledger)
        assert {row.key for row in ledger.aside.rows} == {key, moved}
        await mend(ledger, good)
        assert len(ledger.aside) == 0
    assert await rows_of(store) == good


async def test_rows_of_no_use_to_others_are_never_asked_for(store):
    async with on(store) as ledger:
        mender = Mender(ledger)
        for key in (page_key(b"", 0, BLOCKS), index_key(bytes(32)), b"\x04" + bytes(20)):
            assert await mender.wanted(key) == ()


def test_every_space_of_the_ledger_is_spoken_of():
    assert {key[:1] for key in ROWS.values()} | {STALE} == {
        bytes((each,)) for each in range(STATE[0], LEDGER_END[0]) if each != 2
    }
