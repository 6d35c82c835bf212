"""A block that folds other effects than this node signed or saw certified stops it, with both (CONS-41)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from supervm.chain.application import Chain
from supervm.contracts.application import EffectsMismatch, FastApplied
from supervm.contracts.storage import Put
from supervm.kernel.component import HealthState
from supervm.plugins.consensus.bft.batch_records import SignedEffects
from supervm.plugins.consensus.bft.driver import vouching
from supervm.plugins.consensus.bft.driver.journal import LOCKS, read_records, record_key
from supervm.plugins.consensus.bft.driver.vouching import Vouched
from supervm.plugins.consensus.bft.effects_messages import Effect, Effects
from supervm.plugins.consensus.bft.records import encode_record
from supervm.storage.spaces import seal
from supervm.types.batch import Batch
from supervm.types.receipt import Status
from supervm.types.transaction import Transaction

from .network import WAIT_S, Network, network
from .test_four_nodes import NothingWaits

TO = b"\x07" * 32
OTHER = b"\xee" * 32


@contextmanager
def without_blocks(net: Network) -> Iterator[None]:
    """No validator that runs now places anything while this lasts."""
    orderings = [
        node.engine._validator._ordering  # type: ignore[union-attr]
        for number, node in net.nodes.items()
        if number < 4
    ]
    before = [each._leading for each in orderings]
    for each in orderings:
        each._leading = attrs.evolve(each._leading, pool=NothingWaits())
    yield
    for each, leading in zip(orderings, before, strict=True):
        each._leading = leading


async def certified(net: Network, number: int, sent: Transaction) -> None:
    with trio.fail_after(WAIT_S):
        while True:
            view = await net.nodes[number].chain.queries.transaction(sent.digest, wait_s=1.0)
            if view.status is Status.CERTIFIED:
                return


async def signed_by(net: Network, number: int, sent: Transaction) -> tuple[int, SignedEffects]:
    """What the log of a validator that is stopped says that it signed of a transaction, and its row."""
    for row, record in await read_records(net.stores[number], LOCKS, 1):
        if isinstance(record, SignedEffects) and sent.digest in [
            e.transaction for e in record.effects.effects
        ]:
            return row, record
    raise AssertionError(f"validator {number} has signed nothing of it")


async def stopped(net: Network, number: int) -> EffectsMismatch:
    """Wait until a node has stopped by itself; its cause. The node says the same of itself."""
    node = net.nodes[number]
    with trio.fail_after(WAIT_S):
        await node.gone.wait()
    cause = net.causes.pop(number)
    assert isinstance(cause, EffectsMismatch)
    health, status = await node.engine.health(), node.engine.status()
    assert health.state is HealthState.FAILING and health.detail == str(cause)
    assert not status.producing and status.reason == str(cause)
    return cause


async def test_a_validator_stops_where_a_block_contradicts_what_its_log_says_that_it_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path) as net:
        sent = net.transfer(0, TO, 1)
        with without_blocks(net):
            await net.nodes[0].chain.submit([sent.data])
            own = net.nodes[3].engine.life._proofs._own  # type: ignore[union-attr]
            with trio.fail_after(WAIT_S):
                while sent.digest not in own:
                    await net.nodes[3].chain.queries.transaction(sent.digest, wait_s=0.1)
            await net.stop(3)
            row, record = await signed_by(net, 3, sent)
            (true,) = [e.effects for e in record.effects.effects if e.transaction == sent.digest]
            effects = tuple(
                attrs.evolve(e, effects=OTHER) if e.transaction == sent.digest else e
                for e in record.effects.effects
            )
            forged = SignedEffects(attrs.evolve(record.effects, effects=effects))
            key = record_key(LOCKS, 1, row)
            await net.stores[3].write([Put(key, seal(key, encode_record(forged)))])

            async def waits(chain: Chain, batch: Batch) -> tuple[FastApplied, ...]:
                await trio.lowlevel.checkpoint()
                return (FastApplied(batch=batch.digest(), effects=(), waiting=1),)

            # It applies nothing ahead of the block: only the log knows what was signed.
            monkeypatch.setattr(Chain, "apply_fast", waits)
            net.may_stop.add(3)
            await net.start(3)
        await net.nodes[0].chain.submit([net.transfer(1, TO, 1).data])
        height = await net.committed(0, sent.digest)
        cause = await stopped(net, 3)
        assert (cause.height, cause.transaction, cause.how) == (height, sent.digest, "signed")
        assert (cause.expected, cause.given) == (OTHER, true)
        assert net.nodes[3].height < height, "nothing of the block was written"
        # The next start ends the same way and says the same, until somebody looks; the others go on.
        net.nodes.pop(3)
        await net.start(3)
        await net.nodes[0].chain.submit([net.transfer(1, TO, 1).data])
        again = await stopped(net, 3)
        assert str(again) == str(cause)
        net.nodes.pop(3)
        after = net.transfer(2, TO, 1)
        await net.nodes[0].chain.submit([after.data])
        await net.agree(await net.committed(1, after.digest))


@pytest.mark.parametrize("number", [3, 4], ids=["validator", "follower"])
async def test_a_node_stops_where_a_block_contradicts_what_it_saw_certified(
    tmp_path: Path, number: int
) -> None:
    async with network(tmp_path, followers=1) as net:
        await net.start(4)
        sent = net.transfer(0, TO, 1)
        with without_blocks(net):
            for each in range(3):
                said = Effects(1, b"batch".ljust(32, b"."), each, (Effect(0, sent.digest, OTHER),), bytes(64))
                signature = net.validators[each].sign(said.message(net.genesis.chain_id))
                net.nodes[number].engine.life._proofs.add(attrs.evolve(said, signature=signature))
            net.may_stop.add(number)
            await net.nodes[0].chain.submit([sent.data])
            await certified(net, 0, sent)
        await net.nodes[0].chain.submit([net.transfer(1, TO, 1).data])
        height = await net.committed(0, sent.digest)
        cause = await stopped(net, number)
        assert (cause.height, cause.transaction, cause.how) == (height, sent.digest, "certified")
        assert cause.expected == OTHER and cause.given != OTHER
        assert net.nodes[number].height < height
        net.nodes.pop(number)
        await net.agree(height)


async def test_a_block_that_folds_what_was_signed_before_a_restart_stops_nobody(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        sent = net.transfer(0, TO, 1)
        with without_blocks(net):
            await net.nodes[0].chain.submit([sent.data])
            await certified(net, 0, sent)
            for number in range(4):
                await net.stop(number)
        for number in range(4):
            await net.start(number)
        await net.agree(await net.committed(0, sent.digest))


def test_what_is_vouched_for_is_of_one_epoch_bounded_and_kept_from_life_to_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vouching, "SEEN_MAX", 2)
    names = [bytes([each]) * 32 for each in range(4)]
    signed = {names[0]: OTHER}
    vouched = Vouched()
    vouched.begin(1, signed)
    for each in names[1:]:
        vouched.saw(each, TO)
    vouched.begin(1)
    assert vouched.of(1) == {"signed": {names[0]: OTHER}, "certified": {names[2]: TO, names[3]: TO}}
    assert vouched.of(2) == {}
    vouched.forget(names[2:3])
    assert vouched.of(1) == {"signed": {names[0]: OTHER}, "certified": {names[3]: TO}}
    vouched.begin(2)
    assert vouched.of(1) == {}
    assert vouched.of(2) == {"signed": {}, "certified": {}}
