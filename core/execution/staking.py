"""Who asks to validate, who leaves, and what becomes of the coins (CONS-50, CONS-83, GAS-19).

What is said here counts from the first epoch whose hand-over sees it. One system entry holds all stakes; so
a transaction with such an operation is ordered, and pays for the whole entry.
"""

import attrs

from supervm.execution.election import elect, rules_of
from supervm.execution.errors import Code, Failed
from supervm.execution.tokens import debit
from supervm.execution.turn import Turn
from supervm.types.address import Suite
from supervm.types.codec import U128_MAX
from supervm.types.operations import StakeAdd, StakeLeave, StakeWithdraw
from supervm.types.stakes import ESCROW, STAKES_KEY, STAKES_MAX, Stake, Stakes, stakes_of
from supervm.types.state import NATIVE_TOKEN, TOKEN, Token

UNBONDING_EPOCHS = 14
"""Epochs in which a stake can still be punished after its owner asked to leave (GAS-19)."""

# Topics of events; the emitter is the node id.
ADDED = b"stake.added"
LEFT = b"stake.left"
WITHDRAWN = b"stake.withdrawn"


def add_stake(turn: Turn, operation: StakeAdd, index: int) -> None:
    """Move coins into escrow. All that a key has there must reach the minimum of `election.rules_of`."""
    stakes, own = _begin(turn)
    before = own or Stake(public_key=_key_of(turn), amount=0)
    if own is None and sum(1 for each in stakes.records if each.amount) >= STAKES_MAX:
        raise Failed(Code.STAKES_FULL, f"{STAKES_MAX} keys have stakes")
    if before.left_epoch and before.amount:
        raise Failed(Code.STAKE_LEAVING, f"it asked to leave in epoch {before.left_epoch}: withdraw first")
    amount = before.amount + operation.amount
    minimum = rules_of(_decimals(turn)).minimum
    if not minimum <= amount <= U128_MAX:
        raise Failed(Code.STAKE_TOO_LOW, f"{amount} base units would be at stake, the least are {minimum}")
    debit(turn, NATIVE_TOKEN, operation.amount)
    turn.state.add(ESCROW, NATIVE_TOKEN, operation.amount)
    _keep(turn, stakes.put(attrs.evolve(before, amount=amount, left_epoch=0)))
    turn.emit(before.node_id, ADDED, operation.amount.to_bytes(16, "little"))


def leave_set(turn: Turn, operation: StakeLeave, index: int) -> None:
    """Be in no set from the next epoch on: unless nobody else would be, for a chain needs validators."""
    stakes, own = _begin(turn)
    if own is None or not (own.granted or own.amount):
        raise Failed(Code.STAKE_UNKNOWN, "this key neither has a stake nor was named by genesis")
    if own.left_epoch:
        raise Failed(Code.STAKE_LEAVING, f"it asked to leave in epoch {own.left_epoch}")
    after = stakes.put(attrs.evolve(own, left_epoch=turn.epoch, granted=False))
    if not elect(turn.granted, after, _decimals(turn)).members:
        raise Failed(Code.LAST_VALIDATOR, "nobody else would validate")
    _keep(turn, after)
    turn.emit(own.node_id, LEFT, turn.epoch.to_bytes(8, "little"))


def withdraw_stake(turn: Turn, operation: StakeWithdraw, index: int) -> None:
    """Pay back what is in escrow, once it can't be punished any more."""
    stakes, own = _begin(turn)
    if own is None or not own.amount:
        raise Failed(Code.STAKE_UNKNOWN, "this key has no stake")
    free = own.left_epoch + UNBONDING_EPOCHS
    if not own.left_epoch or turn.epoch < free:
        when = f"it is free in epoch {free}" if own.left_epoch else "it never asked to leave"
        raise Failed(Code.STAKE_BOUND, f"this is epoch {turn.epoch}, {when}")
    turn.state.add(ESCROW, NATIVE_TOKEN, -own.amount)
    turn.state.add(own.address, NATIVE_TOKEN, own.amount)
    # A member of genesis that left stays so: without a record it would have its weight again.
    named = turn.granted.number_of(own.node_id) is not None
    _keep(turn, stakes.put(attrs.evolve(own, amount=0)) if named else stakes.without(own.public_key))
    turn.emit(own.node_id, WITHDRAWN, own.amount.to_bytes(16, "little"))


def _begin(turn: Turn) -> tuple[Stakes, Stake | None]:
    """The stakes, paid for; and the sender's own, as genesis has it where nothing was said since."""
    turn.use_entry()
    turn.use_entry()
    entry = turn.state.read(STAKES_KEY)
    assert entry is None or type(entry) is bytes, "the stakes are a system entry"
    turn.meter.use(turn.schedule.entry_write_byte * (len(entry) if entry else 0))
    stakes, key = stakes_of(entry), _key_of(turn)
    own = stakes.of(key)
    if own is None:
        named = Stake(public_key=key, amount=0, granted=True)
        own = named if turn.granted.number_of(named.node_id) is not None else None
    return stakes, own


def _key_of(turn: Turn) -> bytes:
    """The sender's key, which is the voting key."""
    sender = turn.transaction.authorizations[0]
    if sender.suite != Suite.ED25519:
        raise Failed(Code.STAKE_KEY, "validators vote with ed25519: stake from an account of that suite")
    return sender.public_key


def _decimals(turn: Turn) -> int:
    native = turn.state.read(TOKEN + NATIVE_TOKEN)
    assert type(native) is Token, "genesis makes the native token"
    return native.decimals


def _keep(turn: Turn, stakes: Stakes) -> None:
    turn.state.write(STAKES_KEY, stakes.encode() if stakes.records else None)
