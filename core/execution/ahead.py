"""What a FAST transaction does ahead of its block (EXEC-21), and C that finds out for many at once.

`supervm.chain.overlay` is the specification. C decodes a list of transactions, says which entries they
touch, and once it has them applies one after the other, each on what those before it left. What it can't
judge as the specification does, it leaves to it.
"""

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING

import attrs

from supervm.contracts.gas import FixedRulePolicy, GasPolicy
from supervm.execution.block import BlockInput
from supervm.execution.engine import BlockEngine, NativeEngine, native_facts
from supervm.types.digests import Digest
from supervm.types.operations import Transfer
from supervm.types.plain import PlainTransaction
from supervm.types.receipt import Status
from supervm.types.state import ACCOUNT, BALANCE, NATIVE_TOKEN
from supervm.types.transaction import Transaction

if TYPE_CHECKING:
    from supervm.hardware.fastpath import engine as native


@attrs.frozen
class Effect:
    """What one transaction did. `credits`: what its transfers gave, by (address, token)."""

    transaction: Digest
    digest: Digest
    nonces: Mapping[bytes, int]
    sponsor_nonces: Mapping[bytes, int]
    amounts: Mapping[tuple[bytes, bytes], int]
    entries: Mapping[bytes, bytes | None]
    credits: tuple[tuple[tuple[bytes, bytes], int], ...]


class Turn(Enum):
    """Whether a transaction can be applied now, later, or only by its block."""

    NOW = "now"
    LATER = "later"
    BY_BLOCK = "by block"


Outcome = tuple[Turn, Effect | None]
"""What came of one transaction: an effect where its turn was now."""


def credits_of(transaction: Transaction, status: Status) -> tuple[tuple[tuple[bytes, bytes], int], ...]:
    """What its transfers give where it is committed."""
    if status is not Status.COMMITTED:
        return ()
    if isinstance(transaction, PlainTransaction):
        return (((transaction.plain.to, NATIVE_TOKEN), transaction.plain.amount),)
    return tuple(
        [
            ((output.to, operation.token), output.amount)
            for operation in transaction.operations
            if isinstance(operation, Transfer)
            for output in operation.outputs
        ]
    )


class NativeAhead:
    """Applies transactions in C. It keeps nothing of the state between two lists. For the event loop only."""

    def __init__(self, gas: GasPolicy, seed: bytes) -> None:
        from supervm.hardware.fastpath import engine as native

        self._gas = gas
        self._native = native
        # So small a memory that each list leaves nothing behind.
        self._engine = native.NativeEngine(native.Pool(1), seed, bytes_max=1)
        self._open = False
        self._facts_of: object = None
        self._facts: native.PackedFacts | None = None

    @contextmanager
    def open(
        self, transactions: Sequence[Transaction], block: BlockInput, gas_state: bytes
    ) -> "Iterator[NativeAheadRun | None]":
        """Decode them; None where the specification must apply them. `block` has what holds for all."""
        facts = None if self._open else self._packed(block, gas_state)
        if facts is None:
            yield None
            return
        offsets = array("Q", accumulate([len(each.data) for each in transactions], initial=0))
        digests = [each.digest for each in transactions]
        if len(set(digests)) != len(digests):
            yield None
            return
        data = b"".join([each.data for each in transactions])
        with ExitStack() as stack:
            try:
                # A block may have executed any of them: what they make is looked up too.
                inner = stack.enter_context(
                    self._engine.open_block(facts, data, offsets, b"".join(digests), sorted(digests))
                )
            except self._native.BadTransaction:
                # C refuses an operation that it doesn't know.
                yield None
                return
            self._open = True
            stack.callback(self._close)
            yield NativeAheadRun(transactions, inner, inner.missing(), self._native.EngineError)

    @property
    def entries(self) -> int:
        """State entries in C's memory."""
        return self._engine.stats().entries

    def _close(self) -> None:
        self._open = False

    def _packed(self, block: BlockInput, gas_state: bytes) -> "native.PackedFacts | None":
        """The facts of a block as C has them, made once; None for a gas policy that C doesn't know."""
        of = (block.height, block.epoch, block.chain_id, block.limits, gas_state)
        if of != self._facts_of:
            rule = self._gas.fixed_rule(gas_state) if isinstance(self._gas, FixedRulePolicy) else None
            self._facts = (
                None if rule is None else self._native.PackedFacts.of(native_facts(block, self._gas, rule))
            )
            self._facts_of = of
        return self._facts


