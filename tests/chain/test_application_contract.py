"""What the application keeps towards any engine, ours or an outside one."""

from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing

from supervm.chain.application import Chain
from supervm.chain.views import Admitted
from supervm.contracts.application import (
    AlreadyDriven,
    Application,
    BatchBounds,
    BlockInvalid,
    Engine,
    NotExecuted,
    OrderedBlock,
    Refused,
    RootMismatch,
    WrongParent,
)
from supervm.types.batch import Batch, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.digests import ZERO
from supervm.types.receipt import Status
from supervm.types.transaction import Lane

from .conftest import FUNDS, Run, World, key

OUTSIDE = Engine(name="outside", certificates=False)
NOW = BatchBounds(seal_after_s=0.0)


async def ordered(chain: Chain, transactions: Sequence[bytes], **fields: object) -> OrderedBlock:
    tip = chain.tip()
    block = OrderedBlock(
        height=tip.height + 1,
        epoch=1,
        parent=tip.digest,
        proposer=chain.identity.node_id,
        timestamp_ms=tip.timestamp_ms + 1,
        operations=(),
        batches=(tuple(transactions),) if transactions else (),
    )
    return attrs.evolve(block, **fields)  # type: ignore[arg-type]


async def sealed(chain: Chain, block: OrderedBlock) -> Block:
    """What an engine without certificates makes of an executed block: batches that nobody signed."""
    batches = []
    for number, transactions in enumerate(block.batches):
        header = batch_header(
            chain_id=chain.chain_id,
            epoch=block.epoch,
            builder=chain.identity.node_id,
            sequence=block.height * 1_024 + number,
            transactions=transactions,
            gas=chain.measure(transactions).gas,
        )
        batches.append(Batch(header, bytes(64), transactions))
    body = BlockBody(
        b"", block.operations, tuple(BatchCertificate(each.header, bytes(64), b"", ()) for each in batches)
    )
    facts = await chain.header(block.height)
    header = BlockHeader(
        chain_id=chain.chain_id,
        epoch=block.epoch,
        height=block.height,
        parent=block.parent,
        proposer=block.proposer,
        timestamp_ms=block.timestamp_ms,
        root_height=facts.root_height,
        state_root=facts.state_root,
        receipts_root=facts.receipts_root,
        base_price=facts.base_price,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=facts.validators_digest,
        next_validators_digest=ZERO,
    )
    return Block(header, body, tuple(batches))


