"""The state tree of the tip, in Python or in C: the same roots, pages and stale keys (STO-34, EXEC-34).

A tree is named by its root and height: what the block after it makes of it follows from the changes alone.
So an update needs no name. Whoever settles on a tree, or grows another from it, takes the last update's if
it made that one, and gives it up if not. Calls block, and come one at a time; `read` answers storage keys of
pages.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from supervm.hardware import fastpath
from supervm.storage.cache import MISSING, ByteCache, CacheStats
from supervm.storage.pages import PageInvalid, Slots, decode_page
from supervm.storage.tree import Change, Path, Read, find, load, update
from supervm.types import smt
from supervm.types.changes import PackedChanges

if TYPE_CHECKING:
    from supervm.hardware.fastpath import tree as native

TREES = ("auto", "python")


@attrs.frozen
class At:
    """A tree: the state root after a height."""

    root: bytes
    height: int


@attrs.frozen
class Grown:
    """What changes make of a tree: its root, the pages to write, the keys of those that they replace."""

    root: bytes
    written: Sequence[tuple[bytes, bytes]]
    stale: Sequence[bytes]


class StateTree(Protocol):
    """See the module."""

    @property
    def name(self) -> str:
        """`python` or `native`."""

    def grow(self, parent: At, changes: PackedChanges, height: int, read: Read) -> Grown:
        """The tree of `height` that follows `parent`. Raises `PageInvalid`, with nothing done."""

    def settle(self, at: At) -> None:
        """The newest tree is this: keep of its pages what the bound allows, and nothing else of an update."""

    def lacks(self, at: At, keys: Sequence[bytes], read: Read) -> bool:
        """Whether this tree has none of these state keys, where that is quickly told; False tells nothing.

        Raises `PageInvalid`.
        """

    def stats(self) -> CacheStats:
        """What it has in memory of its own."""


class CachedPages:
    """Pages of any height as they are stored, as many as the cache holds."""

    def __init__(self, cache: ByteCache) -> None:
        self.cache = cache

    def load(self, at: At, paths: Sequence[bytes], read: Read) -> dict[bytes, Slots]:
        """The pages on the way to sorted kh, checked up to the root. Raises `PageInvalid`."""
        fetched: dict[bytes, bytes] = {}

        def noting(keys: Sequence[bytes]) -> Sequence[bytes | None]:
            found = read(keys)
            fetched.update((key, data) for key, data in zip(keys, found, strict=True) if data is not None)
            return found

        pages = load(at.root, at.height, paths, noting, self._known)
        # Only now are they known to be what their parents name.
        for key, data in fetched.items():
            self.cache.put(key, data)
        return pages

    def ways(self, at: At, paths: Sequence[bytes], read: Read) -> dict[bytes, Path]:
        """The way to each of sorted kh. Raises `PageInvalid`."""
        pages = self.load(at, paths, read)
        return {path: find(pages, at.height, path) for path in paths}

    def _known(self, key: bytes) -> Slots | None:
        data = self.cache.get(key)
        return None if data is MISSING or data is None else decode_page(key, data)


class PythonTree:
    """The specification, its pages in the cache."""

    name = "python"

    def __init__(self, pages: CachedPages) -> None:
        self._pages = pages
        self._last: tuple[At, Grown] | None = None

    def grow(self, parent: At, changes: PackedChanges, height: int, read: Read) -> Grown:
        self.settle(parent)
        leaves = sorted(_leaves(changes))
        loaded = self._pages.load(parent, [path for path, _ in leaves], read)
        made = update(loaded, parent.height, leaves, height)
        grown = Grown(made.root, tuple(made.written.items()), made.stale)
        self._last = At(made.root, height), grown
        return grown

    def settle(self, at: At) -> None:
        if self._last is not None and self._last[0] == at:
            for key in self._last[1].stale:
                self._pages.cache.drop(key)
            for key, data in self._last[1].written:
                self._pages.cache.put(key, data)
        self._last = None

    def lacks(self, at: At, keys: Sequence[bytes], read: Read) -> bool:
        return False  # walking the pages is as quick

    def stats(self) -> CacheStats:
        return CacheStats(0, 0, 0, 0, 0)


def _leaves(changes: PackedChanges) -> Iterable[Change]:
    for key, value in changes.items():
        path = smt.key_hash(key)
        yield path, b"" if value is None else path + smt.value_hash(value)


class NativeTree:
    """C, with pages of the newest tree in memory of its own, at most `bytes_max` between updates."""

    name = "native"

    def __init__(self, bytes_max: int, threads: int) -> None:
        from supervm.hardware.fastpath import engine
        from supervm.hardware.fastpath import tree as native

        self._refused = native.PageRefused
        self._tree = native.NativeTree(engine.Pool(threads), bytes_max)
        self._bytes_max = bytes_max
        self._at: At | None = None
        self._open: At | None = None
        self._stats = self._counted()

    def grow(self, parent: At, changes: PackedChanges, height: int, read: Read) -> Grown:
        self.settle(parent)
        try:
            made = self._tree.update(changes.data, changes.count, height, read)
        except self._refused as error:
            raise PageInvalid(error.key, error.why) from error
        finally:
            self._stats = self._counted()
        self._open = At(made.root, height)
        return Grown(made.root, tuple(made.written_pages()), tuple(made.stale_keys()))

    def settle(self, at: At) -> None:
        last, self._open = self._open, None
        if last == at:
            self._tree.commit()
            self._at = at
        else:
            self._tree.abort()
        if self._at != at:
            self._tree.forget(at.root, at.height)
            self._at = at
        self._stats = self._counted()

    def lacks(self, at: At, keys: Sequence[bytes], read: Read) -> bool:
        if self._open is not None:
            return False  # an update that may yet be settled on
        # Removing what isn't there leaves the same root. The pages stay, for the update that comes.
        removals = PackedChanges.of(dict.fromkeys(keys))
        grown = self.grow(at, removals, at.height + 1, read)
        self._open = None
        self._tree.abort()
        return grown.root == at.root

    def stats(self) -> CacheStats:
        return self._stats

    def _counted(self) -> CacheStats:
        found: native.TreeStats = self._tree.stats()
        return CacheStats(found.hits, found.misses, found.pages, found.held, self._bytes_max)


PROOFS_SHARE = 8
"""Of the memory for pages, what C leaves to the cache that proofs are made from."""


def choose_tree(bytes_max: int, *, native: bool, threads: int) -> tuple[StateTree, CachedPages]:
    """In C where it was built and `native` allows it, else in Python. `bytes_max` is of both parts."""
    if native and fastpath.BLOCKS_NATIVE:
        proofs = bytes_max // PROOFS_SHARE
        return NativeTree(bytes_max - proofs, threads), CachedPages(ByteCache(proofs))
    pages = CachedPages(ByteCache(bytes_max))
    return PythonTree(pages), pages
