"""Epochs in the simulator: several of them in a run, also where one begins on a full disk."""

import attrs
import pytest

from supervm.contracts.storage import DiskFull, KeyValueStore
from supervm.plugins.consensus.bft.driver import validator
from supervm.plugins.consensus.simulation.plan import Ask, Plan, Request, draw_plan
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


def test_a_validator_whose_disk_is_full_when_an_epoch_begins_waits_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = validator.forget_records
    refused: list[int] = []

    async def forget(store: KeyValueStore, epoch: int) -> None:
        if epoch > 1 and refused.count(epoch) < 2:
            refused.append(epoch)
            raise DiskFull("the virtual disk is full", "disk", "wait for room")
        await real(store, epoch)

    monkeypatch.setattr(validator, "forget_records", forget)
    outcome = run_plan(short_epochs(0))
    assert not outcome.oracle, f"{outcome.oracle}: {outcome.problem}"
    assert refused[:2] == [2, 2]
    assert outcome.epoch >= 3
