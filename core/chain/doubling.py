"""What two signed transactions prove of who signed them, by their bytes alone, and what a state makes of it
(CONS-17, CONS-70)."""

from collections.abc import Mapping, Sequence

import attrs

from supervm.chain.examine import ChainRules, Examined, examine
from supervm.contracts.application import WeighedProofs
from supervm.crypto.remembered import RememberedSignatures
from supervm.execution.footprint import nonce_lock, object_lock, sponsor_nonce_lock
from supervm.execution.punishing import chargeable, noted_in
from supervm.execution.working import Fetched
from supervm.types.claims import IMAGE_LOCK, chain_of
from supervm.types.digests import Digest
from supervm.types.errors import InvalidInput
from supervm.types.limits import Limits
from supervm.types.transaction import Access, Body, Lane, Transaction
from supervm.types.wrongs import DOUBLES_KEY, Double

_BEFORE_ANY = 0
"""An epoch in which no transaction has expired."""
_OF_THE_NODE = frozenset({"LaneMismatch", "PayloadUnknown"})
"""Refusals that depend on the privacy schemes that a node has (`lanes.check_kind`)."""
_OWNED_ALONE = frozenset({Access.TRANSFER, Access.SHARE, Access.FREEZE, Access.DELETE})


def locks_of_body(body: Body) -> frozenset[bytes]:
    """What a transaction locks for certain, whoever owns its inputs.

    An input is locked only where it is Owned, which the bytes don't say. They do where the access is one that
    is refused for any other, or where it is written in the lane FAST, which takes no Shared one. So nobody is
    accused for two transactions that write one Shared object.
    """
    locks = {nonce_lock(body.sender, body.nonce)} if any(body.sender) else set()
    if body.is_sponsored:
        locks.add(sponsor_nonce_lock(body.fee_payer, body.sponsor_nonce))
    for declared in body.inputs:
        writes_owned = body.lane is Lane.FAST and declared.access is Access.WRITE
        if declared.access in _OWNED_ALONE or writes_owned:
            locks.add(object_lock(declared.id, declared.version))
    return frozenset(locks)


def locks_named(data: bytes, chain_id: bytes, limits: Limits) -> tuple[bytes, frozenset[bytes]] | None:
    """A transaction's digest and its certain locks; None for bytes that are none of this chain."""
    try:
        transaction = Transaction.decode(data, limits)
    except InvalidInput:
        return None
    if transaction.body.chain_id != chain_id:
        return None
    return transaction.digest, locks_of_body(transaction.body)


def doubts(first: bytes, second: bytes, lock: bytes, rules: ChainRules, checked: RememberedSignatures) -> str:
    """Why two transactions don't prove that somebody signed both for one lock; empty if they do.

    `rules` name the epoch in which neither may have expired. A lock of an object counts against its owner,
    who must be the sender of both.
    """
    found = examine([first, second], rules, checked)
    wrong = [each for each in found if not isinstance(each, Examined)]
    if wrong:
        return f"a transaction in a proof isn't in order: {wrong[0]}"
    one, other = (each.transaction for each in found if isinstance(each, Examined))
    if one.digest == other.digest:
        return "one transaction, signed again"
    if not all(lock in locks_of_body(each.body) for each in (one, other)):
        return "transactions that don't both hold the lock"
    if chain_of(lock) is None and one.body.sender != other.body.sender:
        return "transactions of two senders on one object"
    return ""


def forged(first: bytes, second: bytes, lock: bytes, rules: ChainRules, checked: RememberedSignatures) -> str:
    """Why these are no such proof in any epoch and any state; empty where an honest node may think they are.

    That takes two different transactions of this chain, rightly signed, that both name what is locked.
    Whether an object is Owned, and by whom, the state says; whether a payload is known, a node's schemes.
    """
    found = examine([first, second], attrs.evolve(rules, epoch=_BEFORE_ANY), checked)
    named: list[Transaction] = []
    for each in found:
        if not isinstance(each, Examined):
            if each.code in _OF_THE_NODE:
                return ""
            return f"a transaction in a proof isn't in order: {each}"
        named.append(each.transaction)
    if named[0].digest == named[1].digest:
        return "one transaction, signed again"
    if lock[:1] != IMAGE_LOCK and not all(lock in _slots_named(each.body) for each in named):
        return "transactions that don't both name what is locked"
    return ""


def weigh(entries: Mapping[bytes, bytes | None], doubles: Sequence[Double], price: int) -> WeighedProofs:
    """What proofs are worth in a state, of which these are the entries of `wrong_keys`, at a base price."""
    noted = noted_in(entries[DOUBLES_KEY])
    known = frozenset(at for at, each in enumerate(doubles) if each.lock in noted)
    return WeighedProofs(noted=known, counting=chargeable(Fetched(entries), doubles, price))


@attrs.frozen
class Contest:
    """What a transaction is worth that a validator shows against another one.

    `names`: the digests of both, where they prove that somebody signed both for one lock. `lie`: why no
    honest validator shows it, whatever epoch and state.
    """

    names: tuple[Digest, Digest] | None = None
    lie: str = ""


def judge_contest(own: bytes, other: bytes, rules: ChainRules, checked: RememberedSignatures) -> Contest:
    """Judge what is shown against a transaction that this node put into a batch. For any thread.

    That `own` isn't in order is nobody else's lie.
    """
    named = [locks_named(each, rules.chain_id, rules.limits) for each in (own, other)]
    if named[1] is None:
        return Contest(lie="what is shown is no transaction of this chain")
    if named[0] is None:
        return Contest()
    (first, locks), (second, others) = (each for each in named if each is not None)
    common = locks & others
    if common and not doubts(own, other, min(common), rules, checked):
        return Contest(names=(first, second))
    return Contest(lie=_lie(own, other, rules, checked))


def _lie(own: bytes, other: bytes, rules: ChainRules, checked: RememberedSignatures) -> str:
    """Why two transactions of this chain can't have met at a lock; empty where they may have.

    What a PRIVATE one locks its bytes don't say.
    """
    shown, against = examine([other, own], attrs.evolve(rules, epoch=_BEFORE_ANY), checked)
    if not isinstance(shown, Examined):
        return "" if shown.code in _OF_THE_NODE else f"what is shown isn't in order: {shown}"
    if not isinstance(against, Examined):
        return ""
    if shown.transaction.digest == against.transaction.digest:
        return "one transaction, signed again"
    bodies = [each.transaction.body for each in (shown, against)]
    if all(each.lane is Lane.PRIVATE for each in bodies):
        return ""
    one, two = (_slots_named(each) for each in bodies)
    return "" if one & two else "transactions that lock nothing in common"


def _slots_named(body: Body) -> frozenset[bytes]:
    """What a transaction may lock, depending on who owns its inputs."""
    return locks_of_body(body) | {object_lock(each.id, each.version) for each in body.inputs}
