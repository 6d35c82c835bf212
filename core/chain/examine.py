"""What can be said of a transaction's bytes without any state: decode, chain, expiry, lane, signatures.

The first part of admission (EXEC-8), pure and CPU-bound, so it runs in worker threads, many transactions
at a time, but for a few that are done sooner. A signature that was checked is remembered under blake3 of
*all* the transaction's bytes: under the body's digest alone, a forged signature could ride on a checked one
(EXEC-6).

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
from supervm.types.address import Suite
from supervm.types.digests import DIGEST_BYTES, plain_digest
from supervm.types.errors import DecodeError, InvalidInput
from supervm.types.limits import Limits
from supervm.types.plain import PLAIN_BYTES, Plain, PlainTransaction, read_plain
from supervm.types.transaction import Transaction

FEW_MAX = 4
"""Transactions and Ed25519 signatures that take less time than a thread takes to begin with them."""
FEW_BYTES_MAX = 4_096


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


@attrs.frozen
class _Read:
    """Decoded transactions: the answers so far, and those whose signatures aren't known, by index."""

    judged: list[Examined | Refused]
    unsigned: list[tuple[int, bytes, Transaction]]

    def verify(self, checked: RememberedSignatures) -> list[Examined | Refused]:
        """The answers, when every signature is verified."""
        verdicts = verify_transactions([transaction for _, _, transaction in self.unsigned])
        good: list[bytes] = []
        for (index, fingerprint, transaction), wrong in zip(self.unsigned, verdicts, strict=True):
            if wrong is None:
                good.append(fingerprint)
            else:
                self.judged[index] = refused(wrong, transaction.digest, "authorizations")
        checked.update(good)
        return self.judged


def examine(
    items: Sequence[bytes], rules: ChainRules, checked: RememberedSignatures
) -> list[Examined | Refused]:
    """Judge each item in order; never raises for what is in it. What is found signed goes into `checked`."""
    return _read(items, rules, checked).verify(checked)


def examine_few(
    items: Sequence[bytes], rules: ChainRules, checked: RememberedSignatures
) -> list[Examined | Refused] | None:
    """The same where it takes no longer than asking a thread; None where it would, and nothing is judged."""
    if len(items) > FEW_MAX or sum(map(len, items)) > FEW_BYTES_MAX:
        return None
    read = _read(items, rules, checked)
    suites = [each.suite for _, _, one in read.unsigned for each in one.authorizations]
    if len(suites) > FEW_MAX or any(suite != Suite.ED25519 for suite in suites):
        return None
    return read.verify(checked)


def _read(items: Sequence[bytes], rules: ChainRules, checked: RememberedSignatures) -> _Read:
    plain = _plain(items, rules, checked)
    read = _Read([], [])
    for index, data in enumerate(items):
        if (known := plain.get(index)) is not None:
            read.judged.append(Examined(known))
            continue
        one = _decode(data, rules)
        if isinstance(one, Examined) and (fingerprint := plain_digest(data)) not in checked:
            read.unsigned.append((index, fingerprint, one.transaction))
        read.judged.append(one)
    return read


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
