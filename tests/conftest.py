"""What holds for every test."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Tests of real processes, sockets, threads and disks: what the machine's scheduler does is part of them.
# One of these that fails runs once more, and the report's end names it (RERUN). All others are the same
# on every run, or wrong.
OF_THE_MACHINE = {
    "bench", "chain", "cli", "client", "consensus", "consensus_bft", "e2e", "faults", "http", "independent",
    "kernel", "mvcc", "node", "soak", "storage", "storage_backends", "telemetry", "thirdparty", "transport",
}  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("rerunfailures"):
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents and item.path.relative_to(here).parts[0] in OF_THE_MACHINE:
                item.add_marker(pytest.mark.flaky(reruns=1))
