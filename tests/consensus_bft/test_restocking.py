"""A node takes a snapshot from its peers by itself, whoever lies, and goes on by blocks (CONS-62, 97)."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.chain.exchange import SnapshotExchange
from supervm.chain.incoming import restore_incoming
from supervm.contracts.application import NodeIdentity
from supervm.kernel.context import SystemClock
from supervm.plugins.consensus.bft.driver.answering import Answers
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.restocking import Restocking
from supervm.plugins.consensus.bft.fetching import (
    Absent,
    GotPart,
    Item,
    Want,
    WantBlocks,
    WantPart,
    WantSnapshot,
)
from supervm.plugins.consensus.bft.sync.events import Dropped
from supervm.storage.errors import NotProvable
from supervm.storage.snapshot_create import Taking, create_snapshot
from supervm.storage.snapshot_format import Manifest

from .network import WAIT_S, Network, network
from .test_after_snapshots import AT_REST, TO, pay, until
from .test_catching_up import every_block_is_proven

STEADY = BftConfig(block_interval_min_ms=1, block_interval_max_ms=40)
EPOCH = 20
HEIGHT = 2 * EPOCH + 5


async def grow(net: Network, numbers: tuple[int, ...], height: int = HEIGHT) -> list[Manifest]:
    """The first validator makes a chain of some epochs, of which all these take a snapshot; then it rests,
    and they drop what is below."""
    net.config = STEADY
    for number in numbers:
        await net.start(number)
    await pay(net)
    manifests = []
    for number in numbers:
        await net.reached(number, height)
        manifests.append(await take(net, number))
    await net.stop(0)
    net.config = AT_REST
    await net.start(0)
    for number in numbers:
        await net.reached(number, net.nodes[0].height)
    for number, manifest in zip(numbers, manifests, strict=True):
        ledger = net.nodes[number].chain.ledger
        await ledger.raise_horizon(attrs.evolve(ledger.horizon, blocks=manifest.height))
    return manifests


async def take(net: Network, number: int) -> Manifest:
    """While blocks go on: the roots of some heights are shown by no header."""
    pair = net.validators[number]
    identity = NodeIdentity(node_id=pair.node_id, public_key=pair.public_key, sign=pair.sign)
    chain = net.nodes[number].chain
    assert chain.snapshots is not None
    folder = chain.snapshots.folder
    taking = Taking(blocks=2)
    with trio.fail_after(WAIT_S):
        while True:
            with suppress(NotProvable):
                _, manifest = await create_snapshot(
                    chain.ledger,
                    folder,
                    net.genesis,
                    identity,
                    SystemClock(),
                    backend="memory",
                    taking=taking,
                )
                return manifest


def serve_all(net: Network) -> None:
    """The first node has all its blocks again: none was removed, only said to be."""
    ledger = net.nodes[0].chain.ledger
    ledger._horizon = attrs.evolve(ledger.horizon, blocks=0)


def withhold_blocks(patch: pytest.MonkeyPatch) -> None:
    """Nobody has blocks, they say: how soon those come is not what is tested."""
    told = Answers._items

    async def withholds(answers: Answers, want: Want) -> list[Item]:
        return [Absent(want)] if isinstance(want, WantBlocks) else await told(answers, want)

    patch.setattr(Answers, "_items", withholds)


def lie(patch: pytest.MonkeyPatch, node: bytes) -> None:
    """A node gives other bytes than a chunk's, and no other one gives a chunk before that."""
    has_lied = trio.Event()
    told = Answers._items

    async def lies(answers: Answers, want: Want) -> list[Item]:
        found = await told(answers, want)
        if not isinstance(want, WantPart):
            return found
        if answers._application.identity.node_id != node:
            await has_lied.wait()
            return found
        has_lied.set()
        return [attrs.evolve(each, data=bytes(len(each.data))) for each in found if isinstance(each, GotPart)]

    patch.setattr(Answers, "_items", lies)


