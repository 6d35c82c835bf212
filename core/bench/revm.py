"""The peer revm, through pyrevm: message calls in a loop, as its readme drives it.

A message call moves the value between accounts in the EVM's journal. It checks the caller's balance, the
intrinsic gas, and that the caller has no code. It leaves out what ours has inside the clock: decoding from
bytes, digests, nonces (a message call uses none), fees (the gas price is 0), receipts and roots. Addresses
go in as hex text, which is how the binding takes them. `commit` would only close a `snapshot`: without one
it breaks the journal, so there is none.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from supervm.bench.pairs import Clock, Turn

NAME = "pyrevm"
MEASURED = ("addresses from hex", "the caller's balance and intrinsic gas", "execution in the journal")
LEFT_OUT = ("decoding from bytes", "digests", "nonces", "fees", "signatures", "receipts", "roots", "storage")

Call = tuple[str, str, None, int]
"""Caller, callee, no data, value: what `message_call` takes, in its order."""


class Revm:
    """An EVM with funded accounts. Raises ImportError where pyrevm isn't installed."""

    def __init__(self, addresses: Iterable[str], balance: int) -> None:
        pyrevm: Any = import_module("pyrevm")  # its stubs lack an argument
        self.version = version(NAME)
        self._evm = pyrevm.EVM()
        for address in addresses:
            self._evm.insert_account_info(address, pyrevm.AccountInfo(balance=balance))

    def run(self, calls: Sequence[Call]) -> Turn:
        """Make these calls. One that the EVM refuses raises RuntimeError. Blocks."""
        clock, call = Clock(), self._evm.message_call
        with clock:
            for caller, callee, data, value in calls:
                call(caller, callee, data, value)
        return Turn(len(calls), 0, clock.seconds, clock.cpu_seconds)

    def balance(self, address: str) -> int:
        return int(self._evm.get_balance(address))


def address_text(address: bytes) -> str:
    """An Ethereum address: the first 20 bytes of ours, in hex."""
    return "0x" + address[:20].hex()
