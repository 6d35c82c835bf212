"""Running a transaction again after a conflict, with growing, jittered pauses (EXEC-48). Never in blocks.

The function gets a fresh transaction each time, so it must do no harm when it runs more than once: keep
what it sends or prints until it has returned for good.
"""

import random
import threading
from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

import attrs
from attrs.validators import and_, ge, le

from supervm.execution.errors import ExecutionError
from supervm.mvcc.errors import Conflict, RetriesExhausted
from supervm.mvcc.stats import ExecutionCounts
from supervm.mvcc.store import MvccStore
from supervm.mvcc.transaction import Transaction

Result = TypeVar("Result")
Pause: TypeAlias = Callable[[float], object]
"""Waits for so many seconds."""


def is_retryable(error: Exception) -> bool:
    """Whether the same transaction may succeed later: what the error itself says. All else is fatal."""
    return isinstance(error, ExecutionError) and error.retryable


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often, and how long to wait. Pauses in milliseconds.

    `retries_max` 3 makes up to 4 executions. The pause before retry n, from 0, is
    min(delay_max_ms, delay_base_ms x backoff_factor^n) x (1 + jitter_factor x u), with u in [-1, 1].
    `classify` says which errors are worth another try.
    """

    retries_max: int = attrs.field(default=3, validator=ge(0))
    delay_base_ms: float = attrs.field(default=1.0, validator=ge(0))
    delay_max_ms: float = attrs.field(default=50.0, validator=ge(0))
    backoff_factor: float = attrs.field(default=2.0, validator=and_(ge(1), le(100)))
    jitter_factor: float = attrs.field(default=0.2, validator=and_(ge(0), le(1)))
    classify: Callable[[Exception], bool] = is_retryable

    def delay_s(self, retry: int, u: float) -> float:
        """Seconds before retry number `retry`, from 0, for a random `u` in [-1, 1]."""
        # So that no power overflows; whoever gets that far has long been at the maximum.
        grown = self.delay_base_ms * self.backoff_factor ** min(retry, 100)
        return min(self.delay_max_ms, grown) * (1 + self.jitter_factor * u) / 1_000


DEFAULT_POLICY = RetryPolicy()


@attrs.frozen
class Committed(Generic[Result]):
    """What the function returned the time that it committed at `ts`, after so many executions in all."""

    value: Result
    ts: int
    executions: int
    events: tuple[object, ...]


@attrs.define
class _Attempts:
    """The steps that both forms share: counts runs, says how long to pause, or raises."""

    policy: RetryPolicy
    chance: random.Random
    counts: ExecutionCounts | None
    made: int = 0
    conflicts: int = 0

    def failed(self, error: Exception) -> float:
        """Seconds to wait before the next run; raises where there is none."""
        self.conflicts += isinstance(error, Conflict)
        if not self.policy.classify(error):
            self.end(False)
            raise error
        if self.made > self.policy.retries_max:
            self.end(False)
            raise RetriesExhausted(self.made, error) from error
        return self.policy.delay_s(self.made - 1, self.chance.uniform(-1, 1))

    def end(self, is_success: bool) -> None:
        if self.counts is not None:
            self.counts.add(is_success=is_success, executions=self.made, conflicts=self.conflicts)


def retry(
    store: MvccStore,
    function: Callable[[Transaction], Result],
    policy: RetryPolicy = DEFAULT_POLICY,
    *,
    chance: random.Random,
    pause: Pause | None = None,
    counts: ExecutionCounts | None = None,
) -> Committed[Result]:
    """Run `function` on a fresh transaction and commit it; again after what is retryable.

    `chance` gives the jitter: a component passes `ctx.random`. `pause` waits, by default this thread.
    Raises `RetriesExhausted` with the last error as its cause, or at once what isn't retryable, and what
    the function itself raises. Nothing of an attempt that failed is left behind.
    """
    attempts = _Attempts(policy, chance, counts)
    wait = threading.Event().wait if pause is None else pause
    while True:
        attempts.made += 1
        try:
            with store.begin() as txn:
                value = function(txn)
                ts = txn.commit()
        except Exception as error:
            wait(attempts.failed(error))
            continue
        attempts.end(True)
        return Committed(value, ts, attempts.made, txn.events())


async def retry_async(
    store: MvccStore,
    function: Callable[[Transaction], Awaitable[Result]],
    policy: RetryPolicy = DEFAULT_POLICY,
    *,
    chance: random.Random,
    sleep: Callable[[float], Awaitable[object]],
    counts: ExecutionCounts | None = None,
) -> Committed[Result]:
    """As `retry`, of an async function, such as one that fetches; `sleep` is `ctx.clock.sleep`."""
    attempts = _Attempts(policy, chance, counts)
    while True:
        attempts.made += 1
        try:
            with store.begin() as txn:
                value = await function(txn)
                ts = txn.commit()
        except Exception as error:
            pause_s = attempts.failed(error)
        else:
            attempts.end(True)
            return Committed(value, ts, attempts.made, txn.events())
        await sleep(pause_s)
