"""Facts -> sizes (TIER-30 to TIER-36): every size from memory and cores, never from the tier alone.

M is `memory_limit_bytes`, C is `cpu_cores_usable`. Each size has a floor and a ceiling, and says by which
formula it came about. A forced tier on a small machine therefore stays small.
"""

import sys
from collections.abc import Mapping

import attrs

from supervm.hardware.facts import HardwareFacts
from supervm.hardware.tiers import gigabytes

MIB = 2**20
GIB = 2**30

CACHES_SHARE_PERCENT = {"L1": 50, "L2": 50, "L3": 50, "L4": 10}  # of M, all caches together
STORAGE_CACHE_FRACTION = {"L1": 0.125, "L2": 0.125, "L3": 0.25, "L4": 0.025}
STORAGE_CACHE_FRACTION_MAX = 0.5
STORAGE_CACHE_BYTES = (16 * MIB, 512 * GIB)
WRITE_BUFFER_BYTES = (4 * MIB, 128 * MIB)
WRITE_BUFFERS = 2
MEMPOOL_FRACTION = 0.02
MEMPOOL_BYTES = (16 * MIB, 4 * GIB)
PAGE_CACHE_FRACTION = 0.01
PAGE_CACHE_BYTES = (4 * MIB, GIB)
STATE_CACHE_FRACTION = 0.0025
STATE_CACHE_BYTES = (MIB, 512 * MIB)
EXECUTION_CACHE_FRACTION = 0.0025
EXECUTION_CACHE_BYTES = (MIB, 16 * GIB)
BACKGROUND_JOBS = (2, 16)
IO_THREADS_MAX = 256
# NET-51: records held by memory, in MiB.
ADDRESS_TABLE = ((512, 50), (1024, 100), (2048, 200), (4096, 300))
ADDRESS_TABLE_MAX = 500

# The caches that TIER-30 adds up; the write buffer counts as often as there are buffers.
STORAGE_CACHE = "storage.cache_bytes"
WRITE_BUFFER = "storage.write_buffer_bytes"
MEMPOOL = "mempool.bytes_max"
PAGE_CACHE = "ledger.page_cache_bytes"
STATE_CACHE = "ledger.state_cache_bytes"
EXECUTION_CACHE = "ledger.execution_cache_bytes"
CACHES = {
    STORAGE_CACHE: 1,
    WRITE_BUFFER: WRITE_BUFFERS,
    MEMPOOL: 1,
    PAGE_CACHE: 1,
    STATE_CACHE: 1,
    EXECUTION_CACHE: 1,
}


class SizeTooLarge(ValueError):
    """A size set by the operator is beyond this machine's memory."""

    def __init__(self, key: str, asked: int, limit: int) -> None:
        self.key, self.asked, self.limit = key, asked, limit
        super().__init__(
            f"{key} is {asked} bytes, but this machine may use {limit} bytes of memory; set {key} lower"
        )


@attrs.frozen(kw_only=True)
class Size:
    """One size: the number, and the formula with this machine's figures."""

    key: str
    value: int
    formula: str


@attrs.frozen
class Sizes:
    """Every size by key; `sizes["storage.cache_bytes"]` is the number."""

    by_key: Mapping[str, Size]

    def __getitem__(self, key: str) -> int:
        return self.by_key[key].value


def compute_sizes(
    facts: HardwareFacts, tier: str, *, cache_fraction: float | None = None, is_native: bool = False
) -> Sizes:
    """All sizes. Unknown memory gives every floor, an unknown core count is one core. Pure.

    `cache_fraction` is the operator's `storage.cache_fraction`, above 0 and at most 0.5. `is_native` says
    that execution runs in C, so that more than one worker helps under the global lock.
    """
    if cache_fraction is not None and not 0 < cache_fraction <= STORAGE_CACHE_FRACTION_MAX:
        raise ValueError(
            f"storage.cache_fraction is {cache_fraction}; use above 0, at most {STORAGE_CACHE_FRACTION_MAX}"
        )
    found = [*_threads(facts, is_native), *_caches(facts, tier, cache_fraction), _address_table(facts)]
    return Sizes({size.key: size for size in found})


def check_asked(asked: Mapping[str, int], facts: HardwareFacts) -> None:
    """Refuse a size in bytes that the operator set above M (TIER-36). Raises SizeTooLarge."""
    limit = facts.memory_limit_bytes
    for key, value in asked.items():
        if limit is not None and value > limit:
            raise SizeTooLarge(key, value, limit)


def clamp(value: int, bounds: tuple[int, int]) -> int:
    """`value`, within (floor, ceiling)."""
    return max(bounds[0], min(value, bounds[1]))


