"""Who lost its log asks over the wire, and believes signatures only (CONS-67)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervm.api import Context
from supervm.contracts.application import NodeIdentity
from supervm.contracts.storage import KeyValueStore
from supervm.crypto.keys import KeyPair
from supervm.plugins.consensus.bft.driver.founding import LOST, Standing, read_standing, write_standing
from supervm.plugins.consensus.bft.driver.rejoining import ANSWERS_MAX, EpochTeller, Rejoining
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.messages import AskEpoch, TellEpoch, decode
from supervm.plugins.storage import supervm_components as stores
from supervm.testing.context import component_context, opened
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.world import CHAIN

from .network import key

KEYS = tuple(sorted((key(900 + each) for each in range(4)), key=lambda each: each.node_id))
SET = ValidatorSet(tuple(Validator(each.node_id, each.public_key, 1) for each in KEYS))
OWN = 0


def identity(pair: KeyPair) -> NodeIdentity:
    return NodeIdentity(node_id=pair.node_id, public_key=pair.public_key, sign=pair.sign)


@attrs.define
class Wire:
    """Carries what is posted: questions to tellers, answers back, changed by `change` on the way."""

    ctx: Context
    epochs: dict[int, int]
    change: dict[int, object] = attrs.Factory(dict)
    asked: list[bytes] = attrs.Factory(list)
    rejoining: Rejoining | None = None
    tellers: dict[bytes, EpochTeller] = attrs.Factory(dict)
    some: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        for at, epoch in self.epochs.items():
            self.tellers[KEYS[at].node_id] = EpochTeller(
                self.ctx, CHAIN, identity(KEYS[at]), epoch, at, self.back
            )

    def out(self, peer: bytes, stream: Stream, frame: bytes) -> None:
        ask = decode(frame)
        assert isinstance(ask, AskEpoch) and stream is Stream.VOTES
        self.asked.append(peer)
        if peer in self.tellers:
            self.tellers[peer].answer(KEYS[OWN].node_id, ask)
        self.some.set()

    def back(self, peer: bytes, stream: Stream, frame: bytes) -> None:
        told = decode(frame)
        assert isinstance(told, TellEpoch) and stream is Stream.VOTES and self.rejoining is not None
        changes = self.change.get(told.validator, {})
        assert isinstance(changes, dict)
        self.rejoining.hear(KEYS[told.validator].node_id, attrs.evolve(told, **changes))


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def asking(tmp_path: Path, epochs: dict[int, int]) -> AsyncIterator[tuple[Wire, KeyValueStore]]:
    memory = next(each for each in stores() if each.name == "memory")
    async with (
        component_context(tmp_path / "bft") as ctx,
        opened(memory, tmp_path / "store") as store,
        trio.open_nursery() as nursery,
    ):
        await write_standing(store, LOST)
        wire = Wire(ctx, epochs)
        wire.rejoining = Rejoining(ctx, store, CHAIN, KEYS[OWN].node_id, 5, SET, wire.out)
        nursery.start_soon(wire.rejoining.run)
        yield wire, store
        nursery.cancel_scope.cancel()


async def test_answers_of_a_quorum_say_from_when_it_votes_and_are_kept(
    tmp_path: Path, clock: MockClock
) -> None:
    async with asking(tmp_path, {1: 5, 2: 5, 3: 4}) as (wire, store):
        await trio.sleep(10)
        assert wire.rejoining is not None and wire.rejoining.standing == Standing(7)
        assert await read_standing(store, None, keeps_log=True) == Standing(7)
        assert len(wire.asked) == 3, "once each; nobody is asked who was told"


async def test_without_a_quorum_it_asks_again_and_again_and_stays_silent(
    tmp_path: Path, clock: MockClock
) -> None:
    async with asking(tmp_path, {1: 5, 2: 5}) as (wire, store):
        await trio.sleep(10)
        assert wire.rejoining is not None and wire.rejoining.standing == LOST
        assert len(wire.asked) >= 12
        assert await read_standing(store, None, keeps_log=True) == LOST


@pytest.mark.parametrize(
    "change",
    [{"signature": bytes(64)}, {"epoch": 1}, {"challenge": bytes(32)}, {"validator": 1}, {"validator": 9}],
    ids=lambda change: next(iter(change)),
)
async def test_an_answer_that_isnt_signed_so_counts_for_nothing(
    tmp_path: Path, clock: MockClock, change: dict[str, object]
) -> None:
    async with asking(tmp_path, {1: 5, 2: 5, 3: 5}) as (wire, store):
        wire.change[3] = change
        await trio.sleep(10)
        assert await read_standing(store, None, keeps_log=True) == LOST


async def test_a_later_epoch_is_caught_up_with_first(tmp_path: Path, clock: MockClock) -> None:
    async with asking(tmp_path, {1: 5, 2: 9, 3: 9}) as (_wire, store):
        await trio.sleep(10)
        assert await read_standing(store, None, keeps_log=True) == LOST


async def test_a_teller_signs_once_a_second_for_a_peer(tmp_path: Path, clock: MockClock) -> None:
    told: list[bytes] = []
    async with component_context(tmp_path) as ctx:
        teller = EpochTeller(
            ctx, CHAIN, identity(KEYS[1]), 5, 1, lambda peer, stream, frame: told.append(peer)
        )
        for peer in (b"a", b"a", b"b", b"a"):
            teller.answer(peer, AskEpoch(bytes(32)))
        assert told == [b"a", b"b"]
        await trio.sleep(1.1)
        teller.answer(b"a", AskEpoch(bytes(32)))
        assert told == [b"a", b"b", b"a"]


async def test_answers_beyond_the_bound_are_dropped(tmp_path: Path, clock: MockClock) -> None:
    async with component_context(tmp_path) as ctx:
        store: KeyValueStore = None  # type: ignore[assignment]
        rejoining = Rejoining(ctx, store, CHAIN, KEYS[OWN].node_id, 5, SET, lambda *a: None)
        told = TellEpoch(rejoining._challenge, 5, 1, bytes(64))
        for _ in range(2 * ANSWERS_MAX):
            rejoining.hear(KEYS[1].node_id, told)
        assert rejoining._events.statistics().current_buffer_used == ANSWERS_MAX
