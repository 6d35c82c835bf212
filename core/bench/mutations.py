"""`bench owned` and `bench mixed-R`: mutations of objects, with every check of version and owner.

`owned` is what the FAST lane executes, without its signatures and its network: distinct owners, each
mutating his own objects, 1, 16 and 64 in one transaction (64 is what a transaction can hold). `mixed-R` is R
percent of that and the rest on shared objects. There is no peer that has such objects; ours is compared with
itself on one thread.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from supervm import __version__
from supervm.bench.errors import CantMeasure
from supervm.bench.growth import sizes_up_to
from supervm.bench.ledgers import Ledger, Way, open_ledger
from supervm.bench.objects import ObjectPlan, Objects, ObjectWork
from supervm.bench.options import OURS, Compared, Options, finished, measured_of
from supervm.bench.pairs import Turn
from supervm.bench.race import Contestant, Done, Progress, Race, measure_growth, run_race
from supervm.bench.report import BenchResult
from supervm.bench.slices import SLICE, wrong_slice
from supervm.contracts.gas import GasPolicy

NO_ROOT = "no state root"
GIVEN = "one thread, digests given"
RATIOS = (0, 20, 50, 80, 100)
EACH = (1, 16, 64)
OBJECTS = 65_536
BLOCK = 8_192


@attrs.frozen
class Mutator:
    """One of our ledgers, judged by the books. A turn counts `unit` for each transaction."""

    world: Objects
    ledger: Ledger
    labels: Mapping[str, str]
    unit: int
    version: str = __version__

    def take(self, work: ObjectWork) -> Done:
        ran = self.ledger.run(work.blocks)
        kinds = {"turn": ran.turn, "bare": ran.bare}
        turns = {label: _counted(kinds[kind], self.unit) for kind, label in self.labels.items()}
        return Done(turns, self.world.wrong(work, ran), ran.facts)


def run_owned(
    each: Sequence[int],
    objects: int,
    block: int,
    options: Options,
    gas: GasPolicy,
    progress: Progress | None = None,
) -> BenchResult:
    """Mutations a second of `objects` owned objects, `block` of them in every block, all in turn.

    Raises CantMeasure. Blocks.
    """
    block = min(block, objects)
    plans = {f"{count} a transaction": _owned_plan(count, objects, block, options) for count in each}
    race = _races(plans, options, gas, progress)
    main = f"{each[-1]} a transaction, {GIVEN if options.way().native else 'one thread'}, {NO_ROOT}"
    asked = {"mutations_a_transaction": list(each), "objects": objects, "mutations_a_block": block}
    return _finished("owned", options, race, gas, plans, main, asked)


def run_mixed(
    ratios: Sequence[int],
    block: int,
    shared: int,
    options: Options,
    gas: GasPolicy,
    progress: Progress | None = None,
) -> BenchResult:
    """Transactions a second where R percent mutate an owned object. Raises CantMeasure. Blocks."""
    plans = {f"R = {ratio}": _mixed_plan(ratio, block, shared, options) for ratio in ratios}
    race = _races(plans, options, gas, progress)
    main = f"R = {ratios[len(ratios) // 2]}, all threads, {NO_ROOT}"
    name = f"mixed-{ratios[0]}" if len(ratios) == 1 else "mixed-R"
    asked = {"owned_percent": list(ratios), "block": block, "shared_objects": shared}
    return _finished(name, options, race, gas, plans, main, asked)


def _owned_plan(each: int, objects: int, block: int, options: Options) -> ObjectPlan:
    if objects % each or block % each:
        raise CantMeasure(f"{objects} objects, {block} a block: give multiples of {each}, what an owner has")
    return ObjectPlan(block=block // each, blocks=options.blocks, each=each, owned=objects, seed=options.seed)


def _mixed_plan(ratio: int, block: int, shared: int, options: Options) -> ObjectPlan:
    return ObjectPlan(
        block=block, blocks=options.blocks, owned=block, shared=shared, ratio=ratio, seed=options.seed
    )


def _races(
    plans: Mapping[str, ObjectPlan], options: Options, gas: GasPolicy, progress: Progress | None
) -> "Race[ObjectWork]":
    """A race for each plan, all in one; it ends at the first that is wrong."""
    whole: Race[ObjectWork] = Race()
    for name, plan in plans.items():
        world = Objects(plan)
        race = run_race(world.next, _contestants(name, world, options, gas), options.pairs, progress)
        whole.taken.update(race.taken)
        whole.facts.update(race.facts)
        whole.problems += [f"{name}: {problem}" for problem in race.problems]
        wrong = _wrong_slice(plan, options.way(), gas)
        whole.problems += [f"{name}: {wrong}"] if wrong else []
        if whole.problems:
            break
    return whole


def _contestants(
    name: str, world: Objects, options: Options, gas: GasPolicy
) -> dict[str, Contestant[ObjectWork]]:
    way = options.way()
    ways = {"one thread": attrs.evolve(way, threads=1)}
    if way.native:
        ways[GIVEN] = attrs.evolve(way, threads=1, digests_given=True)
    if way.threads > 1:
        ways["all threads"] = way
    return {f"{name}, {mode}": _mutator(f"{name}, {mode}", world, each, gas) for mode, each in ways.items()}


def _mutator(name: str, world: Objects, way: Way, gas: GasPolicy) -> Mutator:
    labels = {"turn": name, "bare": f"{name}, {NO_ROOT}"}
    return Mutator(world, open_ledger(way, world.start(), gas), labels, world.plan.each)


def _wrong_slice(plan: ObjectPlan, way: Way, gas: GasPolicy) -> str | None:
    world = Objects(plan)
    start = world.first_state()
    return wrong_slice(world.next().blocks[0], start, way, gas)


def _finished(
    name: str,
    options: Options,
    race: "Race[ObjectWork]",
    gas: GasPolicy,
    plans: Mapping[str, ObjectPlan],
    main: str,
    asked: Mapping[str, Any],
) -> BenchResult:
    inside, outside = measured_of(options.way())
    given = measured_of(options.way(digests_given=True))
    one = next(iter(plans.values()))
    return finished(
        name,
        options,
        race,
        parameters={
            **asked,
            "data_bytes": one.data_bytes,
            "keys_a_transaction": {each: plan.each + 1 for each, plan in plans.items()},
            "slice_compared": SLICE,
        },
        goodput_of=main if main in race.taken else next(iter(race.taken), main),
        claims=[
            Compared(
                name=f"{each}: one thread",
                ours=f"{each}, all threads, {NO_ROOT}",
                theirs=f"{each}, one thread, {NO_ROOT}",
            )
            for each in plans
        ],
        measured={OURS: inside, GIVEN: given[0]},
        left_out={OURS: outside, GIVEN: given[1]},
        versions={OURS: __version__},
        growth=_growth(plans, options, gas) if options.growth and race.oracle == "ok" else (),
    )


def _growth(plans: Mapping[str, ObjectPlan], options: Options, gas: GasPolicy) -> list[dict[str, Any]]:
    """Nanoseconds a mutation over the transactions of a block, on one thread, for the last plan."""
    name, plan = list(plans.items())[-1]
    way = options.way(threads=1)

    def entered(block: int) -> tuple[Callable[[], ObjectWork], Mutator]:
        world = Objects(attrs.evolve(plan, block=block, owned=block * plan.each))
        return world.next, _mutator(f"{name}, one thread", world, way, gas)

    sizes = sizes_up_to(plan.block, options.growth)
    return measure_growth("transactions a block", "mutation", sizes, entered, options.pairs)


def _counted(turn: Turn, unit: int) -> Turn:
    return attrs.evolve(turn, done=turn.done * unit, wrong=turn.wrong * unit)
