"""Rows on several stores as one store: the hot one has every key, the others some of the values.

Every write of a user goes to the hot class alone, so that a batch is as atomic and as durable there as in
any store, and its views are views of all. A row that lies elsewhere leaves a pointer in the hot class. To
move a row: copy it, durably, and read the copy back; then write the pointer, durably, in one batch of the
hot class, for the rows that nobody wrote meanwhile. A crash in between leaves a copy that nothing points
to.

A copy that nothing points to is removed once whoever may have seen a pointer to it is done, and not before
the hot class has made durable what it says now. So a reader never misses a row, and no crash brings a
pointer back to a copy that is gone.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import cast

import attrs
import trio

from supervm.contracts.storage import (
    PAGE_BYTES_MAX,
    PAGE_ROWS_MAX,
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Put,
    Reader,
    StorageError,
    StoreCorrupt,
    WriteBatch,
    check_batch,
)
from supervm.plugins.storage.lru import covering, within
from supervm.plugins.storage.pointers import Pointer, is_pointer, read_pointer
from supervm.plugins.storage.reads import Reads
from supervm.plugins.storage.scan import Row
from supervm.storage.temperature import Temperature

SLICE = 1_000
HOT = Temperature.HOT


class Spaces:
    """The prefixes whose rows may move."""

    def __init__(self, prefixes: Iterable[bytes]) -> None:
        ordered = sorted(set(prefixes))
        # One within another adds nothing.
        self.prefixes = tuple(
            one for one in ordered if not any(one != other and one.startswith(other) for other in ordered)
        )

    def __contains__(self, key: bytes) -> bool:
        return key.startswith(self.prefixes)

    def meets(self, span: DeleteRange) -> bool:
        """Whether a range may hold a key of these; it may say yes for one that holds none."""
        return any(
            (span.end is None or prefix < span.end)
            and (span.start <= prefix or span.start.startswith(prefix))
            for prefix in self.prefixes
        )


@attrs.frozen(eq=False)
class Footprint:
    """What a batch touches of what may move: keys, and one range that covers its ranges."""

    keys: frozenset[bytes] = frozenset()
    span: DeleteRange | None = None

    def __bool__(self) -> bool:
        return bool(self.keys) or self.span is not None

    def touched(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of `keys` that it touches."""
        span = self.span
        return {key for key in keys if key in self.keys or (span is not None and within(key, span))}


def footprint(batch: WriteBatch, spaces: Spaces, mark: bytes) -> Footprint:
    """Check a batch as any store does, and tell what it touches.

    Raises `BadKey`, `TooLarge`; `StorageError` for a value that begins with the store's own mark, or would be
    taken for a damaged pointer.
    """
    check_batch(batch)
    keys, spans = [], []
    for each in batch:
        if isinstance(each, DeleteRange):
            if spaces.meets(each):
                spans.append(each)
        elif each.key in spaces:
            keys.append(each.key)
        if isinstance(each, Put) and is_pointer(mark, each.value):
            raise StorageError("a value begins with this store's mark", each.key[:32].hex(), "Encode it.")
    return Footprint(frozenset(keys), covering(spans))


class Reading:
    """Who reads now: so that a copy goes only when nobody can come for it."""

    def __init__(self) -> None:
        self._open: dict[int, None] = {}
        self._next = 0
        self._one_left = trio.Event()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """From before a pointer may be seen until its row was read."""
        number = self._next
        self._next += 1
        self._open[number] = None
        try:
            yield
        finally:
            del self._open[number]
            self._one_left.set()

    async def present_are_done(self) -> None:
        """Wait until all who read now have finished; not for those who come later."""
        before = self._next
        while self._open and next(iter(self._open)) < before:
            self._one_left = trio.Event()
            await self._one_left.wait()


@attrs.define(eq=False)
class _Switch:
    """Rows that are given a pointer, or their value back, at this moment."""

    keys: frozenset[bytes]
    done: trio.Event = attrs.Factory(trio.Event)


