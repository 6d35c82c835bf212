"""Suite 2, secp256k1 ECDSA by libsecp256k1 (coincurve). Nonces are those of RFC 6979.

The message is a 32-byte digest, taken as the hash. `supervm.crypto.secp256k1_rule` says what a signature is.
"""

import attrs
import coincurve

from supervm.crypto import questions
from supervm.crypto.der import to_der
from supervm.crypto.provider import GENERATE_TRIES_MAX, RandomBytes, SignatureProvider
from supervm.crypto.secp256k1_check import QUESTIONS
from supervm.crypto.secp256k1_rule import (
    MESSAGE_BYTES,
    ORDER,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    signature_numbers,
)
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput

SECRET_KEY_BYTES = 32


@attrs.frozen
class Secp256k1:
    """The suite. A secret key is 32 big-endian bytes, 1 to n - 1."""

    suite: int = Suite.SECP256K1
    name: str = "secp256k1"
    provider: str = "libsecp256k1 (coincurve)"
    secret_key_bytes: int = SECRET_KEY_BYTES
    public_key_bytes: int = PUBLIC_KEY_BYTES

    def generate(self, random_bytes: RandomBytes) -> bytes:
        for _ in range(GENERATE_TRIES_MAX):
            secret = random_bytes(SECRET_KEY_BYTES)
            if 1 <= int.from_bytes(secret, "big") < ORDER:
                return secret
        raise AssertionError("the random source is broken")

    def public_key(self, secret: bytes) -> bytes:
        return _private_key(secret).public_key.format(compressed=True)

    def sign(self, secret: bytes, message: bytes) -> bytes:
        assert len(message) == MESSAGE_BYTES, f"secp256k1 signs a 32-byte digest, not {len(message)} bytes"
        return _private_key(secret).sign_recoverable(message, hasher=None)[:SIGNATURE_BYTES]

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        numbers = signature_numbers(public_key, message, signature)
        if numbers is None:
            return False
        try:
            key = coincurve.PublicKey(public_key)
        except ValueError:
            return False
        return key.verify(to_der(*numbers), message, hasher=None)


def _private_key(secret: bytes) -> coincurve.PrivateKey:
    if len(secret) != SECRET_KEY_BYTES or not 1 <= int.from_bytes(secret, "big") < ORDER:
        # The value is a secret, so the error names only its length.
        mend = "32 bytes, 1 to the group order - 1"
        raise InvalidInput("BadSecretKey", "not a secp256k1 secret key", f"{len(secret)} bytes", mend)
    return coincurve.PrivateKey(secret)


def check_library(provider: SignatureProvider) -> None:
    """Raise `UnfitLibrary` unless verification keeps the rule. Takes about a millisecond."""
    questions.put(
        QUESTIONS,
        provider.provider,
        lambda asked: [provider.verify(each.public_key, each.message, each.signature) for each in asked],
    )
