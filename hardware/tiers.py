"""Facts -> tier (TIER-4 to TIER-10). Thresholds are minimums: no gaps, no overlaps, the best match wins."""

from typing import Self

import attrs

from supervm.hardware.facts import DiskKind, HardwareFacts, NetworkKind

AUTO = "auto"
TIERS = ("L1", "L2", "L3", "L4")
NAMES = {"L1": "supernode", "L2": "miner", "L3": "edge", "L4": "mobile"}
_ACCEPTED = {AUTO: AUTO} | {name: tier for tier in TIERS for name in (tier.lower(), NAMES[tier])}

GB = 10**9
# Firmware, integrated graphics and file systems take a few per cent of memory and disk (TIER-4).
TOLERANCE_PERCENT = 95

LINK_MBPS_L4 = 100  # a slower link makes an L4
LINK_MBPS_ADVISED = {"L1": 10_000, "L2": 1_000, "L3": 100}
FSYNC_US_ADVISED = 20_000


class UnknownTier(ValueError):
    """A tier that has no such name; the text is what an operator reads."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"unknown tier {name[:40]!r}; use auto, l1 (supernode), l2 (miner), l3 (edge) or l4 (mobile)"
        )


@attrs.frozen(kw_only=True)
class Row:
    """A tier's minimums: logical cores, gigabytes of memory, gigabytes of disk. All must hold."""

    tier: str
    cores: int
    memory_gb: int
    disk_gb: int

    @classmethod
    def of(cls, tier: str) -> Self:
        return next(row for row in ROWS if row.tier == tier)  # type: ignore[return-value]


ROWS = (
    Row(tier="L1", cores=32, memory_gb=128, disk_gb=2000),
    Row(tier="L2", cores=16, memory_gb=64, disk_gb=500),
    Row(tier="L3", cores=4, memory_gb=8, disk_gb=100),
    Row(tier="L4", cores=0, memory_gb=0, disk_gb=0),
)


@attrs.frozen(kw_only=True)
class Unmet:
    """One minimum of a tier that the facts don't meet; `has` is as people write it, or `unknown`."""

    tier: str
    fact: str
    needs: str
    has: str

    def __str__(self) -> str:
        return f"{self.tier} needs {self.needs}, has {self.has}"


@attrs.frozen(kw_only=True)
class Cap:
    """A reason why this machine is at most `tier` (TIER-6)."""

    tier: str
    reason: str

    def __str__(self) -> str:
        return f"{self.reason}: at most {self.tier}"


@attrs.frozen(kw_only=True)
class TierDecision:
    """The tier and why.

    `matched` is the row of TIER-5 that the facts meet; `failed` the first unmet minimum of each row
    above it, best tier first. `by_hardware` is the tier without an override. `warnings` change nothing.
    """

    tier: str
    by_hardware: str
    matched: Row
    failed: tuple[Unmet, ...] = ()
    caps: tuple[Cap, ...] = ()
    warnings: tuple[str, ...] = ()
    override: str = AUTO

    @property
    def next_better(self) -> Unmet | None:
        """What keeps the facts from the row above the matched one; None at the top."""
        return self.failed[-1] if self.failed else None


def parse_tier(name: str) -> str:
    """`auto` or L1 to L4 for any accepted name, in any case. Raises UnknownTier."""
    tier = _ACCEPTED.get(name.strip().lower())
    if tier is None:
        raise UnknownTier(name)
    return tier


