"""The storage components that ship with SuperVM."""

from collections.abc import Iterator

from supervm.api import Component, hookimpl


@hookimpl
def supervm_components() -> Iterator[Component]:
    from supervm.plugins.storage.cached import cached
    from supervm.plugins.storage.lmdb import lmdb
    from supervm.plugins.storage.memory import memory
    from supervm.plugins.storage.postgres import postgres
    from supervm.plugins.storage.rocksdb import rocksdb
    from supervm.plugins.storage.sqlite import sqlite
    from supervm.plugins.storage.tiered import tiered

    yield from (memory, sqlite, rocksdb, lmdb, cached, postgres, tiered)
