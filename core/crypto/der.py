"""The DER form of an ECDSA or SM2 signature, for the libraries that read no other.

On the chain a signature is r || s, 32 big-endian bytes each. Each has one DER form, the shortest: what we
hand to a library is made here from two numbers, so no other form of DER can come in from outside.
"""

NUMBER_BYTES = 32
CONTENT_BYTES_MAX = 127
"""Up to here a length is one byte. Two numbers of 32 bytes and their heads take at most 70."""


def to_der(r: int, s: int) -> bytes:
    """Return SEQUENCE { INTEGER r, INTEGER s } in the shortest encoding; r and s are below 2^256."""
    assert 0 <= r < 1 << 256 and 0 <= s < 1 << 256, "32 bytes each"
    content = b"".join(
        b"\x02" + bytes((len(number),)) + number
        for number in (each.to_bytes(each.bit_length() // 8 + 1, "big") for each in (r, s))
    )
    return b"\x30" + bytes((len(content),)) + content


def from_der(data: bytes) -> bytes:
    """Return the 64 bytes r || s of what a library made; anything but the shortest form is our bug."""
    assert len(data) <= CONTENT_BYTES_MAX + 2 and data[:1] == b"\x30", "a sequence"
    first_end = 4 + data[3]
    r = int.from_bytes(data[4:first_end], "big")
    s = int.from_bytes(data[first_end + 2 :], "big")
    assert to_der(r, s) == data, "the shortest form"
    return r.to_bytes(NUMBER_BYTES, "big") + s.to_bytes(NUMBER_BYTES, "big")
