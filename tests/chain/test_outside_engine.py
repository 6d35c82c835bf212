"""An engine of ABCI 2.0's shape drives the node without certificates and keeps the contract (CONS-81)."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from supervm.chain.views import Admitted
from supervm.contracts.application import NodeIdentity, Refused
from supervm.contracts.roles import Role
from supervm.testing.conformance.consensus import ConsensusConformance
from supervm.testing.context import opened
from supervm.types.receipt import Status
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Lane, Transaction

from .conftest import Run, Running, World, key
from .outside import OUTSIDE, Decided, Replica, ReplicasDiffer, Sequencer, outside_component

STORES = ("memory", "sqlite", "rocksdb")


class TestOutside(ConsensusConformance):
    component = outside_component()


def other_node(number: int) -> NodeIdentity:
    node = key(number)
    return NodeIdentity(node_id=node.node_id, public_key=node.public_key, sign=node.sign)


async def replicas(stack: AsyncExitStack, run: Run, world: World, count: int) -> list[Running]:
    nodes = [
        await stack.enter_async_context(
            run(world, storage=storage, engine=None, identity=other_node(700 + number))
        )
        for number, storage in enumerate(STORES[:count])
    ]
    for node in nodes:
        stack.enter_context(node.chain.driven(OUTSIDE))
    return nodes


async def decide(sequencer: Sequencer, nodes: Sequence[Running], proposer: int, name: bytes) -> bool:
    sides = [Replica(node.chain) for node in nodes]
    work = await sides[proposer].work()
    return await sequencer.decide(sides, sides[proposer], name, work)


async def test_replicas_that_execute_one_order_hold_one_state_and_all_the_value(
    world: World, run: Run
) -> None:
    sequencer = Sequencer()
    async with AsyncExitStack() as stack:
        nodes = await replicas(stack, run, world, 3)
        for height in range(6):
            sender = height % 3
            sent = [
                world.transfer(sender, height // 3, key(77).address, 5),
                world.transfer(3, height, world.users[sender].address, 7),
            ]
            answers = await nodes[sender].chain.submit([each.data for each in sent])
            assert [each.lane for each in answers if isinstance(each, Admitted)] == ["ORDERED"] * 2
            assert await decide(sequencer, nodes, sender, bytes([sender]) * 32)
        tips = [node.chain.tip() for node in nodes]
        assert [tip.height for tip in tips] == [6, 6, 6]
        assert len({tip.digest for tip in tips}) == 1
        assert len({tip.state_root for tip in tips}) == 1
        assert sequencer.hashes[-1] == tips[0].state_root
        for node in nodes:
            holders = [*(each.address for each in world.users), key(77).address]
            found = [await node.chain.queries.account(each) for each in holders]
            token = await node.chain.queries.token(NATIVE_TOKEN)
            assert token is not None
            assert sum(each.balances.get(NATIVE_TOKEN, 0) for each in found) == token.supply


async def test_a_replica_that_comes_late_is_told_what_was_decided(world: World, run: Run) -> None:
    sequencer = Sequencer()
    async with AsyncExitStack() as stack:
        first, late = await replicas(stack, run, world, 2)
        for nonce in range(4):
            await first.chain.submit([world.transfer(0, nonce, key(77).address, 5).data])
            assert await decide(sequencer, [first], 0, b"o" * 32)
        # It has a transaction of the log in its own mempool, which the replay takes out of it.
        await late.chain.submit([world.transfer(0, 0, key(77).address, 5).data])
        await sequencer.meet(Replica(late.chain))
        assert late.chain.tip() == first.chain.tip()
        with trio.move_on_after(0.05) as waited:
            await Replica(late.chain).work()
        assert waited.cancelled_caught


async def test_a_proposal_that_does_not_decode_is_refused_and_costs_nobody_anything(
    world: World, run: Run
) -> None:
    class Hostile(Replica):
        async def prepare_proposal(self, transactions: Sequence[bytes]) -> tuple[bytes, ...]:
            return (*transactions, b"no transaction")

    sequencer = Sequencer()
    async with AsyncExitStack() as stack:
        nodes = await replicas(stack, run, world, 3)
        honest = [Replica(node.chain) for node in nodes[1:]]
        hostile = Hostile(nodes[0].chain)
        sent = world.transfer(0, 0, key(77).address, 5).data
        for node in nodes:
            await node.chain.submit([sent])
        assert not await sequencer.decide([hostile, *honest], hostile, b"h" * 32, await hostile.work())
        assert [node.chain.tip().height for node in nodes] == [0, 0, 0]
        assert await sequencer.decide([hostile, *honest], honest[0], b"o" * 32, await honest[0].work())
        assert sequencer.log[-1].transactions == (sent,)
        assert len({node.chain.tip().state_root for node in nodes}) == 1


async def test_a_replica_with_another_state_is_found_out(world: World, run: Run) -> None:
    sequencer = Sequencer()
    async with AsyncExitStack() as stack:
        one, two = await replicas(stack, run, world, 2)
        await one.chain.submit([world.transfer(0, 0, key(77).address, 5).data])
        assert await decide(sequencer, [one], 0, b"o" * 32)
        other = Sequencer()
        await other._apply(
            Decided(height=1, time_ms=1_800_000_000_001, proposer=b"x" * 32, transactions=()),
            [Replica(two.chain)],
        )
        with pytest.raises(ReplicasDiffer, match="at height 1"):
            await sequencer.meet(Replica(two.chain))


async def test_a_node_with_it_runs_offers_no_fast_lane_and_goes_on_after_a_restart(
    world: World, run: Run, tmp_path: Path
) -> None:
    component = outside_component(Sequencer())
    sent = [world.transfer(user, 0, key(77).address, 5).data for user in range(4)]
    async with run(world, engine=None) as node:
        for part in (sent[:2], sent[2:]):
            async with opened(component, tmp_path / "outside", requires={Role.APPLICATION: node.chain}):
                fast = world.transfer(0, 1, key(77).address, 5, lane=Lane.FAST)
                (refused,) = await node.chain.submit([fast.data])
                assert isinstance(refused, Refused)
                assert refused.code == "NotFastEligible"
                await node.chain.submit(part)
                for data in part:
                    view = await node.chain.queries.transaction(Transaction.decode(data).digest, wait_s=60)
                    assert view.status is Status.COMMITTED
        assert (await node.chain.queries.account(key(77).address)).balances[NATIVE_TOKEN] == 20
