"""Addresses and node ids: digests of a suite and a public key; and 32-byte ids as text."""

from enum import IntEnum

from supervm.types import digests
from supervm.types.errors import InvalidInput

Address = bytes
"""32 bytes."""


class Suite(IntEnum):
    """Signature suites by the number that transactions carry (EXEC-6)."""

    ED25519 = 1
    SECP256K1 = 2
    SM2 = 3


PUBLIC_KEY_BYTES: dict[int, int] = {Suite.ED25519: 32, Suite.SECP256K1: 33, Suite.SM2: 65}
"""Length of each suite's one public key form (NET-10)."""

SIGNATURE_BYTES = 64
"""Length of a signature in every suite."""


def address_of(suite: int, public_key: bytes) -> Address:
    """Return the account address of a public key: digest("supervm/address/v1", suite, public key)."""
    _check_key(suite, public_key)
    return digests.digest(digests.ADDRESS, bytes((suite,)), public_key)


def node_id_of(suite: int, public_key: bytes) -> bytes:
    """Return the node id of an identity key (NET-10): digest("supervm/node/v1", suite, public key)."""
    _check_key(suite, public_key)
    return digests.digest(digests.NODE, bytes((suite,)), public_key)


def _check_key(suite: int, public_key: bytes) -> None:
    size = PUBLIC_KEY_BYTES.get(suite)
    if size is None:
        raise InvalidInput("UnknownSuite", "unknown signature suite", suite, "1 ed25519, 2 secp256k1, 3 sm2")
    if len(public_key) != size:
        raise InvalidInput("BadPublicKey", "wrong length of public key", public_key, f"{size} bytes")


def format_hex(data: bytes) -> str:
    """Return bytes as 0x hex."""
    return f"0x{data.hex()}"


def parse_hex(text: str, field: str, size: int | None = None) -> bytes:
    """Read `0x` and lower- or upper-case hex, exactly `size` bytes where given; else `InvalidInput`."""
    wanted = "0x and hex digits" if size is None else f"0x and {2 * size} hex digits"
    # fromhex would skip spaces, so the length is checked against the digits.
    if not isinstance(text, str) or not text.startswith("0x") or not text.isascii():
        raise InvalidInput("BadHex", f"{field}: not hex", text, wanted)
    try:
        data = bytes.fromhex(text[2:])
    except ValueError:
        raise InvalidInput("BadHex", f"{field}: not hex", text, wanted) from None
    if 2 * len(data) != len(text) - 2 or (size is not None and len(data) != size):
        raise InvalidInput("BadHex", f"{field}: wrong length", text, wanted)
    return data


def format_address(address: Address) -> str:
    """Return the textual form, 0x and 64 hex digits."""
    assert len(address) == 32, "an address has 32 bytes"
    return format_hex(address)


def parse_address(text: str, field: str = "address") -> Address:
    """Read the textual form of a 32-byte address or id; anything else is `InvalidInput`."""
    return parse_hex(text, field, 32)
