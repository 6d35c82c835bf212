"""Our side of the execution benchmarks: a state in memory on which packed blocks are executed, and measured.

Two of them give the same bytes: `NativeLedger` is the C engine with the whole state in it, `TwinLedger` the
specification in Python. Both count the same inside the clock; see `MEASURED`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import attrs

from supervm.bench.errors import CantMeasure
from supervm.bench.packing import CHAIN_ID, Packed, digests_of, unpack
from supervm.bench.pairs import Clock, Turn
from supervm.bench.trees import TwinTree, resident_tree
from supervm.contracts.gas import FixedRulePolicy, GasPolicy
from supervm.crypto.packed import verify_packed
from supervm.execution import BlockInput, execute_block
from supervm.execution.engine import native_facts, pack_entries
from supervm.execution.working import GAS_STATE_KEY
from supervm.hardware import fastpath
from supervm.types.limits import DEFAULT_LIMITS
from supervm.types.receipt import Status
from supervm.types.transaction import Transaction

DIGESTS = "transaction digests"
MEASURED = (
    "decoding from bytes and every check of form",
    DIGESTS,
    "nonces, balances, gas, fees, versions and owners",
    "execution",
    "encoded receipts and their root",
    "changed entries, gathered and applied to the state",
)
SIGNATURES = "signatures and whether their keys are the senders'"
STATE_ROOT = "the state root"
_SEED = bytes(range(32))
"""What keeps strangers from choosing colliding keys; here nobody does."""

Entries = Iterable[tuple[bytes, int]]
"""Packed state entries, with their number, as `pack_entries` writes them."""


@attrs.frozen(kw_only=True)
class Ran:
    """What came of a turn's blocks. `bare` is the turn without the time of the state root.

    `changes` and `receipts` are those of each block; `facts` say how the last was executed, with
    nanoseconds by phase over all of them.
    """

    turn: Turn
    bare: Turn
    changes: tuple[bytes, ...]
    receipts: tuple[tuple[bytes, ...], ...]
    receipts_root: bytes
    state_root: bytes | None
    facts: Mapping[str, Any]


class Ledger(Protocol):
    """A state that blocks are executed on, one turn after the other."""

    def run(self, blocks: Sequence[Packed]) -> Ran:
        """Execute these blocks, the next ones, and measure. Blocks."""
        ...


@attrs.frozen(kw_only=True)
class Way:
    """How blocks are executed. `signed`: signatures are verified inside the clock.

    `digests_given`: transaction digests are made outside of it, as admission makes them before a block.
    """

    native: bool
    threads: int = 1
    mode: str = "auto"
    root: bool = True
    signed: bool = False
    digests_given: bool = False


def native_by(choice: str) -> bool:
    """Whether C runs for `auto`, `native` or `twin`. Raises CantMeasure where C is asked for and isn't."""
    if choice == "native" and not fastpath.BLOCKS_NATIVE:
        reason = fastpath.report()["execute_block"].reason
        raise CantMeasure(f"the C engine isn't here ({reason}); give --engine twin")
    return choice != "twin" and fastpath.BLOCKS_NATIVE


def open_ledger(way: Way, start: Entries, gas: GasPolicy) -> "NativeLedger | TwinLedger":
    """A ledger with these entries and the gas policy's own."""
    return NativeLedger(way, start, gas) if way.native else TwinLedger(way, start, gas)


