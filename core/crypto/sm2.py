"""Suite 3, SM2 with SM3 (GB/T 32918) by gmssl, wrapped so that it is safe to feed (NET-11).

gmssl is the portable provider: pure Python, about 5 ms to sign and 8 ms to verify. It strips leading 0
and 4 digits from keys, draws weak nonces, checks neither ranges nor the curve, and raises on bad input;
so keys are assigned behind its constructor, and nonces and checks are ours. The signed message is
Z_A || message with the user id 1234567812345678; a signature is r || s, big-endian; a public key is
04 || X || Y.
"""

import os

import attrs
from gmssl.sm2 import CryptSM2

from supervm.crypto.provider import GENERATE_TRIES_MAX, RandomBytes
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput

# The recommended curve, GB/T 32918.5.
FIELD = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
ORDER = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
CURVE_A = FIELD - 3
CURVE_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93

SECRET_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 65
SIGNATURE_BYTES = 64


@attrs.frozen
class Sm2:
    """The suite. A secret key is 32 big-endian bytes, 1 to n - 2. `nonces` is replaced in tests only."""

    suite: int = Suite.SM2
    name: str = "sm2"
    provider: str = "gmssl"
    secret_key_bytes: int = SECRET_KEY_BYTES
    public_key_bytes: int = PUBLIC_KEY_BYTES
    nonces: RandomBytes = os.urandom

    def generate(self, random_bytes: RandomBytes) -> bytes:
        return _draw(random_bytes, ORDER - 2)

    def public_key(self, secret: bytes) -> bytes:
        _check_secret(secret)
        crypt = CryptSM2(private_key=secret.hex(), public_key="")
        point = bytes.fromhex(crypt._kg(int.from_bytes(secret, "big"), crypt.ecc_table["g"]))
        public_key = b"\x04" + point
        assert is_point(public_key), "a multiple of the generator is on the curve"
        return public_key

    def sign(self, secret: bytes, message: bytes) -> bytes:
        crypt = _crypt(self.public_key(secret))
        crypt.private_key = secret.hex()
        for _ in range(GENERATE_TRIES_MAX):
            # None asks for another nonce: r, s or r + k came out zero.
            signature = crypt.sign_with_sm3(message, _draw(self.nonces, ORDER - 1).hex())
            if signature is not None:
                return bytes.fromhex(signature)
        raise AssertionError("the random source is broken")

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        if len(signature) != SIGNATURE_BYTES or not is_point(public_key):
            return False
        r = int.from_bytes(signature[:32], "big")
        s = int.from_bytes(signature[32:], "big")
        if not (1 <= r < ORDER and 1 <= s < ORDER) or (r + s) % ORDER == 0:
            return False
        try:
            return bool(_crypt(public_key).verify_with_sm3(signature.hex(), message))
        except TypeError:
            # s G + t P is infinity, which gmssl holds as None: no x, so no valid signature.
            return False


def is_point(public_key: bytes) -> bool:
    """Whether bytes are 04 || X || Y of a point on the curve (which leaves out infinity)."""
    if len(public_key) != PUBLIC_KEY_BYTES or public_key[0] != 4:
        return False
    x = int.from_bytes(public_key[1:33], "big")
    y = int.from_bytes(public_key[33:], "big")
    return x < FIELD and y < FIELD and (y * y - (x * x + CURVE_A) * x - CURVE_B) % FIELD == 0


def _crypt(public_key: bytes) -> CryptSM2:
    """Return gmssl's object for a checked key."""
    digits = public_key[1:].hex()
    crypt = CryptSM2(private_key="", public_key="")
    # The constructor would strip leading digits from a text that begins with "04".
    crypt.public_key = digits
    assert len(crypt.public_key) == 128, "128 digits"
    return crypt


def _draw(random_bytes: RandomBytes, maximum: int) -> bytes:
    """Return 32 big-endian bytes in [1, maximum], drawn by rejection."""
    for _ in range(GENERATE_TRIES_MAX):
        drawn = random_bytes(32)
        if 1 <= int.from_bytes(drawn, "big") <= maximum:
            return drawn
    raise AssertionError("the random source is broken")


def _check_secret(secret: bytes) -> None:
    if len(secret) != SECRET_KEY_BYTES or not 1 <= int.from_bytes(secret, "big") <= ORDER - 2:
        # The value is a secret, so the error names only its length.
        mend = "32 bytes, 1 to the group order - 2"
        raise InvalidInput("BadSecretKey", "not an sm2 secret key", f"{len(secret)} bytes", mend)
