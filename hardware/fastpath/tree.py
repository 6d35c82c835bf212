"""The state tree in C through cffi. Importing this raises ImportError where it was not built.

`NativeTree` keeps pages of the newest tree in memory up to a bound, and turns packed changes into the new
root, the pages to write and the keys of those now stale: the same bytes as `supervm.storage.tree`, which is
its judge. The global lock is released in every call that takes long. One update at a time is open on a tree,
and one thread at a time calls it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from supervm.hardware._fastpath import ffi, lib
from supervm.hardware.fastpath.engine import Pool

NO_BOUND = 2**64 - 1
ABSENT = b"\xff\xff\xff\xff"
READ_BATCH = 4096  # pages asked for at once

Read = Callable[[Sequence[bytes]], Sequence[bytes | None]]
"""Storage keys of pages to their bytes, None where there is none."""


class PageRefused(Exception):
    """A page that is absent, malformed, or not the one its parent names. `key` is its storage key."""

    def __init__(self, key: bytes, why: str) -> None:
        super().__init__(f"tree page {key.hex()}: {why}")
        self.key = key
        self.why = why


class BadChanges(Exception):
    """Bytes that are no packed changes, or change a key twice. `index` is the place of the change."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(f"change {index}: {why}")
        self.index = index


@attrs.frozen
class TreeStats:
    """What is in memory, in bytes, and counts since the tree was made. `held` is what the system gave."""

    pages: int
    bytes: int
    held: int
    bytes_max: int
    hits: int
    misses: int
    evicted: int


@attrs.frozen
class TreeTiming:
    """Nanoseconds by phase, and counts, of the last update."""

    sort_ns: int
    load_ns: int
    build_ns: int
    commit_ns: int
    changes: int
    nodes: int
    leaves: int
    written: int
    fresh: int
    threads: int


@attrs.frozen
class Grown:
    """What an update makes of the tree.

    `written`: for each page u8 key size, key, u32 size, bytes. `stale`: for each page u8 size, key.
    """

    root: bytes
    written: bytes = attrs.field(repr=False)
    written_count: int
    stale: bytes = attrs.field(repr=False)
    stale_count: int

    def written_pages(self) -> Iterator[tuple[bytes, bytes]]:
        """The pages to write, by storage key."""
        packed, at = self.written, 0
        for _ in range(self.written_count):
            start = at + 1 + packed[at] + 4
            end = start + int.from_bytes(packed[start - 4 : start], "little")
            yield packed[at + 1 : start - 4], packed[start:end]
            at = end

    def stale_keys(self) -> Iterator[bytes]:
        """The storage keys of pages that these replace."""
        return _keys(self.stale, self.stale_count)


