"""Moves rows between the classes of a store by how they are asked for: a little at a time, and for a
reason.

Every window each unit that is counted gets a rank. Then the rows that may move are looked through in the
order of their keys, in pages: what a decision says belongs elsewhere is moved, in its page, before the next
one is read. What just became hot goes first; what surges does not even wait for the window. After that the
copies are swept: each is checked against its pointer, and those that nothing points to go once they have been
kept for an hour. All of it takes a share of the time and so many bytes a second, and waits while writes wait
for the engine (STO-91 to STO-94).
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any

import attrs
import trio

from supervm.api import Context
from supervm.contracts.storage import (
    PAGE_BYTES_MAX,
    PAGE_ROWS_MAX,
    PASSING,
    DiskFull,
    PlannedMove,
    StoreCorrupt,
    StoreStats,
    prefix_end,
)
from supervm.plugins.storage.scan import Row
from supervm.plugins.storage.shelves import HOT, Moved, Shelves
from supervm.storage.heat import HeatTable
from supervm.storage.pace import Calm, Pace
from supervm.storage.temperature import (
    Decision,
    Temperature,
    Thresholds,
    Trigger,
    decide,
    history_of,
    rank,
    rises,
    surges,
    why,
)

RISING_MAX = 10_000
SURGES_MAX = 1_000
HELD_MAX = 10_000
ACCESSES_COUNTED_MAX = 1_000
SWEPT_PAGES_MIN = 64
LOOK_S = 30.0
DISK_ASKED_S = 1.0
Reason = tuple[Temperature, Temperature, Trigger]


@attrs.frozen(kw_only=True)
class Rules:
    """How a store's rows are moved; `unit_bytes` of a key name its unit, smaller values than the least
    stay.
    """

    thresholds: Thresholds
    unit_bytes: int
    value_bytes_min: int
    window_s: float
    share: float
    bytes_per_s_max: int
    keep_copies_s: float
    dry_run: bool


@attrs.define
class Amount:
    """So many units, rows, and bytes of values."""

    units: int = 0
    rows: int = 0
    bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.rows += 1
        self.bytes += size_bytes


@attrs.define
class Plan:
    """What lies where, and what belongs elsewhere, of what was looked through so far."""

    places: dict[Temperature, Amount] = attrs.Factory(dict)
    moves: dict[Reason, Amount] = attrs.Factory(dict)
    units: int = 0
    pages: int = 0
    _unit: bytes = b""
    _reasons: set[Reason] = attrs.Factory(set)

    def lies(self, unit: bytes, here: Temperature, size_bytes: int) -> None:
        if unit != self._unit or not self.units:
            self._unit, self.units = unit, self.units + 1
            self._reasons.clear()
        self.places.setdefault(here, Amount()).add(size_bytes)

    def would_move(self, reason: Reason, size_bytes: int) -> None:
        amount = self.moves.setdefault(reason, Amount())
        if reason not in self._reasons:
            self._reasons.add(reason)
            amount.units += 1
        amount.add(size_bytes)

    def explained(self, thresholds: Thresholds) -> tuple[PlannedMove, ...]:
        return tuple(
            PlannedMove(
                source=here.word,
                target=to.word,
                trigger=trigger.word,
                why=why(trigger, here, to, thresholds),
                units=amount.units,
                rows=amount.rows,
                bytes=amount.bytes,
            )
            for (here, to, trigger), amount in sorted(self.moves.items())
        )


class Redistribution:
    """Counts accesses, ranks, moves and sweeps, for as long as `run` does."""

    def __init__(
        self, ctx: Context, heat: HeatTable, rules: Rules, save: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self.clock = ctx.clock
        self._log = ctx.log
        self._metrics = _Metrics(ctx)
        self._save = save
        self.heat = heat
        self.rules = rules
        self.plan: Plan | None = None
        self.moved = Moved()
        self._shelves: Shelves | None = None
        self._rising: deque[bytes] = deque(maxlen=RISING_MAX)
        # Units that surged, and the window until which they stay hot; of them those not yet brought up.
        self._surged: dict[bytes, int] = {}
        self._surging: deque[bytes] = deque(maxlen=SURGES_MAX)
        # Units whose old copies stay until then.
        self._held: dict[bytes, float] = {}
        self._swept: dict[Temperature, bytes] = {}
        self._full: set[Temperature] = set()
        self._tight = (float("-inf"), False)
        self._window_ended = trio.Event()
        self._tired_s = 0.0

    def serve(self, shelves: Shelves) -> None:
        """The rows to move. Copies of before are kept as if they had been moved just now."""
        self._shelves = shelves
        self._kept_until_s = self.clock.monotonic() + self.rules.keep_copies_s

    @property
    def shelves(self) -> Shelves:
        assert self._shelves is not None
        return self._shelves

    @property
    def classes(self) -> tuple[Temperature, ...]:
        return tuple(sorted(self.shelves.classes))

    def accessed(self, keys: Iterable[bytes]) -> None:
        """Count reads or writes of rows that may move; of one call, those among the first thousand."""
        now_s, spaces = self.clock.monotonic(), self.shelves.spaces
        size, least = self.rules.unit_bytes, self.rules.thresholds.surge_accesses_min
        for key in islice(keys, ACCESSES_COUNTED_MAX):
            if key in spaces:
                unit = key[:size]
                asked = self.heat.count(unit, now_s)
                if asked >= least and unit not in self._surged:
                    self._look_for_surge(unit, asked, now_s)

    def _look_for_surge(self, unit: bytes, asked: int, now_s: float) -> None:
        """Note a unit that surges. At the bound no more are, until some of those before are done."""
        thresholds = self.rules.thresholds
        mean = self.heat.mean(unit, now_s, self.rules.window_s)
        if len(self._surged) < SURGES_MAX and surges(asked, mean, thresholds):
            self._surged[unit] = self.heat.windows + thresholds.down_windows
            self._surging.append(unit)

    async def run(self) -> None:
        """End windows and move, for good."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_windows)
            nursery.start_soon(self._keep_moving)

    async def end_window(self) -> None:
        """Rank what is counted and keep the scores on disk. Nothing is ranked before all was looked
        through.
        """
        now_s = self.clock.monotonic()
        if self.heat.units:
            rising = await trio.to_thread.run_sync(self._rank, now_s)
            self._rising.extend(rising)
        await self._save(await trio.to_thread.run_sync(self.heat.encode, now_s))
        self._surged = {unit: until for unit, until in self._surged.items() if until > self.heat.windows}
        self._full.clear()
        self._window_ended.set()
        self._window_ended = trio.Event()

    async def once(self) -> Plan:
        """One round: what rises, all in its order, the copies."""
        await self._rise(self._rising)
        plan = await self.look_through(Pace(self.clock, self.rules.share), act=not self.rules.dry_run)
        if not self.rules.dry_run:
            await self._sweep(plan.pages)
        return plan

    async def look_through(self, pace: Pace, *, act: bool) -> Plan:
        """Look at every row that may move, and (`act`) move those that belong elsewhere."""
        plan, calm = Plan(), Calm(self.shelves.hot, self.clock)
        for prefix in self.shelves.spaces.prefixes:
            start: bytes | None = prefix
            while start is not None:
                if act:
                    await calm.wait()
                tight = await self._disk_is_tight()
                with pace.working():
                    rows, start = await self.shelves.stored(start, prefix_end(prefix), PAGE_ROWS_MAX)
                    decided = self._decide(rows, plan, tight)
                    plan.pages += 1
                    if act:
                        await self._move(decided)
                await self._rest(pace)
        self.plan = plan
        self.heat.units = plan.units
        self._metrics.looked_through(plan, self.classes, len(self.heat))
        return plan

    # Deciding

    def _rank(self, now_s: float) -> list[bytes]:
        """In a thread: a window's ranks, and which units begin to rise."""
        thresholds = self.rules.thresholds
        self.heat.remember(rank(self.heat.scores(now_s), self.heat.units, thresholds), thresholds.windows)
        return [
            unit
            for unit, history in self.heat.histories.items()
            if history[-1] != Temperature.COLD and rises(history, self.classes, thresholds)
        ]

    def _decide(self, rows: list[Row], plan: Plan, tight: bool) -> dict[Reason, dict[bytes, int]]:
        """Which rows of a page belong elsewhere, with their sizes; all of them are put down in the plan."""
        decided: dict[Reason, dict[bytes, int]] = {}
        known: dict[tuple[bytes, Temperature], Decision | None] = {}
        for key, stored in rows:
            here, size_bytes = self.shelves.place(key, stored)
            unit = key[: self.rules.unit_bytes]
            plan.lies(unit, here, size_bytes)
            if here is HOT and size_bytes < self.rules.value_bytes_min:
                continue
            if (unit, here) not in known:
                known[unit, here] = self._decision(unit, here, tight)
            decision = known[unit, here]
            if decision is not None:
                reason = (here, decision.to, decision.trigger)
                plan.would_move(reason, size_bytes)
                decided.setdefault(reason, {})[key] = size_bytes
        return decided

    def _decision(self, unit: bytes, here: Temperature, tight: bool) -> Decision | None:
        heat, thresholds = self.heat, self.rules.thresholds
        if unit in self._surged and not tight:
            return Decision(HOT, Trigger.SURGE) if here > HOT else None
        history = heat.histories.get(unit, b"") if unit in heat else None
        ranks = history_of(history, heat.windows, thresholds)
        return decide(here, ranks, self.classes, thresholds, disk_tight=tight)

    async def _disk_is_tight(self) -> bool:
        """Whether the hot class's disk is used beyond the threshold; asked once a second at most."""
        asked_s, tight = self._tight
        now_s = self.clock.monotonic()
        if now_s - asked_s >= DISK_ASKED_S:
            tight = is_tight(await self.shelves.hot.stats(), self.rules.thresholds.disk_use_max)
            self._tight = (now_s, tight)
        return tight

    # Moving

    async def _rise(self, units: deque[bytes]) -> None:
        """Bring up what has just become hot, or surges, before all else is looked through."""
        if self.rules.dry_run:
            return
        pace = Pace(self.clock, self.rules.share)
        for _ in range(len(units)):
            unit = units.popleft()
            start: bytes | None = unit
            while start is not None:
                tight = await self._disk_is_tight()
                with pace.working():
                    rows, start = await self.shelves.stored(start, prefix_end(unit), PAGE_ROWS_MAX)
                    await self._move(
                        {
                            reason: keys
                            for reason, keys in self._decide(rows, Plan(), tight).items()
                            if reason[1] < reason[0]
                        }
                    )
                await self._rest(pace)

    async def _move(self, decided: dict[Reason, dict[bytes, int]]) -> None:
        for reason, keys in sorted(decided.items()):
            here, to, trigger = reason
            for piece in _pieces(keys):
                if to in self._full or not self._may_hold(here, piece):
                    continue
                try:
                    moved = await self.shelves.move(piece, to)
                except DiskFull as full:
                    self._full.add(to)
                    self._log.warning("tiered_class_full", to=to.word, cause=str(full))
                    continue
                except StoreCorrupt as damage:
                    self._metrics.damaged.inc(**{"class": max(here, to).word})
                    self._log.error("tiered_rows_not_moved", to=to.word, cause=str(damage))
                    continue
                self._tired_s += moved.size_bytes / self.rules.bytes_per_s_max
                self.moved = Moved(
                    self.moved.rows + moved.rows,
                    self.moved.size_bytes + moved.size_bytes,
                    self.moved.left + moved.left,
                )
                if not moved.rows:
                    continue
                self._metrics.moved(reason, moved)
                self._log.info(
                    "tiered_rows_moved",
                    source=here.word,
                    target=to.word,
                    trigger=trigger.word,
                    why=why(trigger, here, to, self.rules.thresholds),
                    rows=moved.rows,
                    bytes=moved.size_bytes,
                    left=moved.left,
                )

    def _may_hold(self, here: Temperature, keys: list[bytes]) -> bool:
        """Note that these units' copies are kept for a while; False while so many are that they must wait."""
        if here is HOT:
            return True
        now_s = self.clock.monotonic()
        units = {key[: self.rules.unit_bytes] for key in keys}
        if len(self._held) + len(units) > HELD_MAX:
            self._held = {unit: until_s for unit, until_s in self._held.items() if until_s > now_s}
            if len(self._held) + len(units) > HELD_MAX:
                return False
        self._held.update(dict.fromkeys(units, now_s + self.rules.keep_copies_s))
        return True

    async def _sweep(self, pages: int) -> None:
        """Go on through the copies of each class: as many pages as there were of rows, or a few."""
        pace = Pace(self.clock, self.rules.share)
        for temperature in self.classes:
            if temperature is HOT:
                continue
            for _ in range(max(pages, SWEPT_PAGES_MIN)):
                start = self._swept.get(temperature, b"")
                with pace.working():
                    swept = await self.shelves.sweep(temperature, start, PAGE_ROWS_MAX, self._is_held)
                self._swept[temperature] = swept.next or b""
                if swept.gone:
                    self._metrics.removed.inc(swept.gone, **{"class": temperature.word})
                if swept.damaged:
                    self._metrics.damaged.inc(swept.damaged, **{"class": temperature.word})
                    self._log.error("tiered_copies_damaged", place=temperature.word, rows=swept.damaged)
                await self._rest(pace)
                if swept.next is None:
                    break

    def _is_held(self, key: bytes) -> bool:
        now_s = self.clock.monotonic()
        return now_s < self._kept_until_s or self._held.get(key[: self.rules.unit_bytes], now_s) > now_s

    async def _rest(self, pace: Pace) -> None:
        """Keep to the share of the time, and to the bytes a second."""
        tired_s, self._tired_s = self._tired_s, 0.0
        await self.clock.sleep(tired_s)
        await pace.rest()

    # The two tasks

    async def _keep_windows(self) -> None:
        while True:
            await self.clock.sleep(self.rules.window_s)
            with self._tolerant("window"):
                await self.end_window()

    async def _keep_moving(self) -> None:
        while True:
            ended = self._window_ended
            with self._tolerant("round"):
                await self.once()
            while not ended.is_set() and not await self._has_to_hurry():
                await self.clock.sleep(min(LOOK_S, self.rules.window_s))
                with self._tolerant("surge"):
                    await self._rise(self._surging)

    async def _has_to_hurry(self) -> bool:
        """Whether the disk asks for a round before the window ends, and there is something it would move."""
        if self.plan is None or self.rules.dry_run or not await self._disk_is_tight():
            return False
        return any(reason[2] is Trigger.DISK for reason in self.plan.moves)

    def _tolerant(self, part: str) -> "_Tolerant":
        return _Tolerant(self._log, part)


