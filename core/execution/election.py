"""Who validates in the next epoch: pure functions of what the state holds (CONS-83).

The genesis set stays unless stakes say otherwise. An election by reputation is another function of the same
shape; which one counts is a policy of the chain, and changes only between epochs (CONS-50).
"""

from collections.abc import Iterable

import attrs

from supervm.types.stakes import Stakes
from supervm.types.validators import NOBODY, VALIDATORS_MAX, Validator, ValidatorSet


@attrs.frozen(kw_only=True)
class Stake:
    """What a node has at stake, in base units of the native token. `leaves`: it asked to leave the set.

    `granted`: the weight that genesis gives it beside that.
    """

    node_id: bytes
    public_key: bytes
    amount: int
    leaves: bool = False
    granted: int = 0


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
    worth = {
        node_id: each.granted * rules.unit + (each.amount if each.amount >= rules.minimum else 0)
        for node_id, each in by_node.items()
        if not each.leaves
    }
    eligible = [node_id for node_id, amount in worth.items() if amount >= rules.unit]
    eligible.sort(key=lambda node_id: (-worth[node_id], node_id))
    seated = sorted(eligible[: rules.seats_max])
    weights = [worth[node_id] // rules.unit for node_id in seated]
    if not seated or sum(weights) >= 1 << 64:
        return current
    return ValidatorSet(
        tuple(
            Validator(node_id, by_node[node_id].public_key, weight)
            for node_id, weight in zip(seated, weights, strict=True)
        )
    )


MINIMUM_COINS = 100_000
"""Native coins that a validator stakes at least (GAS-19), and that give it a weight of one (chosen)."""


def rules_of(decimals: int) -> StakeRules:
    """The rules of a chain whose native token has so many decimals."""
    unit = MINIMUM_COINS * 10**decimals
    return StakeRules(minimum=unit, unit=unit)


def elect(granted: ValidatorSet, stakes: Stakes, decimals: int) -> ValidatorSet:
    """The set that a state hands over to: the members of genesis that didn't leave, with the weight that they
    have there, and whoever stakes. Nobody, where all have left."""
    if not stakes.records:
        return granted
    weights = {each.public_key: each.weight for each in granted.members}
    known = {each.public_key for each in stakes.records}
    found = [
        Stake(
            node_id=each.node_id,
            public_key=each.public_key,
            amount=each.amount,
            leaves=bool(each.left_epoch),
            granted=weights.get(each.public_key, 0) if each.granted else 0,
        )
        for each in stakes.records
    ]
    found += [
        Stake(node_id=each.node_id, public_key=each.public_key, amount=0, granted=each.weight)
        for each in granted.members
        if each.public_key not in known
    ]
    rules = rules_of(decimals)
    seats = max(rules.seats_max, len(granted.members))
    return stake_weighted(NOBODY, found, attrs.evolve(rules, seats_max=seats))