async def test_it_is_an_application(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        assert isinstance(node.chain, Application)


async def test_an_outside_engine_without_certificates_orders_raw_transactions(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        with chain.driven(OUTSIDE):
            fast = world.transfer(0, 0, key(77).address, 5, lane=Lane.FAST)
            (refused,) = await chain.submit([fast.data])
            assert isinstance(refused, Refused)
            assert refused.code == "NotFastEligible"
            assert "outside" in refused.mend
            one, two = (world.transfer(user, 0, key(77).address, 5) for user in (0, 1))
            answers = await chain.submit([one.data, two.data])
            assert [each.lane for each in answers if isinstance(each, Admitted)] == ["ORDERED"] * 2
            for _ in range(2):
                given = await chain.gather(BatchBounds(count_max=1, seal_after_s=0.0))
                block = await ordered(chain, given)
                executed = await chain.execute(block)
                assert executed.outcomes == {"committed": 1}
                await chain.commit(await sealed(chain, block), b"proof of another kind")
        assert chain.ledger.tip.height == 2
        view = await chain.queries.block(2)
        assert view is not None
        assert view.certificate == b"proof of another kind"
        assert (await chain.queries.account(key(77).address)).balances[bytes(32)] == 10


async def test_only_one_engine_drives_and_what_it_held_is_free_again(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        one = world.transfer(0, 0, key(77).address, 5)
        await node.chain.submit([one.data])
        with node.chain.driven(OUTSIDE):
            with pytest.raises(AlreadyDriven, match="outside"), node.chain.driven(OUTSIDE):
                raise AssertionError("two engines drive")
            assert await node.chain.gather(NOW) == (one.data,)
            assert await node.chain.gather(NOW, wait=False) == ()
        with node.chain.driven(OUTSIDE):
            assert await node.chain.gather(NOW) == (one.data,)


async def test_gather_waits_for_work_and_seals_after_the_time_given(
    world: World, run: Run, autojump_clock: trio.testing.MockClock
) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        with chain.driven(OUTSIDE):
            with trio.move_on_after(100) as waited:
                await chain.gather(NOW)
            assert waited.cancelled_caught
            answers = await chain.submit([world.transfer(0, 0, key(77).address, 5).data])
            assert isinstance(answers[0], Admitted)
            began = trio.current_time()
            assert len(await chain.gather(BatchBounds(seal_after_s=3.0))) == 1
            assert 2.9 < trio.current_time() - began < 3.1


async def test_a_cancelled_gather_keeps_nothing(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        one = world.transfer(0, 0, key(77).address, 5)
        await chain.submit([one.data])
        with chain.driven(OUTSIDE):
            with trio.CancelScope() as scope:
                scope.cancel()
                await chain.gather(NOW)
            assert scope.cancelled_caught
            assert chain.mempool.figures().handed == 0
            assert await chain.gather(NOW) == (one.data,)


async def test_execute_and_commit_are_idempotent(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        await chain.submit([world.transfer(0, 0, key(77).address, 5).data])
        with chain.driven(OUTSIDE):
            block = await ordered(chain, await chain.gather(NOW))
            assert await chain.execute(block) == await chain.execute(block)
            final = await sealed(chain, block)
            await chain.commit(final, b"")
            tip = chain.ledger.tip
            await chain.commit(final, b"")
            assert chain.ledger.tip == tip
            assert [kind for kind, _ in node.published].count("block_committed") == 1


async def test_another_block_of_the_same_height_replaces_the_one_executed(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        await chain.submit([world.transfer(0, 0, key(77).address, 5).data])
        with chain.driven(OUTSIDE):
            given = await chain.gather(NOW)
            first, second = await ordered(chain, given), await ordered(chain, ())
            await chain.execute(first)
            dropped = await sealed(chain, first)
            await chain.execute(second)
            with pytest.raises(NotExecuted):
                await chain.commit(dropped, b"")
            await chain.commit(await sealed(chain, second), b"")
        assert (await chain.queries.account(key(77).address)).balances[bytes(32)] == 0


async def test_a_block_that_does_not_follow_the_tip_is_refused(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        with chain.driven(OUTSIDE):
            with pytest.raises(WrongParent):
                await chain.execute(await ordered(chain, (), height=2))
            with pytest.raises(WrongParent):
                await chain.execute(await ordered(chain, (), parent=bytes(32)))
            block = await ordered(chain, ())
            await chain.execute(block)
            final = await sealed(chain, block)
            await chain.commit(final, b"")
            other = Block(attrs.evolve(final.header, timestamp_ms=final.header.timestamp_ms + 1), final.body)
            with pytest.raises(WrongParent):
                await chain.commit(other, b"")


async def test_roots_that_this_node_did_not_compute_are_never_committed(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        with chain.driven(OUTSIDE):
            block = await ordered(chain, ())
            await chain.execute(block)
            final = await sealed(chain, block)
            for field, value in (("state_root", b"\x01" * 32), ("receipts_root", ZERO), ("base_price", 1)):
                header = attrs.evolve(final.header, **{field: value})
                with pytest.raises(RootMismatch, match=field):
                    await chain.commit(Block(header, final.body), b"")
            assert chain.ledger.tip.height == 0
            with pytest.raises(NotExecuted):
                await chain.header(2)


async def test_unknown_system_operations_and_bytes_that_do_not_decode_make_a_block_invalid(
    world: World, run: Run
) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        with chain.driven(OUTSIDE):
            assert await chain.propose(chain.bounds) == ()
            assert "not known" in await chain.verify((b"\x01",))
            with pytest.raises(BlockInvalid):
                await chain.execute(await ordered(chain, (), operations=(b"\x01",)))
            with pytest.raises(BlockInvalid):
                await chain.execute(await ordered(chain, (b"rubbish",)))


async def test_a_digest_that_a_block_executed_is_skipped_in_every_later_one(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        one = world.transfer(0, 0, key(77).address, 5)
        with chain.driven(OUTSIDE):
            for _ in range(2):
                block = await ordered(chain, (one.data, one.data))
                await chain.execute(block)
                await chain.commit(await sealed(chain, block), b"")
        assert (await chain.queries.account(key(77).address)).balances[bytes(32)] == 5
        view = await chain.queries.transaction(one.digest)
        assert (view.status, view.height) == (Status.COMMITTED, 1)
        assert await chain.ledger.receipts(2) == []


async def test_what_can_not_be_placed_for_good_is_dropped_and_the_rest_is_tried_again(
    world: World, run: Run
) -> None:
    async with run(world, engine=None) as node:
        chain = node.chain
        work = [world.transfer(user, 0, key(77).address, 5) for user in range(3)]
        await chain.submit([each.data for each in work])
        with chain.driven(OUTSIDE):
            given = await chain.gather(NOW)
            bad = Refused(code="VersionMismatch", field="inputs", value="", mend="")
            later = Refused(code="InsufficientFunds", field="balance", value="", mend="")
            chain.give_back(given, {0: bad, 1: later})
            assert (await chain.queries.transaction(work[0].digest)).status is Status.UNKNOWN
            assert await chain.gather(NOW, wait=False) == ()
            block = await ordered(chain, ())
            await chain.execute(block)
            await chain.commit(await sealed(chain, block), b"")
            assert await chain.gather(NOW) == given[1:]


async def test_drained_it_takes_no_more_and_says_when_to_come_back(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        await node.chain.drain(trio.current_time() + 1)
        (answer,) = await node.chain.submit([world.transfer(0, 0, key(77).address, FUNDS).data])
        assert isinstance(answer, Refused)
        assert (answer.code, answer.value) == ("Busy", "draining")
        assert answer.retry_after_s is not None
