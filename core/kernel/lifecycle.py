"""The life of a component, as a table. No I/O: `step` maps (life, event, time) to the next life.

Theory of operation. A component goes REGISTERED -> OPENING -> SERVING, and leaves by DRAINING ->
CLOSING -> CLOSED. Anything that goes wrong leads to FAILED, from where it is always closed first
(resources are released before anything else), and then waits: in BACKOFF for the next try or, once it
has failed too often, in BROKEN for a single trial. The driver performs what the state says and reports
back what happened as events. An event that isn't in the table is a bug and raises.
"""

from enum import StrEnum

import attrs

from supervm.kernel.component import Supervision
from supervm.kernel.errors import LifecycleError

HEALTH_FAILURES_MAX = 3
HEALTH_OKS_TO_RECOVER = 2


class State(StrEnum):
    REGISTERED = "registered"
    OPENING = "opening"
    SERVING = "serving"
    DEGRADED = "degraded"
    DRAINING = "draining"
    CLOSING = "closing"
    FAILED = "failed"
    BACKOFF = "backoff"
    BROKEN = "broken"
    CLOSED = "closed"
    UNLOADED = "unloaded"


class Event(StrEnum):
    OPEN = "open"
    YIELDED = "yielded"
    CRASHED = "crashed"
    HEALTH_OK = "health ok"
    HEALTH_DEGRADED = "health degraded"
    HEALTH_FAILING = "health failing"
    DRAIN = "drain"
    DRAINED = "drained"
    CLOSE = "close"
    CLOSED = "closed"
    DELAY_OVER = "delay over"
    RESET = "reset"
    UNLOAD = "unload"


S, E = State, Event
TABLE: dict[tuple[State, Event], State] = {
    (S.REGISTERED, E.OPEN): S.OPENING,
    (S.REGISTERED, E.DRAIN): S.CLOSED,
    (S.OPENING, E.YIELDED): S.SERVING,
    (S.OPENING, E.CRASHED): S.FAILED,
    (S.OPENING, E.DRAIN): S.CLOSING,
    (S.SERVING, E.HEALTH_OK): S.SERVING,
    (S.SERVING, E.HEALTH_DEGRADED): S.DEGRADED,
    (S.SERVING, E.HEALTH_FAILING): S.SERVING,
    (S.SERVING, E.CRASHED): S.FAILED,
    (S.SERVING, E.DRAIN): S.DRAINING,
    (S.DEGRADED, E.HEALTH_OK): S.DEGRADED,
    (S.DEGRADED, E.HEALTH_DEGRADED): S.DEGRADED,
    (S.DEGRADED, E.HEALTH_FAILING): S.DEGRADED,
    (S.DEGRADED, E.CRASHED): S.FAILED,
    (S.DEGRADED, E.DRAIN): S.DRAINING,
    (S.DRAINING, E.DRAINED): S.CLOSING,
    (S.DRAINING, E.CRASHED): S.CLOSING,
    (S.CLOSING, E.CRASHED): S.CLOSING,
    (S.CLOSING, E.CLOSED): S.CLOSED,
    (S.FAILED, E.CLOSE): S.CLOSING,
    (S.BACKOFF, E.DELAY_OVER): S.OPENING,
    (S.BACKOFF, E.RESET): S.OPENING,
    (S.BACKOFF, E.DRAIN): S.CLOSED,
    (S.BROKEN, E.DELAY_OVER): S.OPENING,
    (S.BROKEN, E.RESET): S.OPENING,
    (S.BROKEN, E.DRAIN): S.CLOSED,
    (S.CLOSED, E.OPEN): S.OPENING,
    (S.CLOSED, E.UNLOAD): S.UNLOADED,
}
SERVES = frozenset({S.SERVING, S.DEGRADED, S.DRAINING})


