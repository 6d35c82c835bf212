"""Several epochs under faults, hostile validators, lost disks and absence (CONS-50..55, 61, 67, 91, 95)."""

from typing import Any

import attrs
import pytest

from supervm.plugins.consensus.bft.batch_events import EpochCloses
from supervm.plugins.consensus.bft.epochs.closing import Closing
from supervm.plugins.consensus.bft.events import Log
from supervm.plugins.consensus.bft.records import SilentBefore
from supervm.plugins.consensus.bft.sync.rejoining import Rejoin
from tests.consensus_bft import SCALE
from tests.consensus_bft.sim.epoch_world import EpochPlan, draw_epoch_plan, run_epochs
from tests.consensus_bft.sim.plan import SECOND, Fault, Mishap

PLAN = EpochPlan(
    seed=1,
    weights=(1,) * 6,
    sets=((1,) * 5, (2, 2, 2, 3), (1,) * 6, (3, 2, 2, 2, 2)),
    skews_ms=(0,) * 6,
    work_us=tuple(range(0, 6 * SECOND, 400_000)),
    heal_us=6 * SECOND,
)


def test_no_seed_violates_an_oracle_and_epochs_go_on_after_healing() -> None:
    """CONS-91, CONS-95: clients keep back batches until the epoch closes, disks are lost."""
    for seed in range(5 * SCALE):
        outcome = run_epochs(draw_epoch_plan(seed))
        assert outcome.oracle == "", f"seed {seed}: {outcome.problem}"


def test_the_same_seed_gives_the_same_trace() -> None:
    plan = attrs.evolve(PLAN, heal_us=1 * SECOND, work_us=(0, 200_000))
    assert run_epochs(plan).trace == run_epochs(plan).trace


def test_a_validator_that_was_off_for_epochs_catches_up_and_takes_part_again() -> None:
    away = Mishap(Fault.CRASH, 200_000, 6 * SECOND, (3,))
    outcome = run_epochs(attrs.evolve(PLAN, mishaps=(away,)))
    assert outcome.oracle == "", outcome.problem
    assert outcome.epoch >= 4


def test_a_validator_that_lost_its_disk_is_silent_and_then_votes_again() -> None:
    """CONS-95, by CONS-67."""
    outcome = run_epochs(attrs.evolve(PLAN, lost=((2, 1 * SECOND, 1_500_000),)))
    assert outcome.oracle == "", outcome.problem
    assert outcome.rejoined == {2}


class DoneAtOnce(Closing):
    """Epoch-done before inclusion: what is held when effects stop is no duty."""

    def _decide(self) -> None:
        if self._owed is not None:
            self._owed = {}
        super()._decide()


class SignsOn(Closing):
    """Effects after epoch-done: they are signed until the epoch ends."""

    def _closes(self, start: int, height: int) -> None:
        super()._closes(start, height)
        if EpochCloses(last_effects=True) in self._out:
            self._out.remove(EpochCloses(last_effects=True))
            self._owed = dict.fromkeys(self._duties())


class VotesAtOnce(Rejoin):
    """Silent in no epoch at all after a lost disk."""

    def _on_told(self, peer: bytes, told: Any) -> None:
        super()._on_told(peer, told)
        if self._decided:
            self._decided -= 2
            now = Log(1, SilentBefore(self._decided))
            self._out = [now if isinstance(each, Log) else each for each in self._out]


@pytest.mark.parametrize(
    ("bug", "first", "oracle"),
    [
        ({"closing": DoneAtOnce}, 0, "effects"),
        ({"closing": SignsOn}, 28, "effects"),
        ({"rejoin": VotesAtOnce}, 0, "silence"),
    ],
    ids=["epoch-done before inclusion", "effects after epoch-done", "votes after a lost disk"],
)
def test_a_planted_bug_of_epochs_is_found(bug: dict[str, Any], first: int, oracle: str) -> None:
    for seed in range(first, first + 30):
        outcome = run_epochs(draw_epoch_plan(seed), **bug)
        if outcome.oracle == oracle:
            assert run_epochs(draw_epoch_plan(seed)).oracle == "", "without the bug nothing is wrong"
            return
    pytest.fail("no seed finds it")
