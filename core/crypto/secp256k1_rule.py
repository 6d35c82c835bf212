"""What a secp256k1 signature is, whichever library does the arithmetic; `svm_verify.c` has it word for word.

A signature is r || s, 32 big-endian bytes each, with 1 <= r < n and 1 <= s <= n/2 (low-s only, so that it
cannot be flipped); a public key is the 33-byte compressed form; the message is a 32-byte hash.
"""

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""n, the order of the group (SEC 2, section 2.4.1)."""

MESSAGE_BYTES = 32
PUBLIC_KEY_BYTES = 33
SIGNATURE_BYTES = 64


def signature_numbers(public_key: bytes, message: bytes, signature: bytes) -> tuple[int, int] | None:
    """Return r and s; None where a length or number is none of the rule's. The point is the library's."""
    if (
        len(public_key) != PUBLIC_KEY_BYTES
        or len(message) != MESSAGE_BYTES
        or len(signature) != SIGNATURE_BYTES
    ):
        return None
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    return (r, s) if 1 <= r < ORDER and 1 <= s <= ORDER // 2 else None
