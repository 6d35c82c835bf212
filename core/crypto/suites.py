"""The suites by number and name, and verification of many signatures at once."""

from collections.abc import Iterable

from supervm.crypto.ed25519 import Ed25519, check_library
from supervm.crypto.provider import SignatureProvider
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput

SignatureItem = tuple[int, bytes, bytes, bytes]
"""(suite, public key, message, signature)."""

SUITE_NAMES: dict[str, int] = {"ed25519": Suite.ED25519, "secp256k1": Suite.SECP256K1, "sm2": Suite.SM2}

_providers: dict[int, SignatureProvider] = {}


def suite(number: int) -> SignatureProvider:
    """Return the provider of a suite; raises `InvalidInput` (`UnknownSuite`).

    A library is imported when its suite is first asked for, so that a node that never meets one does
    not pay for it.
    """
    provider = _providers.get(number)
    if provider is None:
        provider = _providers[number] = _load(number)
    return provider


def suite_named(name: str) -> SignatureProvider:
    """Return the provider of a suite by its name; raises `InvalidInput` (`UnknownSuite`)."""
    number = SUITE_NAMES.get(name)
    if number is None:
        raise InvalidInput("UnknownSuite", "unknown signature suite", name, ", ".join(SUITE_NAMES))
    return suite(number)


def _load(number: int) -> SignatureProvider:
    # Imported where needed: gmssl and its ASN.1 library cost memory that most nodes never use.
    if number == Suite.ED25519:
        provider = Ed25519()
        check_library(provider)
        return provider
    if number == Suite.SECP256K1:
        from supervm.crypto.secp256k1 import Secp256k1

        return Secp256k1()
    if number == Suite.SM2:
        from supervm.crypto.sm2 import Sm2

        return Sm2()
    raise InvalidInput("UnknownSuite", "unknown signature suite", number, "1 ed25519, 2 secp256k1, 3 sm2")


def verify(number: int, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether one signature is right; False for an unknown suite. Never raises."""
    if number not in SUITE_NAMES.values():
        return False
    return suite(number).verify(public_key, message, signature)


def verify_many(items: Iterable[SignatureItem]) -> list[bool]:
    """Return for each item whether its signature is right, in order. Never raises.

    Meant for a thread: libsodium and libsecp256k1 work without the interpreter's lock.
    """
    return [verify(*item) for item in items]
