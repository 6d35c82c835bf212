"""What `footprint`, `lanes` and `claims` say of a plain transfer, from its fields alone: the same values.

Tests compare the two; the general functions are the specification.
"""

from supervm.contracts.gas import FeeTerms, price_of
from supervm.execution.footprint import nonce_lock
from supervm.types.address import Suite
from supervm.types.claims import Claim
from supervm.types.plain import PLAIN_BYTES, Plain, PlainTransaction
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Lane

_SUITES = (Suite.ED25519,)


def lane_of_plain(said: Plain) -> Lane:
    """It transfers and names no input: FAST unless it asks for order (EXEC-10)."""
    return Lane.ORDERED if said.lane == Lane.ORDERED else Lane.FAST


def spend_of_plain(said: Plain) -> int:
    """The most that it debits its sender, of the native token (EXEC-4)."""
    return price_of(said.gas_limit, said.max_price) + said.amount


def fee_terms_of_plain(said: Plain, lane: Lane) -> FeeTerms:
    sender = said.sender
    return FeeTerms(
        PLAIN_BYTES,
        _SUITES,
        said.gas_limit,
        said.max_price,
        said.tip_price,
        NATIVE_TOKEN,
        said.max_fee,
        sender,
        sender,
        lane,
    )


def claim_of_plain(transaction: PlainTransaction, lane: Lane) -> Claim:
    """Its claim (CONS-10..13)."""
    said = transaction.plain
    spend = spend_of_plain(said)
    return Claim(
        transaction.digest,
        (nonce_lock(said.sender, said.nonce),),
        (((said.sender, NATIVE_TOKEN), spend),) if spend else (),
        (),
        said.max_price,
        lane is Lane.FAST,
    )
