"""FAST effects ahead of blocks: whatever order certificates come in, blocks give the same (EXEC-22)."""

from collections.abc import Collection, Mapping
from random import Random

import pytest

from supervm.chain.fast import FastLane, Now
from supervm.chain.overlay import keys_of
from supervm.contracts.application import EffectsMismatch
from supervm.execution import GAS_STATE_KEY
from supervm.execution.ahead import choose_ahead
from supervm.execution.engine import choose_engine
from supervm.types.operations import ObjectCreate, ObjectMutate, Output, Transfer
from supervm.types.receipt import Receipt
from supervm.types.state import NATIVE_TOKEN, Account, OwnerKind, account_key, object_id
from supervm.types.transaction import Access, Input, Lane, Transaction
from tests import needs
from tests.execution.builders import (
    ALICE,
    BOB,
    CAROL,
    COLLECTOR,
    FLAT,
    FUNDS,
    State,
    balance,
    block_of,
    owned,
    pay,
    run,
    run_one,
    state_of,
    transaction,
)

THING = b"\x0b" * 32
TOKEN = b"\x0c" * 32


class Tip:
    """A chain as far as the FAST lane sees it: the state at the tip, and its height."""

    in_c = False

    def __init__(self, state: State) -> None:
        self.state = state
        self.height = 0
        ahead = choose_ahead(choose_engine(native=self.in_c, threads=1, bytes_max=0, seed=bytes(32)), FLAT)
        assert (ahead is not None) == self.in_c
        self.fast = FastLane(FLAT, self.get_state, self.now, ahead)

    async def get_state(self, keys: Collection[bytes]) -> Mapping[bytes, bytes | None]:
        return {key: self.state.get(key) for key in keys}

    def now(self) -> Now:
        gas_state = self.state[GAS_STATE_KEY]
        return Now(height=self.height, gas_state=gas_state, block=block_of((), self.height + 1))

    async def certified(self, name: int, *transactions: Transaction) -> list[tuple[bytes, bytes]]:
        """A certificate comes; what was applied for it, of whatever batch: (transaction, effects)."""
        found = await self.fast.apply(name.to_bytes(32, "big"), transactions)
        return [(digest, effects) for each in found for _, digest, effects in each.effects]

    async def block(self, *transactions: Transaction) -> list[tuple[bytes, bytes]]:
        """A block with these is committed; what could be applied then."""
        self.height += 1
        result = run(self.state, *transactions, height=self.height)
        receipts = result.receipts
        names = [each.digest for each in receipts]
        self.fast.overlay.check_folded(
            self.height, names, lambda at: Receipt.effects_digest_of(receipts[at].encode())
        )
        self.fast.overlay.folded(names)
        found = await self.fast.resume()
        return [(digest, effects) for each in found for _, digest, effects in each.effects]

    def view(self) -> State:
        """All entries with the effects on top."""
        above = self.fast.overlay.view({**self.state, account_key(CAROL): self.state.get(account_key(CAROL))})
        return {key: data for key, data in above.items() if data is not None}


