"""FAST effects above the last block's state, until a block folds them (EXEC-21, EXEC-22, CONS-20..22).

A transaction is executed once, when its batch is certified and what it needs is here, and leaves an
*effect*: nonces moved on, amounts added and taken, entries set. A view is the state with effects on top;
balances are sums, so effects commute with blocks that don't hold them. A block that holds a transaction
executes it at its place, which must give the same effects digest, and then the effect goes.

Nothing here is on disk: the log of consensus has the certificates, the batches and what was signed, and a
transaction's effects are a function of its bytes and inputs, so made again they are the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum

import attrs

from supervm.contracts.gas import GasPolicy
from supervm.execution.block import BlockInput, BlockRun, execute_transaction
from supervm.execution.errors import ExecutionError
from supervm.execution.footprint import block_keys, entry_key, max_spend
from supervm.execution.lanes import classify
from supervm.execution.working import Fetched, WorkingState, encode_value
from supervm.types.digests import Digest
from supervm.types.operations import Transfer
from supervm.types.receipt import Receipt, Status
from supervm.types.state import (
    ACCOUNT,
    BALANCE,
    NATIVE_TOKEN,
    OBJECT,
    Account,
    Object,
    OwnerKind,
    decode_balance,
    encode_balance,
)
from supervm.types.transaction import Lane, Transaction

WAITING_MAX = 10_000
"""`fast.pending_max`: beyond it a transaction is left to its block, and nothing is signed early."""

State = Mapping[bytes, bytes | None]


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


@attrs.frozen
class Waiting:
    """A FAST transaction of a certified batch whose inputs aren't all here yet."""

    batch: Digest
    index: int
    transaction: Transaction


class Turn(Enum):
    """Whether a transaction can be applied now, later, or only by its block."""

    NOW = "now"
    LATER = "later"
    BY_BLOCK = "by block"


class Overlay:
    """The effects that no block has folded. For the event loop only."""

    def __init__(self) -> None:
        self._effects: dict[Digest, Effect] = {}
        self._nonces: dict[bytes, int] = {}
        self._sponsor_nonces: dict[bytes, int] = {}
        self._amounts: dict[tuple[bytes, bytes], int] = {}
        self._entries: dict[bytes, tuple[Digest, bytes | None]] = {}
        self.waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._effects)

    def get(self, transaction: Digest) -> Effect | None:
        return self._effects.get(transaction)

    def view(self, state: State) -> dict[bytes, bytes | None]:
        """Entries with all effects on top."""
        return {key: self._entry(key, data) for key, data in state.items()}

    def view_of(self, state: State, transactions: Iterable[Digest]) -> dict[bytes, bytes | None]:
        """Entries as a voter counts them (CONS-13, CONS-14): objects after the effects of these transactions,
        balances with what they credit, and nothing deducted."""
        found = dict(state)
        for name in transactions:
            effect = self._effects.get(name)
            if effect is None:
                continue
            for key, data in effect.entries.items():
                if key in found:
                    found[key] = data
            for (address, token), amount in effect.credits:
                key = entry_key(address, token)
                if key in found:
                    found[key] = _added(key, found[key], amount)
        return found

    def turn(self, transaction: Transaction, view: State) -> Turn:
        """Whether its nonces, versions and cover are there. `view` holds its `keys_of`."""
        body = transaction.body
        if body.lane in (Lane.ORDERED, Lane.PRIVATE) or transaction.digest in self._effects:
            return Turn.BY_BLOCK
        nonces = [(body.nonce, _account(view, body.sender).nonce)]
        if body.is_sponsored:
            nonces.append((body.sponsor_nonce, _account(view, body.fee_payer).sponsor_nonce))
        if any(nonce < expected for nonce, expected in nonces):
            return Turn.BY_BLOCK
        later = any(nonce > expected for nonce, expected in nonces)
        objects: dict[bytes, Object | None] = {}
        for declared in body.inputs:
            data = view[OBJECT + declared.id]
            found = objects[declared.id] = None if data is None else Object.decode(data)
            if found is None or (found.owner_kind is OwnerKind.OWNED and found.version < declared.version):
                later = True
        if later:
            return Turn.LATER
        try:
            lane = classify(transaction, objects)
        except ExecutionError:
            return Turn.BY_BLOCK
        if lane is not Lane.FAST:
            return Turn.BY_BLOCK
        covered = all(
            _balance(view, *account) >= amount for account, amount in max_spend(transaction).items()
        )
        return Turn.NOW if covered else Turn.LATER

    def apply(
        self, transaction: Transaction, view: State, block: BlockInput, gas: GasPolicy, gas_state: bytes
    ) -> Effect:
        """Execute a transaction whose turn is now, on its view, and keep what it did."""
        working = WorkingState(Fetched(view))
        receipt = execute_transaction(BlockRun(block, gas, gas_state, working), transaction, 0)
        effect = _effect_of(transaction, receipt, working)
        self._effects[effect.transaction] = effect
        self._nonces.update(effect.nonces)
        self._sponsor_nonces.update(effect.sponsor_nonces)
        for account, amount in effect.amounts.items():
            self._amounts[account] = self._amounts.get(account, 0) + amount
        for key, data in effect.entries.items():
            self._entries[key] = (effect.transaction, data)
        return effect

    def mismatch(self, digests: Sequence[Digest], effects_of: Callable[[int], Digest]) -> str:
        """How a block's receipts differ from what was applied; empty if they don't (CONS-41).

        `effects_of(i)`: the effects digest of the receipt of `digests[i]`.
        """
        for index, name in enumerate(digests):
            effect = self._effects.get(name)
            if effect is not None and effect.digest != effects_of(index):
                return (
                    f"transaction 0x{name.hex()} was applied with effects 0x{effect.digest.hex()}, "
                    f"its block gives 0x{effects_of(index).hex()}"
                )
        return ""

    def folded(self, digests: Iterable[Digest]) -> None:
        """A block executed these: their effects are in the state now."""
        gone = frozenset(digests)
        for name in gone:
            effect = self._effects.pop(name, None)
            if effect is None:
                continue
            for address, nonce in effect.nonces.items():
                if self._nonces.get(address) == nonce:
                    del self._nonces[address]
            for address, nonce in effect.sponsor_nonces.items():
                if self._sponsor_nonces.get(address) == nonce:
                    del self._sponsor_nonces[address]
            for account, amount in effect.amounts.items():
                left = self._amounts.pop(account, 0) - amount
                if left:
                    self._amounts[account] = left
            for key in effect.entries:
                # One that set it later may have gone before this one: they come in no order.
                found = self._entries.get(key)
                if found is not None and found[0] == name:
                    del self._entries[key]
        self.waiting = [each for each in self.waiting if each.transaction.digest not in gone]

    def _entry(self, key: bytes, data: bytes | None) -> bytes | None:
        space, rest = key[:1], key[1:]
        if space == ACCOUNT:
            account = Account() if data is None else Account.decode(data)
            above = Account(
                max(account.nonce, self._nonces.get(rest, 0)),
                max(account.sponsor_nonce, self._sponsor_nonces.get(rest, 0)),
                max(0, account.balance + self._amounts.get((rest, NATIVE_TOKEN), 0)),
            )
            return None if above.is_empty else above.encode()
        if space == BALANCE:
            return _added(key, data, self._amounts.get((rest[:32], rest[32:]), 0))
        found = self._entries.get(key)
        return data if found is None else found[1]


