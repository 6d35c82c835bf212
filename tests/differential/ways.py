"""Ways to execute a block in C: threads, mode, and what of the state the engine has in memory (EXEC-34)."""

import random
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import attrs

from supervm.execution import GAS_STATE_KEY, BlockInput, BlockResult
from supervm.execution.engine import NativeEngine, native_facts, pack_entries
from supervm.plugins.gas.flat import FlatPolicy
from supervm.types.receipt import Receipt
from supervm.types.smt import root_of

try:
    from supervm.hardware.fastpath.engine import EngineError as EngineError
except ImportError:

    class EngineError(Exception):  # type: ignore[no-redef]
        """Where C isn't built, nothing raises it."""


SEED = bytes(range(32))
SMALL_MEMORY = 40_000
"""Bytes: most of the state is forgotten between two blocks."""


class Unequal(AssertionError):
    """An engine and the specification differ: says where, and in what."""


@attrs.frozen
class Way:
    """`memory`: `kept` keeps what it was given, `bounded` little of it, `resident` has the whole state and
    makes its own changes to it."""

    threads: int
    mode: str
    memory: str = "kept"

    def __str__(self) -> str:
        return f"{self.mode} on {self.threads}, {self.memory}"


WAYS = (
    Way(1, "serial", "bounded"),
    Way(1, "auto", "resident"),
    Way(2, "partitioned"),
    Way(3, "partitioned", "resident"),
    Way(2, "auto"),
    Way(3, "auto", "bounded"),
    Way(8, "auto", "resident"),
    Way(2, "block_stm", "resident"),
    Way(3, "block_stm", "bounded"),
    Way(4, "block_stm"),
    Way(8, "block_stm"),
)


class Runner(Protocol):
    """An engine that goes through a chain's blocks. `seen` counts what it did, by name."""

    seen: Counter[str]

    def run(self, block: BlockInput, gas: FlatPolicy, state: dict[bytes, bytes], wanted: BlockResult) -> None:
        """Execute on the state. Raises `Unequal`."""

    def follow(self, changes: Mapping[bytes, bytes | None]) -> None:
        """The block has become the tip."""


def start(way: Way, state: dict[bytes, bytes], chance: random.Random | None = None) -> Runner:
    """An engine at the beginning of a chain. `chance`: it also gives up blocks, and forgets, at times."""
    if way.memory == "resident":
        return ResidentRunner(way, state)
    return CachedRunner(way, chance)


@attrs.define
class CachedRunner:
    """As a node has it: entries are asked for, and changes handed back when they are durable."""

    way: Way
    chance: random.Random | None = None
    seen: Counter[str] = attrs.Factory(Counter)
    engine: NativeEngine = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        bound = SMALL_MEMORY if self.way.memory == "bounded" else 0
        self.engine = NativeEngine(threads=self.way.threads, bytes_max=bound, seed=SEED, mode=self.way.mode)

    def run(self, block: BlockInput, gas: FlatPolicy, state: dict[bytes, bytes], wanted: BlockResult) -> None:
        if self.chance is not None and self.chance.random() < 0.1:
            self.give_up(block, gas, state)
        with self.engine.open_block(block, gas, state[GAS_STATE_KEY]) as opened:
            opened.supply([state.get(key) for key in opened.missing()])
            found = opened.execute()
        assert self.engine.last is not None
        count_stats(self.engine.last, self.seen)
        check_equal(found, wanted)

    def give_up(self, block: BlockInput, gas: FlatPolicy, state: dict[bytes, bytes]) -> None:
        """A block that doesn't get to its end, at a step by chance, leaves nothing behind."""
        assert self.chance is not None
        steps = self.chance.randrange(4)
        with self.engine.open_block(block, gas, state[GAS_STATE_KEY]) as opened:
            if steps > 0:
                opened.supply([state.get(key) for key in opened.missing()])
            if steps > 1:
                opened.execute()
        if steps > 2:
            self.engine.forget()
            self.seen["forgotten"] += 1

    def follow(self, changes: Mapping[bytes, bytes | None]) -> None:
        self.engine.follow(changes)


class ResidentRunner:
    """The engine alone, with all of the state; it makes digests itself, and commits its own changes.

    The state tree in C takes its packed changes: its root must be that of the specification's state.
    """

    def __init__(self, way: Way, state: dict[bytes, bytes]) -> None:
        from supervm.hardware.fastpath import engine, tree

        self.seen: Counter[str] = Counter()
        self._mode = engine.Mode[way.mode.upper()]
        pool = engine.Pool(way.threads)
        self._engine = engine.NativeEngine(pool, SEED, resident=True)
        entries = [(key, value) for key, value in state.items() if key != GAS_STATE_KEY]
        self._engine.load(pack_entries(entries), len(entries))
        self._tree = tree.NativeTree(pool)
        self._height = 0
        packed = list(state.items())
        self._grow(pack_entries(packed), len(packed))

    def _grow(self, packed: bytes, count: int) -> bytes:
        self._height += 1
        root = self._tree.update(packed, count, self._height, emit=False).root
        self._tree.commit()
        return root

    def run(self, block: BlockInput, gas: FlatPolicy, state: dict[bytes, bytes], wanted: BlockResult) -> None:
        rule = gas.fixed_rule(state[GAS_STATE_KEY])
        data = [each.data for each in block.transactions]
        offsets = array("Q", accumulate(map(len, data), initial=0))
        with self._engine.open_block(
            native_facts(block, gas, rule), b"".join(data), offsets, None, sorted(block.executed)
        ) as opened:
            assert opened.missing() == [], "nothing is missing of a whole state"
            opened.execute(self._mode)
            receipts = tuple([Receipt.decode(each) for each in opened.receipts()])
            found = BlockResult(opened.changes(), receipts, opened.receipts_root(), wanted.reasons)
            packed, count = opened.packed_changes()
            count_stats(opened.stats(), self.seen)
            check_equal(found, wanted)
            opened.commit()
        root = self._grow(packed, count)
        right = root_of(applied(state, wanted.changes))
        if root != right:
            raise Unequal(f"state roots differ\n  found  {root.hex()}\n  wanted {right.hex()}")

    def follow(self, changes: Mapping[bytes, bytes | None]) -> None:
        """It has its own."""


def applied(state: dict[bytes, bytes], changes: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    """The state after these changes."""
    after = {**state, **{key: value for key, value in changes.items() if value is not None}}
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
    return after


def check_equal(found: BlockResult, wanted: BlockResult) -> None:
    """Receipts, their root, changes and reasons, byte for byte. Raises `Unequal`."""
    for field in attrs.fields(BlockResult):
        mine, right = getattr(found, field.name), getattr(wanted, field.name)
        if mine != right:
            raise Unequal(
                f"{field.name} differ\n  found  {_apart(mine, right)}\n  wanted {_apart(right, mine)}"
            )


def _apart(one: Any, other: Any) -> str:
    """What of one isn't so in the other."""
    if isinstance(one, dict):
        return repr({key: value for key, value in one.items() if key not in other or other[key] != value})
    if isinstance(one, Sequence) and not isinstance(one, bytes):
        theirs = set(other)
        return repr([each for each in one if each not in theirs] or one)
    return repr(one)


def count_stats(stats: Any, seen: Counter[str]) -> None:
    seen[f"mode {stats.mode.name.lower()}"] += 1
    seen[f"reason {stats.reason.name.lower()}"] += 1
    if stats.validations:
        for name in ("executions", "validations", "aborts", "gave_up"):
            seen[name] += getattr(stats, name)
