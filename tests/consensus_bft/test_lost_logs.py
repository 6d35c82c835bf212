"""Whole validators that lose their log, or find it damaged: silent while they may have voted (CONS-67)."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest
import trio

from supervm.contracts.storage import Delete, DiskFull, KeyValueStore, Put
from supervm.plugins.consensus.bft.driver import founding, rejoining
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.following import Follower
from supervm.plugins.consensus.bft.driver.founding import WHOLE, Standing, read_standing, write_standing
from supervm.plugins.consensus.bft.driver.journal import CLOSING, LOCKS, ORDERING, record_prefix
from supervm.plugins.consensus.bft.driver.kept import (
    BATCHES,
    BATCHES_AT,
    BATCHES_INDEXED,
    BLOCKS,
    EPOCHS,
    LIVES,
    OPERATIONS,
    KeptBlocks,
)
from supervm.plugins.consensus.bft.driver.posting import Post
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.messages import Accept, Effects, EpochDone, Proposal, ViewVote, decode
from supervm.plugins.storage import supervm_components as stores
from supervm.testing.context import opened

from .lives import Lives
from .network import WAIT_S, Network, network

AT_REST = BftConfig(block_interval_min_ms=1, block_interval_max_ms=3_600_000)
"""Blocks where there is work: epochs end when the test says so."""
WEIGHTS = (100, 1, 1, 1)
"""The first is a quorum alone; the others needn't be there."""
TO = b"\x07" * 32


@attrs.define
class Overheard:
    """What nodes say, from now on: the epochs of one node's votes, and how it stands."""

    node: bytes
    epochs: list[int] = attrs.Factory(list)
    standings: list[Standing] = attrs.Factory(list)
    _some: trio.Event = attrs.Factory(trio.Event)

    def heard(self) -> None:
        self._some.set()
        self._some = trio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        with trio.fail_after(WAIT_S):
            while not true():
                await self._some.wait()


def overhear(node: bytes, monkeypatch: pytest.MonkeyPatch) -> Overheard:
    said = Overheard(node)
    put = Post.put

    def posted(post: Post, peer: bytes, stream: Stream, frame: bytes, late: bool = False) -> None:
        message = decode(frame)
        # A node speaks to everyone but itself.
        is_own = all(each != node for each, _ in post._queues)
        if is_own and isinstance(message, Accept | Effects | EpochDone | Proposal | ViewVote):
            said.epochs.append(message.epoch)
            said.heard()
        put(post, peer, stream, frame, late)

    async def written(store: KeyValueStore, standing: Standing) -> None:
        await write_standing(store, standing)
        said.standings.append(standing)
        said.heard()

    monkeypatch.setattr(Post, "put", posted)
    monkeypatch.setattr(rejoining, "write_standing", written)
    return said


async def pay(net: Network, at: int) -> int:
    sent = net.transfer(0, TO, 1)
    await net.nodes[at].chain.submit([sent.data])
    return await net.committed(0, sent.digest)


async def took_part(net: Network, payments: int = 1) -> int:
    """The last validator votes for a while beside the first, and is stopped; its height then."""
    for number in (0, 3):
        await net.start(number)
    for _ in range(payments):
        height = await pay(net, 3)
    await net.reached(3, height)
    node = net.nodes[3]
    await net.stop(3)
    return node.height


def next_epoch(net: Network) -> int:
    """Of the block that follows the first validator's tip."""
    return net.nodes[0].engine.life.epoch


async def end_epoch(net: Network) -> None:
    """Work until the epoch closes, which it does by itself from then on."""
    epoch = next_epoch(net)
    while next_epoch(net) == epoch:
        await pay(net, 0)


async def votes_again(net: Network, lives: Lives, said: Overheard, epoch: int) -> None:
    """Wait until the last validator votes in this epoch, from which it may."""
    while next_epoch(net) < epoch:
        await end_epoch(net)
    await lives.wait_for(net.nodes[3].engine, Follower, Validator)
    await net.reached(3, await pay(net, 0))
    await pay(net, 3)
    await said.until(lambda: bool(said.epochs))


