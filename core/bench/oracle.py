"""What every balance must be after a replay: a plain sum over the block file.

This module judges the sender, so it shares no code with it: it steps through the file by itself and
derives addresses by itself. It is kept dull on purpose.
"""

import struct
from collections import Counter

from blake3 import blake3
from nacl.signing import SigningKey

SCRIPT_SEED = b"supervm/bench/replay/script"
OUTPOINT_SEED = b"supervm/bench/replay/outpoint"


def expected_balances(block: bytes) -> tuple[Counter[str], set[str], int]:
    """(satoshi by recipient's address, the addresses of the spenders, number of transactions)."""
    paid: Counter[str] = Counter()
    spenders: set[str] = set()
    transactions, at = _size(block, 80)
    addresses: dict[bytes, str] = {}
    for _ in range(transactions):
        at += 4
        witnessed = block[at] == 0
        at += 2 * witnessed
        inputs, at = _size(block, at)
        spenders.add(address(OUTPOINT_SEED, block[at : at + 36]))
        for _ in range(inputs):
            length, at = _size(block, at + 36)
            at += length + 4
        outputs, at = _size(block, at)
        for _ in range(outputs):
            (value,) = struct.unpack_from("<Q", block, at)
            length, at = _size(block, at + 8)
            script = block[at : at + length]
            at += length
            if script not in addresses:
                addresses[script] = address(SCRIPT_SEED, script)
            paid[addresses[script]] += value
        for _ in range(inputs if witnessed else 0):
            items, at = _size(block, at)
            for _ in range(items):
                length, at = _size(block, at)
                at += length
        at += 4
    assert at == len(block), "the file holds more than one block"
    return paid, spenders, transactions


def address(domain: bytes, name: bytes) -> str:
    """The address of the ed25519 key whose seed is blake3(domain || name)."""
    public_key = SigningKey(blake3(domain + name).digest()).verify_key.encode()
    # supervm/address/v1 || suite 1 || public key, as docs/reference/encoding.md has it.
    return "0x" + blake3(b"supervm/address/v1" + b"\x01" + public_key).hexdigest()


def _size(block: bytes, at: int) -> tuple[int, int]:
    first = block[at]
    if first < 0xFD:
        return first, at + 1
    width = 1 << (first - 0xFC)
    return int.from_bytes(block[at + 1 : at + 1 + width], "little"), at + 1 + width
