"""Libraries beside which our signature checks are measured, each driven as its own manual says.

A peer gets the signature in the form that it takes, made before the clock starts; reading the key is
inside it, as it is for us. That a peer checks fewer things than the chain's rule asks is left to it.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import attrs

from supervm.crypto.der import to_der

Prepare = Callable[[bytes, bytes, bytes], tuple[Any, ...]]
"""(public key, message, 64-byte signature) to what `check` takes."""


@attrs.frozen
class Peer:
    """One library for one suite. `prepare` runs outside the clock, `check` inside."""

    name: str
    version: str
    prepare: Prepare
    check: Callable[..., bool]


def peers_of(suite: str) -> tuple[list[Peer], list[str]]:
    """(the peers of a suite that are installed, the names of those that are not)."""
    found, missing = [], []
    for name, make in _PEERS[suite].items():
        try:
            prepare, check = make()
        except ImportError:
            missing.append(name)
        else:
            found.append(Peer(name, version(name), prepare, check))
    return found, missing


def _as_is(public_key: bytes, message: bytes, signature: bytes) -> tuple[Any, ...]:
    return public_key, message, signature


def _with_der(public_key: bytes, message: bytes, signature: bytes) -> tuple[Any, ...]:
    return (
        public_key,
        message,
        to_der(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")),
    )


def _pynacl() -> tuple[Prepare, Callable[..., bool]]:
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    def check(public_key: bytes, message: bytes, signature: bytes) -> bool:
        try:
            VerifyKey(public_key).verify(message, signature)
        except BadSignatureError:
            return False
        return True

    return _as_is, check


def _coincurve() -> tuple[Prepare, Callable[..., bool]]:
    from coincurve import PublicKey

    def check(public_key: bytes, message: bytes, der: bytes) -> bool:
        return bool(PublicKey(public_key).verify(der, message, hasher=None))

    return _with_der, check


def _gmssl() -> tuple[Prepare, Callable[..., bool]]:
    from gmssl.sm2 import CryptSM2

    def prepare(public_key: bytes, message: bytes, signature: bytes) -> tuple[Any, ...]:
        return public_key[1:].hex(), message, signature.hex()

    def check(key_digits: str, message: bytes, signature_digits: str) -> bool:
        crypt = CryptSM2(private_key="", public_key="")
        # The constructor would strip leading digits from a key that begins with "04".
        crypt.public_key = key_digits
        return bool(crypt.verify_with_sm3(signature_digits, message))

    return prepare, check


def _cryptography_ed25519() -> tuple[Prepare, Callable[..., bool]]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def check(public_key: bytes, message: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return _as_is, check


def _solders() -> tuple[Prepare, Callable[..., bool]]:
    from solders.pubkey import Pubkey
    from solders.signature import Signature

    def check(public_key: bytes, message: bytes, signature: bytes) -> bool:
        return bool(Signature(signature).verify(Pubkey(public_key), message))

    return _as_is, check


def _cryptography_secp256k1() -> tuple[Prepare, Callable[..., bool]]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256

    curve, scheme = ec.SECP256K1(), ec.ECDSA(Prehashed(SHA256()))

    def check(public_key: bytes, message: bytes, der: bytes) -> bool:
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(curve, public_key).verify(der, message, scheme)
        except InvalidSignature:
            return False
        return True

    return _with_der, check


_PEERS: dict[str, dict[str, Callable[[], tuple[Prepare, Callable[..., bool]]]]] = {
    "ed25519": {"PyNaCl": _pynacl, "cryptography": _cryptography_ed25519, "solders": _solders},
    "secp256k1": {"coincurve": _coincurve, "cryptography": _cryptography_secp256k1},
    "sm2": {"gmssl": _gmssl},
}
