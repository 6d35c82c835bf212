"""What a transaction claims (CONS-10..13): the bridge from its signed bytes to `supervm.types.claims`."""

from collections.abc import Mapping, Sequence

from supervm.execution.footprint import locks_of, max_spend
from supervm.types.claims import IMAGE_LOCK, Account, Claim
from supervm.types.operations import ObjectCreate
from supervm.types.state import Object, object_id
from supervm.types.transaction import NO_ACCOUNT, Lane, Transaction


def claim_of(
    transaction: Transaction, objects: Mapping[bytes, Object | None], lane: Lane, images: Sequence[bytes] = ()
) -> Claim:
    """The claim of a transaction. `objects`: its inputs as they are known, None where one isn't.

    `images`: for a PRIVATE one `pool || image` of each key image that it reveals; without a sender they are
    its only slots, and it debits nobody (CONS-10).
    """
    body = transaction.body
    slots = tuple(IMAGE_LOCK + each for each in images)
    spends: tuple[tuple[Account, int], ...] = ()
    if body.sender != NO_ACCOUNT:
        slots = locks_of(transaction, objects) + slots
        spends = tuple(max_spend(transaction).items())
    created = sum(isinstance(each, ObjectCreate) for each in transaction.operations)
    makes = tuple(object_id(transaction.digest, index) for index in range(created))
    return Claim(transaction.digest, slots, spends, makes, body.max_price, lane is Lane.FAST)
