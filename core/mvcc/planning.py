"""Cutting a batch into lanes that don't get into each other's way (EXEC-56 to EXEC-60). Pure.

A lane runs its transactions one after the other; lanes run beside each other. Whatever the plan, every
transaction still validates when it commits: a bad plan costs retries, never a wrong result.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import attrs
from attrs.validators import and_, ge, le
from blake3 import blake3

from supervm.mvcc.dependencies import Access
from supervm.mvcc.hot_keys import HotKeyTracker, Tier

Lane = tuple[int, ...]
"""Places in the batch, in the order in which they run."""


@attrs.frozen(kw_only=True)
class PlanRules:
    """How to cut. Each part has its switch.

    `hot_key_threshold`: a key that so many transactions of a batch touch, and one writes, is hot.
    `density_fallback_threshold`: above this share of conflicting pairs among the cold ones grouping isn't
    worth its while, and they run as they come.
    """

    hot_key_isolation: bool = True
    hot_key_threshold: int = attrs.field(default=5, validator=and_(ge(2), le(64)))
    owner_sharding: bool = False
    num_shards: int = attrs.field(default=8, validator=and_(ge(4), le(64)))
    key_index_grouping: bool = True
    density_fallback_threshold: float = attrs.field(default=0.05, validator=and_(ge(0.03), le(0.10)))


@attrs.frozen(kw_only=True)
class Plan:
    """Every place of the batch is in exactly one lane.

    `extreme` is one lane; `medium` and `batch_hot` have one for each key, `partitions` for each shard.
    `groups` run one after the other; inside one nothing conflicts, so its members are lanes of their own.
    `direct` run as they come: what declared nothing, and cold ones of a dense batch.
    """

    extreme: Lane = ()
    medium: tuple[Lane, ...] = ()
    batch_hot: tuple[Lane, ...] = ()
    partitions: tuple[Lane, ...] = ()
    groups: tuple[Lane, ...] = ()
    direct: Lane = ()
    density: float = 0.0
    precise_checks: int = 0
    precise_conflicts_added: int = 0


def plan_batch(
    accesses: Sequence[Access | None], rules: PlanRules, tracker: HotKeyTracker | None = None
) -> Plan:
    """Cut a batch by what its transactions declare; None declares nothing. `tracker` gives the tiers."""
    declared = [(at, access) for at, access in enumerate(accesses) if access is not None]
    direct = [at for at, access in enumerate(accesses) if access is None]
    extreme: list[int] = []
    medium: dict[bytes, list[int]] = {}
    batch_hot: dict[bytes, list[int]] = {}
    rest = declared
    if rules.hot_key_isolation:
        tiers = _hot_tiers(declared, rules, tracker)
        rest = []
        for at, access in declared:
            hot = [key for key in access.reads | access.writes if key in tiers]
            if not hot:
                rest.append((at, access))
            elif any(tiers[key] is Tier.EXTREME for key in hot):
                extreme.append(at)
            else:
                # Of several hot keys the lowest one's lane; the others' are left to validation.
                lane = medium if any(tiers[key] is Tier.MEDIUM for key in hot) else batch_hot
                lane.setdefault(min(hot), []).append(at)
    partitions: dict[int, list[int]] = {}
    if rules.owner_sharding:
        rest = _take_partitions(rest, rules.num_shards, partitions)
    groups: list[Lane] = []
    dense, checks, edges = density([access for _, access in rest]), 0, 0
    if rules.key_index_grouping and dense <= rules.density_fallback_threshold:
        groups, checks, edges = _colour(rest)
    else:
        direct = sorted(direct + [at for at, _ in rest])
    return Plan(
        extreme=tuple(extreme),
        medium=tuple(map(tuple, medium.values())),
        batch_hot=tuple(map(tuple, batch_hot.values())),
        partitions=tuple(map(tuple, partitions.values())),
        groups=tuple(groups),
        direct=tuple(direct),
        density=dense,
        precise_checks=checks,
        precise_conflicts_added=edges,
    )


def _hot_tiers(
    declared: Sequence[tuple[int, Access]], rules: PlanRules, tracker: HotKeyTracker | None
) -> Mapping[bytes, Tier]:
    """The hot keys of a batch and their tiers: hot over many batches, or (COLD) in this one only."""
    touched: Counter[bytes] = Counter()
    written: set[bytes] = set()
    for _, access in declared:
        touched.update(access.reads | access.writes)
        written |= access.writes
    found: dict[bytes, Tier] = {}
    for key in written:
        tier = Tier.COLD if tracker is None else tracker.tier(key)
        if tier is not Tier.COLD or touched[key] >= rules.hot_key_threshold:
            found[key] = tier
    return found


def partition_of(key: bytes, partitions: int) -> int:
    """First 8 bytes of blake3(key), little-endian, modulo the number of partitions (EXEC-70)."""
    return int.from_bytes(blake3(key).digest(8), "little") % partitions


def _take_partitions(
    rest: Sequence[tuple[int, Access]], shards: int, lanes: dict[int, list[int]]
) -> list[tuple[int, Access]]:
    """Move into `lanes` those whose keys all lie in one shard; returns the others."""
    left = []
    for at, access in rest:
        owners = {partition_of(key, shards) for key in access.reads | access.writes}
        if len(owners) == 1 and not access.ranges:
            lanes.setdefault(owners.pop(), []).append(at)
        else:
            left.append((at, access))
    return left


def density(accesses: Sequence[Access]) -> float:
    """The share of pairs that conflict, from the keys alone (EXEC-58); pairs count once for each key."""
    pairs = len(accesses) * (len(accesses) - 1) / 2
    if not pairs:
        return 0.0
    writers: Counter[bytes] = Counter()
    readers: Counter[bytes] = Counter()
    for access in accesses:
        writers.update(access.writes)
        readers.update(access.reads - access.writes)
    conflicting = sum(w * (w - 1) / 2 + w * readers[key] for key, w in writers.items())
    return min(1.0, conflicting / pairs)


def _colour(rest: Sequence[tuple[int, Access]]) -> tuple[list[Lane], int, int]:
    """Greedy colouring over the key index: groups without a conflict inside; keys looked at; edges found."""
    wrote: dict[bytes, set[int]] = {}  # the colours that write a key
    read: dict[bytes, set[int]] = {}
    ranged: list[tuple[Access, int]] = []  # those with ranges, which the index can't find
    groups: list[list[int]] = []
    checks = edges = 0
    for at, access in rest:
        taken: set[int] = set()
        for key in access.writes:
            taken |= wrote.get(key, _NONE) | read.get(key, _NONE)
        for key in access.reads:
            taken |= wrote.get(key, _NONE)
        for low, high in access.ranges:
            for key, colours in wrote.items():
                if low <= key and (high is None or key < high):
                    taken |= colours
        taken |= {colour for other, colour in ranged if other.conflicts_with(access)}
        checks += len(access.reads) + len(access.writes)
        edges += len(taken)
        colour = next(colour for colour in range(len(groups) + 1) if colour not in taken)
        if colour == len(groups):
            groups.append([])
        groups[colour].append(at)
        for key in access.writes:
            wrote.setdefault(key, set()).add(colour)
        for key in access.reads:
            read.setdefault(key, set()).add(colour)
        if access.ranges:
            ranged.append((access, colour))
    return [tuple(group) for group in groups], checks, edges


_NONE: frozenset[int] = frozenset()
