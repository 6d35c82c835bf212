"""Storage in up to three classes on disks of their own: hot, warm and cold, by how the rows are asked for.

The hot class is a whole store that every batch goes to; rows of the spaces that may move are brought to the
others and back in the background (`supervm.plugins.storage.shelves` says how none is lost on the way).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
)
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.api import Component, Context, Health, HealthState, Role
from supervm.contracts.storage import (
    ClassFacts,
    Durability,
    KeyValueStore,
    Reader,
    StorageError,
    StoreCorrupt,
    StoreStats,
    TemperatureReport,
    Unsupported,
    WriteBatch,
)
from supervm.plugins.storage.below import backend_below
from supervm.plugins.storage.class_folders import (
    StoreFacts,
    claim,
    read_store,
    write_class,
    write_store,
    write_whole,
)
from supervm.plugins.storage.folder import check_marker, locked_folder, open_folder, published, write_marker
from supervm.plugins.storage.pointers import MARK_BYTES
from supervm.plugins.storage.reads import Reads
from supervm.plugins.storage.redistribution import Plan, Redistribution, Rules
from supervm.plugins.storage.scan import Row
from supervm.plugins.storage.shelves import HOT, Shelves, Spaces
from supervm.storage.heat import HALF_LIFE_S, UNIT_BYTES_MAX, UNITS_MAX, Damaged, HeatTable
from supervm.storage.pace import Pace
from supervm.storage.temperature import Temperature, Thresholds
from supervm.telemetry.metrics import Registry

OVER = ("sqlite", "rocksdb", "lmdb")
FEATURES = frozenset({"persistent", "checkpoint", "delete_range_native", "online_prune"})
HEAT_FILE = "heat"
REPORT_S = 5.0
# History, bodies, receipts and the namespaces of foreign chains (STO-30, STO-90).
MOVABLE = ("02", "06", "07", "10", "11", "12", "13")

_positive: Any = attrs.validators.gt(0)


def _prefixes(instance: object, attribute: "attrs.Attribute[list[str]]", value: list[str]) -> None:
    for one in value:
        try:
            bytes.fromhex(one)
        except (ValueError, TypeError):
            raise ValueError(f"{attribute.name} {one!r}: give each prefix of keys as hex") from None


@attrs.frozen(kw_only=True)
class TieredConfig:
    """Each class: the backend it is `over` ("": there is no such class), its folder, options of the
    backend.

    `path`: the store's own folder ("": the component's), which holds the classes that have no path. The hot
    class may be `cached`. `movable`: prefixes of the keys that may move, as hex. `unit_bytes`: so much of a
    key names the unit that is hot or cold as one. `value_bytes_min`: smaller values stay. `hot_share`,
    `warm_share`: of the units. A unit moves up after `up_windows` windows of `window_s` above its class,
    down after `down_windows` below. `disk_use_max`: of the hot disk; beyond it what is cold goes at once.
    `surge_times`: a unit asked for so many times its mean in a window, and `surge_accesses_min` times, goes
    to the hot class at once.
    `share`: of the time that moving may take. `keep_copies_s`: how long an old copy stays. `dry_run`: move
    nothing, only tell.
    """

    path: str = ""
    hot_over: str = attrs.field(default="sqlite", validator=attrs.validators.in_((*OVER, "cached")))
    hot_path: str = ""
    hot_options: dict[str, Any] = attrs.field(factory=dict)
    warm_over: str = attrs.field(default="", validator=attrs.validators.in_(("", *OVER)))
    warm_path: str = ""
    warm_options: dict[str, Any] = attrs.field(factory=dict)
    cold_over: str = attrs.field(default="sqlite", validator=attrs.validators.in_(("", *OVER)))
    cold_path: str = ""
    cold_options: dict[str, Any] = attrs.field(factory=dict)
    movable: list[str] = attrs.field(factory=lambda: list(MOVABLE), validator=_prefixes)
    unit_bytes: int = attrs.field(default=9, validator=attrs.validators.in_(range(1, UNIT_BYTES_MAX + 1)))
    value_bytes_min: int = attrs.field(default=256, validator=attrs.validators.ge(0))
    units_max: int = attrs.field(default=UNITS_MAX, validator=attrs.validators.ge(1))
    half_life_s: float = attrs.field(default=HALF_LIFE_S, validator=_positive)
    window_s: float = attrs.field(default=600.0, validator=_positive)
    hot_share: float = 0.01
    warm_share: float = 0.19
    up_windows: int = 2
    down_windows: int = 6
    disk_use_max: float = 0.85
    surge_times: float = 10.0
    surge_accesses_min: int = 1_000
    share: float = attrs.field(default=0.1, validator=[_positive, attrs.validators.le(1)])
    bytes_per_s_max: int = attrs.field(default=16 * 2**20, validator=attrs.validators.ge(1))
    keep_copies_s: float = attrs.field(default=3600.0, validator=attrs.validators.ge(0))
    dry_run: bool = False

    def __attrs_post_init__(self) -> None:
        self.rules()

    def rules(self) -> Rules:
        """How rows move. Raises `ValueError` for a threshold that is none."""
        return Rules(
            thresholds=Thresholds(
                hot_share=self.hot_share,
                warm_share=self.warm_share,
                up_windows=self.up_windows,
                down_windows=self.down_windows,
                disk_use_max=self.disk_use_max,
                surge_times=self.surge_times,
                surge_accesses_min=self.surge_accesses_min,
            ),
            unit_bytes=self.unit_bytes,
            value_bytes_min=self.value_bytes_min,
            window_s=self.window_s,
            share=self.share,
            bytes_per_s_max=self.bytes_per_s_max,
            keep_copies_s=self.keep_copies_s,
            dry_run=self.dry_run,
        )

    def places(self, folder: Path) -> dict[Temperature, "ClassPlace"]:
        """The classes that there are to be, the hottest first."""
        made = {}
        for temperature in Temperature:
            over, path = getattr(self, f"{temperature.word}_over"), getattr(self, f"{temperature.word}_path")
            if over:
                place = Path(path) if path else folder / temperature.word
                made[temperature] = ClassPlace(over, place, getattr(self, f"{temperature.word}_options"))
        return made


@attrs.frozen
class ClassPlace:
    """A class's backend, folder, and the options of the backend."""

    over: str
    folder: Path
    options: Mapping[str, Any]


