"""A chain of blocks that can be written down, run again, and made smaller."""

import random
from collections.abc import Sequence

import attrs

from supervm.execution import GAS_STATE_KEY, BlockInput, execute_block, recorded_supply, supply
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy
from supervm.types.digests import Digest
from supervm.types.limits import Limits
from supervm.types.transaction import Transaction
from supervm.types.validators import NOBODY, ValidatorSet
from tests.differential.making import CHAIN, EPOCH
from tests.differential.ways import WAYS, EngineError, Unequal, Way, applied, start

TRIES_IN_THREADS = 20
"""How often a case is run where threads may take turns in another order."""


@attrs.frozen
class Block:
    """Encoded transactions, and which digests of them earlier blocks executed."""

    height: int
    transactions: tuple[bytes, ...]
    executed: tuple[Digest, ...] = ()
    epoch: int = EPOCH


@attrs.frozen
class Case:
    """`state` is what the first block finds, without the gas policy's own entry.

    `chance`: the seed by which an engine also gives up blocks and forgets; None where it doesn't.
    """

    price: int
    collector: str
    limits: Limits
    state: dict[bytes, bytes]
    blocks: tuple[Block, ...]
    chance: int | None = None
    granted: ValidatorSet = NOBODY

    @property
    def gas(self) -> FlatPolicy:
        return FlatPolicy(FlatConfig(price=self.price, collector=self.collector))

    def inputs(self) -> list[BlockInput]:
        """The blocks as they are executed. Raises `DecodeError`."""
        return [
            BlockInput(
                height=block.height,
                epoch=block.epoch,
                timestamp_ms=1,
                chain_id=CHAIN,
                limits=self.limits,
                transactions=tuple(Transaction.decode(data, self.limits) for data in block.transactions),
                executed=frozenset(block.executed),
                granted=self.granted,
            )
            for block in self.blocks
        ]


def case_of(
    gas: FlatPolicy,
    limits: Limits,
    state: dict[bytes, bytes],
    blocks: Sequence[BlockInput],
    chance: int | None = None,
) -> Case:
    """These blocks, one after the other, from this state."""
    return Case(
        gas.config.price,
        gas.config.collector,
        limits,
        {key: value for key, value in state.items() if key != GAS_STATE_KEY},
        tuple(
            Block(
                each.height,
                tuple(t.data for t in each.transactions),
                tuple(sorted(each.executed)),
                each.epoch,
            )
            for each in blocks
        ),
        chance,
        blocks[0].granted if blocks else NOBODY,
    )


def run_case(case: Case, way: Way) -> None:
    """Go through the blocks once, by C in this way and by the specification. Raises `Unequal`.

    What the specification itself can't execute raises `AssertionError`; see `difference`.
    """
    gas = case.gas
    state = {**case.state, GAS_STATE_KEY: gas.initial_state()}
    runner = start(way, state, None if case.chance is None else random.Random(case.chance))
    for number, block in enumerate(case.inputs()):
        wanted = execute_block(state, block, gas)
        try:
            runner.run(block, gas, state, wanted)
        except EngineError as error:
            raise Unequal(f"block {number}, {way}: {error!r}") from error
        except Unequal as error:
            raise Unequal(f"block {number}, {way}: {error}") from error
        runner.follow(wanted.changes)
        state = applied(state, wanted.changes)
        if supply(state) != recorded_supply(state) and supply(case.state) == recorded_supply(case.state):
            raise Unequal(f"block {number}: value was made or lost")


def difference(case: Case, ways: Sequence[Way] = WAYS) -> str:
    """In what C differs from the specification; empty where they agree as often as they are asked."""
    for way in ways:
        for _ in range(TRIES_IN_THREADS if way.threads > 1 else 1):
            try:
                run_case(case, way)
            except Unequal as error:
                return str(error)
    return ""