def decide(facts: HardwareFacts, override: str = AUTO) -> TierDecision:
    """The tier of this machine. Pure. Raises UnknownTier for an override with no such name.

    An unknown core count, memory or disk fails the row. An override is obeyed; where it asks for more
    than the machine has, each unmet minimum is a warning, and sizes still come from the facts.
    """
    asked = parse_tier(override)
    matched = next(row for row in ROWS if not unmet(row, facts))
    failed = tuple(unmet(row, facts)[0] for row in ROWS if row.tier < matched.tier)
    caps = tuple(cap for cap in _caps(facts) if cap.tier > matched.tier)
    by_hardware = max([matched.tier, *(cap.tier for cap in caps)])
    tier = by_hardware if asked == AUTO else asked
    warnings = _advice(tier, facts)
    if tier < by_hardware:
        warnings = _overridden(tier, facts) + warnings
    return TierDecision(
        tier=tier,
        by_hardware=by_hardware,
        matched=matched,
        failed=failed,
        caps=caps,
        warnings=tuple(warnings),
        override=asked,
    )


def unmet(row: Row, facts: HardwareFacts) -> list[Unmet]:
    """Every minimum of `row` that the facts don't meet: cores, memory, disk, in this order."""
    found: list[Unmet] = []

    def miss(fact: str, needs: str, has: str) -> None:
        found.append(Unmet(tier=row.tier, fact=fact, needs=needs, has=has))

    cores = facts.cpu_cores_usable
    if row.cores and (cores is None or cores < row.cores):
        miss("cpu_cores_usable", f"{row.cores} cores", "unknown" if cores is None else str(cores))
    if not _has_bytes(facts.memory_limit_bytes, row.memory_gb):
        miss("memory_limit_bytes", f"{row.memory_gb} GB memory", gigabytes(facts.memory_limit_bytes))
    if not _has_bytes(facts.disk_capacity_bytes, row.disk_gb):
        miss("disk_capacity_bytes", f"{row.disk_gb} GB disk", gigabytes(facts.disk_capacity_bytes))
    return found


def _has_bytes(value: int | None, threshold_gb: int) -> bool:
    """TIER-4, in whole numbers: value >= 0.95 T."""
    if threshold_gb == 0:
        return True
    return value is not None and value * 100 >= threshold_gb * GB * TOLERANCE_PERCENT


def gigabytes(value: int | None) -> str:
    """Bytes as people write them: `512 GB`, `7.6 GB`, `unknown`."""
    if value is None:
        return "unknown"
    return f"{value / GB:.1f} GB" if value < 10 * GB else f"{value / GB:.0f} GB"


def _caps(facts: HardwareFacts) -> list[Cap]:
    caps: list[Cap] = []
    if facts.battery is not None:
        caps.append(Cap(tier="L3", reason="runs from a battery"))
    if facts.network_kind == NetworkKind.CELLULAR:
        caps.append(Cap(tier="L4", reason="the network is cellular"))
    if facts.network_metered:
        caps.append(Cap(tier="L4", reason="the network is metered"))
    if facts.network_link_mbps is not None and facts.network_link_mbps < LINK_MBPS_L4:
        caps.append(Cap(tier="L4", reason=f"the link is {facts.network_link_mbps} Mbit/s"))
    if facts.address_bits is not None and facts.address_bits < 64:
        caps.append(Cap(tier="L4", reason=f"the address space is {facts.address_bits} bits"))
    return caps


def _overridden(tier: str, facts: HardwareFacts) -> list[str]:
    missing = [str(each) for each in unmet(Row.of(tier), facts)]
    missing += [str(cap) for cap in _caps(facts) if cap.tier > tier]
    return [f"tier {tier} was asked for, though {each}" for each in missing]


def _advice(tier: str, facts: HardwareFacts) -> list[str]:
    """What only warns (TIER-6, last sentence)."""
    found: list[str] = []
    link, advised = facts.network_link_mbps, LINK_MBPS_ADVISED.get(tier)
    if link is not None and advised is not None and link < advised:
        found.append(f"the link is {link} Mbit/s; {tier} should have {advised}")
    if facts.disk_kind == DiskKind.HDD:
        found.append("the data disk rotates; commits wait for it, use an SSD")
    fsync = facts.disk_fsync_us
    if fsync is not None and fsync > FSYNC_US_ADVISED:
        found.append(f"a synced write takes {fsync} us; more than {FSYNC_US_ADVISED} us slows every commit")
    return found