class NativeLedger:
    """The C engine, all of the state in it."""

    def __init__(self, way: Way, start: Entries, gas: GasPolicy) -> None:
        from supervm.hardware.fastpath import engine as native

        assert isinstance(gas, FixedRulePolicy), "the default policy's rule is a fixed one"
        rule = gas.fixed_rule(gas.initial_state())
        assert rule is not None
        self._way, self._gas, self._rule = way, gas, rule
        self._mode = native.Mode[way.mode.upper()]
        pool = native.Pool(way.threads)
        self._engine = native.NativeEngine(pool, _SEED, resident=True)
        self._tree = resident_tree(pool) if way.root else None
        self._height = 0
        for packed, count in start:
            self._engine.load(packed, count)
            if self._tree is not None:
                self._tree.update(packed, count)
        if self._tree is not None:
            self._tree.update(*_gas_entry(gas))

    def run(self, blocks: Sequence[Packed]) -> Ran:
        clock, root_clock, signed_clock = Clock(), Clock(), Clock()
        phases: dict[str, int] = {}
        changes, receipts = [], []
        done = wrong = changed = 0
        state_root: bytes | None = None
        for block in blocks:
            self._height += 1
            facts = native_facts(_block_input(self._height, ()), self._gas, self._rule)
            with ExitStack() as stack:
                digests = digests_of(block) if self._way.digests_given else None
                if self._way.signed:
                    with signed_clock:
                        verified = verify_packed(block.data, block.offsets, threads=self._way.threads)
                        assert verified.all_signed, "the benchmark signs what it sends"
                        digests = verified.digests
                with clock:
                    opened = stack.enter_context(
                        self._engine.open_block(facts, block.data, block.offsets, digests, ())
                    )
                    opened.execute(self._mode)
                    view, count = opened.view_changes()
                    opened.commit()
                if self._tree is not None:
                    with root_clock:
                        state_root = self._tree.update(view, count)
                    _add(phases, {f"root_{name}": each for name, each in self._tree.phases().items()})
                stats = opened.stats()
                _add(phases, {name: getattr(stats, name) for name in _PHASES})
                done += len(block)
                wrong += len(block) - stats.committed
                changed += count
                changes.append(bytes(view))
                receipts.append(tuple(opened.receipts()))
                receipts_root = opened.receipts_root()
                with clock:
                    stack.close()
        return Ran(
            turn=_turn(done, wrong, clock, signed_clock, root_clock),
            bare=_turn(done, wrong, clock, signed_clock),
            changes=tuple(changes),
            receipts=tuple(receipts),
            receipts_root=receipts_root,
            state_root=state_root,
            facts={
                "mode": stats.mode.name.lower(),
                "why": stats.reason.name.lower(),
                "threads": stats.threads,
                "aborts": stats.aborts,
                "groups": stats.groups,
                "largest_group": stats.largest_group,
                "changed_a_transaction": round(changed / done, 3),
                "ns_by_phase": {name: round(each / done, 1) for name, each in phases.items()},
                "ns_engine": round(clock.seconds * 1e9 / done, 1),
                "ns_signatures": round(signed_clock.seconds * 1e9 / done, 1),
                "ns_state_root": round(root_clock.seconds * 1e9 / done, 1),
            },
        )


_PHASES = ("decode_ns", "state_ns", "execute_ns", "receipts_ns", "changes_ns")


class TwinLedger:
    """The executable specification on a dict. It uses one thread, whatever is asked."""

    def __init__(self, way: Way, start: Entries, gas: GasPolicy) -> None:
        self._way, self._gas = way, gas
        self._tree = TwinTree() if way.root else None
        self._state: dict[bytes, bytes] = {}
        self._height = 0
        for packed, count in (*start, _gas_entry(gas)):
            self._state.update((key, value) for key, value in unpack(packed) if value is not None)
            if self._tree is not None:
                self._tree.update(packed, count)

    def run(self, blocks: Sequence[Packed]) -> Ran:
        clock, root_clock = Clock(), Clock()
        changes, receipts = [], []
        done = wrong = 0
        state_root: bytes | None = None
        for block in blocks:
            self._height += 1
            with clock:
                if self._way.signed:
                    verified = verify_packed(block.data, block.offsets)
                    assert verified.all_signed, "the benchmark signs what it sends"
                transactions = [Transaction.decode(each) for each in block.transactions()]
                result = execute_block(self._state, _block_input(self._height, transactions), self._gas)
                for key, value in result.changes.items():
                    if value is None:
                        self._state.pop(key, None)
                    else:
                        self._state[key] = value
            packed = pack_entries(list(result.changes.items()))
            if self._tree is not None:
                with root_clock:
                    state_root = self._tree.update(packed, len(result.changes))
            done += len(block)
            wrong += len(block) - sum(each.status is Status.COMMITTED for each in result.receipts)
            changes.append(packed)
            receipts.append(tuple([each.encode() for each in result.receipts]))
        return Ran(
            turn=_turn(done, wrong, clock, root_clock),
            bare=_turn(done, wrong, clock),
            changes=tuple(changes),
            receipts=tuple(receipts),
            receipts_root=result.receipts_root,
            state_root=state_root,
            facts={"mode": "serial", "why": "specification", "threads": 1},
        )


def _block_input(height: int, transactions: Sequence[Transaction]) -> BlockInput:
    return BlockInput(
        height=height,
        epoch=0,
        timestamp_ms=height,
        chain_id=CHAIN_ID,
        limits=DEFAULT_LIMITS,
        transactions=transactions,
    )


def _add(sums: dict[str, int], more: Mapping[str, int]) -> None:
    for name, each in more.items():
        sums[name] = sums.get(name, 0) + each


def _gas_entry(gas: GasPolicy) -> tuple[bytes, int]:
    return pack_entries([(GAS_STATE_KEY, gas.initial_state())]), 1


def _turn(done: int, wrong: int, *clocks: Clock) -> Turn:
    seconds = sum(clock.seconds for clock in clocks)
    return Turn(done, wrong, seconds, sum(clock.cpu_seconds for clock in clocks))
