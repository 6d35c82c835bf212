"""The accept (CONS-10..14): what a validator checks of a batch before it locks and votes."""

import attrs
import pytest

from supervm.chain.application import Chain
from supervm.contracts.application import Engine, Verdict
from supervm.execution.footprint import nonce_lock
from supervm.plugins.consensus.sealing import seal_batch
from supervm.types.batch import Batch
from supervm.types.transaction import Transaction

from .conftest import FUNDS, Run, World, key

ENGINE = Engine(name="test")


def batch(chain: Chain, *transactions: Transaction, sequence: int = 0) -> Batch:
    data = [each.data for each in transactions]
    return seal_batch(
        chain.identity,
        chain_id=chain.chain_id,
        epoch=1,
        sequence=sequence,
        attempt=0,
        after=(),
        transactions=data,
        gas=chain.measure(data).gas,
    )


def codes(verdict: Verdict) -> dict[int, str]:
    return {index: each.code for index, each in verdict.refused.items()}


async def test_an_accept_locks_each_nonce_to_its_transaction(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        one, two = (world.transfer(user, 0, key(77).address, 5) for user in (0, 1))
        verdict = await node.chain.check(batch(node.chain, one, two), (), {})
        assert codes(verdict) == {}
        assert dict(verdict.locks) == {
            nonce_lock(world.users[0].address, 0): one.digest,
            nonce_lock(world.users[1].address, 0): two.digest,
        }


async def test_a_lock_held_by_the_same_digest_is_fine_and_by_another_is_a_conflict(
    world: World, run: Run
) -> None:
    async with run(world, engine=None) as node:
        first, second = (world.transfer(0, 0, key(77).address, amount) for amount in (5, 6))
        lock = nonce_lock(world.users[0].address, 0)
        assert codes(await node.chain.check(batch(node.chain, first), (), {lock: first.digest})) == {}
        verdict = await node.chain.check(batch(node.chain, second), (), {lock: first.digest})
        assert codes(verdict) == {0: "LockBusy"}
        assert verdict.refused[0].conflict == first.digest
        assert verdict.locks == {}


async def test_a_nonce_needs_its_predecessor_in_the_batch_or_its_past(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        zero, one, two = (world.transfer(0, nonce, key(77).address, 5) for nonce in range(3))
        check = node.chain.check
        assert codes(await check(batch(node.chain, one), (), {})) == {0: "NonceGap"}
        assert codes(await check(batch(node.chain, zero, one, two), (), {})) == {}
        past = [batch(node.chain, zero, one)]
        assert codes(await check(batch(node.chain, two, sequence=1), past, {})) == {}
        # A refused one takes those that depend on it along.
        broken = world.transfer(0, 0, key(77).address, FUNDS)
        assert codes(await check(batch(node.chain, broken, one, two), (), {})) == {
            0: "InsufficientFunds",
            1: "NonceGap",
            2: "NonceGap",
        }


async def test_funds_count_what_the_batch_and_its_past_may_spend(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        zero, one = (world.transfer(0, nonce, key(77).address, FUNDS // 2) for nonce in range(2))
        check = node.chain.check
        assert codes(await check(batch(node.chain, zero, one), (), {})) == {1: "InsufficientFunds"}
        past = [batch(node.chain, zero)]
        assert codes(await check(batch(node.chain, one, sequence=1), past, {})) == {0: "InsufficientFunds"}


async def test_a_forged_or_foreign_transaction_of_a_builder_is_refused_by_its_place(
    world: World, run: Run
) -> None:
    async with run(world, engine=None) as node:
        good = world.transfer(0, 0, key(77).address, 5)
        other = world.transfer(1, 0, key(77).address, 5)
        forged = Transaction.decode(other.data[:-1] + bytes([other.data[-1] ^ 1]))
        given = batch(node.chain, good, forged, world.transfer(2, 0, key(77).address, 5))
        verdict = await node.chain.check(given, (), {})
        assert codes(verdict) == {1: "BadSignature"}
        assert len(verdict.locks) == 2


async def test_the_same_transaction_twice_is_accepted_once(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        one = world.transfer(0, 0, key(77).address, 5)
        assert codes(await node.chain.check(batch(node.chain, one, one), (), {})) == {1: "NonceUsed"}


@pytest.mark.parametrize("changed", [{"sequence": 5}, {"attempt": 3}])
async def test_the_verdict_rests_on_the_transactions_alone(
    world: World, run: Run, changed: dict[str, int]
) -> None:
    async with run(world, engine=None) as node:
        one = batch(node.chain, world.transfer(0, 0, key(77).address, 5))
        other = attrs.evolve(one, header=attrs.evolve(one.header, **changed))
        first, second = await node.chain.check(one, (), {}), await node.chain.check(other, (), {})
        assert first == second