def keys_of(transactions: Iterable[Transaction], gas: GasPolicy, gas_state: bytes) -> frozenset[bytes]:
    """The state keys that applying these reads."""
    return block_keys(transactions, gas, gas_state)


def _effect_of(transaction: Transaction, receipt: Receipt, working: WorkingState) -> Effect:
    nonces: dict[bytes, int] = {}
    sponsor_nonces: dict[bytes, int] = {}
    amounts: dict[tuple[bytes, bytes], int] = {}
    entries: dict[bytes, bytes | None] = {}
    for key, before, now in working.changed():
        if isinstance(before, Account) and isinstance(now, Account):
            address = key[1:]
            if now.nonce != before.nonce:
                nonces[address] = now.nonce
            if now.sponsor_nonce != before.sponsor_nonce:
                sponsor_nonces[address] = now.sponsor_nonce
            if now.balance != before.balance:
                amounts[address, NATIVE_TOKEN] = now.balance - before.balance
        elif isinstance(before, int) and isinstance(now, int):
            amounts[key[1:33], key[33:]] = now - before
        else:
            entries[key] = encode_value(now)
    credits = [
        ((output.to, operation.token), output.amount)
        for operation in transaction.operations
        if isinstance(operation, Transfer) and receipt.status is Status.COMMITTED
        for output in operation.outputs
    ]
    return Effect(
        transaction.digest,
        receipt.effects_digest(),
        nonces,
        sponsor_nonces,
        amounts,
        entries,
        tuple(credits),
    )


def _added(key: bytes, data: bytes | None, amount: int) -> bytes | None:
    """The entry of an account or balance with an amount more."""
    if key[:1] == ACCOUNT:
        account = Account() if data is None else Account.decode(data)
        more = attrs.evolve(account, balance=max(0, account.balance + amount))
        return None if more.is_empty else more.encode()
    balance = max(0, (0 if data is None else decode_balance(data)) + amount)
    return encode_balance(balance) if balance else None


def _account(view: State, address: bytes) -> Account:
    data = view[ACCOUNT + address]
    return Account() if data is None else Account.decode(data)


def _balance(view: State, address: bytes, token: bytes) -> int:
    data = view[entry_key(address, token)]
    if data is None:
        return 0
    return Account.decode(data).balance if token == NATIVE_TOKEN else decode_balance(data)
