"""The storage components that ship with SuperVM: `memory`, `sqlite` and `rocksdb`."""

from collections.abc import Iterator

from supervm.api import Component, hookimpl


@hookimpl
def supervm_components() -> Iterator[Component]:
    from supervm.plugins.storage.memory import memory

    yield memory
