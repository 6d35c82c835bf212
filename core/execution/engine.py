"""Engines: ways to execute a block, all to the same bytes (EXEC-34).

A block is opened, the state entries that the engine lacks are fetched by the caller in one batch, then it is
executed. `TwinEngine` is the specification; `NativeEngine` is C, with a bounded part of the state in memory.

    with engine.open_block(block, gas, gas_state) as run:
        run.supply([... for key in run.missing()])
        result = run.execute()
    # when the block has become the tip:
    engine.follow(result.changes)
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import attrs

from supervm.contracts.gas import FixedRule, FixedRulePolicy, GasPolicy
from supervm.execution.block import BlockInput, BlockResult, execute_block
from supervm.execution.footprint import block_keys
from supervm.execution.punishing import doubles_noted, wrong_keys
from supervm.execution.reasons import words, words_of_terms
from supervm.execution.working import GAS_STATE_KEY, Fetched
from supervm.hardware import fastpath
from supervm.types.address import Suite, node_id_of
from supervm.types.changes import PackedChanges
from supervm.types.operations import STAKING
from supervm.types.packed_receipts import PackedReceipts
from supervm.types.stakes import STAKES_KEY
from supervm.types.state import SYSTEM
from supervm.types.transaction import Transaction
from supervm.types.validators import ValidatorSet
from supervm.types.wrongs import DOUBLES_KEY, OFFENCES_KEY

if TYPE_CHECKING:
    from supervm.hardware.fastpath import engine as native

Changes = Mapping[bytes, bytes | None]
MODES = ("auto", "serial", "partitioned", "block_stm")
SYSTEM_KEYS = (GAS_STATE_KEY, OFFENCES_KEY, DOUBLES_KEY)
"""Every system value that a block may change, but the stakes: of those C doesn't know."""


class BlockRun(Protocol):
    """An open block."""

    def missing(self) -> Sequence[bytes]:
        """State keys whose entries must be supplied."""

    def supply(self, values: Sequence[bytes | None]) -> None:
        """The entries of `missing`, in its order; None where there is none."""

    def execute(self) -> BlockResult:
        """Execute. Blocks for as long as that takes; safe to call in another thread."""


class BlockEngine(Protocol):
    """Executes one block at a time, on the state at the tip."""

    @property
    def name(self) -> str:
        """`python` or `native`."""

    def open_block(
        self, block: BlockInput, gas: GasPolicy, gas_state: bytes
    ) -> AbstractContextManager[BlockRun]:
        """Open a block. `gas_state` is the entry under `GAS_STATE_KEY`."""

    def follow(self, changes: Changes) -> None:
        """A block with these changes has become the tip."""

    def forget(self) -> None:
        """The tip may be anything: keep nothing of the state."""


@attrs.define
class _TwinRun:
    block: BlockInput
    gas: GasPolicy
    keys: tuple[bytes, ...]
    found: dict[bytes, bytes | None] = attrs.Factory(dict)

    def missing(self) -> Sequence[bytes]:
        return self.keys

    def supply(self, values: Sequence[bytes | None]) -> None:
        self.found = dict(zip(self.keys, values, strict=True))

    def execute(self) -> BlockResult:
        return execute_block(Fetched(self.found), self.block, self.gas)


class TwinEngine:
    """The executable specification, without any state of its own."""

    name = "python"

    @contextmanager
    def open_block(self, block: BlockInput, gas: GasPolicy, gas_state: bytes) -> Iterator[BlockRun]:
        keys = block_keys(block.transactions, gas, gas_state) | wrong_keys(block.wrongs)
        yield _TwinRun(block, gas, tuple(sorted(keys)))

    def follow(self, changes: Changes) -> None:
        """It keeps nothing that could be old."""

    def forget(self) -> None:
        """It keeps nothing."""


@attrs.define
class _NativeRun:
    block: BlockInput
    gas: GasPolicy
    gas_state: bytes
    inner: "native.NativeBlock"
    mode: "native.Mode"
    told: Callable[["native.Stats"], None]
    beside: tuple[bytes, ...] = ()
    """Keys that this block's proofs of equivocation need, which C doesn't."""
    found: dict[bytes, bytes | None] = attrs.Factory(dict)

    def missing(self) -> Sequence[bytes]:
        return [*self.inner.missing(), *self.beside]

    def supply(self, values: Sequence[bytes | None]) -> None:
        own = len(values) - len(self.beside)
        self.inner.supply(values[:own])
        self.found = dict(zip(self.beside, values[own:], strict=True))

    def execute(self) -> BlockResult:
        self.inner.execute(self.mode)
        self.told(self.inner.stats())
        changes = PackedChanges(*self.inner.packed_changes())
        price = self.gas.base_price(self.gas_state)
        changes = changes.beside(doubles_noted(Fetched(self.found), self.block.wrongs.doubles, price))
        root = self.inner.receipts_root()
        return BlockResult(changes, PackedReceipts(self.inner.receipts(), root), root, self._reasons())

    def _reasons(self) -> dict[bytes, str]:
        reasons = {}
        for detail in self.inner.details():
            transaction = self.block.transactions[detail.index]
            said = words(detail.code, detail.first, detail.second, detail.id, detail.other)
            reasons[transaction.digest] = said or words_of_terms(transaction, self.gas, self.gas_state)
        return reasons


