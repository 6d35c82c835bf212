"""Claims, under the name that this package uses: see `supervm.types.claims`."""

from supervm.execution.claims import claim_of
from supervm.types.claims import (
    CHAIN_BYTES,
    EXECUTED_CODES,
    IMAGE_LOCK,
    IN_FLIGHT_MAX,
    NONCE_LOCK,
    SPONSOR_NONCE_LOCK,
    Account,
    Claim,
    Examined,
    Facts,
    chain_of,
    chain_slot,
    chains_of,
    slot_before,
)

__all__ = [
    "CHAIN_BYTES",
    "EXECUTED_CODES",
    "IMAGE_LOCK",
    "IN_FLIGHT_MAX",
    "NONCE_LOCK",
    "SPONSOR_NONCE_LOCK",
    "Account",
    "Claim",
    "Examined",
    "Facts",
    "chain_of",
    "chain_slot",
    "chains_of",
    "claim_of",
    "slot_before",
]
