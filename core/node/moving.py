"""`migrate` at a running node: another storage backend beside its own, opened and filled while it serves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pluggy
import trio

from supervm.contracts.roles import ROLES, Role
from supervm.contracts.storage import KeyValueStore, StorageError, Tempered
from supervm.kernel.component import Clock, Component, Context
from supervm.kernel.compose import Planned
from supervm.kernel.errors import KernelError
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, open_kernel
from supervm.node.compose import Prepared
from supervm.storage.errors import MoveBusy, MoveRefused
from supervm.storage.folder import switch_backend
from supervm.storage.gathering import GatheringStore, gathering
from supervm.storage.moving import MoveFacts, MovingStore
from supervm.telemetry.logs import Logs
from supervm.telemetry.metrics import Registry

SHARE = 0.5


@attrs.define(eq=False, kw_only=True)
class Mover:
    """Moves the store of a running node, at its operator's word. One move at a time."""

    prepared: Prepared
    folder: Path
    clock: Clock
    logs: Logs
    _store: MovingStore | None = attrs.field(default=None, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _refused: MoveFacts | None = attrs.field(default=None, init=False)

    def movable(self, component: Component) -> Component:
        """The node's storage component, which opens a store that can be moved."""

        @asynccontextmanager
        async def opened(ctx: Context, config: Any) -> AsyncIterator[GatheringStore]:
            async with component.open(ctx, config) as store, trio.open_nursery() as nursery:
                self._store, self._nursery = MovingStore(store, ctx.clock, ctx.log.warning), nursery
                try:
                    async with gathering(self._store, ctx.clock, ctx.log.warning) as gathered:
                        yield gathered
                finally:
                    # The target is closed here: later than whoever writes, sooner than the source.
                    self._nursery = None
                    nursery.cancel_scope.cancel()

        return attrs.evolve(component, open=opened)

    @property
    def facts(self) -> MoveFacts:
        """The move under way, or the last one."""
        if self._refused is not None:
            return self._refused
        return MoveFacts() if self._store is None else self._store.facts

    @property
    def tempered(self) -> Tempered | None:
        """The store, where it moves rows between classes of its own."""
        source = None if self._store is None else self._store.below
        return source if isinstance(source, Tempered) else None

    def ask(self, to: str) -> None:
        """Begin to move the store to the storage component `to`; `facts` tells what becomes of it.

        Raises `MoveRefused` for what can't be moved to, `MoveBusy` while a move is under way or done.
        """
        store, nursery = self._store, self._nursery
        if store is None or nursery is None:
            raise MoveBusy("the node's store is not open", to, "Try again.")
        if store.facts.running or nursery.child_tasks:
            raise MoveBusy(f"a move to {store.facts.to or to} is under way or done", to, "Restart the node.")
        nursery.start_soon(self._move, store, self._planned(to))

    def _planned(self, to: str) -> Planned:
        known = self.prepared.catalogue.named(Role.STORAGE)
        if to not in known:
            names = ", ".join(sorted(known))
            raise MoveRefused(f"storage component {to!r} isn't installed", to, f"There are {names}.")
        if to == self.prepared.storage:
            raise MoveRefused(f"the folder is of {to} already", to, "Name another.")
        component = known[to].component
        if obstacle := component.available():
            raise MoveRefused(f"storage component {to!r} can't be used here: {obstacle}", to, "Name another.")
        for name in (to, self.prepared.storage):
            if "persistent" not in known[name].component.features:
                raise MoveRefused(f"{name} keeps nothing on disk", to, "Move between backends that do.")
        return Planned(component=component, config=self.prepared.effective.options[Role.STORAGE, to])

    async def _move(self, store: MovingStore, planned: Planned) -> None:
        to, log = planned.component.name, self.logs.logger("node")
        log.info("move_begun", to=to)
        self._refused = None
        try:
            async with self._opened(planned) as target:
                await store.move(
                    target,
                    to,
                    share=SHARE,
                    switch=lambda: self._switch(to),
                    switch_back=lambda: self._switch(self.prepared.storage),
                )
                log.info("move_done", to=to, rows=store.facts.rows, mend="restart the node when it suits you")
                # From here to its end the node writes both.
                await trio.sleep_forever()
        except (StorageError, KernelError) as error:
            log.warning("move_failed", to=to, cause=str(error))
            if not store.facts.problem:
                self._refused = MoveFacts.failed(to, str(error))

    async def _switch(self, name: str) -> None:
        await trio.to_thread.run_sync(switch_backend, self.folder, name)

    @asynccontextmanager
    async def _opened(self, planned: Planned) -> AsyncIterator[KeyValueStore]:
        """The component alone, with its data where a node that uses it has them."""
        metrics = Registry()
        environment = Environment(
            data_dir=self.folder,
            tier=self.prepared.machine.decision.tier,
            hardware=self.prepared.machine.facts,
            clock=self.clock,
            metrics=metrics,
            log_for=self.logs.logger,
        )
        manager = pluggy.PluginManager("supervm")
        observers = Observers(manager, (), self.clock, self.logs.logger("observers"), metrics, 1)
        roles = {str(Role.STORAGE): ROLES[Role.STORAGE]}
        async with open_kernel(roles, environment, observers, (planned,)) as kernel:
            # The store itself: one that has failed says so, and the reference to it that nobody serves.
            (store,) = kernel.all(Role.STORAGE)
            yield store
