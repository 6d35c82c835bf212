"""What can go wrong while composing and running, each with the value, the cause and the mend."""

from collections.abc import Iterable

import attrs
import trio


class KernelError(Exception):
    """Base of every error the kernel raises."""


class RoleUnavailable(KernelError):
    """The component of a role is away (failed, restarting, broken or not composed)."""

    def __init__(self, role: str, cause: str = "") -> None:
        self.role, self.cause = role, cause
        super().__init__(f"role {role} is unavailable" + (f": {cause}" if cause else ""))


class UndeclaredRequirement(KernelError):
    """A component asked for a role it did not declare in `requires` or `wants`."""

    def __init__(self, component: str, role: str) -> None:
        super().__init__(f"{component} asked for role {role}; declare it in requires or wants")


class LifecycleError(KernelError):
    """An event that the lifecycle's table does not know in this state: our own bug."""

    def __init__(self, state: str, event: str) -> None:
        self.state, self.event = state, event
        super().__init__(f"event {event} can't happen in state {state}")


class HotPlugRefused(KernelError):
    """A component can't be loaded or unloaded while the node runs; the message says why."""


class PluginUnknown(HotPlugRefused):
    """No plugin of that id is installed, or none is loaded; the message names the nearest."""


@attrs.frozen
class Problem:
    """One thing wrong with a composition. `kind` is the stable name; `origin` is where the value stands."""

    kind: str
    subject: str
    cause: str
    mend: str
    origin: str = ""

    def __str__(self) -> str:
        where = f" ({self.origin})" if self.origin else ""
        return f"{self.kind}: {self.subject}: {self.cause}{where}; {self.mend}"


class CompositionError(KernelError):
    """Everything wrong with a composition, at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        assert self.problems, "a composition error names at least one problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StartFailed(KernelError):
    """A component that the node can't do without did not open."""

    def __init__(self, role: str, name: str, cause: BaseException) -> None:
        self.role, self.name, self.cause = role, name, cause
        super().__init__(f"{role} {name} did not open: {describe(cause)}")


def contained(error: BaseException) -> bool:
    """Whether a component's error stays its own: all but cancellation and Ctrl-C, SystemExit included."""
    if isinstance(error, BaseExceptionGroup):
        return all(contained(one) for one in error.exceptions)
    return not isinstance(error, trio.Cancelled | KeyboardInterrupt | GeneratorExit)


def leaf(error: BaseException) -> BaseException:
    """The first error that isn't a group: nurseries wrap what a task raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def describe(error: BaseException) -> str:
    """One line that names the kind of error and its message."""
    error = leaf(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
