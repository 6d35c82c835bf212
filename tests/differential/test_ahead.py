"""FAST transactions ahead of their block: C does what the specification does (EXEC-21, EXEC-34).

More worlds: SUPERVM_AHEAD_WORLDS=2000.
"""

import os
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import attrs

from supervm.chain.fast import FastLane, Now
from supervm.contracts.application import FastApplied
from supervm.execution import GAS_STATE_KEY, execute_block
from supervm.execution.ahead import NativeAhead, Outcome, choose_ahead
from supervm.execution.engine import TwinEngine
from supervm.plugins.gas.flat import FlatPolicy
from supervm.types.receipt import Status
from supervm.types.transaction import Lane, Transaction
from tests import needs
from tests.differential.generate import World, world
from tests.differential.profiles import ORDINARY
from tests.differential.ways import SEED

WORLDS = int(os.environ.get("SUPERVM_AHEAD_WORLDS", "48"))
BLOCKS = 10

# Little that only a block can do: it would hold up what its sender does after it.
PROFILES = tuple(
    attrs.evolve(each, lanes=(*(Lane.AUTO,) * 20, *(Lane.FAST,) * 20, Lane.ORDERED), tokens=each.tokens / 6)
    for each in ORDINARY
)


class Followed(FastLane):
    """A FAST lane on the state of a world, which counts who applied how many."""

    def __init__(self, of: World, ahead: NativeAhead | None) -> None:
        self.done: Counter[str] = Counter()
        self._of = of
        super().__init__(of.gas, self._entries, self._tip, ahead)

    async def _entries(self, keys: Collection[bytes]) -> Mapping[bytes, bytes | None]:
        return {key: self._of.state.get(key) for key in keys}

    def _tip(self) -> Now:
        height, gas_state = self._of.height, self._of.state[GAS_STATE_KEY]
        return Now(height=height, gas_state=gas_state, block=self._of.block_of(()))

    async def _by_c(self, overlay: object, transactions: Sequence[Transaction]) -> Sequence[Outcome] | None:
        found = await super()._by_c(overlay, transactions)  # type: ignore[arg-type]
        if found is not None:
            self.done["in C"] += len(transactions)
        else:
            self.done["left"] += len(transactions)
        return found


@attrs.define
class Pair:
    """The two ways side by side."""

    native: Followed
    twin: Followed

    @classmethod
    def of(cls, made: World) -> "Pair":
        return cls(Followed(made, NativeAhead(made.gas, SEED)), Followed(made, None))

    async def apply(self, name: bytes, transactions: Sequence[Transaction]) -> list[FastApplied]:
        found = await self.native.apply(name, transactions)
        assert found == await self.twin.apply(name, transactions)
        self.compare()
        return found

    async def resume(self) -> list[FastApplied]:
        found = await self.native.resume()
        assert found == await self.twin.resume()
        self.compare()
        return found

    def folded(self, digests: Sequence[bytes]) -> None:
        for each in (self.native, self.twin):
            each.overlay.folded(digests)
        self.compare()

    def compare(self) -> None:
        """All that the overlays hold: effects, what they sum up to, and what waits."""
        assert vars(self.native.overlay) == vars(self.twin.overlay)


async def compare_world(seed: int, seen: Counter[str]) -> None:
    """Batches of a world's blocks, in and out of order, before the block itself is executed."""
    made = world(seed, crowded=False)
    made.profiles = PROFILES
    chance = random.Random(f"ahead {seed}")
    pair = Pair.of(made)
    for _ in range(BLOCKS):
        block = made.block()
        applied: set[bytes] = set()
        certified = list(block.transactions)
        if chance.random() < 0.4:
            chance.shuffle(certified)
        while certified and chance.random() < 0.95:
            size = chance.choice((1, 2, 7, 40))
            batch, certified = certified[:size], certified[size:]
            for found in await pair.apply(chance.randbytes(32), batch):
                applied.update(digest for _, digest, _ in found.effects)
        seen["applied"] += len(applied)
        seen["waiting"] += len(pair.twin.overlay.waiting)
        result = execute_block(made.state, block, made.gas)
        for each in result.receipts:
            if each.digest in applied:
                seen[each.code or Status(each.status).name] += 1
                seen["created"] += bool(each.created)
                seen["deleted"] += bool(each.deleted)
        made.follow(block, result.changes)
        pair.folded([each.digest for each in result.receipts])
        await pair.resume()
    seen.update(pair.native.done)


@needs.c_engine
async def test_c_applies_what_the_specification_applies_to_the_same_effects() -> None:
    seen: Counter[str] = Counter()
    for seed in range(WORLDS):
        await compare_world(seed, seen)
    assert seen["in C"] > 3 * seen["left"]
    assert seen["applied"] > 1_000
    assert {"COMMITTED", "OutOfGas", "waiting", "created", "deleted"} <= set(seen)


def test_where_blocks_are_executed_by_the_specification_it_applies_too() -> None:
    assert choose_ahead(TwinEngine(), world(0).gas) is None


class Unknown(FlatPolicy):
    """A policy whose rule is not as simple as C's."""

    def fixed_rule(self, state: bytes) -> None:  # type: ignore[override]
        return None


@needs.c_engine
def test_a_gas_policy_that_c_does_not_know_is_left_to_the_specification() -> None:
    made = world(0)
    for gas, known in ((made.gas, True), (Unknown(made.gas.config), False)):
        with NativeAhead(gas, SEED).open((), made.block_of(()), made.state[GAS_STATE_KEY]) as run:
            assert (run is not None) == known


@needs.c_engine
def test_c_keeps_nothing_of_the_state_between_two_lists() -> None:
    made = world(0)
    ahead = NativeAhead(made.gas, SEED)
    block = next(each for each in iter(made.block, None) if each.transactions)
    some = list({each.digest: each for each in block.transactions}.values())
    for _ in range(2):
        with ahead.open(some, made.block_of(()), made.state[GAS_STATE_KEY]) as run:
            assert run is not None
            run.apply([made.state.get(key) for key in run.keys])
            assert ahead.entries > 0
        assert ahead.entries == 0


@needs.c_engine
def test_a_list_in_which_a_transaction_stands_twice_is_left_to_the_specification() -> None:
    made = world(0)
    one = next(each for each in iter(made.block, None) if each.transactions).transactions[0]
    with NativeAhead(made.gas, SEED).open([one, one], made.block_of(()), made.state[GAS_STATE_KEY]) as run:
        assert run is None


@needs.c_engine
def test_one_list_at_a_time_is_in_c_and_the_specification_does_the_other() -> None:
    made = world(0)
    ahead = NativeAhead(made.gas, SEED)
    on = made.block_of(()), made.state[GAS_STATE_KEY]
    with ahead.open((), *on) as run, ahead.open((), *on) as other:
        assert run is not None
        assert other is None
    with ahead.open((), *on) as again:
        assert again is not None