@pytest.fixture(autouse=True, params=["specification", pytest.param("C", marks=needs.c_engine)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in both ways."""
    monkeypatch.setattr(Tip, "in_c", request.param == "C")


async def test_what_a_certificate_brings_is_seen_at_once_and_stays_when_its_block_folds_it() -> None:
    tip = Tip(state_of())
    sent = pay(CAROL, 500)
    ((name, _),) = await tip.certified(1, sent)
    assert name == sent.digest
    above = balance(tip.view(), CAROL), balance(tip.view(), ALICE)
    assert above[0] == 500
    assert balance(tip.state, CAROL) == 0
    await tip.block(sent)
    assert (balance(tip.view(), CAROL), balance(tip.view(), ALICE)) == above
    assert (len(tip.fast.overlay), balance(tip.state, CAROL)) == (0, 500)


async def test_what_misses_a_nonce_a_version_or_cover_waits_and_holds_up_nobody() -> None:
    tip = Tip(state_of({ALICE: FUNDS, BOB: 3_000}, objects={THING: owned(ALICE)}))
    touch = Input(THING, 2, Access.WRITE)
    second = transaction(ObjectMutate(THING, b"two"), nonce=2, inputs=(touch,))
    poor = pay(ALICE, 5_000_000, sender=BOB)
    assert await tip.certified(1, second, poor) == []
    fine = pay(CAROL, 1, nonce=0)
    assert [name for name, _ in await tip.certified(2, fine)] == [fine.digest]
    first = transaction(ObjectMutate(THING, b"one"), nonce=1, inputs=(Input(THING, 1, Access.WRITE),))
    names = [name for name, _ in await tip.certified(3, first)]
    assert names == [first.digest, second.digest]
    gift = pay(BOB, 10_000_000, nonce=3)
    assert [name for name, _ in await tip.certified(4, gift)] == [gift.digest, poor.digest]
    assert tip.fast.overlay.waiting == []


async def test_a_block_folds_all_that_one_object_went_through_in_it() -> None:
    things = [bytes((at,)) * 32 for at in range(1, 13)]
    tip = Tip(state_of(objects={each: owned(ALICE) for each in things}))
    sent = [
        transaction(
            ObjectMutate(each, b"%d" % version),
            nonce=2 * at + version - 1,
            inputs=(Input(each, version, Access.WRITE),),
        )
        for at, each in enumerate(things)
        for version in (1, 2)
    ]
    assert len(await tip.certified(1, *sent)) == len(sent)
    await tip.block(*sent)
    assert (len(tip.fast.overlay), tip.view()) == (0, tip.state)


async def test_what_effects_take_beyond_a_balance_is_owed_before_anything_new_is_covered() -> None:
    tip = Tip(state_of({ALICE: FUNDS, BOB: FUNDS}))
    assert len(await tip.certified(1, pay(CAROL, FUNDS // 2))) == 1
    # Blocks took the most of it meanwhile, in an order that no voter foresaw.
    tip.state[account_key(ALICE)] = Account(balance=FUNDS // 4).encode()
    gift = pay(ALICE, FUNDS // 3, sender=BOB)
    poor = pay(CAROL, FUNDS // 5, nonce=1)
    assert [name for name, _ in await tip.certified(2, gift, poor)] == [gift.digest]
    assert [each.transaction for each in tip.fast.overlay.waiting] == [poor]


async def test_one_that_waits_in_two_certified_batches_waits_in_both_and_is_told_for_both() -> None:
    tip = Tip(state_of())
    second = pay(CAROL, 2, nonce=1)
    for name in (b"a" * 32, b"b" * 32):
        assert [each.waiting for each in await tip.fast.apply(name, [second, second])] == [2]
    first = pay(CAROL, 1)
    told = await tip.fast.apply(b"c" * 32, [first])
    assert [(each.batch[:1], [name for _, name, _ in each.effects]) for each in told] == [
        (b"c", [first.digest]),
        (b"a", [second.digest]),
        (b"b", [second.digest]),
    ]
    assert balance(tip.view(), CAROL) == 3
    assert tip.fast.overlay.waiting == []


async def test_what_was_applied_while_the_state_was_read_is_not_applied_again() -> None:
    tip = Tip(state_of())
    # What is void leaves an effect and uses no nonce: its digest alone says that it was applied.
    void = pay(CAROL, 1, chain_id=b"other".ljust(32, b"\x00"))
    found: list[list[tuple[bytes, bytes]]] = []
    entries = tip.get_state

    async def get_state(keys: Collection[bytes]) -> Mapping[bytes, bytes | None]:
        if not found:
            found.append([])
            found[0] = await tip.certified(2, void)
        return await entries(keys)

    tip.fast._get_state = get_state
    assert await tip.certified(1, void) == []
    assert [name for name, _ in found[0]] == [void.digest]


async def test_what_a_block_executed_while_the_state_was_read_is_not_applied_on_the_state_before_it() -> None:
    tip = Tip(state_of())
    sent = pay(CAROL, 500)
    entries = tip.get_state

    async def get_state(keys: Collection[bytes]) -> Mapping[bytes, bytes | None]:
        before = await entries(keys)
        if tip.height == 0:
            await tip.block(sent)
        return before

    tip.fast._get_state = get_state
    assert await tip.certified(1, sent) == []
    assert balance(tip.view(), CAROL) == 500


async def test_what_a_block_made_is_there_for_a_batch_that_holds_its_maker_again() -> None:
    tip = Tip(state_of())
    making = transaction(
        Transfer(NATIVE_TOKEN, (Output(CAROL, 1),)), ObjectCreate(1, OwnerKind.OWNED, ALICE, b"one")
    )
    await tip.block(making)
    made = object_id(making.digest, 0)
    using = transaction(ObjectMutate(made, b"two"), nonce=1, inputs=(Input(made, 1, Access.WRITE),))
    assert [name for name, _ in await tip.certified(1, making, using)] == [using.digest]


async def test_a_voter_counts_nothing_of_a_transfer_that_failed() -> None:
    tip = Tip(state_of())
    failed = pay(BOB, 5, gas_limit=1_000)
    assert len(await tip.certified(1, failed)) == 1
    entries = {account_key(BOB): tip.state[account_key(BOB)]}
    assert tip.fast.overlay.view_of(entries, [failed.digest]) == entries
    assert run_one(tip.state, failed).code == "OutOfGas"


async def test_an_ordered_predecessor_is_waited_for_until_its_block() -> None:
    tip = Tip(state_of())
    ordered, fast = pay(CAROL, 1, nonce=0, lane=Lane.ORDERED), pay(CAROL, 2, nonce=1)
    assert await tip.certified(1, ordered, fast) == []
    assert [name for name, _ in await tip.block(ordered)] == [fast.digest]


async def test_what_is_ordered_costs_the_fast_lane_not_even_a_read() -> None:
    tip = Tip(state_of())
    read: list[Collection[bytes]] = []

    async def get_state(keys: Collection[bytes]) -> Mapping[bytes, bytes | None]:
        read.append(keys)
        return {key: tip.state.get(key) for key in keys}

    fast = FastLane(FLAT, get_state, tip.now)
    ordered = pay(CAROL, 1, lane=Lane.ORDERED)
    (applied,) = await fast.apply(bytes(32), [ordered])
    assert (applied.effects, applied.waiting, read) == ((), 0, [])
    assert (await fast.apply(bytes(32), [ordered, pay(CAROL, 2)]))[0].effects
    assert read


async def test_a_transaction_in_two_certified_batches_is_applied_once_and_told_for_both() -> None:
    """The builders of both wait for its effects."""
    tip = Tip(state_of())
    sent = pay(CAROL, 500)
    first = await tip.certified(1, sent)
    assert [name for name, _ in first] == [sent.digest]
    more = pay(BOB, 20, nonce=1)
    (again,) = await tip.fast.apply(b"\x02" * 32, [pay(CAROL, 1, lane=Lane.ORDERED), sent, more])
    assert again.batch == b"\x02" * 32
    assert [(at, name) for at, name, _ in again.effects] == [(1, sent.digest), (2, more.digest)]
    assert again.effects[0][1:] == first[0]
    assert balance(tip.view(), CAROL) == 500
    await tip.block(sent, more)
    assert await tip.certified(3, sent) == [], "a block holds it: that proves it"


async def test_a_block_that_gives_other_effects_than_were_applied_is_named() -> None:
    tip = Tip(state_of())
    sent = pay(CAROL, 500)
    ((_, effects),) = await tip.certified(1, sent)
    with pytest.raises(EffectsMismatch) as caught:
        tip.fast.overlay.check_folded(7, [sent.digest], lambda at: b"\xee" * 32)
    found = caught.value
    assert (found.height, found.transaction, found.how) == (7, sent.digest, "applied")
    assert (found.expected, found.given) == (effects, b"\xee" * 32)
    assert all(each.hex() in str(found) for each in (sent.digest, effects, b"\xee" * 32))
    tip.fast.overlay.check_folded(7, [b"\x01" * 32], lambda at: b"\xee" * 32)


async def test_what_was_signed_or_certified_is_compared_where_nothing_was_applied() -> None:
    tip = Tip(state_of())
    names = [bytes([each]) * 32 for each in range(3)]
    right, asked = b"\xee" * 32, list[int]()

    def effects_of(at: int) -> bytes:
        asked.append(at)
        return right

    vouched = {"signed": {names[0]: right}, "certified": {names[0]: right}}
    tip.fast.overlay.check_folded(7, names, effects_of, vouched)
    assert asked == [0], "what is compared twice is made once, and nothing else is"
    with pytest.raises(EffectsMismatch) as caught:
        vouched["certified"][names[2]] = bytes(32)
        tip.fast.overlay.check_folded(7, names, effects_of, vouched)
    assert (caught.value.transaction, caught.value.how) == (names[2], "certified")


async def test_a_voter_counts_credits_and_versions_of_the_past_and_no_debits() -> None:
    tip = Tip(state_of(objects={THING: owned(ALICE)}))
    gift = pay(BOB, 700)
    touch = transaction(ObjectMutate(THING, b"x"), nonce=1, inputs=(Input(THING, 1, Access.WRITE),))
    await tip.certified(1, gift)
    await tip.certified(2, touch)
    keys = keys_of([gift, touch], FLAT, tip.state[GAS_STATE_KEY])
    entries = await tip.get_state(keys)
    counted = tip.fast.overlay.view_of(entries, [gift.digest])
    seen = {key: data for key, data in counted.items() if data is not None}
    assert (balance(seen, BOB), balance(seen, ALICE)) == (FUNDS + 700, FUNDS)
    assert seen[b"\x04" + THING] == tip.state[b"\x04" + THING]
    both = tip.fast.overlay.view_of(entries, [gift.digest, touch.digest])
    assert both[b"\x04" + THING] != tip.state[b"\x04" + THING]


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_certificates_and_blocks_gives_the_chain_without_fast(seed: int) -> None:
    random = Random(seed)
    people = (ALICE, BOB, CAROL)
    # Enough for all that they may pay: what is accepted is covered without what comes later (CONS-13).
    funded = state_of(dict.fromkeys(people, FUNDS), tokens={TOKEN: dict.fromkeys(people, 500)})
    tip, plain = Tip(dict(funded)), dict(funded)
    nonces = dict.fromkeys(people, 0)
    chain: list[Transaction] = []
    for _ in range(40):
        sender = random.choice(people)
        lane = random.choice((*(Lane.AUTO,) * 9, Lane.ORDERED))
        token = random.choice((NATIVE_TOKEN, NATIVE_TOKEN, TOKEN))
        amount = random.randrange(3)
        chain.append(
            pay(random.choice(people), amount, token, sender, nonces[sender], lane=lane, tip_price=0)
        )
        nonces[sender] += 1
    certified = list(chain)
    random.shuffle(certified)
    signed: dict[bytes, bytes] = {}
    place = 0
    for at, each in enumerate(certified):
        signed.update(await tip.certified(at, each))
        if random.random() < 0.2:
            some = chain[place : place + random.randrange(4)]
            place += len(some)
            signed.update(await tip.block(*some))
            run(plain, *some, height=tip.height)
            assert tip.state == plain
    await tip.block(*chain[place:])
    run(plain, *chain[place:], height=tip.height)
    assert tip.state == plain
    assert tip.view() == plain
    assert (len(tip.fast.overlay), tip.fast.overlay.waiting) == (0, [])
    assert len(signed) > 3
    fees = {key: data for key, data in plain.items() if key == account_key(COLLECTOR)}
    assert fees, "fees are paid when a block folds"
