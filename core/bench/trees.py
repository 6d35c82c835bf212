"""State trees in memory for the benchmarks: packed changes in, the state root out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
from blake3 import blake3

from supervm.bench.packing import unpack
from supervm.storage import tree as pages
from supervm.storage.pages import EMPTY, Slots

if TYPE_CHECKING:
    from supervm.hardware.fastpath import tree as native
    from supervm.hardware.fastpath.engine import Pool


class Tree(Protocol):
    """The state tree of the newest height."""

    def update(self, packed: bytes | memoryview, count: int) -> bytes:
        """Apply changes as `pack_entries` writes them, one a key; the new state root."""
        ...


@attrs.define
class TwinTree:
    """The tree of `supervm.storage.tree`, with its pages in a dict."""

    _stored: dict[bytes, bytes] = attrs.Factory(dict)
    _root: bytes = b""
    _height: int | None = None

    def update(self, packed: bytes | memoryview, count: int) -> bytes:
        changes = sorted(_leaves(bytes(packed)))
        assert len(changes) == count, (len(changes), count)
        height = 0 if self._height is None else self._height + 1
        found: dict[bytes, Slots] = {}
        if self._height is not None:
            paths = [kh for kh, _ in changes]
            found = pages.load(self._root, self._height, paths, self._read)
        done = pages.update(found, self._height, changes, height)
        self._stored.update(done.written)
        for stale in done.stale:
            del self._stored[stale]
        self._root, self._height = done.root, height
        return done.root

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._stored.get(key) for key in keys]


def _leaves(packed: bytes) -> list[tuple[bytes, bytes]]:
    """(kh, new leaf) of each change."""
    return [
        (kh, EMPTY if value is None else kh + blake3(value).digest())
        for kh, value in ((blake3(key).digest(), value) for key, value in unpack(packed))
    ]


@attrs.define
class ResidentTree:
    """The tree in C, all of it in memory and none of it written down: it keeps the hashes of its leaves."""

    _tree: "native.NativeTree"
    _height: int = 0

    def update(self, packed: bytes | memoryview, count: int) -> bytes:
        root = self._tree.update(packed, count, self._height, emit=False).root
        self._tree.commit()
        self._height += 1
        return root

    def phases(self) -> dict[str, int]:
        """Nanoseconds by phase of the newest update."""
        timing = self._tree.timing()
        return {name: getattr(timing, name) for name in ("sort_ns", "load_ns", "build_ns", "commit_ns")}


def resident_tree(pool: "Pool") -> ResidentTree:
    """An empty tree whose work these threads share."""
    from supervm.hardware.fastpath.tree import NativeTree

    return ResidentTree(NativeTree(pool, lean=True))
