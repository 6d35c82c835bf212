"""What an ed25519 key and signature are, whichever library does the arithmetic.

The rule is part of consensus, so it stands here once, and each provider asks it before its library; the C
driver has it in `svm_verify.c`, word for word. It is libsodium's rule. A provider is left only the
equation of RFC 8032 without the cofactor, S B = R + h A, compared by the bytes of R.

Refused here: S not below the group order; a key or an R whose y isn't below the field; a key or an R of
small order. Libraries differ in exactly these points, and in the cofactor.
"""

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
"""L, the order of the base point (RFC 8032, section 5.1)."""

SMALL_ORDER_Y = frozenset(
    {
        0,  # order 4
        1,  # the neutral element
        FIELD - 1,  # order 2
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,  # order 8
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,  # order 8
    }
)
"""y of the eight points whose order divides the cofactor; two of them share each, but the first and last."""

_Y_BITS = (1 << 255) - 1


def in_form(public_key: bytes, signature: bytes) -> bool:
    """Whether a key and a signature may be right at all; the equation is then the library's."""
    return (
        len(public_key) == PUBLIC_KEY_BYTES
        and len(signature) == SIGNATURE_BYTES
        and int.from_bytes(signature[32:], "little") < ORDER
        and _point_in_form(public_key)
        and _point_in_form(signature[:32])
    )


def _point_in_form(point: bytes) -> bool:
    # The first bit is the sign of x. Where x is 0 it has none, but those y are among the small ones.
    y = int.from_bytes(point, "little") & _Y_BITS
    return y < FIELD and y not in SMALL_ORDER_Y
