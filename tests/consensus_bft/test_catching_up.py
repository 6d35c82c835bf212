"""Whoever is far behind catches up by block sync; by it a node that is no validator follows (CONS-61, 64)."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.chain.application import Chain
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.following import NEAR_BLOCKS, Follower
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.fetching import GotBlock, Item, OldestHeld, Want, WantBlocks
from supervm.types.block import Block
from supervm.types.finality import FinalityProof
from tests.consensus_bft import SCALE

from .lives import Lives
from .network import WAIT_S, Network, network
from .test_driver_promises import overheard

QUICK = BftConfig(block_interval_min_ms=0, block_interval_max_ms=1)
AT_REST = BftConfig(block_interval_max_ms=3_600_000)
"""Blocks only where there is work: what is caught up with doesn't run away, however slow the machine is."""
WEIGHTS = (100, 1, 1, 1)
"""The first makes a chain alone; any other one may be hostile."""
MISSED = 40 if SCALE == 1 else 300
"""Blocks that a node was off for: more than ordering walks down by itself."""
TO = b"\x07" * 32


class Lies:
    """What a peer serves to block sync instead of the truth: blocks with another body, and finalisations."""

    def __init__(self, answers: Any) -> None:
        self._items = answers._items
        self.told = trio.Event()

    async def __call__(self, want: Want) -> list[Item]:
        found = await self._items(want)
        if not isinstance(want, WantBlocks):
            return found  # type: ignore[no-any-return]
        self.told.set()
        return [self._changed(each) for each in found]

    def _changed(self, item: Item) -> Item:
        if not isinstance(item, GotBlock):
            return item
        body = attrs.evolve(item.block.body, system_operations=(b"\x0emade up",))
        return GotBlock(attrs.evolve(item.block, body=body), item.finalisation)


async def grow(net: Network, height: int) -> None:
    """Let the first validator make a chain alone, with a transfer in it; then it rests."""
    net.config = QUICK
    await net.start(0)
    sent = net.transfer(0, TO, 5)
    await net.nodes[0].chain.submit([sent.data])
    await net.committed(0, sent.digest)
    await net.reached(0, height)
    await net.stop(0)
    net.config = AT_REST
    await net.start(0)


async def work(net: Network, at: int, amount: int) -> int:
    """A transfer, sent to a node; gives its height once it is final at the first one."""
    sent = net.transfer(1, TO, amount)
    await net.nodes[at].chain.submit([sent.data])
    return await net.committed(0, sent.digest)


async def test_a_validator_that_was_off_for_long_catches_up_from_liars_and_others_and_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = Lives(monkeypatch)
    async with network(tmp_path, weights=WEIGHTS, begin=False) as net:
        await grow(net, MISSED)
        # A validator hears that it is behind when blocks are made.
        await net.start(1)
        height = await work(net, 0, 1)
        await lives.wait_for(net.nodes[1].engine, Follower, Validator)
        await net.reached(1, height)

        answers = net.nodes[1].engine.life._answers
        answers._items = lies = Lies(answers)  # type: ignore[method-assign]
        honest = net.nodes[0].engine.life._answers
        told = honest._items

        async def after_the_lie(want: Want) -> list[Item]:
            if isinstance(want, WantBlocks):
                await lies.told.wait()
            return await told(want)

        honest._items = after_the_lie  # type: ignore[method-assign]
        await net.start(3)
        height = await work(net, 0, 1)
        await net.reached(3, height)
        assert await net.balance(3, TO) == 7
        await lives.wait_for(net.nodes[3].engine, Follower, Validator)
        with overheard(net, 3) as posted, trio.fail_after(WAIT_S):
            height = await work(net, 3, 6)
            await posted.voted.wait()
        await net.reached(3, height)
        assert await net.balance(3, TO) == 13
        await net.reached(1, height)
        await net.agree(height)
        await every_block_is_proven(net, 3, height)


async def test_whoever_is_far_behind_waits_for_the_disk_only_near_the_tip(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, followers=1, begin=False) as net:
        await grow(net, MISSED)
        # Ordering ran ahead of execution: what it had made final before the restart comes before this.
        height = await work(net, 0, 6)
        commits: dict[int, bool] = {}
        commit = Chain.commit

        async def noted(chain: Chain, block: Block, certificate: bytes, *, durable: bool = True) -> None:
            if chain is not net.nodes[0].chain:
                commits[block.header.height] = durable
            await commit(chain, block, certificate, durable=durable)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Chain, "commit", noted)
            await net.start(1)
            await net.reached(1, height)
        assert not any(commits[at] for at in range(1, MISSED // 2))
        assert all(commits[at] for at in range(height - NEAR_BLOCKS + 1, height + 1))
        await every_block_is_proven(net, 1, height)


async def test_a_node_that_is_no_validator_follows_the_chain(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, followers=1, config=AT_REST) as net:
        height = await work(net, 0, 5)
        await net.start(1)
        await net.reached(1, height)
        assert await net.balance(1, TO) == 5
        await every_block_is_proven(net, 1, height)
        await net.reached(1, await work(net, 0, 6))
        engine = net.nodes[1].engine
        assert not engine.status().validator and not engine.status().producing
        assert "produces nothing" in engine.status().reason
        # It goes on where it was, after a restart.
        await net.stop(1)
        height = await work(net, 0, 7)
        await net.start(1)
        await net.reached(1, height)
        assert await net.balance(1, TO) == 18


async def test_a_pruned_range_is_answered_with_the_oldest_height_held(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, config=QUICK) as net:
        await net.reached(0, 5)
        node = net.nodes[0]
        answers = node.engine.life._answers
        horizon = node.chain.ledger.horizon
        await node.chain.ledger.raise_horizon(attrs.evolve(horizon, blocks=4))
        assert await answers._items(WantBlocks(2, 8)) == [OldestHeld(4)]
        first = (await answers._items(WantBlocks(4, 8)))[0]
        assert isinstance(first, GotBlock) and first.block.header.height == 4


async def every_block_is_proven(net: Network, number: int, height: int, first: int = 1) -> None:
    """Fail unless a node keeps with each block a proof that it is final."""
    chain = net.nodes[number].chain
    for each in range(first, height + 1):
        block = await chain.ledger.block(each)
        FinalityProof.decode(await chain.certificate(each)).check_of(block.digest())
