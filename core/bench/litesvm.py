"""The peer LiteSVM, Solana's virtual machine in one process, through solders.

Inside its clock, as in ours: a transfer decoded from bytes, its signature verified, executed, and the result
with its logs handed back. It also checks the recent blockhash and takes a fee of 5,000 lamports, which is
burned. It makes no state root, nor a root of receipts.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from supervm.bench.pairs import Clock, Turn

NAME = "LiteSVM"
FEE = 5_000
MEASURED = (
    "decoding from bytes",
    "signatures",
    "blockhash, balances and fee",
    "execution",
    "result and logs",
)
LEFT_OUT = ("roots", "storage")


class LiteSvm:
    """A machine with funded accounts, one a key. Raises ImportError where solders isn't installed.

    `secrets` are libsodium's: seed || public key.
    """

    def __init__(self, secrets: Sequence[bytes], balance: int) -> None:
        from solders.account import Account
        from solders.keypair import Keypair
        from solders.litesvm import LiteSVM
        from solders.pubkey import Pubkey

        self.version = f"solders {version('solders')}"
        self._machine: Any = LiteSVM()
        assert self._machine.get_sigverify(), "it verifies signatures unless told not to"
        self._keys = [Keypair.from_seed(secret[:32]) for secret in secrets]
        self._names = [key.pubkey() for key in self._keys]
        self._blockhash = self._machine.latest_blockhash()
        for name in self._names:
            self._machine.set_account(name, Account(balance, b"", Pubkey.default()))

    def sign(self, sender: int, recipient: int, amount: int) -> bytes:
        """A signed transfer as it comes over a wire. Amounts must differ: it refuses what it has seen."""
        from solders.message import Message
        from solders.system_program import TransferParams, transfer
        from solders.transaction import Transaction

        payer = self._names[sender]
        instruction = transfer(
            TransferParams(from_pubkey=payer, to_pubkey=self._names[recipient], lamports=amount)
        )
        message = Message.new_with_blockhash([instruction], payer, self._blockhash)
        return bytes(Transaction([self._keys[sender]], message, self._blockhash))

    def run(self, transactions: Sequence[bytes]) -> Turn:
        """Decode, verify and execute these, one after the other, which is how it takes them. Blocks."""
        from solders.transaction import Transaction
        from solders.transaction_metadata import FailedTransactionMetadata

        clock, send, decode = Clock(), self._machine.send_transaction, Transaction.from_bytes
        with clock:
            results = [send(decode(each)) for each in transactions]
        wrong = sum(isinstance(result, FailedTransactionMetadata) for result in results)
        return Turn(len(transactions), wrong, clock.seconds, clock.cpu_seconds)

    def balance(self, account: int) -> int:
        found = self._machine.get_balance(self._names[account])
        return int(found or 0)
