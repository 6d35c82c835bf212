"""From probes to a profile in one call: what `run` and `probe` both begin with."""

from collections.abc import Iterable

from supervm.hardware import fastpath
from supervm.hardware.explain import Machine
from supervm.hardware.facts import Probe, ProbeContext
from supervm.hardware.probing import ProbeReport, probe
from supervm.hardware.profiles import make_profile
from supervm.hardware.sizing import compute_sizes
from supervm.hardware.tiers import AUTO, decide, parse_tier


async def survey(
    probes: Iterable[Probe], context: ProbeContext, *, tier: str = AUTO, is_validator: bool
) -> Machine:
    """Probe, decide, size and choose; takes at most 5 s. Raises UnknownTier before probing."""
    parse_tier(tier)
    return conclude(await probe(probes, context), tier=tier, is_validator=is_validator)


def conclude(report: ProbeReport, *, tier: str = AUTO, is_validator: bool) -> Machine:
    """What follows from a report. Pure. Raises UnknownTier."""
    decision = decide(report.facts, tier)
    sizes = compute_sizes(report.facts, decision.tier, is_native=fastpath.BLOCKS_NATIVE)
    profile = make_profile(decision.tier, sizes, is_validator=is_validator)
    return Machine(report=report, decision=decision, sizes=sizes, profile=profile)
