"""Outcomes that no certified transaction has while at most f are hostile are told (CONS-45)."""

import pytest

from supervm.contracts.application import Engine
from supervm.types.operations import Output, Transfer, encode_operations
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Body, Transaction, build

from .conftest import PRICE, Run, Running, World, key
from .outside import STARTED_MS, Decided, Replica

TO = key(77).address
METRIC = "supervm_certified_wrong_total"


def of_nobody(world: World) -> Transaction:
    """From an account that has nothing."""
    poor = key(78)
    body = Body(
        chain_id=world.genesis.chain_id,
        sender=poor.address,
        nonce=0,
        gas_limit=200_000,
        max_price=PRICE,
        max_fee=0,
        payload=encode_operations((Transfer(NATIVE_TOKEN, (Output(TO, 1),)),)),
    )
    return build(body, [poor])


async def commit(node: Running, height: int, *transactions: Transaction) -> None:
    replica = Replica(node.chain)
    proposer = node.chain.identity.node_id
    data = tuple(each.data for each in transactions)
    await replica.finalize_block(
        Decided(height=height, time_ms=STARTED_MS + height, proposer=proposer, transactions=data)
    )
    await replica.commit(b"")


@pytest.mark.parametrize("certificates", [True, False])
async def test_a_nonce_that_isnt_next_and_a_fee_that_isnt_there_are_told_where_batches_are_certified(
    world: World, run: Run, capsys: pytest.CaptureFixture[str], certificates: bool
) -> None:
    engine = Engine(name="test", certificates=certificates)
    async with run(world, engine=None) as node:
        with node.chain.driven(engine):
            # Failed, and no alarm: a transfer of more than there is.
            await commit(node, 1, world.transfer(0, 0, TO, 1), world.transfer(1, 0, TO, 10**30))
            assert "more_than_f_hostile" not in capsys.readouterr().out
            await commit(
                node,
                2,
                world.transfer(0, 0, TO, 2),
                world.transfer(2, 5, TO, 1),
                world.transfer(3, 7, TO, 1),
                of_nobody(world),
            )
        told = capsys.readouterr().out
        counted = {code: node.metric(METRIC, code=code) for code in ("NonceUsed", "NonceGap", "FeeUnfunded")}
        if certificates:
            assert counted == {"NonceUsed": 1, "NonceGap": 2, "FeeUnfunded": 1}
            assert told.count("more_than_f_hostile") == 1, "once a block"
            assert "height=2" in told and "transactions=4" in told and "code=NonceUsed" in told
        else:
            # Another engine checks nothing ahead of the order: such outcomes are nobody's fault.
            assert set(counted.values()) == {0}
            assert "more_than_f_hostile" not in told
