"""`bench kv-batch`: rows through the storage contract, beside the same engine driven directly, in one run.

A turn is a new folder: all rows are put in batches, then keys are read at random, many at a time and one at a
time. Ours are opened, checked, written and read by the contract's calls from one task; making the operations
is inside the clock. The direct turns do the same from one thread, and get pairs that are there already.

Every value read is compared; after the last turn the store is opened again, and has to have every row.
"""

import gc
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import attrs
import trio

from supervm.bench.errors import CantMeasure
from supervm.bench.kv_direct import ENGINES, Engine, Rows
from supervm.bench.pairs import PAIRS_MIN, Clock, Turn, rates, ratio, turns
from supervm.bench.report import BenchResult
from supervm.contracts.storage import Durability, KeyValueStore, puts_of
from supervm.kernel.component import Component
from supervm.testing.context import opened

OURS, DIRECT = "supervm", "direct"
KEY_BYTES, VALUE_BYTES = 32, 64
WANTED = {"put": 0.8, "get": 0.7}
# What the node sets once it is open; both sides run under it.
GARBAGE_THRESHOLDS = (10_000, 20, 20)
LEVELS = {"synced": Durability.DURABLE, "unsynced": Durability.BUFFERED}
ONE_BY_ONE_SHARE = 20

Progress = Callable[[str, int], AbstractContextManager[Any]]
Opened = Callable[[], AbstractContextManager[KeyValueStore]]


@attrs.frozen(kw_only=True)
class KvPlan:
    """What to do. `folder`: on the disk to be measured; a folder of its own is made in it and removed."""

    storages: tuple[str, ...] = tuple(ENGINES)
    rows: int = 200_000
    batch: int = 10_000
    gets: int = 100_000
    get_many: int = 1_000
    pairs: int = PAIRS_MIN
    seed: int = 1
    folder: Path = Path()


