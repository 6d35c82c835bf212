"""The store against a naive model: a whole dictionary for every timestamp."""

from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from supervm.mvcc import Conflict, MvccStore, PruneRules, Transaction, VersionPruned
from supervm.mvcc.versions import count_past

KEYS = st.sampled_from([b"a", b"a1", b"a2", b"b", b"b\xff", b"c"])
VALUES = st.binary(max_size=2)


@attrs.define(eq=False)
class Open:
    """A transaction, what it saw when it began, and what it did since."""

    txn: Transaction
    kind: str
    start: int
    writes: dict[bytes, bytes | None] = attrs.Factory(dict)
    reads: set[bytes] = attrs.Factory(set)
    ranges: list[tuple[bytes, bytes | None]] = attrs.Factory(list)


class StoreMachine(RuleBasedStateMachine):
    """Interleaved transactions, pruning and folding, in any order."""

    transactions: Bundle[Open] = Bundle("transactions")

    @initialize(versions_max=st.sampled_from([1, 2, 10]), log_max=st.sampled_from([1, 2, 7, 2_048]))
    def make(self, versions_max: int, log_max: int) -> None:
        self.store = MvccStore(rules=PruneRules(versions_max=versions_max), unpruned_max=5)
        self.store._log_max = log_max
        self.states: list[dict[bytes, bytes]] = [{}]
        self.written: list[set[bytes]] = [set()]
        self.open: list[Open] = []

    def _seen(self, one: Open) -> dict[bytes, bytes]:
        state: dict[bytes, Any] = {**self.states[one.start], **one.writes}
        return {key: value for key, value in state.items() if value is not None}

    @rule(target=transactions, kind=st.sampled_from(["begin", "begin_snapshot", "begin_read_only"]))
    def begin(self, kind: str) -> Open:
        one = Open(getattr(self.store, kind)(), kind, len(self.states) - 1)
        assert one.txn.start_ts == one.start
        self.open.append(one)
        return one

    @rule(one=transactions, key=KEYS)
    def read(self, one: Open, key: bytes) -> None:
        assert one.txn.read(key) == self._seen(one).get(key)
        if key not in one.writes:
            one.reads.add(key)

    @rule(
        one=transactions,
        prefix=st.sampled_from([b"", b"a", b"b\xff", b"z"]),
        limit=st.none() | st.integers(0, 3),
    )
    def scan(self, one: Open, prefix: bytes, limit: int | None) -> None:
        rows = sorted((k, v) for k, v in self._seen(one).items() if k.startswith(prefix))[:limit]
        assert one.txn.scan(prefix, limit) == rows
        if limit != 0:
            ended = limit is not None and len(rows) == limit
            one.ranges.append((prefix, rows[-1][0] if ended else None))

    @rule(one=transactions, key=KEYS, value=st.none() | VALUES)
    def write(self, one: Open, key: bytes, value: bytes | None) -> None:
        if one.kind == "begin_read_only":
            return
        if value is None:
            one.txn.delete(key)
        else:
            one.txn.write(key, value)
        one.writes[key] = value

    @rule(one=consumes(transactions))
    def commit(self, one: Open) -> None:
        self.open.remove(one)
        since = set().union(*self.written[one.start + 1 :])
        stale = since & one.writes.keys()
        if one.kind == "begin":
            stale |= since & one.reads
            stale |= {
                key
                for key in since
                for low, last in one.ranges
                if key.startswith(low) and (last is None or key <= last)
            }
        if one.writes and stale:
            try:
                one.txn.commit()
            except Conflict as conflict:
                assert conflict.key in stale and conflict.start_ts == one.start
                assert conflict.key in self.written[conflict.conflicting_ts]
                return
            raise AssertionError(f"committed although {stale} changed")
        ts = one.txn.commit()
        if not one.writes:
            assert ts == one.start
            return
        state: dict[bytes, Any] = {**self.states[-1], **one.writes}
        self.states.append({key: value for key, value in state.items() if value is not None})
        self.written.append(set(one.writes))
        assert ts == len(self.states) - 1

    @rule(one=consumes(transactions))
    def abort(self, one: Open) -> None:
        self.open.remove(one)
        one.txn.abort()

    @rule(versions_max=st.integers(1, 3))
    def gc(self, versions_max: int) -> None:
        self.store.gc(PruneRules(versions_max=versions_max))

    @rule()
    def fold(self) -> None:
        stats = self.store.stats()
        kept = sum(map(count_past, self.store._chains.values()))
        assert (stats.keys, stats.versions) == (len(self.store._heads), len(self.store._heads) + kept)

    @rule(key=KEYS, data=st.data())
    def read_at(self, key: bytes, data: st.DataObject) -> None:
        ts = data.draw(st.integers(0, len(self.states) - 1))
        try:
            assert self.store.read_at(key, ts) == self.states[ts].get(key)
        except VersionPruned:
            assert ts < self.store.published, "what is newest is never pruned"
            assert all(one.start != ts or key not in self.states[ts] for one in self.open), "in use (I6)"

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.published == len(self.states) - 1
        assert self.store.oldest_active() == min(
            (one.start for one in self.open), default=len(self.states) - 1
        )
        live = len(self.states[-1])
        assert self.store.total_keys() >= live


StoreMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestStoreAgainstModel = StoreMachine.TestCase
