"""Tell observers what happened, without ever waiting for one (PLUG-13).

Each observer has a bounded queue and one thread at a time. One that stalls loses its own oldest events;
one that raises too often is muted for a while. Both are counted and logged by name.
"""

from collections import deque
from typing import Any

import attrs
import pluggy
import trio

from supervm.kernel.component import Clock, Log, Metrics
from supervm.kernel.errors import describe

RAISES_MAX = 5
RAISES_WINDOW_S = 60.0
MUTED_S = 300.0


@attrs.define
class Observer:
    """One plugin's hook functions by event kind, and the events it has not seen yet."""

    plugin: str
    hooks: dict[str, Any]
    queue_max: int
    waiting: deque[tuple[str, dict[str, Any]]] = attrs.Factory(deque)
    wake: trio.Event = attrs.Factory(trio.Event)
    raised_at: deque[float] = attrs.field(factory=lambda: deque(maxlen=RAISES_MAX))
    muted_until: float = 0.0
    dropped: int = 0
    running: str = ""

    def offer(self, kind: str, facts: dict[str, Any]) -> bool:
        """Queue an event; False when the oldest one had to go."""
        full = len(self.waiting) >= self.queue_max
        if full:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append((kind, facts))
        self.wake.set()
        return not full


@attrs.define
class Observers:
    """All observers of a node. `publish` never blocks, never raises and may be called from the loop only.

    `kinds` are the events that may be observed: hook `supervm_KIND` is told of each.
    """

    manager: pluggy.PluginManager
    kinds: tuple[str, ...]
    clock: Clock
    log: Log
    metrics: Metrics
    queue_max: int = 1024
    _observers: dict[str, Observer] = attrs.Factory(dict)
    _scopes: dict[str, trio.CancelScope] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        for what in ("dropped", "raised"):
            self._counter(what)
        hooks = self._hook_errors()
        for kind in self.kinds:
            hooks.inc(0, hook=f"supervm_{kind}")

    def publish(self, kind: str, **facts: Any) -> None:
        for observer in self._observers.values():
            if kind in observer.hooks and not observer.offer(kind, facts):
                self._counter("dropped").inc(plugin=observer.plugin)
                if observer.dropped == 1:
                    self.log.warning("observer_stalled", plugin=observer.plugin, running=observer.running)

    def watch(self, nursery: trio.Nursery) -> None:
        """Start a task for every registered plugin that observes and has none yet."""
        hooks: dict[str, dict[str, Any]] = {}
        for kind in self.kinds:
            for impl in getattr(self.manager.hook, f"supervm_{kind}").get_hookimpls():
                hooks.setdefault(impl.plugin_name, {})[kind] = impl
        for plugin, found in hooks.items():
            if plugin not in self._observers:
                observer = self._observers[plugin] = Observer(plugin, found, self.queue_max)
                scope = self._scopes[plugin] = trio.CancelScope()
                nursery.start_soon(self._run, observer, scope, name=f"observer {plugin}")

    def forget(self, plugin: str) -> None:
        """Stop telling a plugin; a call that is running is abandoned with its thread."""
        self._observers.pop(plugin, None)
        scope = self._scopes.pop(plugin, None)
        if scope is not None:
            scope.cancel()

    def waiting(self, plugin: str) -> int:
        """How many events a plugin has not been told yet."""
        return len(self._observers[plugin].waiting)

    def dropped(self) -> dict[str, int]:
        return {plugin: observer.dropped for plugin, observer in self._observers.items()}

    def _counter(self, what: str) -> Any:
        return self.metrics.counter(
            f"supervm_plugin_observer_{what}_total", f"Events {what} at an observer", ("plugin",)
        )

    def _hook_errors(self) -> Any:
        return self.metrics.counter("supervm_hook_errors_total", "Observer hooks that raised", ("hook",))

    async def _run(self, observer: Observer, scope: trio.CancelScope) -> None:
        limiter = trio.CapacityLimiter(1)
        with scope:
            while True:
                await observer.wake.wait()
                observer.wake = trio.Event()
                while observer.waiting:
                    kind, facts = observer.waiting.popleft()
                    if self.clock.monotonic() >= observer.muted_until:
                        await self._tell(observer, limiter, kind, facts)

    async def _tell(
        self, observer: Observer, limiter: trio.CapacityLimiter, kind: str, facts: dict[str, Any]
    ) -> None:
        impl = observer.hooks[kind]
        given = {name: facts[name] for name in impl.argnames if name in facts}
        observer.running = kind

        def call() -> BaseException | None:
            try:
                impl.function(**given)
            except BaseException as error:
                return error
            return None

        # Whatever it raises is caught in its thread, where it can't be our own cancellation or Ctrl-C.
        error = await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
        if error is not None:
            self._raised(observer, kind, error)
        observer.running = ""

    def _raised(self, observer: Observer, kind: str, error: BaseException) -> None:
        now = self.clock.monotonic()
        observer.raised_at.append(now)
        self._counter("raised").inc(plugin=observer.plugin)
        self._hook_errors().inc(hook=f"supervm_{kind}")
        self.log.warning("observer_raised", plugin=observer.plugin, kind=kind, cause=describe(error))
        if len(observer.raised_at) == RAISES_MAX and now - observer.raised_at[0] <= RAISES_WINDOW_S:
            observer.muted_until = now + MUTED_S
            observer.raised_at.clear()
            self.log.error("observer_muted", plugin=observer.plugin, seconds=MUTED_S, cause=describe(error))