async def test_a_validator_that_lost_its_disk_says_nothing_until_two_epochs_later_and_votes_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = Lives(monkeypatch)
    memory = next(each for each in stores() if each.name == "memory")
    async with (
        network(tmp_path, config=AT_REST, weights=WEIGHTS, begin=False, epoch_blocks=12, founded=True) as net,
        AsyncExitStack() as disks,
    ):
        said = overhear(net.validators[3].node_id, monkeypatch)
        for number in (0, 3):
            await net.start(number)
            assert await read_standing(net.stores[number], None, keeps_log=False) == WHOLE
        await pay(net, 3)
        await said.until(lambda: bool(said.epochs))
        await net.stop(3)
        await end_epoch(net)
        said.epochs.clear()
        net.stores[3] = await disks.enter_async_context(opened(memory, tmp_path / "new-disk"))
        node = await net.start(3)
        assert isinstance(node.engine.life, Follower)
        status = node.engine.status()
        assert not status.producing and "log was lost" in status.reason
        await said.until(lambda: bool(said.standings))
        voted_before = next_epoch(net)
        assert said.standings == [Standing(voted_before + 2)]
        for _ in range(2):
            await end_epoch(net)
        await lives.wait_for(node.engine, Follower, Validator)
        # It hears of what it missed when blocks are made.
        await net.reached(3, await pay(net, 0))
        await pay(net, 3)
        await said.until(lambda: bool(said.epochs))
        assert min(said.epochs) >= voted_before + 2
        await net.agree(net.nodes[0].height)


async def leave_the_tip(*given: object) -> None:
    await trio.lowlevel.checkpoint()


DAMAGED = {
    "a lock": record_prefix(LOCKS, 1) + (10**6).to_bytes(8, "big"),
    "a vote": record_prefix(ORDERING, 1) + (10**6).to_bytes(8, "big"),
    "its epoch-done": record_prefix(CLOSING, 1) + (10**6).to_bytes(8, "big"),
    "the base of its epoch": EPOCHS + (1).to_bytes(8, "big"),
    "the operations of a block": OPERATIONS + (1).to_bytes(8, "big"),
    "how often it began": LIVES,
    "a batch that was ordered": BATCHES_AT + (1).to_bytes(8, "big") + bytes(32),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_validator_whose_log_is_damaged_follows_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with network(tmp_path, config=AT_REST, weights=WEIGHTS, begin=False, founded=True) as net:
        said = overhear(net.validators[3].node_id, monkeypatch)
        await took_part(net)
        await net.stores[3].write([Put(DAMAGED[name], b"not what was written")])
        said.epochs.clear()
        node = await net.start(3)
        assert "log was lost or damaged" in node.engine.status().reason
        await net.reached(3, await pay(net, 0))
        await said.until(lambda: bool(said.standings))
        assert said.standings == [Standing(3)]
        # A restart doesn't bring it back sooner.
        await net.stop(3)
        node = await net.start(3)
        assert "votes from epoch 3 on" in node.engine.status().reason
        await net.reached(3, await pay(net, 0))
        assert said.epochs == []


async def test_the_tips_facts_are_made_again_from_the_ledger_and_its_validator_votes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, config=AT_REST, weights=WEIGHTS, begin=False, founded=True) as net:
        said = overhear(net.validators[3].node_id, monkeypatch)
        height = await took_part(net, payments=2)
        kept = KeptBlocks(net.stores[3])
        before = await kept.get(height)
        assert before.finalisation is not None
        row = BLOCKS + height.to_bytes(8, "big")
        await net.stores[3].write([Put(row, b"not what was written")])
        said.epochs.clear()
        node = await net.start(3)
        assert isinstance(node.engine.life, Validator) and said.standings == []
        assert await kept.get(height) == before
        await net.reached(3, await pay(net, 3))
        await said.until(lambda: bool(said.epochs))


