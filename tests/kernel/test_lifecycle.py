"""PLUG-9..11: the life of a component, without any I/O."""

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.kernel.component import Backoff, Breaker, Supervision
from supervm.kernel.errors import LifecycleError
from supervm.kernel.lifecycle import TABLE, Event, Life, State, step

POLICY = Supervision(
    backoff=Backoff(initial_s=0.5, max_s=60, reset_after_s=300),
    breaker=Breaker(failures=5, window_s=60, open_s=60, open_max_s=900),
)


def live(life: Life, *events: Event, now: float = 0.0) -> Life:
    for event in events:
        life = step(life, event, now, POLICY, "a cause")
    return life


def crash_and_wait(life: Life, now: float) -> Life:
    return live(life, Event.CRASHED, Event.CLOSE, Event.CLOSED, now=now)


def test_a_component_opens_serves_drains_and_closes() -> None:
    life = live(Life(), Event.OPEN, Event.YIELDED)
    assert life.state is State.SERVING and life.serves
    life = live(life, Event.DRAIN, Event.DRAINED, Event.CLOSED)
    assert life.state is State.CLOSED and not life.serves and life.causes == ()


@pytest.mark.parametrize(
    ("state", "event"), [pair for pair in itertools.product(State, Event) if pair not in TABLE]
)
def test_an_event_that_is_not_in_the_table_raises_with_state_and_event(state: State, event: Event) -> None:
    with pytest.raises(LifecycleError) as caught:
        step(Life(state=state), event, 0.0, POLICY)
    assert caught.value.state == state and caught.value.event == event


def test_a_failed_component_is_always_closed_before_it_waits() -> None:
    assert {after for (state, _), after in TABLE.items() if state is State.FAILED} == {State.CLOSING}


def test_backoff_doubles_from_half_a_second_to_its_bound() -> None:
    patient = attrs.evolve(POLICY, breaker=attrs.evolve(POLICY.breaker, failures=1000))
    life, delays = step(Life(), Event.OPEN, 0, patient), []
    for now in range(10):
        for event in (Event.CRASHED, Event.CLOSE, Event.CLOSED):
            life = step(life, event, now, patient, "x")
        delays.append(life.delay_s)
        life = step(life, Event.DELAY_OVER, now, patient)
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert life.restarts == 10


def test_a_good_run_forgets_the_failures_before_it() -> None:
    life = live(Life(), Event.OPEN)
    for now in (0.0, 1.0, 2.0):
        life = live(crash_and_wait(life, now), Event.DELAY_OVER, now=now)
    life = live(life, Event.YIELDED, now=10)
    assert crash_and_wait(life, now=10 + 299).delay_s == 4
    assert crash_and_wait(life, now=10 + 300).delay_s == 0.5


def test_five_failures_within_a_minute_break_it_for_a_minute() -> None:
    life = live(Life(), Event.OPEN)
    for now in range(4):
        life = crash_and_wait(life, now)
        assert life.state is State.BACKOFF
        life = live(life, Event.DELAY_OVER, now=now)
    life = crash_and_wait(life, 5)
    assert life.state is State.BROKEN and life.delay_s == 60


def test_failures_spread_over_more_than_the_window_do_not_break_it() -> None:
    life = live(Life(), Event.OPEN)
    for number in range(20):
        life = crash_and_wait(life, number * 20.0)
        assert life.state is State.BACKOFF
        life = live(life, Event.DELAY_OVER, now=number * 20.0)


def broken(now: float = 5) -> Life:
    life = live(Life(), Event.OPEN)
    for _ in range(4):
        life = live(crash_and_wait(life, now), Event.DELAY_OVER, now=now)
    return crash_and_wait(life, now)


def test_a_failed_trial_doubles_the_open_time_to_a_quarter_of_an_hour() -> None:
    life, waits = broken(), []
    for now in range(6):
        life = live(life, Event.DELAY_OVER, now=now)
        assert life.trial
        life = crash_and_wait(life, now)
        waits.append(life.delay_s)
    assert waits == [120, 240, 480, 900, 900, 900]


def test_a_trial_that_holds_closes_the_breaker() -> None:
    life = live(broken(), Event.DELAY_OVER, Event.YIELDED, now=100)
    life = crash_and_wait(life, now=100 + 61)
    assert life.state is State.BACKOFF and not life.trial and life.open_s == 0


def test_an_operator_reset_tries_at_once_and_forgets() -> None:
    life = live(broken(), Event.RESET, now=6)
    assert life.state is State.OPENING and not life.trial
    assert crash_and_wait(life, 7).state is State.BACKOFF


def test_three_failing_health_answers_fail_it_and_an_ok_between_counts_anew() -> None:
    life = live(Life(), Event.OPEN, Event.YIELDED)
    life = live(life, Event.HEALTH_FAILING, Event.HEALTH_FAILING, Event.HEALTH_OK, Event.HEALTH_FAILING)
    assert life.state is State.SERVING
    life = live(life, Event.HEALTH_FAILING, Event.HEALTH_FAILING)
    assert life.state is State.FAILED and life.causes == ("a cause",)


def test_a_degraded_component_serves_again_after_two_ok_in_a_row() -> None:
    life = live(Life(), Event.OPEN, Event.YIELDED, Event.HEALTH_DEGRADED)
    assert life.state is State.DEGRADED and life.serves
    life = live(life, Event.HEALTH_OK, Event.HEALTH_DEGRADED, Event.HEALTH_OK)
    assert life.state is State.DEGRADED
    assert live(life, Event.HEALTH_OK).state is State.SERVING


@given(st.lists(st.sampled_from(list(Event)), max_size=60))
def test_whatever_happens_the_record_stays_bounded(events: list[Event]) -> None:
    life = Life()
    for number, event in enumerate(events):
        if (life.state, event) in TABLE:
            life = step(life, event, float(number), POLICY, f"cause {number}")
        assert len(life.causes) <= 5
        assert len(life.failures) <= POLICY.breaker.failures
        assert 0 <= life.delay_s <= POLICY.breaker.open_max_s