@attrs.frozen(kw_only=True)
class Life:
    """One component's life so far. Times are monotonic seconds.

    `causes` holds the last five failures; `failures` the times of those within the breaker's window;
    `delay_s` is how long to stay in BACKOFF or BROKEN; `trial` says that a broken one is being tried.
    """

    state: State = State.REGISTERED
    since: float = 0.0
    causes: tuple[str, ...] = ()
    restarts: int = 0
    failed: bool = False
    failures: tuple[float, ...] = ()
    streak: int = 0
    serving_since: float | None = None
    delay_s: float = 0.0
    open_s: float = 0.0
    trial: bool = False
    health_failures: int = 0
    health_oks: int = 0

    @property
    def serves(self) -> bool:
        return self.state in SERVES


def step(life: Life, event: Event, now: float, policy: Supervision, cause: str = "") -> Life:
    """The next life. Raises `LifecycleError` for an event that this state does not know."""
    after = TABLE.get((life.state, event))
    if after is None:
        raise LifecycleError(life.state, event)
    match event:
        case Event.YIELDED:
            life = attrs.evolve(life, serving_since=now, health_failures=0, health_oks=0)
        case Event.CRASHED if after is State.FAILED:
            life = _failed(life, now, policy, cause)
        case Event.HEALTH_OK | Event.HEALTH_DEGRADED | Event.HEALTH_FAILING:
            life, after = _health(life, event, after, now, policy, cause)
        case Event.CLOSED if life.failed:
            after = State.BROKEN if _tripped(life, policy) else State.BACKOFF
            life = _waiting(life, after, policy)
        case Event.DELAY_OVER:
            life = attrs.evolve(life, restarts=life.restarts + 1, trial=life.state is State.BROKEN)
        case Event.RESET:
            life = attrs.evolve(
                life, restarts=life.restarts + 1, failures=(), streak=0, open_s=0, trial=False
            )
        case Event.OPEN | Event.DRAIN:
            life = attrs.evolve(life, failed=False)
    if after is State.OPENING:
        life = attrs.evolve(life, failed=False, delay_s=0.0)
    return attrs.evolve(life, state=after, since=now if after is not life.state else life.since)


def _health(
    life: Life, event: Event, after: State, now: float, policy: Supervision, cause: str
) -> tuple[Life, State]:
    if event is Event.HEALTH_FAILING:
        life = attrs.evolve(life, health_failures=life.health_failures + 1, health_oks=0)
        if life.health_failures >= HEALTH_FAILURES_MAX:
            return _failed(life, now, policy, cause), State.FAILED
        return life, after
    if event is Event.HEALTH_DEGRADED:
        return attrs.evolve(life, health_failures=0, health_oks=0), after
    life = attrs.evolve(life, health_failures=0, health_oks=life.health_oks + 1)
    recovered = life.state is State.DEGRADED and life.health_oks >= HEALTH_OKS_TO_RECOVER
    return life, State.SERVING if recovered else after


def _failed(life: Life, now: float, policy: Supervision, cause: str) -> Life:
    """Record a failure. A good run (PLUG-10: 300 s in SERVING) forgives what was before it."""
    served_s = now - life.serving_since if life.serving_since is not None else 0.0
    recent = tuple(at for at in life.failures if now - at < policy.breaker.window_s)
    still_trial = life.trial and served_s < policy.breaker.window_s
    return attrs.evolve(
        life,
        failed=True,
        causes=(*life.causes, cause)[-5:],
        failures=(*recent, now),
        streak=1 if served_s >= policy.backoff.reset_after_s else life.streak + 1,
        serving_since=None,
        trial=still_trial,
        open_s=life.open_s if still_trial else 0.0,
    )


def _tripped(life: Life, policy: Supervision) -> bool:
    return life.trial or len(life.failures) >= policy.breaker.failures


def _waiting(life: Life, after: State, policy: Supervision) -> Life:
    """How long to wait: the backoff doubles to its bound; an open breaker doubles to its own."""
    if after is State.BACKOFF:
        delay_s = min(policy.backoff.max_s, policy.backoff.initial_s * 2.0 ** min(life.streak - 1, 32))
        return attrs.evolve(life, delay_s=delay_s)
    open_s = min(policy.breaker.open_max_s, life.open_s * 2) if life.open_s else policy.breaker.open_s
    return attrs.evolve(life, delay_s=open_s, open_s=open_s, failures=())
