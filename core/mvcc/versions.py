"""The versions of one key (EXEC-40), and which of them may go (EXEC-86).

A version is (ts, value); a value of None is a tombstone. Plain pairs: a small transaction makes two of
them, and Python's garbage collector doesn't follow a pair of an integer and bytes.

The newest version of a key is its head. All its versions, the head last, are its chain; those before the
head are its past. In a past, the value HOLE stands for versions that were pruned, with the timestamp of the
oldest of them, so that who asks for that time is told and doesn't get an older value. Before the first of a
chain the key was absent.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

Version: TypeAlias = tuple[int, Any]


class _Hole:
    """The value of what was pruned."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "HOLE"


HOLE: Final = _Hole()
UNKNOWN: Final[Version] = (0, HOLE)
"""Stands for all that was before, where nobody knows what it was."""


def find(past: Sequence[Version], ts: int) -> Version | None:
    """The newest of a past or chain that isn't newer than `ts`, possibly a hole; None where none is."""
    low, high = 0, len(past)
    while low < high:
        middle = (low + high) // 2
        if past[middle][0] <= ts:
            low = middle + 1
        else:
            high = middle
    return past[low - 1] if low else None


def count_versions(past: Iterable[Version]) -> int:
    """How many versions a past holds, without its holes."""
    return sum(value is not HOLE for _, value in past)


def count_past(chain: Sequence[Version]) -> int:
    """How many versions a chain holds before its head."""
    return count_versions(chain[:-1])


def prune_chain(
    chain: list[Version], snapshots: Sequence[int], versions_max: int, expired_ts: int = 0
) -> int:
    """Drop from `chain` what nobody can need, by the rules of `prune_past`; returns how many went."""
    past = chain[:-1]
    dropped = prune_past(past, chain[-1][0], snapshots, versions_max - 1, expired_ts)
    if dropped:
        chain[:-1] = past
    return dropped


def cut_chain(chain: list[Version], oldest: int, versions_max: int) -> int | None:
    """As `prune_chain`, of a chain in which only the first may be a hole, without looking at what stays.

    Returns None where the oldest snapshot may need some of what is too much.
    """
    over = len(chain) - versions_max
    if over <= 0:
        return 0
    if oldest < chain[over][0]:
        return None
    ts, value = chain[0]
    chain[:over] = [(ts, HOLE)]
    return over - (value is HOLE)


def is_sparse(chain: Sequence[Version]) -> bool:
    """Whether a chain has holes behind its first version."""
    return any(value is HOLE for _, value in chain[1:])


def prune_past(
    past: list[Version], head_ts: int, snapshots: Sequence[int], past_max: int, expired_ts: int = 0
) -> int:
    """Drop from `past` what nobody can need; returns how many versions went.

    Kept are, for each of `snapshots` (timestamps, newest first) that is older than the head, the newest
    version not newer than it; and of the others the newest, while no more than `past_max` are kept in all
    and they are newer than `expired_ts`.
    """
    needed = _needed(past, head_ts, snapshots) if snapshots[-1] < head_ts else frozenset()
    spare = past_max - len(needed)
    if spare >= len(past) and not expired_ts:
        return 0
    dropped = 0
    for at in range(len(past) - 1, -1, -1):
        ts, value = past[at]
        if value is HOLE or at in needed:
            continue
        if spare > 0 and ts > expired_ts:
            spare -= 1
            continue
        past[at] = (ts, HOLE)
        dropped += 1
    if dropped:
        past[:] = _holes_joined(past)
    return dropped


def _needed(past: Sequence[Version], head_ts: int, snapshots: Sequence[int]) -> frozenset[int]:
    """The places of the versions that snapshots see."""
    needed = set()
    at = len(past) - 1
    for snapshot in snapshots:
        if snapshot >= head_ts:
            continue
        while at >= 0 and past[at][0] > snapshot:
            at -= 1
        if at < 0:
            break
        needed.add(at)
    return frozenset(needed)


def _holes_joined(past: Sequence[Version]) -> list[Version]:
    """One hole for each run of them, at the timestamp of its first."""
    joined: list[Version] = []
    for version in past:
        if version[1] is not HOLE or not joined or joined[-1][1] is not HOLE:
            joined.append(version)
    return joined
