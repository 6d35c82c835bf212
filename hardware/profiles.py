"""Tier -> profile (TIER-20 to TIER-24): which components, in which order of fallback, and their sizes.

A profile is data: dotted configuration keys and values, the lowest layer above the built-in defaults. It
holds only keys that a component reads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from supervm.hardware.sizing import (
    EXECUTION_CACHE,
    MEMPOOL,
    PAGE_CACHE,
    STATE_CACHE,
    STORAGE_CACHE,
    WRITE_BUFFER,
    Sizes,
)

# TIER-24: the next one is used, and named, where the one before can't be had at first start. `memory` is
# never fallen back to: a node that forgets must be asked for.
STORAGE = {
    "L1": ("rocksdb", "sqlite"),
    "L2": ("rocksdb", "sqlite"),
    "L3": ("rocksdb", "sqlite"),
    "L4": ("sqlite",),
}
# A validator on a small tier takes L2's components at its own sizes (TIER-8).
VALIDATOR_TIER = "L2"
# STO-25: how many of the newest blocks are kept whole; 0 is all. Old state trees serve no question, so every
# tier keeps as few as prove what headers show late.
KEEP_BLOCKS = {"L1": 0, "L2": 10_000, "L3": 1_000, "L4": 1_000}
KEEP_ROOTS = 1_000
# STO-52: the tiers that serve snapshots take one after so many blocks or seconds; 0 is never.
SNAPSHOT_BLOCKS = {"L1": 1_000, "L2": 1_000, "L3": 0, "L4": 0}
SNAPSHOT_S = {"L1": 3_600, "L2": 3_600, "L3": 0, "L4": 0}
ROUTING = "static"
CONSENSUS = "solo"
PRIVACY = ("none",)
GAS = "flat"


class ComponentUnavailable(Exception):
    """No component of a role's preference can be had here; the mend names what to install or choose."""

    def __init__(self, role: str, name: str, mend: str) -> None:
        self.role, self.name, self.mend = role, name, mend
        super().__init__(f"no {role} component can be used, {name} was the last: {mend}")


@attrs.frozen(kw_only=True)
class Profile:
    """A tier's defaults. `values`: dotted key -> value. `fallback`: role -> names, best first."""

    name: str
    values: Mapping[str, Any]
    fallback: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]

    @property
    def origin(self) -> str:
        """What is printed beside each of its values."""
        return f"profile {self.name}"

    def table(self) -> dict[str, Any]:
        """The values as nested tables, as a configuration layer takes them."""
        table: dict[str, Any] = {}
        for key, value in self.values.items():
            *path, last = key.split(".")
            inner = table
            for word in path:
                inner = inner.setdefault(word, {})
            inner[last] = value
        return table


@attrs.frozen(kw_only=True)
class Choice:
    """The component taken from a preference, and those passed over with the reason."""

    name: str
    passed_over: tuple[tuple[str, str], ...] = ()


def make_profile(tier: str, sizes: Sizes, *, is_validator: bool) -> Profile:
    """The profile of `tier` with this machine's sizes. Pure.

    `is_validator`: this node runs its chain alone or votes in it, whatever its tier.
    """
    column = min(tier, VALIDATOR_TIER) if is_validator else tier
    storage = STORAGE[column]
    why_storage = f"{tier} storage, in this order: {', '.join(storage)}"
    if column != tier:
        why_storage = f"a validator on {tier} takes {column}'s storage: {', '.join(storage)}"
    sized = {
        "storage.rocksdb.cache_bytes": (STORAGE_CACHE, sizes[STORAGE_CACHE]),
        "storage.rocksdb.write_buffer_bytes": (WRITE_BUFFER, sizes[WRITE_BUFFER]),
        "storage.rocksdb.background_jobs_max": (
            "storage.background_jobs",
            sizes["storage.background_jobs"],
        ),
        "storage.sqlite.cache_bytes": (STORAGE_CACHE, sizes[STORAGE_CACHE]),
        "application.ledger.mempool_bytes_max": (MEMPOOL, sizes[MEMPOOL]),
        "application.ledger.page_cache_bytes": (PAGE_CACHE, sizes[PAGE_CACHE]),
        "application.ledger.state_cache_bytes": (STATE_CACHE, sizes[STATE_CACHE]),
        "application.ledger.execution_cache_bytes": (EXECUTION_CACHE, sizes[EXECUTION_CACHE]),
        "application.ledger.execution_workers": ("execution.workers", sizes["execution.workers"]),
    }
    chosen: dict[str, tuple[Any, str]] = {
        "storage.use": (storage[0], why_storage),
        "routing.use": (ROUTING, "the peers in the configuration"),
        "consensus.use": (CONSENSUS, "a chain of one validator"),
        "privacy.use": (list(PRIVACY), "private transactions are refused"),
        "gas.use": (GAS, "one price, in the native token"),
        "application.ledger.prune_keep_blocks": (KEEP_BLOCKS[column], _why_blocks(column)),
        "application.ledger.prune_keep_roots": (KEEP_ROOTS, "older state trees serve no question"),
        "application.ledger.snapshot_blocks": (SNAPSHOT_BLOCKS[column], "L1 and L2 take snapshots"),
        "application.ledger.snapshot_s": (SNAPSHOT_S[column], "L1 and L2 take snapshots"),
    }
    values = {key: value for key, (value, _) in chosen.items()} | {
        key: value for key, (_, value) in sized.items()
    }
    reasons = {key: why for key, (_, why) in chosen.items()} | {
        key: sizes.by_key[size].formula for key, (size, _) in sized.items()
    }
    return Profile(name=tier, values=values, fallback={"storage": storage}, reasons=reasons)


def _why_blocks(tier: str) -> str:
    blocks = KEEP_BLOCKS[tier]
    return f"{tier} keeps {f'the last {blocks} blocks' if blocks else 'every block'}, and every header"


def choose(role: str, preference: Sequence[str], obstacle: Callable[[str], str | None]) -> Choice:
    """The first of `preference` that nothing stands in the way of. Raises ComponentUnavailable.

    `obstacle(name)` says why a component can't be imported or opened here, or None. Only for a data
    folder's first start: a folder is never opened with another backend than it was made with.
    """
    assert preference, "a role with a preference names at least one component"
    passed: list[tuple[str, str]] = []
    for name in preference:
        reason = obstacle(name)
        if reason is None:
            return Choice(name=name, passed_over=tuple(passed))
        passed.append((name, reason))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed)
    raise ComponentUnavailable(role, preference[-1], f"{reasons}; mend one, or choose with {role}.use")
