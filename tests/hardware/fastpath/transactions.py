"""Canonical transactions built from EXEC-6 by hand, and hypothesis strategies over them.

The payload kind is 2, which no decoder looks into: a scan judges structure only.
"""

import struct

from hypothesis import strategies as st

KEY_SIZES = {1: 32, 2: 33, 3: 65}


def byte_string(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def authorization(suite: int = 1) -> bytes:
    return bytes([suite]) + byte_string(b"k" * KEY_SIZES[suite]) + byte_string(b"s" * 64)


def transaction(
    *,
    format: int = 1,
    sender: bytes = b"a" * 32,
    fee_payer: bytes | None = None,
    sponsor_nonce: int = 0,
    nonce: int = 7,
    lane: int = 0,
    relays: int = 0,
    inputs: tuple[tuple[bytes, int, int], ...] = (),
    kind: int = 2,
    payload: bytes = b"\x01\x00",
    authorizations: tuple[bytes, ...] | None = None,
) -> bytes:
    payer = sender if fee_payer is None else fee_payer
    if authorizations is None:
        authorizations = (authorization(),) * (0 if sender == bytes(32) else 2 if payer != sender else 1)
    return b"".join(
        (
            struct.pack("<B", format),
            b"c" * 32 + sender + payer,
            struct.pack("<QQQB", sponsor_nonce, nonce, 0, lane),
            struct.pack("<QQQ", 50_000, 10_000, 0) + bytes(32) + bytes(16),
            struct.pack("<H", relays) + b"r" * 32 * relays,
            struct.pack("<H", len(inputs)),
            b"".join(id + struct.pack("<QB", version, access) for id, version, access in inputs),
            struct.pack("<H", kind) + byte_string(payload),
            struct.pack("<H", len(authorizations)) + b"".join(authorizations),
        )
    )


def packed(transactions: list[bytes]) -> bytes:
    return struct.pack("<H", len(transactions)) + b"".join(map(byte_string, transactions))


@st.composite
def valid_transactions(draw: st.DrawFn) -> bytes:
    ids = draw(st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=5))
    sponsored = draw(st.booleans())
    suites = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return transaction(
        fee_payer=b"p" * 32 if sponsored else None,
        sponsor_nonce=draw(st.integers(0, 2**64 - 1)) if sponsored else 0,
        lane=draw(st.integers(0, 3)),
        relays=draw(st.integers(0, 2)),
        inputs=tuple((id, draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 5))) for id in sorted(ids)),
        payload=draw(st.binary(max_size=300)),
        authorizations=tuple(authorization(suite) for suite in suites[: 2 if sponsored else 1]),
    )


@st.composite
def mutated(draw: st.DrawFn, original: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with a few places overwritten, cut, doubled or filled: near enough to valid to go deep."""
    data = bytearray(draw(original))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(("set", "cut", "insert", "drop"))):
            case "set" if data:
                data[at] = draw(st.one_of(st.integers(0, 255), st.sampled_from((0, 1, 127, 128, 255))))
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case _:
                del data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


def batches() -> st.SearchStrategy[bytes]:
    return st.lists(valid_transactions(), max_size=4).map(packed)