async def whole(net: Network, number: int) -> Any:
    """Wait until a node has fetched a snapshot; stop it, and begin again as a process does."""
    chain = net.nodes[number].chain
    with trio.fail_after(WAIT_S):
        await chain.exchange.whole.wait()
    incoming = chain.exchange.incoming
    await net.stop(number)
    # Another, empty disk: the next node's, which is never started.
    net.stores[number] = net.stores[number + 1]
    manifest = await restore_incoming(net.stores[number], incoming, net.genesis)
    incoming.clear()
    return manifest


async def test_a_node_whose_peers_pruned_the_range_fetches_a_snapshot_from_liars_and_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[Dropped] = []
    carry = Restocking._carry

    def noting(restocking: Restocking, output: Any) -> None:
        if isinstance(output, Dropped):
            dropped.append(output)
        carry(restocking, output)

    monkeypatch.setattr(Restocking, "_carry", noting)
    weights = (100, 1, 1, 1)
    async with network(
        tmp_path, weights=weights, followers=2, begin=False, founded=True, epoch_blocks=EPOCH
    ) as net:
        await grow(net, (0, 1))
        lie(monkeypatch, net.validators[1].node_id)
        await net.start(4)
        manifest = await whole(net, 4)
        assert manifest.epoch >= 2 and manifest.node_id in {net.validators[at].node_id for at in (0, 1)}
        node = await net.start(4)
        assert node.height == manifest.height
        height = await pay(net)
        await net.reached(4, height)
        assert await net.balance(4, TO) == await net.balance(0, TO)
        await every_block_is_proven(net, 4, height, manifest.height)
        # It knows whom each epoch was handed over to, and shows others.
        handed = await node.chain.handovers(1, 64)
        assert [each.header.epoch for each in handed] == list(range(1, node.chain.epoch))
        reason = "a chunk that isn't what its digest says"
        assert dropped == [Dropped(net.validators[1].node_id, reason, lied=True)]


async def test_a_node_far_behind_takes_a_snapshot_that_nobody_said_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, validators=1, followers=2, begin=False, founded=True) as net:
        (manifest,) = await grow(net, (0,), 12)
        withhold_blocks(monkeypatch)
        net.config = attrs.evolve(AT_REST, snapshot_behind_blocks=manifest.height - 1)
        await net.start(1)
        assert await whole(net, 1) == manifest


async def test_a_node_that_needs_one_before_it_has_begun_to_look_takes_one_of_any_height(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for one far above while nobody has said yet that only a snapshot helps."""
    refused, begins = SnapshotExchange.refused, trio.Event()

    async def late(exchange: SnapshotExchange) -> list[bytes]:
        await begins.wait()
        return await refused(exchange)

    monkeypatch.setattr(SnapshotExchange, "refused", late)
    async with network(tmp_path, validators=1, followers=2, begin=False, founded=True) as net:
        (manifest,) = await grow(net, (0,), 12)
        node = await net.start(1)
        await until(lambda: "start from a snapshot" in node.engine.status().reason)
        begins.set()
        assert await whole(net, 1) == manifest


async def test_a_node_that_can_not_begin_again_fetches_none_and_says_why_it_does_not_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    told = Answers._items

    async def noting(answers: Answers, want: Want) -> list[Item]:
        asked.append(want)
        return await told(answers, want)

    monkeypatch.setattr(Answers, "_items", noting)
    async with network(tmp_path, validators=1, followers=1, begin=False, founded=True) as net:
        await grow(net, (0,), 12)
        net.takes_snapshots = False
        node = await net.start(1)
        await until(lambda: "start from a snapshot" in node.engine.status().reason)
        # It asks for blocks again, once it has had time to ask for anything else.
        known = len(asked)
        await until(lambda: len(asked) > known)
        assert not any(isinstance(each, WantSnapshot) for each in asked)


async def test_a_node_that_is_not_so_far_behind_takes_blocks(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, followers=2, begin=False, founded=True) as net:
        (manifest,) = await grow(net, (0,), 12)
        serve_all(net)
        net.config = attrs.evolve(AT_REST, snapshot_behind_blocks=manifest.height)
        node = await net.start(1)
        await net.reached(1, net.nodes[0].height)
        assert not node.chain.exchange.whole.is_set()
        await every_block_is_proven(net, 1, node.height)