class TieredStore(Reads):
    """A `KeyValueStore` of several classes; also `Tempered`."""

    def __init__(
        self,
        shelves: Shelves,
        moving: Redistribution,
        places: Mapping[Temperature, ClassPlace],
        facts: StoreFacts,
    ) -> None:
        self._shelves = shelves
        self._hot = shelves.hot
        self.moving = moving
        self._places = places
        self._facts = facts

    @property
    def capabilities(self) -> frozenset[str]:
        return FEATURES

    @property
    def gives(self) -> Mapping[Durability, Durability]:
        return self._hot.gives

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._shelves.get_many(keys)

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self._shelves.scan(start, end, reverse=reverse, limit=limit)

    def snapshot(self) -> AbstractAsyncContextManager[Reader]:
        return self._shelves.snapshot()

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        await self._shelves.write(batch, durability)

    async def checkpoint(self, path: Path) -> None:
        """A copy of all classes, in one folder: the hot one first, so that the others have what it points
        to.
        """
        await self._hot.get(b"\x00")
        scope = published(path)
        temporary = await trio.to_thread.run_sync(scope.__enter__)
        try:
            await trio.to_thread.run_sync(partial(temporary.mkdir, mode=0o700))
            # Whoever reads keeps the copies that may be pointed to.
            with self._shelves.readers.reading():
                for temperature in sorted(self._shelves.classes):
                    copy = temporary / temperature.word
                    await self._shelves.classes[temperature].checkpoint(copy)
                    await trio.to_thread.run_sync(write_class, copy, self._facts, temperature)
            await trio.to_thread.run_sync(write_store, temporary, self._facts)
            await trio.to_thread.run_sync(write_marker, temporary, "tiered")
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(_leave, scope, error))
            raise
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(scope.__exit__, None, None, None)

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        await trio.lowlevel.checkpoint()
        raise Unsupported("this backend can't", "compaction", "Ask `capabilities` first.")

    async def get_property(self, name: str) -> str | None:
        await trio.lowlevel.checkpoint()
        raise Unsupported("this backend can't", "properties", "Ask `capabilities` first.")

    async def stats(self) -> StoreStats:
        """Those of the hot class, which has every key; the bytes of all."""
        by_class = {one: await store.stats() for one, store in sorted(self._shelves.classes.items())}
        extras = {**by_class[HOT].extras, "tiered_readers": float(len(self._shelves.readers))}
        for temperature, stats in by_class.items():
            extras[f"tiered_{temperature.word}_bytes"] = float(stats.bytes)
            if stats.disk_free_bytes is not None:
                extras[f"tiered_{temperature.word}_free_bytes"] = float(stats.disk_free_bytes)
        size_bytes = sum(stats.bytes for stats in by_class.values())
        return attrs.evolve(
            by_class[HOT], bytes=size_bytes, snapshots_open=self._shelves.views_open, extras=extras
        )

    async def health(self) -> Health:
        """The worst of the classes."""
        worst = Health()
        for temperature, store in sorted(self._shelves.classes.items()):
            found = await store.health()
            if found.state is HealthState.FAILING:
                return found
            if found.state is not HealthState.OK and worst.state is HealthState.OK:
                worst = attrs.evolve(found, detail=f"class {temperature.word}: {found.detail}")
        return worst

    async def temperature(self, *, look: bool = False) -> TemperatureReport:
        moving = self.moving
        if look:
            await moving.look_through(Pace(moving.clock), act=False)
        plan = moving.plan or Plan()
        thresholds = moving.rules.thresholds
        return TemperatureReport(
            classes=tuple(
                ClassFacts(
                    name=one.word,
                    over=place.over,
                    path=str(place.folder),
                    rows=plan.places[one].rows if one in plan.places else 0,
                    bytes=plan.places[one].bytes if one in plan.places else 0,
                )
                for one, place in self._places.items()
            ),
            moves=plan.explained(thresholds),
            thresholds=attrs.asdict(thresholds),
            units=plan.units,
            counted=len(moving.heat),
            windows=moving.heat.windows,
            moved_rows=moving.moved.rows,
            moved_bytes=moving.moved.size_bytes,
            dry_run=moving.rules.dry_run,
            complete=moving.plan is not None,
        )