def cpu_workers(cores: int) -> int:
    """TIER-31: the event loop and I/O need cores of their own."""
    reserved = 2 if cores >= 8 else 1 if cores >= 4 else 0
    return max(1, cores - reserved)


def mvcc_shards(cores: int) -> int:
    """TIER-33."""
    return 128 if cores <= 16 else 256 if cores < 64 else 4096


def _threads(facts: HardwareFacts, is_native: bool) -> list[Size]:
    cores = facts.cpu_cores_usable or 1
    has = f"C = {cores}" if facts.cpu_cores_usable else "C unknown, taken as 1"
    parallel = is_native or not _has_global_lock()
    workers = cpu_workers(cores)
    return [
        Size(
            key="workers.cpu", value=workers, formula=f"max(1, C - r), r = {max(0, cores - workers)}, {has}"
        ),
        Size(key="workers.io", value=min(IO_THREADS_MAX, 2 * cores), formula=f"2 C, at most 256, {has}"),
        Size(
            key="execution.workers",
            value=workers if parallel else 1,
            formula=f"workers.cpu, {has}" if parallel else "1: Python code under the global lock",
        ),
        Size(
            key="storage.background_jobs",
            value=clamp(2 * cores, BACKGROUND_JOBS),
            formula=f"clamp(2 C, 2, 16), {has}",
        ),
        Size(key="mvcc.shard_count", value=mvcc_shards(cores), formula=f"by cores, {has}"),
    ]


def _has_global_lock() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _caches(facts: HardwareFacts, tier: str, cache_fraction: float | None) -> list[Size]:
    """The caches, cut in proportion where their floors together pass the share of M they may take."""
    memory = facts.memory_limit_bytes
    fraction = STORAGE_CACHE_FRACTION[tier] if cache_fraction is None else cache_fraction
    has = f"M = {gigabytes(memory)}" if memory else "M unknown: the floor"
    cache = clamp(int(fraction * (memory or 0)), STORAGE_CACHE_BYTES)
    wanted = {
        STORAGE_CACHE: (cache, f"clamp({fraction} M, 16 MiB, 512 GiB), {has}"),
        WRITE_BUFFER: (
            clamp(cache // 4, WRITE_BUFFER_BYTES),
            "clamp(cache / 4, 4 MiB, 128 MiB), two at most",
        ),
        MEMPOOL: (
            clamp(int(MEMPOOL_FRACTION * (memory or 0)), MEMPOOL_BYTES),
            f"clamp({MEMPOOL_FRACTION} M, 16 MiB, 4 GiB), {has}",
        ),
        PAGE_CACHE: (
            clamp(int(PAGE_CACHE_FRACTION * (memory or 0)), PAGE_CACHE_BYTES),
            f"clamp({PAGE_CACHE_FRACTION} M, 4 MiB, 1 GiB), {has}",
        ),
        STATE_CACHE: (
            clamp(int(STATE_CACHE_FRACTION * (memory or 0)), STATE_CACHE_BYTES),
            f"clamp({STATE_CACHE_FRACTION} M, 1 MiB, 512 MiB), {has}",
        ),
        EXECUTION_CACHE: (
            clamp(int(EXECUTION_CACHE_FRACTION * (memory or 0)), EXECUTION_CACHE_BYTES),
            f"clamp({EXECUTION_CACHE_FRACTION} M, 1 MiB, 16 GiB), {has}",
        ),
    }
    if memory is None:
        return [Size(key=key, value=value, formula=formula) for key, (value, formula) in wanted.items()]
    budget = memory * CACHES_SHARE_PERCENT[tier] // 100
    total = sum(value * CACHES[key] for key, (value, _) in wanted.items())
    found: list[Size] = []
    for key, (value, formula) in wanted.items():
        if total > budget:
            value, formula = value * budget // total, f"{formula}; cut so that all caches fit in the share"
        found.append(Size(key=key, value=max(1, value), formula=formula))
    taken = sum(size.value * CACHES[size.key] for size in found)
    assert taken <= max(budget, sum(CACHES.values())), f"caches take {taken} of {budget} bytes"
    return found


def _address_table(facts: HardwareFacts) -> Size:
    memory = facts.memory_limit_bytes
    if memory is None:
        return Size(key="routing.table_max", value=ADDRESS_TABLE[0][1], formula="M unknown: the floor")
    value = next((value for mib, value in ADDRESS_TABLE if memory <= mib * MIB), ADDRESS_TABLE_MAX)
    return Size(key="routing.table_max", value=value, formula=f"by memory on L4, M = {gigabytes(memory)}")
