"""Suite 3, SM2 with SM3 (GB/T 32918) by gmssl, wrapped so that it is safe to feed (NET-11).

gmssl is the portable provider: pure Python, about 5 ms to sign and 10 ms to verify. It strips leading 0
and 4 digits from keys, draws weak nonces, checks neither ranges nor the curve, and raises on bad input;
so keys are assigned behind its constructor, and nonces and checks are ours (`supervm.crypto.sm2_rule`).
Where the machine has a fit libcrypto, `supervm.crypto.sm2_openssl` takes its place.
"""

import os

import attrs
from gmssl.sm2 import CryptSM2

from supervm.crypto.provider import GENERATE_TRIES_MAX, RandomBytes
from supervm.crypto.sm2_rule import (
    ORDER,
    PUBLIC_KEY_BYTES,
    SECRET_KEY_BYTES,
    check_secret,
    draw_scalar,
    is_point,
    signature_numbers,
)
from supervm.types.address import Suite


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
        return draw_scalar(random_bytes, ORDER - 2)

    def public_key(self, secret: bytes) -> bytes:
        check_secret(secret)
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
            signature = crypt.sign_with_sm3(message, draw_scalar(self.nonces, ORDER - 1).hex())
            if signature is not None:
                return bytes.fromhex(signature)
        raise AssertionError("the random source is broken")

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        if signature_numbers(signature) is None or not is_point(public_key):
            return False
        try:
            return bool(_crypt(public_key).verify_with_sm3(signature.hex(), message))
        except TypeError:
            # s G + t P is infinity, which gmssl holds as None: no x, so no valid signature.
            return False


def _crypt(public_key: bytes) -> CryptSM2:
    """Return gmssl's object for a checked key."""
    digits = public_key[1:].hex()
    crypt = CryptSM2(private_key="", public_key="")
    # The constructor would strip leading digits from a text that begins with "04".
    crypt.public_key = digits
    assert len(crypt.public_key) == 128, "128 digits"
    return crypt
