"""FAST effects above the last block's state, until a block folds them (EXEC-21, EXEC-22, CONS-20..22).

A transaction is executed once, when its batch is certified and what it needs is here, and leaves an
*effect*: nonces moved on, amounts added and taken, entries set. A view is the state with effects on top;
balances are sums, so effects commute with blocks that don't hold them. A block that holds a transaction
executes it at its place, which must give the same effects digest, and then the effect goes.

Nothing here is on disk: the log of consensus has the certificates, the batches and what was signed, and a
transaction's effects are a function of its bytes and inputs, so made again they are the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs

from supervm.contracts.application import EffectsMismatch
from supervm.contracts.gas import GasPolicy
from supervm.execution.ahead import Effect, NativeAheadRun, Outcome, Turn, credits_of
from supervm.execution.block import BlockInput, BlockRun, execute_transaction
from supervm.execution.errors import ExecutionError
from supervm.execution.footprint import block_keys, entry_key, max_spend
from supervm.execution.lanes import classify
from supervm.execution.working import Fetched, WorkingState, encode_value
from supervm.types.digests import Digest
from supervm.types.receipt import Receipt
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
class Waiting:
    """A FAST transaction of a certified batch whose inputs aren't all here yet."""

    batch: Digest
    index: int
    transaction: Transaction


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

    def is_short(self, state: State, view: State) -> bool:
        """Whether effects take more than an entry of `state` has. Its `view` shows nothing there then, which
        is no sum that goes on from one transaction to the next."""
        for key, above in view.items():
            space = key[:1]
            if space == ACCOUNT:
                address, token = key[1:], NATIVE_TOKEN
            elif space == BALANCE:
                address, token = key[1:33], key[33:]
            else:
                continue
            amount = self._amounts.get((address, token), 0)
            if amount < 0 and _balance_in(key, above) == 0 and _balance_in(key, state[key]) + amount < 0:
                return True
        return False

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
        self.keep(effect)
        return effect

    def keep(self, effect: Effect) -> None:
        """Have an effect on top of the state, until it is folded."""
        self._effects[effect.transaction] = effect
        self._nonces.update(effect.nonces)
        self._sponsor_nonces.update(effect.sponsor_nonces)
        for account, amount in effect.amounts.items():
            self._amounts[account] = self._amounts.get(account, 0) + amount
        for key, data in effect.entries.items():
            self._entries[key] = (effect.transaction, data)

    def check_folded(
        self,
        height: int,
        digests: Sequence[Digest],
        effects_of: Callable[[int], Digest],
        vouched: Mapping[str, Mapping[Digest, Digest]] = MappingProxyType({}),
    ) -> None:
        """Compare a block's receipts with what was applied, and with what was signed or certified (CONS-41).

        `effects_of(i)`: the effects digest of the receipt of `digests[i]`. `vouched`: of
        `EffectsSource.vouched`. Raises `EffectsMismatch`.
        """
        known = [(how, effects) for how, effects in vouched.items() if effects]
        for index, name in enumerate(digests):
            effect = self._effects.get(name)
            given = None if effect is None else effects_of(index)
            if effect is not None and given is not None and effect.digest != given:
                raise EffectsMismatch(height, name, "applied", effect.digest, given)
            for how, effects in known:
                expected = effects.get(name)
                if expected is not None:
                    given = effects_of(index) if given is None else given
                    if expected != given:
                        raise EffectsMismatch(height, name, how, expected, given)

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
            nonce, sponsor_nonce = self._nonces.get(rest, 0), self._sponsor_nonces.get(rest, 0)
            amount = self._amounts.get((rest, NATIVE_TOKEN), 0)
            if not (nonce or sponsor_nonce or amount):
                return data
            account = Account() if data is None else Account.decode(data)
            above = Account(
                max(account.nonce, nonce),
                max(account.sponsor_nonce, sponsor_nonce),
                max(0, account.balance + amount),
            )
            return None if above.is_empty else above.encode()
        if space == BALANCE:
            amount = self._amounts.get((rest[:32], rest[32:]), 0)
            return _added(key, data, amount) if amount else data
        found = self._entries.get(key)
        return data if found is None else found[1]


def keys_of(transactions: Iterable[Transaction], gas: GasPolicy, gas_state: bytes) -> frozenset[bytes]:
    """The state keys that applying these reads."""
    return block_keys(transactions, gas, gas_state)


def apply_in_c(overlay: Overlay, run: NativeAheadRun, state: State) -> list[Outcome] | None:
    """Apply what `run` has, in its order, and keep the effects: as `turn` and `apply` do one by one. None
    where they must do it; then nothing happened. `state` has the keys of the run."""
    view = overlay.view({key: state[key] for key in run.keys})
    if overlay.is_short(state, view) or any(overlay.get(each.digest) for each in run.transactions):
        return None
    outcomes = run.apply([view[key] for key in run.keys])
    for _, effect in outcomes or ():
        if effect is not None:
            overlay.keep(effect)
    return outcomes


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
    return Effect(
        transaction.digest,
        receipt.effects_digest(),
        nonces,
        sponsor_nonces,
        amounts,
        entries,
        credits_of(transaction, receipt.status),
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
    key = entry_key(address, token)
    return _balance_in(key, view[key])


def _balance_in(key: bytes, data: bytes | None) -> int:
    """The balance in the entry of an account, or of its balance of a token."""
    if data is None:
        return 0
    return Account.decode(data).balance if key[:1] == ACCOUNT else decode_balance(data)
