"""Version pruning, one cycle at a time, one slice under the lock at a time (EXEC-86).

A cycle looks at the keys written since the last one. A slice first says how far it may go (the horizon),
then looks who reads, and drops what neither they nor anybody who begins later can need; `store.py` tells
why nobody is missed. Between slices commits go on.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, optional

from supervm.mvcc.versions import HOLE, count_versions, prune_past

if TYPE_CHECKING:
    from supervm.mvcc.store import MvccStore

KEYS_A_SLICE = 1_000
"""Where no clock bounds a slice: about a millisecond."""
KEYS_BETWEEN_LOOKS = 64
"""At the clock."""

Clock = Callable[[], float]


@attrs.frozen(kw_only=True)
class PruneRules:
    """What is kept of what nobody needs.

    `versions_max`: versions of one key, those in use counted; 1 keeps no past. `expired_ts`: versions not
    newer are dropped however few there are (None: however old).
    """

    versions_max: int = attrs.field(default=10, validator=ge(1))
    expired_ts: int | None = attrs.field(default=None, validator=optional(ge(0)))


@attrs.define(eq=False)
class PruneCycle:
    """One pass over the keys that were written before it began."""

    store: "MvccStore"
    rules: PruneRules
    keys: Sequence[bytes]
    at: int = 0
    versions_cleaned: int = 0
    keys_cleaned: int = 0
    done: bool = False

    def slice(self, clock: Clock | None = None, pause_s: float = 0.0) -> None:
        """Prune some keys under the lock: until `pause_s` has passed by `clock`, or 1,000 of them."""
        with self.store._lock:
            self.slice_locked(KEYS_A_SLICE if clock is None else len(self.keys), clock, pause_s)

    def slice_locked(self, keys_max: int, clock: Clock | None = None, pause_s: float = 0.0) -> None:
        """As `slice`, by who holds the lock already."""
        assert not self.done, "a cycle ends once"
        snapshots = self.store._set_horizon()
        until = clock() + pause_s if clock is not None else 0.0
        stop = min(len(self.keys), self.at + keys_max)
        while self.at < stop:
            self._prune_key(self.keys[self.at], snapshots)
            self.at += 1
            if clock is not None and self.at % KEYS_BETWEEN_LOOKS == 0 and clock() >= until:
                break
        if self.at == len(self.keys):
            self.done = True
            self.store._end_cycle()

    def _prune_key(self, key: bytes, snapshots: Sequence[int]) -> None:
        store = self.store
        head = store._heads.get(key)
        past = store._pasts.get(key)
        if head is None:
            if past is not None:  # left over from before the key was dropped
                store._past_versions -= count_versions(store._pasts.pop(key))
            return
        if head[1] is None and head[0] <= snapshots[-1] and store._may_drop(key, head[0]):
            # A tombstone that all can see: a missing key says the same.
            dropped = 1 if past is None else 1 + count_versions(past)
            store._past_versions += 1  # the tombstone was none
            store._drop_key(key)
            store._keys_cleaned += 1
            self.keys_cleaned += 1
        else:
            past_max = self.rules.versions_max - 1
            dropped = 0
            if past is not None:
                dropped = prune_past(past, head[0], snapshots, past_max, self.rules.expired_ts or 0)
                if not past_max and len(past) == 1 and past[0][1] is HOLE:
                    store._drop_past(key)
                    past = None
            expires = self.rules.expired_ts is not None
            if head[1] is None or (past and (expires or len(past) > past_max + 1)):
                store._candidates.add(key)  # something stayed only for now
        self.versions_cleaned += dropped
        store._versions_cleaned += dropped
        store._past_versions -= dropped
