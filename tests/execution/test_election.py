"""The next validator set by stake (CONS-83)."""

from hypothesis import given
from hypothesis import strategies as st

from supervm.execution.election import Stake, StakeRules, stake_weighted
from supervm.types.validators import Validator, ValidatorSet

CURRENT = ValidatorSet((Validator(bytes([9]) * 32, bytes(32), 1),))
RULES = StakeRules(minimum=100, unit=10, seats_max=3)


def stake(number: int, amount: int, leaves: bool = False) -> Stake:
    return Stake(node_id=bytes([number]) * 32, public_key=bytes([number]) * 32, amount=amount, leaves=leaves)


def members(validators: ValidatorSet) -> list[tuple[int, int]]:
    return [(each.node_id[0], each.weight) for each in validators.members]


def test_the_highest_stakes_are_seated_with_their_weight_and_ties_go_to_the_lower_node() -> None:
    stakes = [stake(5, 300), stake(4, 200), stake(3, 200), stake(2, 200), stake(1, 99)]
    assert members(stake_weighted(CURRENT, stakes, RULES)) == [(2, 20), (3, 20), (5, 30)]


def test_who_leaves_or_stakes_too_little_has_no_seat_and_who_stakes_enough_joins() -> None:
    stakes = [stake(1, 100), stake(2, 1_000, leaves=True), stake(3, 99)]
    assert members(stake_weighted(CURRENT, stakes, RULES)) == [(1, 10)]


def test_where_nobody_is_left_the_set_goes_on() -> None:
    assert stake_weighted(CURRENT, [stake(1, 5)], RULES) is CURRENT
    assert stake_weighted(CURRENT, [], RULES) is CURRENT
    assert stake_weighted(CURRENT, [stake(1, 2**70)], RULES) is CURRENT, "weights fit in 64 bits"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2_000), st.booleans())), st.randoms())
def test_the_order_of_stakes_changes_nothing(drawn: list[tuple[int, int, bool]], rng: object) -> None:
    stakes = list({each[0]: stake(*each) for each in drawn}.values())
    shuffled = list(stakes)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stake_weighted(CURRENT, stakes, RULES) == stake_weighted(CURRENT, shuffled, RULES)
