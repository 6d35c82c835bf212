"""A cache of bytes, bounded by bytes: the least recently used entry goes first."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

import attrs

ENTRY_BYTES = 160  # what an entry costs beyond its key and value, in CPython


class Missing(Enum):
    MISSING = "missing"


MISSING: Final = Missing.MISSING


@attrs.frozen
class CacheStats:
    """Counts since the cache was made, and what it holds now."""

    hits: int
    misses: int
    entries: int
    bytes: int
    bytes_max: int


class ByteCache:
    """Keys to bytes, or to None for "known to be absent". Safe to use from worker threads."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> bytes | Missing | None:
        with self._lock:
            value = self._entries.get(key, MISSING)
            if value is MISSING:
                self._misses += 1
            else:
                self._hits += 1
                self._entries.move_to_end(key)
            return value

    def get_all(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values that are here; asked so, an entry is no more recently used."""
        with self._lock:
            found = ((key, self._entries.get(key)) for key in keys)
            return {key: value for key, value in found if value is not None}

    def put(self, key: bytes, value: bytes | None) -> None:
        self.put_many(((key, value),))

    def put_many(self, entries: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Put all, the last as the most recent; then the least recent go until the rest fits."""
        with self._lock:
            kept, size = self._entries, self._bytes
            for key, value in entries:
                before = kept.pop(key, MISSING)
                if before is not MISSING:
                    size -= _cost(key, before)
                kept[key] = value
                size += _cost(key, value)
            self._bytes = size
            while self._bytes > self._bytes_max:
                self._drop(next(iter(kept)))

    def drop(self, key: bytes) -> None:
        with self._lock:
            self._drop(key)

    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(self._hits, self._misses, len(self._entries), self._bytes, self._bytes_max)

    def _drop(self, key: bytes) -> None:
        value = self._entries.pop(key, MISSING)
        if value is not MISSING:
            self._bytes -= _cost(key, value)


def entries_bytes(entries: Mapping[bytes, bytes]) -> int:
    """What so many entries take, about."""
    return sum(map(len, entries)) + sum(map(len, entries.values())) + ENTRY_BYTES * (1 + len(entries))


def _cost(key: bytes, value: bytes | None) -> int:
    return len(key) + len(value or b"") + ENTRY_BYTES