def pack_changes(changes: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """State keys of at most 255 bytes and their values, None or empty to remove, as an update takes them."""
    parts: list[bytes] = []
    for key, value in changes:
        value = value or b""
        parts += (bytes((len(key),)), key, len(value).to_bytes(4, "little"), value)
    return b"".join(parts)


class NativeTree:
    """Pages of the newest tree in memory, and updates to it.

    `bytes_max` bounds the memory between updates. A new tree is empty; `forget` makes it another one, whose
    pages are then asked for. A `lean` tree is in memory alone and whole, with no bound, and gives roots only:
    it keeps the hashes of leaves, so that none beside a change is hashed again.
    """

    def __init__(self, pool: Pool, bytes_max: int = NO_BOUND, *, lean: bool = False) -> None:
        self._pool = pool
        self._lean = lean
        made = lib.svm_tree_new(bytes_max, lean, pool.pointer)
        if made == ffi.NULL:
            raise MemoryError("no memory for the state tree")
        self._pointer = ffi.gc(made, lib.svm_tree_free)
        self._held: Any = None  # what C reads must stay while an update is open

    def forget(self, root: bytes | None = None, height: int = 0) -> None:
        """Drop every page and any update: the tree is what `height` left with `root`; None: no tree yet."""
        assert root is None or (len(root) == 32 and not self._lean), "a lean tree can't be read"
        lib.svm_tree_clear(self._pointer, ffi.NULL if root is None else ffi.from_buffer(root), height)
        self._held = None

    def stats(self) -> TreeStats:
        found = ffi.new("svm_tree_stats *")
        lib.svm_tree_stats_of(self._pointer, found)
        return TreeStats(*(getattr(found, field.name) for field in attrs.fields(TreeStats)))

    def timing(self) -> TreeTiming:
        found = ffi.new("svm_tree_timing *")
        lib.svm_tree_timing_of(self._pointer, found)
        return TreeTiming(*(getattr(found, field.name) for field in attrs.fields(TreeTiming)))

    def update(
        self,
        packed: bytes | memoryview,
        count: int,
        height: int,
        read: Read | None = None,
        *,
        emit: bool = True,
    ) -> Grown:
        """Work out the tree of `height`; `commit` or `abort` ends it.

        `packed`: `count` changes, one a key, in no order: u8 key size, key, u32 value size (0: removed),
        value. `read` answers pages that are not in memory, which are checked up to the root; without it there
        are none. `emit` False leaves `written` and `stale` out. Raises `PageRefused` and `BadChanges`, with
        no update open.
        """
        assert not (emit and self._lean), "a lean tree isn't written down"
        self._open(packed, count, height)
        try:
            self._load(read)
            root = ffi.new("uint8_t[32]")
            _check(lib.svm_tree_build(self._pointer, emit, root))
        except BaseException:
            self.abort()
            raise
        written, written_count = self._packed(lib.svm_tree_written)
        stale, stale_count = self._packed(lib.svm_tree_stale)
        return Grown(ffi.buffer(root)[:], written, written_count, stale, stale_count)

    def commit(self) -> None:
        """Make the update's tree the newest."""
        _check(lib.svm_tree_commit(self._pointer))
        self._held = None

    def abort(self) -> None:
        """Drop the update, if there is one."""
        lib.svm_tree_abort(self._pointer)
        self._held = None

    def _open(self, packed: bytes | memoryview, count: int, height: int) -> None:
        self._held, at = ffi.from_buffer(packed), ffi.new("uint32_t *")
        error = lib.svm_tree_open(self._pointer, self._held, len(packed), count, height, at)
        if error == lib.SVM_TREE_BAD_CHANGES:
            raise BadChanges(at[0], "its bytes end early, or others follow the last one")
        if error == lib.SVM_TREE_TWICE:
            raise BadChanges(0, "two changes are of one key")
        _check(error)

    def _load(self, read: Read | None) -> None:
        refusal = ffi.new("svm_tree_refusal *")
        while keys := self._missing():
            found: list[bytes | None] = []
            for start in range(0, len(keys), READ_BATCH):
                batch = keys[start : start + READ_BATCH]
                found += [None] * len(batch) if read is None else read(batch)
            assert len(found) == len(keys), (len(found), len(keys))
            packed = b"".join([ABSENT if v is None else len(v).to_bytes(4, "little") + v for v in found])
            error = lib.svm_tree_supply(
                self._pointer, ffi.from_buffer(packed), len(packed), len(keys), refusal
            )
            if error == lib.SVM_TREE_BAD_PAGE:
                raise PageRefused(keys[refusal.at], _why(refusal))
            _check(error)

    def _missing(self) -> list[bytes]:
        bytes_, size, count = ffi.new("uint8_t **"), ffi.new("size_t *"), ffi.new("uint32_t *")
        _check(lib.svm_tree_missing(self._pointer, bytes_, size, count))
        return list(_keys(ffi.buffer(bytes_[0], size[0])[:], count[0])) if count[0] else []

    def _packed(self, of: Any) -> tuple[bytes, int]:
        bytes_, size, count = ffi.new("uint8_t **"), ffi.new("size_t *"), ffi.new("uint32_t *")
        of(self._pointer, bytes_, size, count)
        return ffi.buffer(bytes_[0], size[0])[:] if size[0] else b"", count[0]


def _keys(packed: bytes, count: int) -> Iterator[bytes]:
    at = 0
    for _ in range(count):
        end = at + 1 + packed[at]
        yield packed[at + 1 : end]
        at = end


def _why(refusal: Any) -> str:
    if refusal.reason == lib.SVM_PAGE_MISSING:
        return "the page is missing"
    if refusal.reason == lib.SVM_PAGE_FORMAT:
        return "not a page of format 1"
    if refusal.reason == lib.SVM_PAGE_LENGTH:
        return "its length is not what its slots need"
    if refusal.reason == lib.SVM_PAGE_FOREIGN:
        return "a leaf in it doesn't lie below it"
    if refusal.reason == lib.SVM_PAGE_DEEP:
        return "the tree is deeper than its keys"
    found, wanted = ffi.buffer(refusal.found)[:], ffi.buffer(refusal.wanted)[:]
    return f"it hashes to {found.hex()}, its parent says {wanted.hex()}"


def _check(error: int) -> None:
    if error == lib.SVM_TREE_OK:
        return
    if error == lib.SVM_TREE_NO_MEMORY:
        raise MemoryError("the state tree got no memory")
    assert error != lib.SVM_TREE_ORDER, "the tree was called out of order"
    assert error != lib.SVM_TREE_BAD_SUPPLY, "pages were supplied that were not asked for"
    raise BadChanges(0, "there are more than are counted")
