"""The curve of ed25519 in plain integers: makes signatures that no signer makes, and judges them.

The judge is the chain's rule written down once more, from RFC 8032 and nothing of ours: an oracle for the
providers. Slow on purpose: affine points, no tables.
"""

import hashlib

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, FIELD) % FIELD
ROOT_OF_MINUS_ONE = pow(2, (FIELD - 1) // 4, FIELD)

Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(one: Point, other: Point) -> Point:
    """The complete addition law of RFC 8032, section 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, FIELD)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, FIELD)
    return x % FIELD, y % FIELD


def multiply(number: int, point: Point) -> Point:
    """The same law in projective coordinates, so that one division is enough."""
    x, y, z = 0, 1, 1
    for bit in bin(number)[2:]:
        x, y, z = _sum((x, y, z), (x, y, z))
        if bit == "1":
            x, y, z = _sum((x, y, z), (*point, 1))
    inverse = pow(z, -1, FIELD)
    return x * inverse % FIELD, y * inverse % FIELD


def _sum(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    (x1, y1, z1), (x2, y2, z2) = one, other
    a, xs, ys = z1 * z2 % FIELD, x1 * x2 % FIELD, y1 * y2 % FIELD
    squared, product = a * a % FIELD, D * xs * ys % FIELD
    less, more = squared - product, squared + product
    x = a * less * ((x1 + y1) * (x2 + y2) - xs - ys)
    return x % FIELD, a * more * (ys + xs) % FIELD, less * more % FIELD


def negative(point: Point) -> Point:
    return -point[0] % FIELD, point[1]


def with_y(y: int, sign: int) -> Point | None:
    """The point with this y and the sign of x; None where the curve has none (RFC 8032, section 5.1.3)."""
    u, v = (y * y - 1) % FIELD, (D * y * y + 1) % FIELD
    square = u * pow(v, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    if x * x % FIELD != square:
        x = x * ROOT_OF_MINUS_ONE % FIELD
    if x * x % FIELD != square:
        return None
    return (x if x % 2 == sign else -x % FIELD), y % FIELD


def decode(data: bytes) -> Point | None:
    """Any y of 255 bits is taken modulo the field, as lenient decoders do; None where no point has it."""
    number = int.from_bytes(data, "little")
    return with_y(number % 2**255, number >> 255)


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


_base = with_y(4 * pow(5, -1, FIELD) % FIELD, 0)
assert _base is not None
BASE: Point = _base


def _of_order_eight() -> Point:
    y = 2
    while True:
        point = with_y(y, 0)
        if point is not None:
            small = multiply(ORDER, point)
            if multiply(4, small) != NEUTRAL:
                return small
        y += 1


TORSION = tuple(multiply(times, _of_order_eight()) for times in range(8))
"""The eight points whose order divides the cofactor; the first is the neutral one."""


def small_order_encodings() -> list[bytes]:
    """Every 32 bytes that a lenient decoder reads as one of the eight: 14 of them, 6 not canonical."""
    found = {encode(point) for point in TORSION}
    for point in TORSION:
        for y in (point[1], point[1] + FIELD):
            if y < 2**255:
                found.update((y | sign << 255).to_bytes(32, "little") for sign in (0, 1))
    return sorted(each for each in found if decode(each) in TORSION)


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % ORDER


def holds(key: bytes, message: bytes, signature: bytes, *, cofactor: int = 1) -> bool:
    """Whether the equation holds, for whatever a lenient decoder makes of the points and of S."""
    a, r, s = decode(key), decode(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None:
        return False
    right = add(r, multiply(challenge(signature[:32], key, message), a))
    return multiply(cofactor * s, BASE) == multiply(cofactor, right)


def accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    """The chain's rule."""
    if len(key) != 32 or len(signature) != 64 or int.from_bytes(signature[32:], "little") >= ORDER:
        return False
    for data in (key, signature[:32]):
        point = decode(data)
        if point is None or encode(point) != data or point in TORSION:
            return False
    return holds(key, message, signature)


def forge(key: bytes, r: bytes, r_scalar: int, a_scalar: int, message: bytes) -> bytes:
    """The signature with this R and key, whose parts in the prime-order group have these scalars."""
    s = (r_scalar + challenge(r, key, message) * a_scalar) % ORDER
    return r + s.to_bytes(32, "little")
