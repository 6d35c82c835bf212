"""What becomes of those who said two things at once: validators and clients (CONS-17, CONS-70, GAS-20).

A validator loses a part of what it has at stake, and its place in the sets that follow. A client pays the
gas of what it cost others, when the epoch ends: nothing is reserved then, so no accepted transaction can
miss the money (EXEC-4). That somebody did it, a quorum has said by voting for the block.
"""

from collections import Counter
from collections.abc import Sequence

import attrs

from supervm.contracts.gas import Charge, FeeTerms, GasPolicy, Quote, price_of
from supervm.execution.election import elect
from supervm.execution.staking import UNBONDING_EPOCHS
from supervm.execution.working import StateReader, WorkingState, encode_value
from supervm.types.address import Address
from supervm.types.claims import CHAIN_BYTES, IN_FLIGHT_MAX, NONCE_LOCK, chain_of
from supervm.types.stakes import ESCROW, STAKES_KEY, Stake, Stakes, stakes_of
from supervm.types.state import ACCOUNT, NATIVE_TOKEN, OBJECT, TOKEN, OwnerKind, Token
from supervm.types.transaction import Lane
from supervm.types.validators import ValidatorSet
from supervm.types.wrongs import (
    DOUBLES_KEY,
    DOUBLES_MAX,
    OFFENCES_KEY,
    OFFENCES_MAX,
    RESERVE,
    Double,
    Offence,
    Punished,
    Wrongs,
    decode_doubles,
    decode_punished,
    encode_doubles,
    encode_punished,
)

LEAST_DIVISOR = 20
"""Of what is at stake an offence costs at least this part, 5 % (GAS-20)."""
OTHERS_FACTOR = 3
"""The part that others, who were punished for the same, had of all stakes, counts so often (GAS-20)."""
EQUIVOCATION_GAS = 1_000_000
"""What a proof of two transactions for one lock costs who signed them (CONS-17)."""
LEAST_GAS = 10_000
"""What each lock that counts against an account needs on its balance, as gas at the base price (chosen): the
base of a transaction and its signature (GAS-2). No validator locks anything for who has less (CONS-13)."""


def wrong_keys(wrongs: Wrongs) -> frozenset[bytes]:
    """Every state key that these wrongs make execution read or write, the payees of fees left out."""
    keys: set[bytes] = set()
    if wrongs.offences:
        keys |= {STAKES_KEY, OFFENCES_KEY, ACCOUNT + ESCROW, ACCOUNT + RESERVE, TOKEN + NATIVE_TOKEN}
    if wrongs.doubles or wrongs.collects:
        keys.add(DOUBLES_KEY)
    for double in wrongs.doubles:
        keys.add(ACCOUNT + double.account)
        if chain_of(double.lock) is None:
            keys.add(OBJECT + double.lock[1:CHAIN_BYTES])
    keys.update(ACCOUNT + each for each in wrongs.owing or ())
    return frozenset(keys)


def punish(state: WorkingState, offence: Offence, epoch: int, granted: ValidatorSet) -> Punished | None:
    """Take a part of an offender's stake, and its place: once a key, kind and epoch; else None.

    `granted` is the set of genesis, whose members have weight without a stake. Who would be the last one to
    validate keeps its place: a chain needs somebody.
    """
    known = [
        each for each in decode_punished(_entry(state, OFFENCES_KEY)) if each.epoch + UNBONDING_EPOCHS > epoch
    ]
    same = [each for each in known if each.kind == offence.kind]
    is_known = any((each.public_key, each.epoch) == (offence.public_key, epoch) for each in same)
    if is_known or len(known) >= OFFENCES_MAX:
        return None
    stakes = stakes_of(_entry(state, STAKES_KEY))
    own = stakes.of(offence.public_key)
    if own is None:
        own = Stake(public_key=offence.public_key, amount=0)
        own = attrs.evolve(own, granted=granted.number_of(own.node_id) is not None)
    total = sum(each.amount for each in stakes.records) + sum(each.slashed for each in known)
    slashed = part_of(own.amount, sum(each.at_stake for each in same), total)
    if slashed:
        state.add(ESCROW, NATIVE_TOKEN, -slashed)
        state.add(RESERVE, NATIVE_TOKEN, slashed)
    native = state.token(NATIVE_TOKEN)
    assert type(native) is Token, "genesis makes the native token"
    kept = attrs.evolve(own, amount=own.amount - slashed)
    after = _put_out(stakes, kept, epoch, granted, native.decimals)
    state.write(STAKES_KEY, after.encode() if after.records else None)
    punished = Punished(offence.public_key, offence.kind, epoch, own.amount, slashed)
    state.write(OFFENCES_KEY, encode_punished([*known, punished]))
    return punished