@pytest.mark.parametrize(("below", "gone"), [(0, False), (1, False), (2, False), (1, True)])
async def test_a_validator_whose_facts_of_the_last_blocks_are_damaged_follows_and_votes_on_no_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: int, gone: bool
) -> None:
    lives = Lives(monkeypatch)
    async with network(
        tmp_path, config=AT_REST, weights=WEIGHTS, begin=False, epoch_blocks=12, founded=True
    ) as net:
        said = overhear(net.validators[3].node_id, monkeypatch)
        height = await took_part(net, payments=4)
        row = BLOCKS + (height - below).to_bytes(8, "big")
        assert await net.stores[3].get(row) is not None
        await net.stores[3].write([Delete(row) if gone else Put(row, b"not what was written")])
        if not below:
            # Of a block that is final by a later one the ledger doesn't know the view.
            monkeypatch.setattr(founding, "_remake_tip", leave_the_tip)
        said.epochs.clear()
        node = await net.start(3)
        assert isinstance(node.engine.life, Follower)
        health = await node.engine.health()
        assert "log was lost or damaged" in health.detail
        await said.until(lambda: bool(said.standings))
        votes_from = said.standings[0].votes_from
        assert votes_from is not None
        # It follows, over the heights whose roots it doesn't know any more, and after another restart too.
        await net.reached(3, await pay(net, 0))
        await net.stop(3)
        await net.start(3)
        await net.reached(3, await pay(net, 0))
        if gone:
            await votes_again(net, lives, said, votes_from)
        assert all(each >= votes_from for each in said.epochs)
        await net.agree(net.nodes[0].height)


async def test_a_batchs_row_of_an_earlier_version_that_cant_be_read_is_a_damaged_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, config=AT_REST, weights=WEIGHTS, begin=False, founded=True) as net:
        said = overhear(net.validators[3].node_id, monkeypatch)
        await took_part(net)
        # As it was before rows of batches had others by height: no one can tell in which block this one is.
        await net.stores[3].write(
            [Delete(BATCHES_INDEXED), Put(BATCHES + bytes(32), b"not what was written")]
        )
        said.epochs.clear()
        await net.start(3)
        await net.reached(3, await pay(net, 0))
        await said.until(lambda: bool(said.standings))
        assert said.epochs == []
        # It is looked at once: with the next start the node has long known that its log is lost.
        await net.stop(3)
        assert await net.stores[3].get(BATCHES_INDEXED) is not None
        node = await net.start(3)
        assert "votes from epoch 3 on" in node.engine.status().reason


async def test_a_validator_votes_again_after_damage_to_what_no_later_epoch_writes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = Lives(monkeypatch)
    async with network(
        tmp_path, config=AT_REST, weights=WEIGHTS, begin=False, epoch_blocks=12, founded=True
    ) as net:
        said = overhear(net.validators[3].node_id, monkeypatch)
        await took_part(net)
        await net.stores[3].write([Put(LIVES, b"not what was written")])
        await net.start(3)
        await net.reached(3, await pay(net, 0))
        await said.until(lambda: bool(said.standings))
        votes_from = said.standings[0].votes_from
        assert votes_from is not None
        said.epochs.clear()
        await votes_again(net, lives, said, votes_from)
        assert min(said.epochs) >= votes_from


async def test_a_validator_that_lost_its_log_waits_for_room_to_keep_when_it_votes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, config=AT_REST, weights=WEIGHTS, begin=False, founded=True) as net:
        said = overhear(net.validators[3].node_id, monkeypatch)
        await took_part(net)
        await net.stores[3].write([Put(DAMAGED["a vote"], b"not what was written")])
        full = [True]
        write = rejoining.write_standing

        async def write_if_room(store: KeyValueStore, standing: Standing) -> None:
            if full[0]:
                raise DiskFull("no room")
            await write(store, standing)

        monkeypatch.setattr(rejoining, "write_standing", write_if_room)
        node = await net.start(3)
        await net.reached(3, await pay(net, 0))
        with trio.fail_after(WAIT_S):
            while "disk is full" not in node.engine.status().reason:
                await trio.lowlevel.checkpoint()
        assert said.standings == []
        full[0] = False
        await said.until(lambda: bool(said.standings))
        assert said.standings == [Standing(3)]
