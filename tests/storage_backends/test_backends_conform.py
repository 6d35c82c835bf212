"""Each backend that ships keeps every promise of the storage role (STO-12)."""

from typing import ClassVar

from supervm.plugins.storage.cached import cached
from supervm.plugins.storage.lmdb import lmdb
from supervm.plugins.storage.memory import memory
from supervm.plugins.storage.rocksdb import rocksdb
from supervm.plugins.storage.sqlite import sqlite
from supervm.testing.conformance.storage import StorageConformance
from tests.storage_backends.eager import eager
from tests.storage_backends.gathered import gathering_sqlite

SHARED = tuple(
    f"supervm.plugins.storage.{name}" for name in ("threaded", "scan", "folder", "latency", "runs")
)


class TestMemory(StorageConformance):
    component = memory
    sources = SHARED
    examples: ClassVar[int] = 60


class TestSqlite(StorageConformance):
    component = sqlite
    sources = SHARED


class TestRocksdb(StorageConformance):
    component = rocksdb
    sources = (*SHARED, "supervm.plugins.storage.rocksdb_stats")


class TestCached(StorageConformance):
    component = cached
    sources = (*SHARED, "supervm.plugins.storage.lru", "supervm.plugins.storage.sqlite")


class TestLmdb(StorageConformance):
    component = lmdb
    sources = SHARED


class TestGathering(StorageConformance):
    """What a node's own parts use: what need not last is held back."""

    component = gathering_sqlite
    sources = SHARED


class TestTiered(StorageConformance):
    """All the while its rows go from class to class."""

    component = eager
    examples: ClassVar[int] = 8
    kills: ClassVar[int] = 4
    sources = (
        *SHARED,
        *(f"supervm.plugins.storage.{name}" for name in ("shelves", "redistribution", "pointers")),
        "supervm.plugins.storage.class_folders",
    )
