"""Whether a transaction is signed by those it names."""

from collections.abc import Sequence

from supervm.crypto.batch import verify_many
from supervm.crypto.suites import SignatureItem
from supervm.types.errors import InvalidInput
from supervm.types.transaction import Transaction


def check_signers(transaction: Transaction) -> None:
    """Refuse a transaction whose keys are not those of its sender and fee payer (`WrongSigner`)."""
    body = transaction.body
    named = (("sender", body.sender), ("fee_payer", body.fee_payer))
    for (field, address), authorization in zip(named, transaction.authorizations, strict=False):
        found = authorization.address
        if found != address:
            mend = f"the key of the {field} has the address 0x{address.hex()}"
            raise InvalidInput("WrongSigner", f"{field}: signed with another's key", found, mend)


def signature_items(transaction: Transaction) -> list[SignatureItem]:
    """Return what is to be verified, for `verify_many`."""
    return [
        (each.suite, each.public_key, transaction.digest, each.signature)
        for each in transaction.authorizations
    ]


def verify_transactions(
    transactions: Sequence[Transaction], *, threads: int = 1
) -> list[InvalidInput | None]:
    """Return for each transaction None, or why it isn't signed: `WrongSigner` or `BadSignature`.

    Pure and CPU-bound: call it in a thread, with many transactions at once. A PRIVATE transaction that
    names no account has no signatures here; its payload's proof speaks for it.
    """
    verdicts: list[InvalidInput | None] = [None] * len(transactions)
    items: list[SignatureItem] = []
    places: list[tuple[int, int]] = []
    for at, transaction in enumerate(transactions):
        try:
            check_signers(transaction)
        except InvalidInput as refused:
            verdicts[at] = refused
            continue
        for index, item in enumerate(signature_items(transaction)):
            items.append(item)
            places.append((at, index))
    for (at, index), right in zip(places, verify_many(items, threads=threads), strict=True):
        # The first that is wrong answers.
        if not right and verdicts[at] is None:
            verdicts[at] = _bad_signature(transactions[at], index)
    return verdicts


def _bad_signature(transaction: Transaction, index: int) -> InvalidInput:
    field = ("sender", "fee_payer")[index]
    mend = f"sign the digest 0x{transaction.digest.hex()}"
    signature = transaction.authorizations[index].signature
    return InvalidInput("BadSignature", f"{field}: the signature is wrong", signature, mend)
