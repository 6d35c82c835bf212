"""While the disk is full `solo` says so and waits; told to stop, it doesn't wait for the disk (CONS-66)."""

from pathlib import Path

import pytest
import trio
import trio.testing

from supervm.contracts.storage import DiskFull
from supervm.kernel.component import HealthState
from supervm.plugins.consensus import supervm_components
from supervm.testing.conformance.consensus import RecordingApplication, transactions
from supervm.testing.context import opened

SOLO = next(iter(supervm_components()))


def full_disk() -> RecordingApplication:
    application = RecordingApplication()
    application.commit_error = DiskFull("no space left", "/srv/node", "Free some.")
    return application


async def test_blocks_wait_for_the_disk_and_go_on(tmp_path: Path, autojump_clock: object) -> None:
    application = full_disk()
    async with opened(SOLO, tmp_path, requires={"application": application}) as solo:
        application.submit(*transactions(3))
        await trio.sleep(100)
        health = await solo.health()
        # Not failing: three times that, and the kernel would open it again.
        assert (health.state, health.ready) == (HealthState.DEGRADED, False)
        assert "the disk is full" in health.detail and "/srv/node" in health.detail
        assert 4 <= application.calls.count("commit") <= 10
        assert application.height == 0
        application.commit_error = None
        await application.until_committed(3)
        await trio.testing.wait_all_tasks_blocked()
        health = await solo.health()
        assert (health.state, health.ready) == (HealthState.OK, True)


async def test_a_full_disk_does_not_hold_up_a_drain(tmp_path: Path, autojump_clock: object) -> None:
    application = full_disk()
    async with opened(SOLO, tmp_path, requires={"application": application}) as solo:
        application.submit(*transactions(3))
        await trio.sleep(50)
        tries = application.calls.count("commit")
        began = trio.current_time()
        await solo.drain(began + 30)
        assert trio.current_time() - began == pytest.approx(0, abs=0.1)
        assert application.calls.count("commit") <= tries + 1
        assert application.height == 0
