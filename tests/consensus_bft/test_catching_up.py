"""Whoever is far behind catches up by block sync; by it a node that is no validator follows (CONS-61, 64)."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.following import Follower
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.fetching import GotBlock, Item, OldestHeld, Want, WantBlocks
from supervm.types.finality import FinalityProof

from .lives import Lives
from .network import Network, network
from .test_driver_promises import overheard

QUICK = BftConfig(block_interval_min_ms=10, block_interval_max_ms=10)
CALM = BftConfig(block_interval_max_ms=300)
WEIGHTS = (100, 1, 1, 1)
"""The first makes a chain alone; any other one may be hostile."""
GROWING_S = 240.0
TO = b"\x07" * 32


class Lies:
    """What a peer serves to block sync instead of the truth: blocks with another body, and finalisations."""

    def __init__(self, answers: Any) -> None:
        self._items = answers._items
        self.asked = 0

    async def __call__(self, want: Want) -> list[Item]:
        found = await self._items(want)
        if not isinstance(want, WantBlocks):
            return found  # type: ignore[no-any-return]
        self.asked += 1
        return [self._changed(each) for each in found]

    def _changed(self, item: Item) -> Item:
        if not isinstance(item, GotBlock):
            return item
        body = attrs.evolve(item.block.body, system_operations=(b"\x0emade up",))
        return GotBlock(attrs.evolve(item.block, body=body), item.finalisation)


async def grow(net: Network, height: int) -> None:
    """Let the first validator make a chain with a transfer in it; then the second joins, and all is calm."""
    await net.start(0)
    sent = net.transfer(0, TO, 5)
    await net.nodes[0].chain.submit([sent.data])
    await net.committed(0, sent.digest)
    await net.reached(0, height, GROWING_S)
    await net.stop(0)
    net.config = CALM
    await net.start(0)
    await net.start(1)
    await net.reached(1, height, GROWING_S)


async def test_a_validator_that_was_off_for_300_blocks_catches_up_from_liars_and_others_and_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = Lives(monkeypatch)
    async with network(tmp_path, config=QUICK, weights=WEIGHTS, begin=False) as net:
        await grow(net, 300)
        answers = net.nodes[1].engine.life._answers
        answers._items = lies = Lies(answers)  # type: ignore[method-assign]
        await net.start(3)
        await net.reached(3, net.nodes[0].height)
        assert await net.balance(3, TO) == 5
        await lives.wait_for(net.nodes[3].engine, Follower, Validator)
        assert lies.asked
        with overheard(net, 3) as posted, trio.fail_after(60):
            await posted.voted.wait()
        sent = net.transfer(1, TO, 6)
        await net.nodes[3].chain.submit([sent.data])
        height = await net.committed(3, sent.digest)
        await net.reached(0, height)
        await net.reached(1, height)
        await net.agree(height)
        assert await net.balance(3, TO) == 11
        await every_block_is_proven(net, 3, height)


async def test_a_node_that_is_no_validator_follows_the_chain_and_serves_it(tmp_path: Path) -> None:
    async with network(tmp_path, config=CALM, followers=2) as net:
        sent = net.transfer(0, TO, 5)
        await net.nodes[0].chain.submit([sent.data])
        height = await net.committed(0, sent.digest)
        await net.start(4)
        await net.reached(4, height)
        assert await net.balance(4, TO) == 5
        await every_block_is_proven(net, 4, height)
        again = net.transfer(0, TO, 6)
        await net.nodes[1].chain.submit([again.data])
        assert await net.committed(4, again.digest) > height
        engine = net.nodes[4].engine
        assert not engine.status().validator and not engine.status().producing
        assert "produces nothing" in engine.status().reason
        # It goes on where it was, after a restart.
        await net.stop(4)
        last = net.transfer(0, TO, 7)
        await net.nodes[2].chain.submit([last.data])
        await net.committed(0, last.digest)
        await net.start(4)
        await net.committed(4, last.digest)
        assert await net.balance(4, TO) == 18


async def test_a_pruned_range_is_answered_with_the_oldest_height_held(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, config=CALM) as net:
        await net.reached(0, 5)
        node = net.nodes[0]
        answers = node.engine.life._answers
        horizon = node.chain.ledger.horizon
        await node.chain.ledger.raise_horizon(attrs.evolve(horizon, blocks=4))
        assert await answers._items(WantBlocks(2, 8)) == [OldestHeld(4)]
        first = (await answers._items(WantBlocks(4, 8)))[0]
        assert isinstance(first, GotBlock) and first.block.header.height == 4


async def every_block_is_proven(net: Network, number: int, height: int) -> None:
    """Fail unless a node keeps with each block a proof that it is final."""
    chain = net.nodes[number].chain
    for each in range(1, height + 1):
        block = await chain.ledger.block(each)
        FinalityProof.decode(await chain.certificate(each)).check_of(block.digest())
