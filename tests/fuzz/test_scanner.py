"""Whatever bytes come, the C scan, its twin and the decoder agree on them (TIER-70, EXEC-6)."""

import random
from collections import Counter

from supervm.hardware import fastpath
from supervm.hardware.fastpath import ScanError, ScanLimits, ScanRecord, twin
from supervm.types.codec import pack_transactions
from supervm.types.errors import DecodeError
from supervm.types.operations import decode_operations
from supervm.types.transaction import Transaction
from tests.fuzz.mutation import changed, examples, fuzz
from tests.types.strategies import transaction_bytes

NATIVE_KIND = (1).to_bytes(2, "little")
KIND_AND_SIZE = 6
"""Bytes of the payload's kind and length, which stand before it."""


def accepts(data: bytes) -> bool:
    try:
        Transaction.decode(data)
    except DecodeError:
        return False
    return True


def only_its_operations_are_wrong(packed: bytes, record: ScanRecord) -> bool:
    """Whether the decoder looks into the payload, which the scan leaves alone, and refuses what is there."""
    kind = packed[record.payload - KIND_AND_SIZE :][:2]
    try:
        decode_operations(packed[record.payload : record.payload + record.payload_size])
    except DecodeError:
        return kind == NATIVE_KIND
    return False


def test_the_scan_says_what_the_decoder_says_and_c_says_what_its_twin_says() -> None:
    corpus = examples(transaction_bytes(), 60)
    tight = ScanLimits(
        transactions_max=3, transaction_bytes_max=400, payload_bytes_max=60, inputs_max=2, relays_max=1
    )
    seen: Counter[ScanError] = Counter()

    def make(chance: random.Random) -> bytes:
        found = [changed(chance, corpus) for _ in range(chance.randrange(5))]
        packed = len(found).to_bytes(2, "little") + pack_transactions(found)
        return changed(chance, [packed]) if chance.random() < 0.3 else packed

    def judge(packed: bytes) -> None:
        if fastpath.NATIVE:
            from supervm.hardware.fastpath import native

            for limits in (ScanLimits(), tight):
                same = native.scan_transactions(packed, limits) == twin.scan_transactions(packed, limits)
                assert same, "C and its twin disagree"
        for record in twin.scan_transactions(packed, ScanLimits()).records():
            seen[record.error] += 1
            if accepts(packed[record.start : record.start + record.size]):
                assert record.error is ScanError.OK, "the scan refuses what the decoder takes"
            elif record.error is ScanError.OK:
                assert only_its_operations_are_wrong(packed, record), "the scan takes what is refused"

    fuzz("scan", make, judge)
    assert seen[ScanError.OK] > 0
    assert len(seen) > 5, "the changes reach too few of the checks"