@attrs.frozen
class Work:
    """The rows of a run in batches, and the keys to ask with what is to be answered."""

    batches: list[Rows]
    asked: list[list[bytes]]
    answers: list[list[bytes]]

    @property
    def rows(self) -> int:
        return sum(map(len, self.batches))

    @property
    def one_by_one(self) -> list[tuple[bytes, bytes]]:
        """A part of what is asked, for reads of single keys: through a thread each, they take long."""
        pairs = [
            pair
            for keys, values in zip(self.asked, self.answers, strict=True)
            for pair in zip(keys, values, strict=True)
        ]
        return pairs[: max(1, len(pairs) // ONE_BY_ONE_SHARE)]


def make_work(plan: KvPlan) -> Work:
    """Keys and values by the seed; keys are all different, and asked at random, some twice."""
    chance = random.Random(plan.seed)
    rows = [(chance.randbytes(KEY_BYTES), chance.randbytes(VALUE_BYTES)) for _ in range(plan.rows)]
    chosen = [rows[chance.randrange(len(rows))] for _ in range(plan.gets)]
    lists = [chosen[at : at + plan.get_many] for at in range(0, len(chosen), plan.get_many)]
    return Work(
        batches=[rows[at : at + plan.batch] for at in range(0, len(rows), plan.batch)],
        asked=[[key for key, _ in each] for each in lists],
        answers=[[value for _, value in each] for each in lists],
    )


@attrs.define
class Taken:
    """One contestant's turn by what was done: put, get, get one by one."""

    put: Clock = attrs.Factory(Clock)
    get: Clock = attrs.Factory(Clock)
    one: Clock = attrs.Factory(Clock)
    wrong: int = 0
    given: Durability = Durability.DURABLE


async def through_contract(component: Component, folder: Path, work: Work, level: Durability) -> Taken:
    """A turn of ours."""
    taken = Taken()
    async with opened(component, folder) as store:
        taken.given = store.gives[level]
        with taken.put:
            for rows in work.batches:
                await store.write(puts_of(rows), level)
        with taken.get:
            found = [await store.get_many(keys) for keys in work.asked]
        with taken.one:
            single = [await store.get(key) for key, _ in work.one_by_one]
    taken.wrong = _wrong(work, found, single)
    return taken


def directly(engine: Engine, folder: Path, work: Work, synced: bool) -> Taken:
    """A turn of the engine alone."""
    taken = Taken()
    folder.mkdir(parents=True)
    database = engine.open(folder, synced)
    try:
        with taken.put:
            for rows in work.batches:
                database.write(rows)
        with taken.get:
            found = [database.get_many(keys) for keys in work.asked]
        with taken.one:
            single = [database.get_one(key) for key, _ in work.one_by_one]
    finally:
        database.close()
    taken.wrong = _wrong(work, found, single)
    return taken


def _wrong(work: Work, found: Sequence[Sequence[bytes | None]], single: Sequence[bytes | None]) -> int:
    wrong = sum(
        answer != wanted
        for answers, wants in zip(found, work.answers, strict=True)
        for answer, wanted in zip(answers, wants, strict=True)
    )
    return wrong + sum(found != wanted for found, (_, wanted) in zip(single, work.one_by_one, strict=True))


def run_kv_batch(plan: KvPlan, components: Mapping[str, Component], progress: Progress) -> BenchResult:
    """Run the plan with the components given by name; blocks. Raises CantMeasure."""
    work = make_work(plan)
    found: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    missing = []
    attempts = failed = 0
    with _spared_collector():
        for name in plan.storages:
            engine = ENGINES[name]
            if find_spec(engine.module) is None:
                missing.append(engine.module)
                continue
            if name not in components:
                raise CantMeasure(f"no storage component is named {name!r}: see `supervm plugins list`")
            with _folder(plan.folder) as folder:
                facts, taken, wrong = _measure(engine, components[name], plan, work, folder, progress)
            found[name] = facts
            problems += wrong
            attempts += sum(turn.done for turn in taken)
            failed += sum(turn.wrong for turn in taken)
    if not found:
        raise CantMeasure(f"none of the engines is installed: {', '.join(missing)}")
    ratios = {
        f"{name} {what}": compared["ratio"]["median"]
        for name, facts in found.items()
        for what, compared in facts["compared"].items()
    }
    ok = not problems
    first = next(iter(found))
    return BenchResult(
        name="kv-batch",
        parameters={
            **attrs.asdict(plan, filter=lambda field, _: field.name != "folder"),
            "key_bytes": KEY_BYTES,
            "value_bytes": VALUE_BYTES,
            "goodput_of": f"rows put, {first}, synced",
        },
        goodput=found[first]["rates"][f"{OURS}, put synced"]["a_second"]["median"] if ok else None,
        attempts=attempts,
        failed=failed,
        ratios=ratios if ok else {},
        peers_missing=tuple(missing),
        oracle="; ".join(problems) or "ok",
        extra={
            "kv": found,
            "wanted": WANTED,
            "below": sorted(name for name, value in ratios.items() if value < WANTED[name.split()[1]]),
            "versions": {name: ENGINES[name].version() for name in found},
        },
    )


def _measure(
    engine: Engine, component: Component, plan: KvPlan, work: Work, folder: Path, progress: Progress
) -> tuple[dict[str, Any], list[Turn], list[str]]:
    """(facts of one backend, our turns, what was wrong)."""
    series: dict[str, list[Turn]] = {}
    problems: list[str] = []
    levels = dict(LEVELS)
    for label, level in LEVELS.items():
        if label not in levels:
            continue
        order = [(-1, OURS), (-1, DIRECT), *turns([OURS, DIRECT], plan.pairs)]
        with progress(f"{engine.name}, {label}", len(order)) as bar:
            for pair, who in order:
                place = folder / f"{label} {who} {pair}"
                if who == OURS:
                    taken = trio.run(through_contract, component, place, work, level)
                    if taken.given > level:
                        # A store that gives more has nothing to be compared at this level.
                        levels.pop(label)
                        break
                else:
                    taken = directly(engine, place, work, level is Durability.DURABLE)
                if taken.wrong:
                    problems.append(f"{engine.name} {who}: {taken.wrong} values were wrong")
                if pair >= 0:
                    _note(series, who, label, taken, plan, work)
                if who == OURS and pair == plan.pairs - 1:
                    problems += [
                        f"{engine.name}: {each}" for each in trio.run(_reread, component, place, work)
                    ]
                shutil.rmtree(place)
                bar.update(1)
    compared = {f"put {label}": _ratio(series, f"put {label}") for label in levels}
    # Both sides in the way that is best for them; the level of the writes before makes no difference.
    compared["get"] = _ratio(series, "get")
    return (
        {
            "compared": compared,
            "rates": {name: rates(each) for name, each in series.items()},
            "levels": {
                label: levels.get(label, level).name for label, level in LEVELS.items() if label in levels
            },
            "one_by_one": _ratio(series, "get one"),
        },
        [turn for name, each in series.items() if name.startswith(OURS) for turn in each],
        problems,
    )


def _note(
    series: dict[str, list[Turn]], who: str, label: str, taken: Taken, plan: KvPlan, work: Work
) -> None:
    for what, done, clock in (
        (f"put {label}", work.rows, taken.put),
        ("get", plan.gets, taken.get),
        ("get one", len(work.one_by_one), taken.one),
    ):
        turn = Turn(done, taken.wrong if what == "get" else 0, clock.seconds, clock.cpu_seconds)
        series.setdefault(f"{who}, {what}", []).append(turn)


def _ratio(series: Mapping[str, Sequence[Turn]], what: str) -> dict[str, Any]:
    ours, theirs = f"{OURS}, {what}", f"{DIRECT}, {what}"
    if what == "get":
        # What is faster for the engine: a list of keys, or key by key.
        best = max((theirs, f"{DIRECT}, get one"), key=lambda name: rates(series[name])["a_second"]["median"])
        theirs = best
    return {"ours": ours, "theirs": theirs, **ratio(series[ours], series[theirs])}


async def _reread(component: Component, folder: Path, work: Work) -> list[str]:
    """What a store that is opened again lacks."""
    async with opened(component, folder) as store:
        for rows in work.batches:
            if await store.get_many([key for key, _ in rows]) != [value for _, value in rows]:
                return ["a row is gone after reopening"]
        count = 0
        async for _ in store.scan():
            count += 1
    return [] if count == work.rows else [f"{count} rows after reopening, {work.rows} were put"]


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="supervm-kv-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _spared_collector() -> Iterator[None]:
    """Python's collector as a node sets it: neither side makes cycles."""
    old = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*old)
        gc.unfreeze()
