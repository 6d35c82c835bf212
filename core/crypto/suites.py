"""The suites by number and name. Many signatures at once are for `supervm.crypto.batch`."""

import os

import attrs

from supervm.crypto.ed25519 import Ed25519, check_library
from supervm.crypto.provider import SignatureProvider, UnfitLibrary
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput

SignatureItem = tuple[int, bytes, bytes, bytes]
"""(suite, public key, message, signature)."""

SUITE_NAMES: dict[str, int] = {"ed25519": Suite.ED25519, "secp256k1": Suite.SECP256K1, "sm2": Suite.SM2}

_providers: dict[int, SignatureProvider] = {}
_reasons: dict[int, str] = {}


@attrs.frozen
class ProviderFacts:
    """Which library does a suite's arithmetic, and why this one."""

    provider: str
    reason: str


def suite(number: int) -> SignatureProvider:
    """Return the provider of a suite; raises `InvalidInput` (`UnknownSuite`).

    A library is imported when its suite is first asked for, so that a node that never meets one does
    not pay for it.
    """
    provider = _providers.get(number)
    if provider is None:
        # Two threads may both load one: they get the same, and the last stays.
        provider, _reasons[number] = _load(number)
        _providers[number] = provider
    return provider


def suite_named(name: str) -> SignatureProvider:
    """Return the provider of a suite by its name; raises `InvalidInput` (`UnknownSuite`)."""
    number = SUITE_NAMES.get(name)
    if number is None:
        raise InvalidInput("UnknownSuite", "unknown signature suite", name, ", ".join(SUITE_NAMES))
    return suite(number)


def provider_facts(name: str) -> ProviderFacts:
    """Return what serves a suite here; raises `InvalidInput` (`UnknownSuite`). Loads its library."""
    provider = suite_named(name)
    return ProviderFacts(provider.provider, _reasons[provider.suite])


def _load(number: int) -> tuple[SignatureProvider, str]:
    """Return the provider of a suite, and why it was chosen."""
    # Imported where needed: gmssl and its ASN.1 library cost memory that most nodes never use.
    if number == Suite.ED25519:
        provider = Ed25519()
        check_library(provider)
        return provider, "the only provider"
    if number == Suite.SECP256K1:
        from supervm.crypto import secp256k1

        coins = secp256k1.Secp256k1()
        secp256k1.check_library(coins)
        return coins, "the only provider"
    if number == Suite.SM2:
        return _load_sm2()
    raise InvalidInput("UnknownSuite", "unknown signature suite", number, "1 ed25519, 2 secp256k1, 3 sm2")


def _load_sm2() -> tuple[SignatureProvider, str]:
    """The machine's libcrypto where it keeps the rule, else gmssl, which gives the same answers slowly."""
    if os.environ.get("SUPERVM_NATIVE", "on").strip().lower() == "off":
        reason = "SUPERVM_NATIVE is off"
    else:
        from supervm.crypto import sm2_check, sm2_openssl
        from supervm.crypto.libcrypto import LibraryMissing, open_libcrypto

        try:
            native = sm2_openssl.open_provider(open_libcrypto())
            sm2_check.check_library(native)
            return native, "the machine's libcrypto keeps the rule"
        except (LibraryMissing, UnfitLibrary) as error:
            reason = str(error)
    from supervm.crypto.sm2 import Sm2

    return Sm2(), reason


def verify(number: int, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether one signature is right; False for an unknown suite. Never raises."""
    if number not in SUITE_NAMES.values():
        return False
    return suite(number).verify(public_key, message, signature)
