"""The start of a workload executed by C and by the specification, each byte compared."""

from collections.abc import Mapping

from supervm.bench.ledgers import Way, open_ledger
from supervm.bench.packing import Packed, unpack
from supervm.contracts.gas import GasPolicy
from supervm.execution import block_keys
from supervm.execution.engine import pack_entries
from supervm.types.transaction import Transaction

SLICE = 200
"""Transactions of a slice: the specification executes some 10,000 a second."""


def first_of(block: Packed, count: int = SLICE) -> Packed:
    """The first transactions of a block."""
    count = min(count, len(block))
    return Packed(block.data[: block.offsets[count]], block.offsets[: count + 1])


def wrong_slice(block: Packed, entries: Mapping[bytes, bytes], way: Way, gas: GasPolicy) -> str | None:
    """What differs between C and the specification on the start of the first block; None where nothing does.

    `entries`: the first state, at least what the slice touches.
    """
    piece = first_of(block)
    touched = block_keys(
        [Transaction.decode(each) for each in piece.transactions()], gas, gas.initial_state()
    )
    start = [(key, entries[key]) for key in sorted(touched & entries.keys())]
    packed = [(pack_entries(start), len(start))]
    ran = open_ledger(way, packed, gas).run([piece])
    wanted = open_ledger(Way(native=False, root=way.root), packed, gas).run([piece])
    if ran.receipts != wanted.receipts:
        return "receipts of C differ from the specification's"
    if ran.receipts_root != wanted.receipts_root:
        return "the receipts root of C differs from the specification's"
    if dict(unpack(ran.changes[0])) != dict(unpack(wanted.changes[0])):
        return "changes of C differ from the specification's"
    if ran.state_root is not None and ran.state_root != wanted.state_root:
        return "the state root of C differs from the specification's"
    return None
