"""Four validators in one process, whole nodes over the transport `memory` (CONS-80, CONS-90)."""

from pathlib import Path

import attrs

from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.epochs.operations import Both
from supervm.plugins.consensus.bft.leading import Content
from supervm.types.receipt import Status

from .network import FUNDS, network


async def test_four_validators_finalise_a_transfer_and_have_the_same_state(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        to = b"\x07" * 32
        sent = net.transfer(0, to, 1_000)
        await net.nodes[0].chain.submit([sent.data])
        heights = [await net.committed(each, sent.digest) for each in range(4)]
        assert len(set(heights)) == 1
        await net.agree(heights[0])
        for each in range(4):
            assert await net.balance(each, to) == 1_000
            assert await net.balance(each, net.users[0].address) < FUNDS - 1_000


async def test_a_validator_that_was_killed_comes_back_from_its_log_and_catches_up(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        to = b"\x07" * 32
        first = net.transfer(0, to, 1)
        await net.nodes[0].chain.submit([first.data])
        await net.committed(3, first.digest)
        await net.stop(3)
        missed = [net.transfer(user, to, 1) for user in range(3)]
        await net.nodes[1].chain.submit([each.data for each in missed])
        for each in missed:
            await net.committed(1, each.digest)
        before = net.nodes[1].height
        await net.start(3)
        await net.reached(3, before)
        last = net.transfer(3, to, 1)
        await net.nodes[3].chain.submit([last.data])
        height = await net.committed(3, last.digest)
        for each in range(4):
            await net.reached(each, height)
        await net.agree(height)
        assert [await net.balance(each, to) for each in (0, 3)] == [5, 5]


async def test_all_validators_stop_and_start_again_and_the_chain_goes_on(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        to = b"\x07" * 32
        first = net.transfer(0, to, 1)
        await net.nodes[0].chain.submit([first.data])
        await net.committed(0, first.digest)
        for each in range(4):
            await net.stop(each)
        for each in range(4):
            await net.start(each)
        second = net.transfer(0, to, 1)
        await net.nodes[2].chain.submit([second.data])
        height = await net.committed(1, second.digest)
        for each in range(4):
            await net.reached(each, height)
        await net.agree(height)
        assert await net.balance(3, to) == 2


class NothingWaits:
    """A pool of leaders that place nothing: whatever is final then is so without a block."""

    def waits(self, branch: Branch, batches: bool) -> bool:
        return False

    def pick(self, branch: Branch, batches: bool) -> Content:
        return Content()


async def test_a_fast_transfer_is_final_by_effects_before_any_block_holds_it(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        for node in net.nodes.values():
            ordering = node.engine._validator._ordering  # type: ignore[union-attr]
            assert isinstance(ordering._leading.pool, Both)
            ordering._leading = attrs.evolve(ordering._leading, pool=NothingWaits())
        to = b"\x07" * 32
        sent = [net.transfer(user, to, 1) for user in (0, 0, 1)]
        chain = net.nodes[0].chain
        await chain.submit([each.data for each in sent])
        for each in sent:
            found = await chain.queries.transaction(each.digest, wait_s=30)
            while found.status is not Status.CERTIFIED:
                assert found.status in (Status.PENDING, Status.APPLIED)
                found = await chain.queries.transaction(each.digest, wait_s=30)
            assert await chain.ledger.transaction(each.digest) is None
