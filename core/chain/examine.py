"""What can be said of a transaction's bytes without any state: decode, chain, expiry, lane, signatures.

The first part of admission (EXEC-8), pure and CPU-bound, so it runs in worker threads, many transactions
at a time. A signature that was checked is remembered under blake3 of *all* the transaction's bytes: under
the body's digest alone, a forged signature could ride on a checked one (EXEC-6).

Plain transfers, which most are, go through C as they came, all at once, and no parts are made of one that is
in order. Whatever C or `read_plain` has anything against is judged like all others, which says what is wrong.
"""

from array import array
from collections.abc import Sequence

import attrs

from supervm.contracts.application import Refused
from supervm.contracts.gas import GasError
from supervm.crypto.batch import chosen
from supervm.crypto.packed import Verdict, verify_packed
from supervm.crypto.remembered import RememberedSignatures
from supervm.crypto.transactions import verify_transactions
from supervm.execution.errors import AcceptRefused, ExecutionError
from supervm.execution.lanes import check_kind
from supervm.types.digests import DIGEST_BYTES, plain_digest
from supervm.types.errors import DecodeError, InvalidInput
from supervm.types.limits import Limits
from supervm.types.plain import PLAIN_BYTES, Plain, PlainTransaction, read_plain
from supervm.types.transaction import Transaction


@attrs.frozen(kw_only=True)
class ChainRules:
    """What transactions are examined against. `epoch` is that of the next block."""

    chain_id: bytes
    epoch: int
    limits: Limits
    private_kinds: frozenset[int] = frozenset()


@attrs.frozen
class Examined:
    """A transaction whose bytes are in order."""

    transaction: Transaction


def refused(error: InvalidInput, digest: bytes | None = None, field: str = "transaction") -> Refused:
    """The refusal that says what an error says; `field` where the error names none."""
    if isinstance(error, GasError):
        field = "fee"
    elif isinstance(error, DecodeError | ExecutionError):
        field = error.field
    return Refused(
        code=error.code,
        field=field,
        value=error.value,
        mend=f"{error.message}; {error.mend}" if error.mend else error.message,
        digest=digest,
        conflict=error.conflict if isinstance(error, AcceptRefused) else None,
    )


def examine(
    items: Sequence[bytes], rules: ChainRules, checked: RememberedSignatures
) -> list[Examined | Refused]:
    """Judge each item in order; never raises for what is in it. What is found signed goes into `checked`."""
    plain = _plain(items, rules, checked)
    judged: list[Examined | Refused] = []
    unsigned: list[int] = []
    waiting: list[Transaction] = []
    fingerprints: list[bytes] = []
    for index, data in enumerate(items):
        if (known := plain.get(index)) is not None:
            judged.append(Examined(known))
            continue
        one = _decode(data, rules)
        if isinstance(one, Examined) and (fingerprint := plain_digest(data)) not in checked:
            unsigned.append(index)
            waiting.append(one.transaction)
            fingerprints.append(fingerprint)
        judged.append(one)
    verdicts = verify_transactions(waiting)
    for index, transaction, wrong in zip(unsigned, waiting, verdicts, strict=True):
        if wrong is not None:
            judged[index] = refused(wrong, transaction.digest, "authorizations")
    checked.update([each for each, wrong in zip(fingerprints, verdicts, strict=True) if wrong is None])
    return judged


def _plain(
    items: Sequence[bytes], rules: ChainRules, checked: RememberedSignatures
) -> dict[int, PlainTransaction]:
    """The plain transfers that are in order, by index."""
    if chosen().driver is None:
        return {}
    found: list[tuple[int, bytes, Plain]] = []
    for index, data in enumerate(items):
        said = read_plain(data)
        if (
            said is not None
            and said.chain_id == rules.chain_id
            and (not said.expiry_epoch or said.expiry_epoch >= rules.epoch)
        ):
            found.append((index, data, said))
    if not found:
        return {}
    offsets = array("Q", range(0, (len(found) + 1) * PLAIN_BYTES, PLAIN_BYTES))
    packed = b"".join([data for _, data, _ in found])
    verified = verify_packed(packed, offsets, limits=rules.limits, remembered=checked)
    digests = verified.digests
    return {
        index: PlainTransaction(data, digests[at : at + DIGEST_BYTES], said)
        for (index, data, said), verdict, at in zip(
            found, verified.verdicts, range(0, len(digests), DIGEST_BYTES), strict=True
        )
        if verdict == Verdict.SIGNED
    }


def _decode(data: bytes, rules: ChainRules) -> Examined | Refused:
    try:
        transaction = Transaction.decode(data, rules.limits)
    except DecodeError as error:
        return refused(error)
    body = transaction.body
    if body.chain_id != rules.chain_id:
        return Refused(
            code="WrongChain",
            field="chain_id",
            value="0x" + body.chain_id.hex(),
            mend=f"this chain is 0x{rules.chain_id.hex()}",
            digest=transaction.digest,
        )
    if 0 < body.expiry_epoch < rules.epoch:
        return Refused(
            code="Expired",
            field="expiry_epoch",
            value=str(body.expiry_epoch),
            mend=f"the epoch is {rules.epoch}; sign it anew with a later one, or 0 for never",
            digest=transaction.digest,
        )
    try:
        check_kind(transaction, rules.private_kinds)
    except ExecutionError as error:
        return refused(error, transaction.digest)
    return Examined(transaction)