@attrs.frozen
class _Tolerant:
    """What may be right by itself the next time costs a round and no more."""

    _log: Any
    _part: str

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> bool:
        if isinstance(error, (StoreCorrupt, DiskFull, *PASSING)):
            self._log.warning(f"tiered_{self._part}_missed", cause=str(error))
            return True
        return False


def is_tight(stats: StoreStats, use_max: float) -> bool:
    """Whether more of the disk is used than that; False where the store does not tell."""
    if not stats.disk_bytes or stats.disk_free_bytes is None:
        return False
    return 1 - stats.disk_free_bytes / stats.disk_bytes > use_max


def _pieces(keys: dict[bytes, int]) -> Iterable[list[bytes]]:
    """Rows in lots of about 1 MiB; one that is larger alone."""
    piece: list[bytes] = []
    size_bytes = 0
    for key, size in keys.items():
        if piece and (size_bytes + size > PAGE_BYTES_MAX or len(piece) >= PAGE_ROWS_MAX):
            yield piece
            piece, size_bytes = [], 0
        piece.append(key)
        size_bytes += size
    if piece:
        yield piece


class _Metrics:
    """`tiered_*`: what lies where, and what was moved."""

    def __init__(self, ctx: Context) -> None:
        gauge, counter = ctx.metrics.gauge, ctx.metrics.counter
        self._rows = gauge("tiered_rows", "Rows that may move, by the class that they lie in", ("class",))
        self._bytes = gauge("tiered_bytes", "Bytes of their values", ("class",))
        self._units = gauge("tiered_units", "Units that they make, when last looked through")
        self._counted = gauge("tiered_counted_units", "Units whose accesses are counted")
        self._moved_rows = counter("tiered_moved_rows_total", "Rows moved", ("source", "target", "trigger"))
        self._moved_bytes = counter(
            "tiered_moved_bytes_total", "Bytes of values moved", ("source", "target", "trigger")
        )
        self.removed = counter("tiered_copies_removed_total", "Copies removed that led nowhere", ("class",))
        self.damaged = counter(
            "tiered_damaged_rows_total", "Rows met that are not what was moved there", ("class",)
        )

    def looked_through(self, plan: Plan, classes: Iterable[Temperature], counted: int) -> None:
        for temperature in classes:
            amount = plan.places.get(temperature, Amount())
            self._rows.set(amount.rows, **{"class": temperature.word})
            self._bytes.set(amount.bytes, **{"class": temperature.word})
        self._units.set(plan.units)
        self._counted.set(counted)

    def moved(self, reason: Reason, moved: Moved) -> None:
        here, to, trigger = reason
        labels = {"source": here.word, "target": to.word, "trigger": trigger.word}
        self._moved_rows.inc(moved.rows, **labels)
        self._moved_bytes.inc(moved.size_bytes, **labels)
