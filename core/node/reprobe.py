"""A node's tier is fixed for one run; what the machine would be now is only reported (TIER-10)."""

from pathlib import Path

import trio

from supervm.hardware.explain import one_line
from supervm.hardware.facts import ProbeContext
from supervm.hardware.survey import survey
from supervm.kernel.component import Clock, Log
from supervm.node.catalogue import probes
from supervm.node.compose import Prepared
from supervm.storage.folder import write_synced

LAST_TIER = "last-tier"
LAST_TIER_BYTES_MAX = 16
EVERY_S = 3600.0


def compare_with_last(data: Path, tier: str, log: Log) -> None:
    """Say so when this start decided on another tier than the last one, and remember this one's."""
    kept = data / LAST_TIER
    last = ""
    if kept.exists():
        with kept.open("rb") as file:
            last = file.read(LAST_TIER_BYTES_MAX).decode("ascii", "replace").strip()
    if last and last != tier:
        log.warning("tier_changed", last=last, now=tier, data="kept as it is")
    if last != tier:
        write_synced(kept, f"{tier}\n".encode())


async def report_changes(prepared: Prepared, clock: Clock, log: Log, every_s: float = EVERY_S) -> None:
    """Probe again now and then, and log when the hardware would decide otherwise. Never changes anything."""
    decided = prepared.machine.decision
    told = decided.by_hardware
    while True:
        await clock.sleep(every_s)
        offered, _ = probes(prepared.catalogue)
        context = ProbeContext(data_dir=prepared.data)
        machine = await survey(offered, context, tier=decided.override, is_validator=True)
        if machine.decision.by_hardware != told:
            told = machine.decision.by_hardware
            log.warning(
                "hardware_changed", now=one_line(machine), tier=f"{decided.tier} until the next start"
            )
        await trio.lowlevel.checkpoint()
