"""A node whose disk damages its ledger goes on, serves nothing wrong, and gets it back (STO-43)."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from supervm.contracts.storage import Delete, Put
from supervm.execution.footprint import entry_key
from supervm.kernel.component import HealthState
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.fetching import Absent, GotRow, Item, Want, WantBlocks, WantRow
from supervm.storage.errors import RowDamaged
from supervm.storage.spaces import (
    batch_key,
    body_key,
    certificate_key,
    header_key,
    index_key,
    receipts_key,
    state_key,
)
from supervm.types.state import NATIVE_TOKEN

from .network import WAIT_S, Network, network

CALM = BftConfig(block_interval_max_ms=300)
TO = b"\x07" * 32


class Lies:
    """What a peer serves instead of its rows."""

    def __init__(self, answers: Any) -> None:
        self._items = answers._items
        self.told = trio.Event()

    async def __call__(self, want: Want) -> list[Item]:
        if isinstance(want, WantRow):
            self.told.set()
            return [GotRow(want.key, b"made up")]
        return await self._items(want)  # type: ignore[no-any-return]


async def damage(net: Network, number: int, *keys: bytes) -> None:
    store = net.stores[number]
    for key in keys:
        stored = await store.get(key)
        assert stored is not None, key.hex()
        await store.write([Put(key, stored[:-1] + bytes((stored[-1] ^ 1,)))])


async def back(net: Network, number: int, question: Callable[[], Awaitable[Any]]) -> Any:
    """What is answered once nothing that it needs is damaged; the first time it is refused."""
    aside = net.nodes[number].chain.ledger.aside
    with pytest.raises(RowDamaged):
        await question()
    with trio.fail_after(WAIT_S):
        while True:
            try:
                return await question()
            except RowDamaged:
                if len(aside):
                    await aside.changed()


async def sent(net: Network, number: int) -> tuple[bytes, int]:
    """A transfer that every node has in a block; its digest and height."""
    transfer = net.transfer(0, TO, 5)
    await net.nodes[number].chain.submit([transfer.data])
    height = await net.committed(number, transfer.digest)
    await net.agree(height + 4)  # headers show what came of it
    return transfer.digest, height


async def test_a_damaged_block_comes_back_from_a_peer_that_tells_the_truth(tmp_path: Path) -> None:
    async with network(tmp_path, config=CALM) as net:
        digest, height = await sent(net, 0)
        ledger, other = net.nodes[1].chain.ledger, net.nodes[2].chain.ledger
        answers = net.nodes[0].engine.life._answers
        answers._items = lies = Lies(answers)  # type: ignore[method-assign]
        await damage(net, 1, header_key(height), body_key(height), batch_key(height, 0))
        await damage(net, 1, receipts_key(height, 0), certificate_key(height), index_key(digest))
        assert await back(net, 1, lambda: ledger.header(height)) == await other.header(height)
        assert await back(net, 1, lambda: ledger.block(height)) == await other.block(height)
        assert await back(net, 1, lambda: ledger.receipts(height)) == await other.receipts(height)
        await back(net, 1, lambda: ledger.certificate(height))
        assert await back(net, 1, lambda: ledger.transaction(digest)) == await other.transaction(digest)
        assert lies.told.is_set()
        tip = ledger.tip.height
        await net.reached(1, tip + 2)
        assert (await net.nodes[1].chain.health()).state is HealthState.OK


async def test_a_validator_waits_for_an_account_that_its_disk_damaged_and_votes_on(tmp_path: Path) -> None:
    async with network(tmp_path, config=CALM) as net:
        await sent(net, 0)
        await net.stop(1)
        sender = entry_key(net.users[0].address, NATIVE_TOKEN)
        await damage(net, 1, state_key(sender))
        await net.stores[1].write([Delete(state_key(entry_key(TO, NATIVE_TOKEN)))])
        await net.start(1)
        # Nothing of it is in memory: executing this needs both.
        _, height = await sent(net, 2)
        await net.reached(1, height)
        assert await net.balance(1, TO) == 10
        assert len(net.nodes[1].chain.ledger.aside) == 0


async def test_a_node_that_only_follows_gets_its_rows_back_too(tmp_path: Path) -> None:
    async with network(tmp_path, config=CALM, followers=1) as net:
        await net.start(4)
        _, height = await sent(net, 0)
        ledger = net.nodes[4].chain.ledger
        await damage(net, 4, body_key(height))
        found = await back(net, 4, lambda: ledger.block(height))
        assert found == await net.nodes[0].chain.ledger.block(height)


async def test_a_peer_that_asks_for_what_is_damaged_is_told_that_it_is_not_here(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, config=CALM) as net:
        await net.reached(0, 3)
        answers = net.nodes[0].engine.life._answers
        good = await answers._items_or_absent(WantRow(body_key(2), 0))
        assert good == [GotRow(body_key(2), (await net.nodes[0].chain.ledger.block(2)).body.encode())]
        await damage(net, 0, body_key(2))
        for want in (WantRow(body_key(2), 0), WantBlocks(2, 1)):
            assert await answers._items_or_absent(want) == [Absent(want)]
        # What is this node's own is nobody's business.
        key = next(key for key in [row async for row, _ in net.stores[0].scan()] if key[:1] == b"\x0d")
        assert await answers._items_or_absent(WantRow(key, 0)) == [Absent(WantRow(key, 0))]
        await net.reached(0, net.nodes[0].height + 2)


async def test_a_node_without_peers_goes_on_and_says_what_to_do(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, config=CALM) as net:
        await net.reached(0, 3)
        chain = net.nodes[0].chain
        await damage(net, 0, body_key(2))
        with pytest.raises(RowDamaged):
            await chain.ledger.block(2)
        await net.reached(0, net.nodes[0].height + 2)
        with pytest.raises(RowDamaged, match="set aside"):
            await chain.ledger.block(2)
        health = await chain.health()
        assert health.state is HealthState.DEGRADED
        assert "body of height 2" in health.detail and "supervm snapshot restore" in health.detail