class NativeEngine:
    """The C engine, with at most `bytes_max` of the state in memory, on `threads` threads.

    A gas policy or an operation that C doesn't know is executed by the specification, and so is a block that
    takes from a stake or collects from equivocators: there are few of them in an epoch. `seed`: 32 random
    bytes.
    """

    name = "native"

    def __init__(self, *, threads: int, bytes_max: int, seed: bytes, mode: str = "auto") -> None:
        from supervm.hardware.fastpath import engine as native

        self.seed = seed
        self.last: native.Stats | None = None
        self._mode = native.Mode[mode.upper()]
        self._inner = native.NativeEngine(native.Pool(threads), seed, bytes_max=bytes_max)
        self._twin = TwinEngine()
        self._unknown = native.BadTransaction

    def open_block(
        self, block: BlockInput, gas: GasPolicy, gas_state: bytes
    ) -> AbstractContextManager[BlockRun]:
        rule = gas.fixed_rule(gas_state) if isinstance(gas, FixedRulePolicy) else None
        odd = not fits_c(block.granted) and any(map(_stakes, block.transactions))
        if rule is None or odd or block.wrongs.offences or block.wrongs.collects:
            return self._twin.open_block(block, gas, gas_state)
        return self._open(block, gas, gas_state, rule)

    @contextmanager
    def _open(
        self, block: BlockInput, gas: GasPolicy, gas_state: bytes, rule: FixedRule
    ) -> Iterator[BlockRun]:
        transactions = block.transactions
        offsets = array("Q", accumulate(map(len, [each.data for each in transactions]), initial=0))
        digests = b"".join([each.digest for each in transactions])
        data = b"".join([each.data for each in transactions])
        with ExitStack() as stack:
            try:
                inner = stack.enter_context(
                    self._inner.open_block(
                        native_facts(block, gas, rule), data, offsets, digests, sorted(block.executed)
                    )
                )
            except self._unknown:
                # An operation that C doesn't know, since these were decoded.
                yield stack.enter_context(self._twin.open_block(block, gas, gas_state))
            else:
                beside = tuple(sorted(wrong_keys(block.wrongs)))
                yield _NativeRun(block, gas, gas_state, inner, self._mode, self._told, beside)

    def _told(self, stats: "native.Stats") -> None:
        self.last = stats

    def follow(self, changes: Changes) -> None:
        if isinstance(changes, PackedChanges) and not any(key in changes for key in SYSTEM_KEYS):
            self._inner.load(changes.data, changes.count)
            return
        # Of system values C knows the stakes alone.
        kept = [(key, value) for key, value in changes.items() if key[:1] != SYSTEM or key == STAKES_KEY]
        self._inner.load(pack_entries(kept), len(kept))

    def forget(self) -> None:
        self._inner.clear()


def native_facts(block: BlockInput, gas: GasPolicy, rule: FixedRule) -> "native.Facts":
    """What the C engine needs to know of a block."""
    from supervm.hardware.fastpath import engine as native

    limits, schedule = block.limits, gas.schedule
    return native.Facts(
        height=block.height,
        epoch=block.epoch,
        chain_id=block.chain_id,
        inputs_max=limits.inputs_max,
        outputs_max=limits.outputs_max,
        payload_bytes_max=limits.payload_bytes_max,
        transaction_bytes_max=limits.transaction_bytes_max,
        object_bytes_max=limits.object_bytes_max,
        gas={name: getattr(schedule, name) for name in native.GAS_FIELDS},
        price=rule.price,
        collector=rule.collector,
        granted=granted_bytes(block.granted),
    )


def _stakes(transaction: Transaction) -> bool:
    return any(isinstance(each, STAKING) for each in transaction.operations)


@lru_cache(4)
def fits_c(granted: ValidatorSet) -> bool:
    """Whether each member of genesis is known by its key, as C takes it to be."""
    keys = {each.public_key for each in granted.members}
    return len(keys) == len(granted.members) and all(
        each.node_id == node_id_of(Suite.ED25519, each.public_key) for each in granted.members
    )


@lru_cache(4)
def granted_bytes(granted: ValidatorSet) -> bytes:
    """The set of genesis as C has it: ed25519 key and weight of each member, ascending by key."""
    members = sorted(granted.members, key=lambda each: each.public_key)
    return b"".join([each.public_key + each.weight.to_bytes(8, "little") for each in members])


def pack_entries(entries: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """u8 key size, key, u32 value size (0: none), value, one after the other."""
    return b"".join(
        [
            bytes((len(key),))
            + key
            + (b"\0\0\0\0" if value is None else len(value).to_bytes(4, "little") + value)
            for key, value in entries
        ]
    )


def choose_engine(
    *, native: bool, threads: int, bytes_max: int, seed: bytes, mode: str = "auto"
) -> BlockEngine:
    """The C engine where it was built and `native` doesn't forbid it, else the specification."""
    if native and fastpath.BLOCKS_NATIVE:
        return NativeEngine(threads=threads, bytes_max=bytes_max, seed=seed, mode=mode)
    return TwinEngine()
