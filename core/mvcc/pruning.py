"""Version pruning, one cycle at a time, one slice under the lock at a time (EXEC-86).

A cycle looks at the keys written since the last one. A slice first says how far it may go (the horizon),
then looks who reads, and drops what neither they nor anybody who begins later can need; `store.py` tells
why nobody is missed. Between slices commits go on.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, optional

from supervm.mvcc.versions import Version, count_past, cut_chain, is_sparse, prune_chain

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
        self.store._fold()
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
        """Under the lock, with an empty log: so a chain ends with its key's head."""
        store = self.store
        chain = store._chains.get(key)
        if key not in store._heads:
            assert chain is None, "a key that was dropped took its chain along"
            return
        ts, value = store._head_of(key)
        expires = self.rules.expired_ts is not None
        versions_max = self.rules.versions_max
        dropped = 0
        if value is None and ts <= snapshots[-1] and store._may_drop(key, ts):
            # A tombstone that all can see: a missing key says the same.
            dropped = 1 + store._drop_key(key)
            store._keys_cleaned += 1
            self.keys_cleaned += 1
        else:
            if chain is not None:
                dropped = self._prune_chain(key, chain, snapshots)
                store._past_versions -= dropped
                if versions_max == 1 and not count_past(chain):
                    store._drop_past(key)
            if value is None or (chain and len(chain) > (1 if expires else versions_max + 1)):
                store._candidates.add(key)  # something stayed only for now
        self.versions_cleaned += dropped
        store._versions_cleaned += dropped

    def _prune_chain(self, key: bytes, chain: list[Version], snapshots: Sequence[int]) -> int:
        sparse, expired_ts = self.store._sparse, self.rules.expired_ts or 0
        if not expired_ts and key not in sparse:
            dropped = cut_chain(chain, snapshots[-1], self.rules.versions_max)
            if dropped is not None:
                return dropped
        dropped = prune_chain(chain, snapshots, self.rules.versions_max, expired_ts)
        if is_sparse(chain):
            sparse.add(key)
        else:
            sparse.discard(key)
        return dropped
