"""Suite 1, ed25519 by libsodium (PyNaCl).

Every node must accept the same signatures, so the rule is part of consensus: `supervm.crypto.ed25519_rule`
has it, and is asked first. libsodium keeps the same rule itself; its releases have differed in the past,
so it is tried before it is used (`supervm.crypto.ed25519_check`).
"""

import attrs
import nacl.bindings
import nacl.exceptions

from supervm.crypto import questions
from supervm.crypto.ed25519_check import QUESTIONS
from supervm.crypto.ed25519_rule import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, in_form
from supervm.crypto.provider import RandomBytes, SignatureProvider, UnfitLibrary
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput

SECRET_KEY_BYTES = 32


@attrs.frozen
class Ed25519:
    """The suite. A secret key is the 32-byte seed of RFC 8032."""

    suite: int = Suite.ED25519
    name: str = "ed25519"
    provider: str = "libsodium (PyNaCl)"
    secret_key_bytes: int = SECRET_KEY_BYTES
    public_key_bytes: int = PUBLIC_KEY_BYTES

    def generate(self, random_bytes: RandomBytes) -> bytes:
        return random_bytes(SECRET_KEY_BYTES)

    def public_key(self, secret: bytes) -> bytes:
        public_key, _ = _expand(secret)
        return public_key

    def sign(self, secret: bytes, message: bytes) -> bytes:
        _, expanded = _expand(secret)
        return nacl.bindings.crypto_sign(message, expanded)[:SIGNATURE_BYTES]

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        if not in_form(public_key, signature):
            return False
        try:
            nacl.bindings.crypto_sign_open(signature + message, public_key)
        except nacl.exceptions.BadSignatureError:
            return False
        return True


def _expand(secret: bytes) -> tuple[bytes, bytes]:
    if len(secret) != SECRET_KEY_BYTES:
        # The value is a secret, so the error names only its length.
        raise InvalidInput("BadSecretKey", "not an ed25519 secret key", f"{len(secret)} bytes", "32 bytes")
    return nacl.bindings.crypto_sign_seed_keypair(secret)


def check_library(provider: SignatureProvider) -> None:
    """Raise `UnfitLibrary` unless verification keeps the rule. Takes about a millisecond."""
    try:
        questions.put(
            QUESTIONS,
            "the installed libsodium",
            lambda asked: [provider.verify(each.public_key, each.message, each.signature) for each in asked],
        )
    except UnfitLibrary as error:
        raise UnfitLibrary(f"{error} (install the PyNaCl release that this release names)") from None