def part_of(amount: int, others: int, total: int) -> int:
    """What an offence costs of `amount` base units: 5 %, or three times the part that `others` had of
    `total`, whichever is more, rounded up; at most all of it (GAS-20)."""
    least = -(-amount // LEAST_DIVISOR)
    shared = -(-amount * OTHERS_FACTOR * others // total) if total else 0
    return min(amount, max(least, shared))


def _put_out(stakes: Stakes, own: Stake, epoch: int, granted: ValidatorSet, decimals: int) -> Stakes:
    """The stakes in which an offender has left, unless nobody else would validate."""
    left = stakes.put(attrs.evolve(own, left_epoch=own.left_epoch or epoch, granted=False))
    if not elect(granted, left, decimals).members:
        return stakes.put(own)
    # A member of genesis that left stays so: without a record it would have its weight again.
    named = granted.number_of(own.node_id) is not None
    return left if own.amount or named else left.without(own.public_key)


def note_doubles(state: WorkingState, doubles: Sequence[Double], price: int) -> None:
    """Remember that accounts signed twice for a lock, until the epoch ends: once a lock.

    It counts only where a validator can hold the lock in this state, and the signer has at the base price
    `price` (micro base units per gas) what each of its locks that count needs. So room is filled for nothing
    by nobody.
    """
    if not doubles:
        return
    notes = _Notes(state, price)
    if [double for double in doubles if notes.take(double)]:
        state.write(DOUBLES_KEY, encode_doubles(notes.known))


def doubles_noted(entries: StateReader, doubles: Sequence[Double], price: int) -> dict[bytes, bytes | None]:
    """As `note_doubles`, of a block whose transactions are executed elsewhere: what it changes.

    No transaction reads or writes that entry, and locks are judged before any of them.
    """
    state = WorkingState(entries)
    note_doubles(state, doubles, price)
    return {key: encode_value(now) for key, _, now in state.changed()}


def chargeable(entries: StateReader, doubles: Sequence[Double], price: int) -> tuple[int, ...]:
    """Indexes of those that would count together if a block held them now: who pays most first, then the
    nearest nonce, then as they came. `entries` are those of `wrong_keys`."""
    state = WorkingState(entries)
    notes = _Notes(state, price)
    if notes.is_full:
        return ()
    whole = price_of(EQUIVOCATION_GAS, price)

    def rank(at: int) -> tuple[int, int]:
        double = doubles[at]
        pays = min(whole, state.balance(double.account, NATIVE_TOKEN))
        return -pays, _nonces_ahead(state, double.lock) or 0

    return tuple(at for at in sorted(range(len(doubles)), key=rank) if notes.take(doubles[at]))


class _Notes:
    """Whom the state remembers to have signed twice, and what may be added to it at a base price."""

    def __init__(self, state: WorkingState, price: int) -> None:
        self.known = list(decode_doubles(_entry(state, DOUBLES_KEY)))
        self._locks = {each.lock for each in self.known}
        self._counts = Counter(each.account for each in self.known)
        self._state = state
        self._least = max(1, price_of(LEAST_GAS, price))

    @property
    def is_full(self) -> bool:
        return len(self.known) >= DOUBLES_MAX

    def take(self, double: Double) -> bool:
        """Add one that counts; whether it does."""
        account = double.account
        needed = self._least * (self._counts[account] + 1)
        if (
            double.lock in self._locks
            or self.is_full
            or self._state.balance(account, NATIVE_TOKEN) < needed
            or not _can_be_held(self._state, double)
        ):
            return False
        self.known.append(double)
        self._locks.add(double.lock)
        self._counts[account] += 1
        return True


def not_punished(offences: Sequence[Offence], entry: bytes | None, epoch: int) -> tuple[Offence, ...]:
    """Those of a block that may have an effect, by the entry under `OFFENCES_KEY`: each once, none again.

    Without the others the block does the same; so who repeats evidence changes nothing, not even who
    executes the block.
    """
    known = {(each.public_key, each.kind) for each in decode_punished(entry) if each.epoch == epoch}
    fresh = (each for each in dict.fromkeys(offences) if (each.public_key, each.kind) not in known)
    return tuple(fresh)


def _can_be_held(state: WorkingState, double: Double) -> bool:
    """Whether a validator that executed this state can hold the lock: it isn't used up, the nonce isn't too
    far ahead (CONS-12), and the object is at that version, the account's own (CONS-14)."""
    lock = double.lock
    ahead = _nonces_ahead(state, lock)
    if ahead is not None:
        return 0 <= ahead < IN_FLIGHT_MAX
    found = state.object(lock[1:CHAIN_BYTES])
    return (
        found is not None
        and not found.deleted
        and found.owner_kind is OwnerKind.OWNED
        and found.owner == double.account
        and found.version == _number_of(lock)
    )


def _nonces_ahead(state: WorkingState, lock: bytes) -> int | None:
    """How far the nonce of a lock is from the account's next one; None for an object's."""
    if chain_of(lock) is None:
        return None
    account = state.account(lock[1:CHAIN_BYTES])
    return _number_of(lock) - (account.nonce if lock[:1] == NONCE_LOCK else account.sponsor_nonce)


def _number_of(lock: bytes) -> int:
    return int.from_bytes(lock[CHAIN_BYTES:], "little")


def collect(state: WorkingState, gas: GasPolicy, gas_state: bytes) -> list[Charge]:
    """At the end of an epoch: what those pay who signed twice, each lock by itself, as fees of its last
    block. At most what there is on the account."""
    price = gas.base_price(gas_state)
    charges: list[Charge] = []
    for double in decode_doubles(_entry(state, DOUBLES_KEY)):
        fee = min(price_of(EQUIVOCATION_GAS, price), state.balance(double.account, NATIVE_TOKEN))
        state.add(double.account, NATIVE_TOKEN, -fee)
        quote = Quote(_terms(double.account, price), fee, NATIVE_TOKEN, price)
        charges.append(Charge(quote, EQUIVOCATION_GAS, EQUIVOCATION_GAS, fee, 0))
    state.write(DOUBLES_KEY, None)
    return charges


def _terms(account: Address, price: int) -> FeeTerms:
    """Those of a transaction that nobody sent."""
    return FeeTerms(0, (), EQUIVOCATION_GAS, price, 0, NATIVE_TOKEN, 0, account, account, Lane.FAST)


def _entry(state: WorkingState, key: bytes) -> bytes | None:
    found = state.read(key)
    assert found is None or type(found) is bytes, "it is a system entry"
    return found


def noted_in(entry: bytes | None) -> frozenset[bytes]:
    """The locks that count in this epoch, by the entry under `DOUBLES_KEY`."""
    return frozenset(each.lock for each in decode_doubles(entry))


def owing_in(entry: bytes | None) -> tuple[Address, ...]:
    """The accounts that pay when the epoch ends, by the entry under `DOUBLES_KEY`."""
    return tuple(each.account for each in decode_doubles(entry))