@attrs.frozen
class NativeAheadRun:
    """Decoded transactions. `keys`: the state keys whose entries `apply` needs."""

    transactions: Sequence[Transaction]
    inner: "native.NativeBlock"
    keys: Sequence[bytes]

    refusal: type[Exception]

    def apply(self, values: Sequence[bytes | None]) -> list[Outcome] | None:
        """Apply them on the entries of `keys`, in its order. Once. None where the specification must: C
        doesn't judge them, or found what can't be, of which the specification says more."""
        try:
            self.inner.supply(values)
            return read_outcomes(self.transactions, self.inner.apply())
        except self.refusal:
            return None


def choose_ahead(engine: BlockEngine, gas: GasPolicy) -> NativeAhead | None:
    """C where blocks are executed in C too; None: the specification."""
    return NativeAhead(gas, engine.seed) if isinstance(engine, NativeEngine) else None


_TURNS = (Turn.NOW, Turn.LATER, Turn.BY_BLOCK)
_HEAD = struct.Struct("<B32sI")
_ACCOUNT = struct.Struct("<32sBQQBQQ")
_BALANCE = struct.Struct("<32s32sBQQ")
_SIZE = struct.Struct("<I")
_NONCE, _SPONSOR_NONCE, _AMOUNT = 1, 2, 4
_STATUSES = tuple(Status)


def read_outcomes(transactions: Sequence[Transaction], packed: bytes) -> list[Outcome]:
    """What C says came of them, in its layout: see `svm_block_apply`."""
    outcomes: list[Outcome] = []
    at = 0
    for transaction in transactions:
        turn = _TURNS[packed[at]]
        at += 1
        if turn is not Turn.NOW:
            outcomes.append((turn, None))
            continue
        status, digest, count = _HEAD.unpack_from(packed, at)
        at += _HEAD.size
        nonces: dict[bytes, int] = {}
        sponsor_nonces: dict[bytes, int] = {}
        amounts: dict[tuple[bytes, bytes], int] = {}
        entries: dict[bytes, bytes | None] = {}
        for _ in range(count):
            space = packed[at]
            at += 1
            if space == ACCOUNT[0]:
                address, changed, nonce, sponsor_nonce, less, low, high = _ACCOUNT.unpack_from(packed, at)
                at += _ACCOUNT.size
                if changed & _NONCE:
                    nonces[address] = nonce
                if changed & _SPONSOR_NONCE:
                    sponsor_nonces[address] = sponsor_nonce
                if changed & _AMOUNT:
                    amounts[address, NATIVE_TOKEN] = -(low | high << 64) if less else low | high << 64
            elif space == BALANCE[0]:
                address, token, less, low, high = _BALANCE.unpack_from(packed, at)
                at += _BALANCE.size
                amounts[address, token] = -(low | high << 64) if less else low | high << 64
            else:
                value_at = at + 1 + packed[at] + _SIZE.size
                end = value_at + _SIZE.unpack_from(packed, value_at - _SIZE.size)[0]
                entries[packed[at + 1 : value_at - _SIZE.size]] = packed[value_at:end] or None
                at = end
        credits = credits_of(transaction, _STATUSES[status])
        effect = Effect(transaction.digest, digest, nonces, sponsor_nonces, amounts, entries, credits)
        outcomes.append((turn, effect))
    assert at == len(packed), f"{len(packed) - at} bytes after the last outcome"
    return outcomes
