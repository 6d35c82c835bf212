"""What becomes of those who said two things at once: validators and clients (CONS-17, CONS-70, GAS-20).

A validator loses a part of what it has at stake, and its place in the sets that follow. A client pays the
gas of what it cost others, when the epoch ends: nothing is reserved then, so no accepted transaction can
miss the money (EXEC-4). That somebody did it, a quorum has said by voting for the block.
"""

from collections.abc import Sequence

import attrs

from supervm.contracts.gas import Charge, FeeTerms, GasPolicy, Quote, price_of
from supervm.execution.election import elect
from supervm.execution.staking import UNBONDING_EPOCHS
from supervm.execution.working import StateReader, WorkingState, encode_value
from supervm.types.address import Address
from supervm.types.claims import CHAIN_BYTES, NONCE_LOCK, SPONSOR_NONCE_LOCK, chain_of
from supervm.types.stakes import ESCROW, STAKES_KEY, Stake, Stakes, stakes_of
from supervm.types.state import ACCOUNT, NATIVE_TOKEN, OBJECT, TOKEN, Object, OwnerKind, Token
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


def note_double(state: WorkingState, double: Double) -> None:
    """Remember that an account signed twice for a lock, until the epoch ends: once a lock.

    A lock that is used up hinders nobody any more, and counts for nothing.
    """
    known = decode_doubles(_entry(state, DOUBLES_KEY))
    is_new = all(each.lock != double.lock for each in known)
    if is_new and len(known) < DOUBLES_MAX and not _is_used_up(state, double.lock):
        state.write(DOUBLES_KEY, encode_doubles([*known, double]))


def note_doubles(entries: StateReader, doubles: Sequence[Double]) -> dict[bytes, bytes | None]:
    """As `note_double`, of a block whose transactions are executed elsewhere: what it changes.

    No transaction reads or writes that entry, and locks are judged before any of them.
    """
    state = WorkingState(entries)
    for each in doubles:
        note_double(state, each)
    return {key: encode_value(now) for key, _, now in state.changed()}


def _is_used_up(state: WorkingState, lock: bytes) -> bool:
    address, number = lock[1:CHAIN_BYTES], int.from_bytes(lock[CHAIN_BYTES:], "little")
    if lock[:1] == NONCE_LOCK:
        return number < state.account(address).nonce
    if lock[:1] == SPONSOR_NONCE_LOCK:
        return number < state.account(address).sponsor_nonce
    found = state.object(address)
    return found is not None and _is_past(found, number)


def _is_past(found: Object, version: int) -> bool:
    return version < found.version or found.deleted or found.owner_kind is not OwnerKind.OWNED


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


def owing_in(entry: bytes | None) -> tuple[Address, ...]:
    """The accounts that pay when the epoch ends, by the entry under `DOUBLES_KEY`."""
    return tuple(each.account for each in decode_doubles(entry))