@attrs.frozen
class Moved:
    """Rows and the bytes of their values that were moved; `left` were not, since somebody wrote them."""

    rows: int = 0
    size_bytes: int = 0
    left: int = 0


@attrs.frozen
class Swept:
    """Copies looked at: `gone` led nowhere and were removed, `damaged` are not what was moved there."""

    rows: int = 0
    gone: int = 0
    damaged: int = 0
    next: bytes | None = None


class Shelves(Reads):
    """The reads and writes of several classes, and the moves between them."""

    def __init__(
        self,
        classes: Mapping[Temperature, KeyValueStore],
        mark: bytes,
        spaces: Spaces,
        accessed: Callable[[Iterable[bytes]], None],
    ) -> None:
        self.classes = classes
        self.hot = classes[HOT]
        self.spaces = spaces
        self.readers = Reading()
        self.views_open = 0
        self._mark = mark
        self._accessed = accessed
        # One move or sweep at a time: only they make pointers and remove copies.
        self._moving = trio.Lock()
        self._writing: list[Footprint] = []
        self._staged: set[bytes] = set()
        self._switch: _Switch | None = None

    # Reading

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self.read(self.hot, keys)

    async def read(self, source: Reader, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, by what the hot class or a view of it says."""
        wanted = list(keys)
        with self.readers.reading():
            values = await self._resolved(wanted, await source.get_many(wanted))
        self._accessed(wanted)
        return values

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self.rows(self.hot, start, end, reverse, limit)

    async def rows(
        self, source: Reader, start: bytes, end: bytes | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[Row]:
        """The rows of a range, by what the hot class or a view of it says; moved ones fetched by the page."""
        with self._viewing() if source is self.hot else self.readers.reading():
            found = source.scan(start, end, reverse=reverse, limit=limit)
            page: list[Row] = []
            size_bytes = 0
            async with aclosing(cast("AsyncGenerator[Row, None]", found)) as stored:
                async for row in stored:
                    moved = is_pointer(self._mark, row[1])
                    if not moved and not page:
                        yield row
                        continue
                    page.append(row)
                    size_bytes += read_pointer(self._mark, *row).size_bytes if moved else len(row[1])
                    if len(page) >= PAGE_ROWS_MAX or size_bytes >= PAGE_BYTES_MAX:
                        for ready in await self._fetched(page):
                            yield ready
                        page, size_bytes = [], 0
            for ready in await self._fetched(page) if page else ():
                yield ready

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        with self._viewing():
            async with self.hot.snapshot() as view:
                yield _Snapshot(self, view)

    @contextmanager
    def _viewing(self) -> Iterator[None]:
        with self.readers.reading():
            self.views_open += 1
            try:
                yield
            finally:
                self.views_open -= 1

    async def _fetched(self, page: list[Row]) -> list[Row]:
        keys = [key for key, _ in page]
        values = await self._resolved(keys, [value for _, value in page])
        return [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]

    async def _resolved(self, keys: list[bytes], stored: list[bytes | None]) -> list[bytes | None]:
        """The values, those that were moved from where they are. Raises `StoreCorrupt` for one that isn't."""
        if len(stored) > SLICE:
            moved = await trio.to_thread.run_sync(self._pointers, keys, stored)
        else:
            moved = self._pointers(keys, stored)
        for temperature, places in moved.items():
            found = await self._of(temperature).get_many([keys[place] for place in places])
            sizes = sum(pointer.size_bytes for pointer in places.values())
            if sizes > PAGE_BYTES_MAX or len(places) > SLICE:
                bad = await trio.to_thread.run_sync(_unfit, keys, places, found)
            else:
                bad = _unfit(keys, places, found)
            if bad is not None:
                raise StoreCorrupt(
                    f"a row in class {temperature.word} is gone or not what was moved there",
                    bad[:32].hex(),
                    "Check that disk. Restore from a checkpoint; nothing is repaired by guessing.",
                )
            for place, value in zip(places, found, strict=True):
                stored[place] = value
        return stored

    def _pointers(
        self, keys: list[bytes], stored: list[bytes | None]
    ) -> dict[Temperature, dict[int, Pointer]]:
        """By class, and by place in the list, the pointers among rows."""
        moved: dict[Temperature, dict[int, Pointer]] = {}
        mark = self._mark
        for place, value in enumerate(stored):
            if value is not None and is_pointer(mark, value):
                pointer = read_pointer(mark, keys[place], value)
                moved.setdefault(pointer.temperature, {})[place] = pointer
        return moved

    def _of(self, temperature: Temperature) -> KeyValueStore:
        found = self.classes.get(temperature)
        if found is None:
            raise StoreCorrupt(
                f"a row is in class {temperature.word}, which this store never had", "", "Report it."
            )
        return found

    # Writing

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        operations = tuple(batch)
        if len(operations) <= SLICE:
            touches = footprint(operations, self.spaces, self._mark)
        else:
            touches = await trio.to_thread.run_sync(footprint, operations, self.spaces, self._mark)
        if not touches:
            await self.hot.write(operations, durability)
            return
        while (switch := self._switch) is not None and touches.touched(switch.keys):
            await switch.done.wait()
        # From here to the write there is no checkpoint: a switch that begins now knows of it.
        self._staged -= touches.touched(self._staged)
        self._writing.append(touches)
        try:
            await self.hot.write(operations, durability)
        finally:
            self._writing.remove(touches)
        self._accessed(touches.keys)

    # Moving

    async def stored(self, start: bytes, end: bytes | None, rows_max: int) -> tuple[list[Row], bytes | None]:
        """Rows of the hot class as they are stored, values or pointers; and where the next ones begin.

        At most `rows_max`, and about 1 MiB. None after the last.
        """
        return await _page(self.hot, start, end, rows_max)

    def place(self, key: bytes, stored: bytes) -> tuple[Temperature, int]:
        """Where a stored row lies, and how many bytes its value has."""
        if not is_pointer(self._mark, stored):
            return HOT, len(stored)
        pointer = read_pointer(self._mark, key, stored)
        return pointer.temperature, pointer.size_bytes

    async def move(self, keys: Sequence[bytes], to: Temperature) -> Moved:
        """Move rows to a class, at most a page of them; cancelled, some were and the others weren't.

        One that is gone, is there already, or is being written is left. Raises `DiskFull` of the class that
        they go to, with nothing moved, and `StoreCorrupt` where it gives back something else, or the hot
        class does when it is read a second time.
        """
        assert len(keys) <= PAGE_ROWS_MAX
        async with self._moving:
            self._staged = set(keys)
            for touches in self._writing:
                self._staged -= touches.touched(self._staged)
            try:
                stored = await self._elsewhere([key for key in keys if key in self._staged], to)
                resolved = await self._resolved(list(stored), list(stored.values()))
                values = {
                    key: value for key, value in zip(stored, resolved, strict=True) if value is not None
                }
                if to is not HOT:
                    values = await self._copied(values, to)
                await self._check_again({key: stored[key] for key in values})
                return await self._switched(values, to, len(keys))
            finally:
                self._staged = set()

    async def _elsewhere(self, keys: list[bytes], to: Temperature) -> dict[bytes, bytes]:
        """Rows that are elsewhere, as the hot class has them."""
        stored = await self.hot.get_many(keys)
        return {
            key: value
            for key, value in zip(keys, stored, strict=True)
            if value is not None and self.place(key, value)[0] is not to
        }

    async def _check_again(self, stored: dict[bytes, bytes]) -> None:
        """Read once more what the switch gives up: one bad reading must not become what is there."""
        again = await self.hot.get_many(list(stored))
        for (key, before), now in zip(stored.items(), again, strict=True):
            # Whoever wrote it meanwhile took it from those that are staged.
            if now != before and key in self._staged:
                raise StoreCorrupt("two readings of a row differ", key[:32].hex(), "Check the hot disk.")

    async def _copied(self, values: dict[bytes, bytes], to: Temperature) -> dict[bytes, bytes]:
        """Copy rows, durably, and read them back. One with an older copy there waits until that has gone."""
        target, keys = self._of(to), list(values)
        there = dict(zip(keys, await target.get_many(keys), strict=True))
        copies = [Put(key, values[key]) for key in keys if there[key] is None]
        # One that is there already came before a crash, or was brought up not long ago. It may not be
        # durable yet: an empty batch is no less.
        await target.write(copies, Durability.DURABLE)
        back = await target.get_many([put.key for put in copies])
        for put, value in zip(copies, back, strict=True):
            if value != put.value:
                raise StoreCorrupt(
                    f"class {to.word} gives back another row than it was given",
                    put.key[:32].hex(),
                    "Check it.",
                )
        return {key: values[key] for key in keys if there[key] in (None, values[key])}

    async def _switched(self, values: dict[bytes, bytes], to: Temperature, asked: int) -> Moved:
        """Point to the new place of those rows that nobody wrote meanwhile, in one batch."""
        keys = self._staged & values.keys()
        if not keys:
            return Moved(left=asked)
        batch = [
            Put(key, values[key] if to is HOT else Pointer.of(to, key, values[key]).encode(self._mark))
            for key in sorted(keys)
        ]
        switch = self._switch = _Switch(frozenset(keys))
        try:
            with trio.CancelScope(shield=True):
                await self.hot.write(batch, Durability.DURABLE)
        finally:
            self._switch = None
            switch.done.set()
        return Moved(len(keys), sum(len(values[key]) for key in keys), asked - len(keys))

    async def sweep(
        self, temperature: Temperature, start: bytes, rows_max: int, held: Callable[[bytes], bool]
    ) -> Swept:
        """Look at the copies of a class from a key on: check those that are pointed to, remove the others.

        Those that are `held` stay. Waits until who reads now is done, if there are any to remove.
        """
        assert temperature is not HOT
        async with self._moving:
            target = self._of(temperature)
            rows, rest = await _page(target, start, None, rows_max)
            stored = await self.hot.get_many([key for key, _ in rows])
            gone, damaged = [], 0
            for (key, copy), value in zip(rows, stored, strict=True):
                if value is None or not is_pointer(self._mark, value):
                    gone.append(key)
                    continue
                pointer = read_pointer(self._mark, key, value)
                if pointer.temperature is not temperature:
                    gone.append(key)
                elif not pointer.fits(key, copy):
                    # Older than what is pointed to can't be: a move waits until such a copy has gone.
                    damaged += 1
            gone = [key for key in gone if not held(key)]
            if gone:
                await self.hot.write([], Durability.DURABLE)
                await self.readers.present_are_done()
                await target.write([Delete(key) for key in gone], Durability.BUFFERED)
            return Swept(len(rows), len(gone), damaged, rest)


@attrs.frozen(eq=False)
class _Snapshot(Reads):
    """A view of the hot class, with the values that it points to."""

    _shelves: Shelves
    _view: Reader

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._shelves.read(self._view, keys)

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self._shelves.rows(self._view, start, end, reverse, limit)


def _unfit(keys: list[bytes], places: dict[int, Pointer], found: list[bytes | None]) -> bytes | None:
    """The key of the first value that is not what its pointer says."""
    for (place, pointer), value in zip(places.items(), found, strict=True):
        if not pointer.fits(keys[place], value):
            return keys[place]
    return None


async def _page(
    store: Reader, start: bytes, end: bytes | None, rows_max: int
) -> tuple[list[Row], bytes | None]:
    rows: list[Row] = []
    size_bytes = 0
    scan = cast("AsyncGenerator[Row, None]", store.scan(start, end, limit=rows_max))
    async with aclosing(scan) as found:
        async for row in found:
            rows.append(row)
            size_bytes += len(row[0]) + len(row[1])
            if size_bytes >= PAGE_BYTES_MAX:
                break
        else:
            if len(rows) < rows_max:
                return rows, None
    return rows, rows[-1][0] + b"\x00"
