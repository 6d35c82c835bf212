"""Suite 2, secp256k1 ECDSA by libsecp256k1 (coincurve).

The message is a 32-byte digest, taken as the hash. A signature is r || s, 32 big-endian bytes each, with
1 <= r < n and 1 <= s <= n/2 (low-s only, so that it cannot be flipped); a public key is the 33-byte
compressed form. Nonces are those of RFC 6979.
"""

import attrs
import coincurve

from supervm.crypto.der import to_der
from supervm.crypto.provider import GENERATE_TRIES_MAX, RandomBytes
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""n, the order of the group (SEC 2, section 2.4.1)."""

MESSAGE_BYTES = 32
SECRET_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 33
SIGNATURE_BYTES = 64


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
        if (
            len(public_key) != PUBLIC_KEY_BYTES
            or len(message) != MESSAGE_BYTES
            or len(signature) != SIGNATURE_BYTES
        ):
            return False
        r = int.from_bytes(signature[:32], "big")
        s = int.from_bytes(signature[32:], "big")
        if not (1 <= r < ORDER and 1 <= s <= ORDER // 2):
            return False
        try:
            key = coincurve.PublicKey(public_key)
        except ValueError:
            return False
        return key.verify(to_der(r, s), message, hasher=None)


def _private_key(secret: bytes) -> coincurve.PrivateKey:
    if len(secret) != SECRET_KEY_BYTES or not 1 <= int.from_bytes(secret, "big") < ORDER:
        # The value is a secret, so the error names only its length.
        mend = "32 bytes, 1 to the group order - 1"
        raise InvalidInput("BadSecretKey", "not a secp256k1 secret key", f"{len(secret)} bytes", mend)
    return coincurve.PrivateKey(secret)