def _leave(scope: AbstractContextManager[Path], error: BaseException) -> None:
    """Undo what was begun; whoever called raises the error."""
    try:
        scope.__exit__(type(error), error, error.__traceback__)
    except BaseException as raised:
        if raised is not error:
            raise


def claimed(folder: Path, places: Mapping[Temperature, ClassPlace], chance: Any) -> StoreFacts:
    """The store's facts, with every class claimed. Raises what `claim` and the folder's marker do."""
    made = check_marker(folder, "tiered")
    facts = read_store(folder)
    if facts is None:
        if made:
            raise StoreCorrupt("tiered.json is gone", folder, "Restore the folder from a checkpoint.")
        facts = StoreFacts(chance.randbytes(MARK_BYTES))
        write_store(folder, facts)
    for temperature, over in facts.classes.items():
        if temperature not in places:
            raise StorageError(
                f"this store has a class {temperature.word}, and none is configured",
                folder,
                f"Set storage.tiered.{temperature.word}_over = {over}.",
            )
    for temperature, place in places.items():
        facts = claim(place.folder, facts, temperature, place.over)
        write_store(folder, facts)
    if not made:
        write_marker(folder, "tiered")
    return facts


def _backend(place: ClassPlace, temperature: Temperature) -> tuple[Component, Any]:
    """The component of a class and its configuration."""
    word, options = temperature.word, {**place.options, "path": str(place.folder)}
    return backend_below(place.over, options, f"class {word}", f"storage.tiered.{word}_")


def _read_heat(folder: Path, ctx: Context, config: TieredConfig, now_s: float) -> HeatTable:
    """The scores of before; none where there is no file, or a damaged one."""
    path = folder / HEAT_FILE
    units_max, half_life_s = config.units_max, config.half_life_s
    try:
        data = path.read_bytes()
        return HeatTable.decode(data, now_s, ctx.random, units_max=units_max, half_life_s=half_life_s)
    except FileNotFoundError:
        pass
    except (OSError, Damaged) as error:
        ctx.log.warning("tiered_scores_forgotten", path=str(path), cause=str(error))
    return HeatTable.empty(now_s, ctx.random, units_max=units_max, half_life_s=half_life_s)


@asynccontextmanager
async def open_tiered(ctx: Context, config: TieredConfig) -> AsyncIterator[TieredStore]:
    """Open every class, making them on first use, and move between them until the block ends.

    Raises any `StorageError`: also where a class's disk is not there, or options don't fit its backend.
    """
    folder = Path(config.path) if config.path else ctx.data_dir
    places = config.places(folder)
    async with AsyncExitStack() as stack:
        locks = stack.enter_context(ExitStack())
        await trio.to_thread.run_sync(open_folder, folder)
        locks.enter_context(locked_folder(folder))
        components = await trio.to_thread.run_sync(
            lambda: {one: _backend(place, one) for one, place in places.items()}
        )
        facts = await trio.to_thread.run_sync(claimed, folder, places, ctx.random)
        classes: dict[Temperature, KeyValueStore] = {}
        for temperature, (component, given) in components.items():
            # The families of a backend's metrics are the hot one's: of the others `tiered_*` tells.
            inside = ctx if temperature is HOT else attrs.evolve(ctx, metrics=Registry())
            classes[temperature] = await stack.enter_async_context(component.open(inside, given))
        heat = await trio.to_thread.run_sync(_read_heat, folder, ctx, config, ctx.clock.monotonic())

        async def save(data: bytes) -> None:
            await trio.to_thread.run_sync(write_whole, folder / HEAT_FILE, data)

        moving = Redistribution(ctx, heat, config.rules(), save)
        shelves = Shelves(classes, facts.mark, Spaces(map(bytes.fromhex, config.movable)), moving.accessed)
        moving.serve(shelves)
        store = TieredStore(shelves, moving, places, facts)
        scope, ended = trio.CancelScope(), trio.Event()

        async def move() -> None:
            try:
                with scope:
                    await moving.run()
            finally:
                ended.set()

        ctx.nursery.start_soon(move)
        try:
            yield store
        finally:
            scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()


tiered = Component(
    role=Role.STORAGE,
    name="tiered",
    open=open_tiered,
    config=TieredConfig,
    features=FEATURES,
    description="Up to three classes on disks of their own, hot to cold, by how the rows are asked for.",
)
