"""What an SM2 key and signature are (NET-11), whichever library does the arithmetic.

The rule is part of consensus, so it stands here once, and each provider asks it before its library. A
provider is left only the equation: that x(s G + t P) + e = r, with t = r + s and e = SM3(Z_A || message).
The user id in Z_A is 1234567812345678; a signature is r || s, big-endian; a public key is 04 || X || Y.
"""

from supervm.crypto.provider import GENERATE_TRIES_MAX, RandomBytes
from supervm.types.errors import InvalidInput

# The recommended curve, GB/T 32918.5.
FIELD = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
ORDER = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
CURVE_A = FIELD - 3
CURVE_B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93

USER_ID = b"1234567812345678"
SECRET_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 65
SIGNATURE_BYTES = 64


def is_point(public_key: bytes) -> bool:
    """Whether bytes are 04 || X || Y of a point on the curve (which leaves out infinity)."""
    if len(public_key) != PUBLIC_KEY_BYTES or public_key[0] != 4:
        return False
    x = int.from_bytes(public_key[1:33], "big")
    y = int.from_bytes(public_key[33:], "big")
    return x < FIELD and y < FIELD and (y * y - (x * x + CURVE_A) * x - CURVE_B) % FIELD == 0


def signature_numbers(signature: bytes) -> tuple[int, int] | None:
    """Return r and s; None unless bytes are 64, both in [1, n - 1], and their sum isn't n."""
    if len(signature) != SIGNATURE_BYTES:
        return None
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    # Below 2 n, so n is the only sum that is 0 mod n.
    if not (1 <= r < ORDER and 1 <= s < ORDER) or r + s == ORDER:
        return None
    return r, s


def draw_scalar(random_bytes: RandomBytes, maximum: int) -> bytes:
    """Return 32 big-endian bytes in [1, maximum], drawn by rejection."""
    for _ in range(GENERATE_TRIES_MAX):
        drawn = random_bytes(32)
        if 1 <= int.from_bytes(drawn, "big") <= maximum:
            return drawn
    raise AssertionError("the random source is broken")


def check_secret(secret: bytes) -> None:
    """Refuse what is not 32 big-endian bytes in [1, n - 2] (`BadSecretKey`)."""
    if len(secret) != SECRET_KEY_BYTES or not 1 <= int.from_bytes(secret, "big") <= ORDER - 2:
        # The value is a secret, so the error names only its length.
        mend = "32 bytes, 1 to the group order - 2"
        raise InvalidInput("BadSecretKey", "not an sm2 secret key", f"{len(secret)} bytes", mend)
