"""Epochs in the simulator: several of them in a run, also where one begins on a full disk."""

import attrs

from supervm.plugins.consensus.simulation.plan import Ask, Fault, Mishap, Plan, Request, draw_plan
from supervm.plugins.consensus.simulation.world import run_plan


def short_epochs(seed: int) -> Plan:
    """A calm run with much to do, and an epoch every ten blocks or so."""
    requests = tuple(
        Request(round(0.3 + 0.1 * each, 6), each % 4, Ask.TRANSFER, (each % 4, 3)) for each in range(12)
    )
    return attrs.evolve(draw_plan(seed, "calm", 4), epoch_blocks=9, heal_s=2.0, requests=requests)


def test_epochs_follow_each_other_and_nothing_final_is_lost() -> None:
    outcome = run_plan(short_epochs(1))
    assert not outcome.oracle, f"{outcome.oracle}: {outcome.problem}"
    assert outcome.epoch >= 3


def test_a_validator_whose_disk_is_full_when_an_epoch_begins_takes_part_again_when_it_has_room() -> None:
    full = tuple(
        Mishap(Fault.DISK_FULL, 0.4 + 0.3 * each, 0.65 + 0.3 * each, (each % 4,)) for each in range(5)
    )
    ended = 0
    for seed in range(3):
        outcome = run_plan(attrs.evolve(short_epochs(seed), mishaps=full))
        assert not outcome.oracle, f"seed {seed}: {outcome.oracle}: {outcome.problem}"
        ended += outcome.epoch - 1
    assert ended >= 3
