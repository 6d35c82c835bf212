"""What accounts must hold after transfers: plain sums, kept dull, sharing no code with what they judge.

Gas and the bytes of entries are those of docs/reference/execution.md and encoding.md, written out again.
"""

from collections.abc import Iterable, Iterator, Mapping

import attrs
from blake3 import blake3

from supervm.bench.packing import TRANSFER_BYTES, Packed, Transfer

SUPPLY_KEY = b"\x03" + bytes(32)
TRANSFER_GAS = 5_000 + 10 * TRANSFER_BYTES + 5_000 + 1_200 + 2_400
TRANSFER_FEE = -(-TRANSFER_GAS * 10_000 // 1_000_000)
"""What a transfer pays at the default price: gas times 10,000 micro base units, rounded up."""


@attrs.define
class Books:
    """Balances without fees, and how often each account has paid. Accounts are numbered."""

    balance: int
    """What every account held at first."""
    balances: list[int]
    nonces: list[int]

    @classmethod
    def opened(cls, accounts: int, balance: int) -> "Books":
        return cls(balance, [balance] * accounts, [0] * accounts)

    def enter(self, transfers: Iterable[tuple[int, int, int]]) -> list[Transfer]:
        """Book (sender, recipient, amount) in order, and give each with its nonce."""
        balances, nonces, numbered = self.balances, self.nonces, []
        for sender, recipient, amount in transfers:
            numbered.append((sender, recipient, amount, nonces[sender]))
            nonces[sender] += 1
            balances[sender] -= amount
            balances[recipient] += amount
        return numbered

    def holds(self, account: int, fee: int) -> int:
        """The balance where every transfer costs its sender this fee."""
        return self.balances[account] - fee * self.nonces[account]

    def conserved(self) -> bool:
        return sum(self.balances) == self.balance * len(self.balances)

    def entry(self, account: int, fee: int) -> bytes:
        """The state entry of an account: format 1, nonce, sponsor nonce 0, balance."""
        nonce, balance = self.nonces[account], self.holds(account, fee)
        return b"\x01" + nonce.to_bytes(8, "little") + bytes(8) + balance.to_bytes(16, "little")


def supply_entry(supply: int) -> bytes:
    """The state entry of the native token: format 1, "SVM", 9 decimals, no minter, fixed, supply."""
    return b"\x01\x03\x00\x00\x00SVM\x09" + bytes(32) + b"\x01" + supply.to_bytes(16, "little")


def wrong_entries(found: Mapping[bytes, bytes | None], wanted: Mapping[bytes, bytes]) -> Iterator[str]:
    """In words, the first entry that isn't as it must be, the first missing, the first beyond."""
    for key, value in wanted.items():
        if key not in found:
            yield f"entry {key.hex()} didn't change and should have"
            return
        if found[key] != value:
            have = (found[key] or b"").hex() or "nothing"
            yield f"entry {key.hex()} is {have}, it must be {value.hex()}"
            return
    beyond = next((key for key in found if key not in wanted), None)
    if beyond is not None:
        yield f"entry {beyond.hex()} changed and shouldn't have"


def wrong_receipts(
    receipts: tuple[bytes, ...], block: Packed, lanes: bytes, fee: int | None = None
) -> Iterator[str]:
    """In words, the first receipt that isn't that of a committed transaction of the block, in its place.

    A receipt begins: format 1, digest, lane, status 3, code (empty), gas, fee. `lanes`: one byte for each
    transaction. Digests are made again for one transaction in 64.
    """
    if len(receipts) != len(block):
        yield f"{len(receipts)} receipts of {len(block)} transactions"
        return
    for at, receipt in enumerate(receipts):
        if len(receipt) < 63 or receipt[0] != 1:
            yield f"the receipt of transaction {at} is none"
            return
        if receipt[33:39] != bytes((lanes[at], 3, 0, 0, 0, 0)):
            yield f"transaction {at}: lane {receipt[33]}, status {receipt[34]}, {_code(receipt)!r}"
            return
        if fee is not None and int.from_bytes(receipt[47:63], "little") != fee:
            yield f"transaction {at} paid {int.from_bytes(receipt[47:63], 'little')}, not {fee}"
            return
    for at in range(0, len(block), 64):
        data = block.data[block.offsets[at] : block.offsets[at + 1]]
        body = data[: len(data) - 107]  # the authorization list of one ed25519 signature has 107 bytes
        if receipts[at][1:33] != blake3(b"supervm/tx/v1" + body).digest():
            yield f"receipt {at} names another transaction"
            return


def _code(receipt: bytes) -> str:
    size = int.from_bytes(receipt[35:39], "little")
    return receipt[39 : 39 + size].decode("ascii", "replace")
