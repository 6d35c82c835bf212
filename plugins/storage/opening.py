"""How a backend of one folder is opened: the folder made and locked, the engine in a thread, then served."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from supervm.api import Context
from supervm.contracts.storage import StoreStats
from supervm.plugins.storage.folder import locked_folder, open_folder
from supervm.plugins.storage.threaded import Engine, ThreadedStore, served


class FolderConfig(Protocol):
    """What every such backend is configured with. `path` "" is the component's own folder."""

    @property
    def path(self) -> str: ...
    @property
    def snapshot_age_s_max(self) -> float: ...
    @property
    def snapshots_max(self) -> int: ...


C = TypeVar("C", bound=FolderConfig)
E = TypeVar("E", bound=Engine)


@asynccontextmanager
async def opened_in_folder(
    ctx: Context,
    config: C,
    make: Callable[[Path, C], E],
    report: Callable[[StoreStats], None] = lambda stats: None,
) -> AsyncIterator[tuple[ThreadedStore, E]]:
    """The engine that `make` gives for the folder, and the store over it, until the block ends.

    `report` takes each `StoreStats` for the backend's own metrics. Raises any `StorageError`.
    """
    folder = Path(config.path) if config.path else ctx.data_dir
    with ExitStack() as stack:
        await trio.to_thread.run_sync(open_folder, folder)
        stack.enter_context(locked_folder(folder))
        engine = await trio.to_thread.run_sync(make, folder, config)
        store = ThreadedStore(
            ctx, engine, snapshot_age_s_max=config.snapshot_age_s_max, snapshots_max=config.snapshots_max
        )
        async with served(ctx, store, report):
            yield store, engine
