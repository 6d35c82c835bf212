"""What every component promises, whatever its role: `ComponentConformance`, the base of each role's suite."""

import ast
import importlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import cattrs
import trio
import trio.testing

from supervm.kernel.component import Component, Health
from supervm.testing.context import opened

HEALTH_S_MAX = 1.0

# Where time and randomness would come from if not from the context.
FORBIDDEN = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"},
    "random": {"*"},
    "secrets": {"*"},
    "uuid": {"uuid1", "uuid4"},
    "os": {"urandom", "getrandom"},
    "datetime": {"now", "utcnow", "today"},
    "trio": {"sleep", "sleep_until", "current_time"},
}


def only_error(raised: BaseException) -> BaseException:
    """The one exception inside a group of one (nurseries wrap what passes through them)."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    return raised


@contextmanager
def refused(*errors: type[BaseException]) -> Iterator[list[BaseException]]:
    """The block must raise one of `errors`; gives a list that then holds it."""
    caught: list[BaseException] = []
    names = " or ".join(error.__name__ for error in errors)
    try:
        yield caught
    except BaseException as raised:
        found = only_error(raised)
        if not isinstance(found, errors):
            raise
        caught.append(found)
        return
    raise AssertionError(f"{names} was not raised")


class ComponentConformance:
    """Subclass it and set `component`. Needs pytest-trio.

    `requires` gives the components that yours needs, by role. `sources` names modules that must take
    time and randomness from the context only; the one that defines `open` is always among them.
    """

    component: ClassVar[Component]
    requires: ClassVar[Mapping[str, Any]] = {}
    sources: ClassVar[tuple[str, ...]] = ()

    def config(self, **options: Any) -> Any:
        """The component's configuration, with its defaults but for `options`."""
        return self.component.config(**options)

    @asynccontextmanager
    async def opened(self, folder: Path, **options: Any) -> AsyncIterator[Any]:
        """Open the component alone, its data in `folder`."""
        async with opened(self.component, folder, self.config(**options), requires=self.requires) as served:
            yield served

    async def test_it_opens_and_closes_twice(self, tmp_path: Path) -> None:
        for _ in range(2):
            async with self.opened(tmp_path) as served:
                assert served is not None

    async def test_closing_leaves_no_task_thread_or_file_open(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path):
            pass
        tasks, threads = _tasks(), _threads()
        async with self.opened(tmp_path):
            pass
        await trio.testing.wait_all_tasks_blocked()
        assert _tasks() <= tasks
        assert _threads() <= threads
        assert _files_under(tmp_path) == []

    async def test_opening_may_be_cancelled_and_leaves_nothing_open(self, tmp_path: Path) -> None:
        for checkpoints in range(6):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._open_and_wait, tmp_path)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert _files_under(tmp_path) == []
        async with self.opened(tmp_path) as served:
            assert served is not None

    async def test_its_health_answers_within_a_second(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as served:
            if hasattr(served, "health"):
                with trio.fail_after(HEALTH_S_MAX):
                    assert isinstance(await served.health(), Health)

    async def test_its_options_have_defaults_and_refuse_an_unknown_key(self) -> None:
        assert attrs.has(self.component.config)
        assert attrs.asdict(self.component.config()) is not None
        with refused(Exception):
            cattrs.Converter(forbid_extra_keys=True).structure({"no_such_option": 1}, self.component.config)

    async def test_time_and_randomness_come_only_from_its_context(self) -> None:
        for name in {self.component.open.__module__, *self.sources}:
            file = importlib.import_module(name).__file__
            assert file is not None
            used = _forbidden_names(await trio.Path(file).read_text())
            assert not used, f"{name} uses {sorted(used)}: take it from ctx"

    async def _open_and_wait(self, folder: Path) -> None:
        async with self.opened(folder):
            await trio.sleep_forever()


def _forbidden_names(source: str) -> set[str]:
    """The names of `FORBIDDEN` that a module uses."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pairs = [(node.value.id, node.attr)]
        elif isinstance(node, ast.ImportFrom):
            pairs = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in pairs:
            if name in FORBIDDEN.get(module, ()) or "*" in FORBIDDEN.get(module, ()):
                used.add(f"{module}.{name}")
    return used


def _tasks() -> set[str]:
    """The names of tasks that ours could have left in the nurseries of the caller."""
    task = trio.lowlevel.current_task()
    return {child.name for nursery in task.child_nurseries for child in nursery.child_tasks}


def _threads() -> set[str]:
    """Running threads, but for those that Trio keeps for the next call."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


def _files_under(folder: Path) -> list[str]:
    """Files of this process that are open in `folder`; none where the system does not tell."""
    table = Path("/proc/self/fd")
    if not table.is_dir():
        return []
    found = []
    for entry in table.iterdir():
        try:
            target = entry.readlink()
        except OSError:
            continue  # the descriptor of this very listing
        if target.is_relative_to(folder):
            found.append(str(target))
    return found
