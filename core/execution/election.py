"""Who validates in the next epoch: pure functions of what the state holds (CONS-83).

The genesis set stays unless stakes say otherwise. An election by reputation is another function of the same
shape; which one counts is a policy of the chain, and changes only between epochs (CONS-50).
"""

from collections.abc import Iterable

import attrs

from supervm.types.validators import VALIDATORS_MAX, Validator, ValidatorSet


@attrs.frozen(kw_only=True)
class Stake:
    """What a node has at stake, in base units of the native token. `leaves`: it asked to leave the set."""

    node_id: bytes
    public_key: bytes
    amount: int
    leaves: bool = False


@attrs.frozen(kw_only=True)
class StakeRules:
    """`minimum`: the least stake of a validator (GAS-19), in base units. `unit`: base units a weight of one.
    `seats_max`: members of a set at most."""

    minimum: int
    unit: int
    seats_max: int = 100


def stake_weighted(current: ValidatorSet, stakes: Iterable[Stake], rules: StakeRules) -> ValidatorSet:
    """The next set: who stakes enough and doesn't leave, the highest stakes first, weight by stake.

    Ties go to the lower node id. Where nobody is left, or the weights pass what a set can hold, the current
    set goes on: a chain without validators would never get any again. A node id counts once, its last stake.
    """
    assert rules.unit >= 1 and 1 <= rules.seats_max <= VALIDATORS_MAX, f"rules nobody can apply: {rules}"
    by_node = {each.node_id: each for each in stakes}
    eligible = [
        each
        for each in by_node.values()
        if not each.leaves and each.amount >= rules.minimum and each.amount >= rules.unit
    ]
    eligible.sort(key=lambda each: (-each.amount, each.node_id))
    seated = sorted(eligible[: rules.seats_max], key=lambda each: each.node_id)
    weights = [each.amount // rules.unit for each in seated]
    if not seated or sum(weights) >= 1 << 64:
        return current
    return ValidatorSet(
        tuple(
            Validator(each.node_id, each.public_key, weight)
            for each, weight in zip(seated, weights, strict=True)
        )
    )
