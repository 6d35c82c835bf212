"""What can be said of a transaction's bytes without any state: decode, chain, expiry, lane, signatures.

The first part of admission (EXEC-8), pure and CPU-bound, so it runs in worker threads, many transactions
at a time. A signature that was checked is remembered under blake3 of *all* the transaction's bytes: under
the body's digest alone, a forged signature could ride on a checked one (EXEC-6).
"""

from collections.abc import Sequence

import attrs

from supervm.contracts.application import Refused
from supervm.contracts.gas import GasError
from supervm.crypto.remembered import RememberedSignatures
from supervm.crypto.transactions import verify_transactions
from supervm.execution.errors import AcceptRefused, ExecutionError
from supervm.execution.lanes import check_kind
from supervm.types.digests import plain_digest
from supervm.types.errors import DecodeError, InvalidInput
from supervm.types.limits import Limits
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
    """A transaction whose bytes are in order. `fingerprint` is blake3 of all of them."""

    transaction: Transaction
    fingerprint: bytes


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
    judged: list[Examined | Refused] = []
    unsigned: list[int] = []
    waiting: list[Examined] = []
    for data in items:
        one = _decode(data, rules)
        if isinstance(one, Examined) and one.fingerprint not in checked:
            unsigned.append(len(judged))
            waiting.append(one)
        judged.append(one)
    verdicts = verify_transactions([one.transaction for one in waiting])
    for index, one, wrong in zip(unsigned, waiting, verdicts, strict=True):
        if wrong is not None:
            judged[index] = refused(wrong, one.transaction.digest, "authorizations")
    checked.update([one.fingerprint for one, wrong in zip(waiting, verdicts, strict=True) if wrong is None])
    return judged


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
    return Examined(transaction, plain_digest(data))
