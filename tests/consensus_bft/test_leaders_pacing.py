"""Leaders by weight, and delays that fit what was measured (CONS-30, CONS-31)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.plugins.consensus.bft.leaders import Leaders
from supervm.plugins.consensus.bft.pacing import DELAY_MAX_US, DELAY_MIN_US, Pacing, Silence
from supervm.types.validators import Validator, ValidatorSet

CHAIN = b"c" * 32


def set_of(weights: list[int]) -> ValidatorSet:
    return ValidatorSet(tuple(Validator(bytes([n + 1]) * 32, bytes(32), w) for n, w in enumerate(weights)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 2**64 - 1))
def test_each_validator_leads_as_often_as_it_weighs(weights: list[int], epoch: int) -> None:
    leaders = Leaders(set_of(weights), CHAIN, epoch)
    total = sum(weights)
    led = [leaders.of(view) for view in range(1, 3 * total + 1)]
    for number, weight in enumerate(weights):
        assert abs(led.count(number) - 3 * weight) <= 1


def test_the_leader_of_a_view_doesnt_depend_on_what_was_asked_before() -> None:
    validators = set_of([3, 1, 2, 5])
    forward, backward = Leaders(validators, CHAIN, 1), Leaders(validators, CHAIN, 1)
    views = range(1, 40)
    assert [forward.of(view) for view in views] == [backward.of(view) for view in reversed(views)][::-1]
    other = Leaders(validators, CHAIN, 2)
    assert [forward.of(view) for view in views] != [other.of(view) for view in views]


def test_the_weight_of_the_largest_validators_fits_their_priorities() -> None:
    leaders = Leaders(set_of([2**62, 2**62, 1]), CHAIN, 1)
    assert {leaders.of(view) for view in range(1, 20)} == {0, 1}


def test_the_delay_is_twice_the_mean_time_to_a_quorum_within_its_bounds() -> None:
    pacing = Pacing()
    assert pacing.delay_us == 250_000
    for _ in range(100):
        pacing.quorum_came(40_000)
    assert 80_000 <= pacing.delay_us <= 80_100
    for _ in range(100):
        pacing.quorum_came(0)
    assert pacing.delay_us == DELAY_MIN_US
    for _ in range(100):
        pacing.quorum_came(10**12)
    assert pacing.delay_us == DELAY_MAX_US


def test_nullified_views_in_a_row_make_the_delay_grow_and_a_final_one_takes_it_back() -> None:
    pacing = Pacing()
    delays = []
    for _ in range(50):
        delays.append(pacing.delay_us)
        pacing.nullified()
    assert delays[:3] == [250_000, 375_000, 562_500] and delays[-1] == DELAY_MAX_US
    pacing.finalised()
    assert pacing.delay_us == 250_000


def test_a_leader_that_nobody_hears_for_three_of_its_views_is_silent_until_it_votes() -> None:
    silence = Silence(2)
    for _ in range(2):
        silence.left_view(0, heard_leader=False, heard_quorum=True)
    silence.left_view(0, heard_leader=False, heard_quorum=False)
    assert not silence.is_silent(0), "views in which no quorum voted say nothing"
    silence.left_view(0, heard_leader=False, heard_quorum=True)
    assert silence.is_silent(0) and not silence.is_silent(1)
    silence.heard(0)
    assert not silence.is_silent(0)
