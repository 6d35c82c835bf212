"""The scan of packed transactions: what it accepts, what it refuses, and that C and Python agree."""

import struct
import threading

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from supervm.hardware import fastpath
from supervm.hardware.fastpath import Scan, ScanError, ScanLimits, twin
from supervm.types.errors import DecodeError
from supervm.types.transaction import Transaction
from tests import needs

from .transactions import (
    authorization,
    batches,
    byte_string,
    mutated,
    packed,
    transaction,
    valid_transactions,
)

IDS = tuple(bytes([n]) * 32 for n in range(1, 9))
A_TRANSACTION = transaction(inputs=((IDS[0], 1, 1), (IDS[1], 2, 0)), relays=1, payload=b"hello")


def scanners() -> list[object]:
    found = [pytest.param(twin.scan_transactions, id="python")]
    if fastpath.NATIVE:
        from supervm.hardware.fastpath import native

        found.append(pytest.param(native.scan_transactions, id="native"))
    return found


@pytest.fixture(params=scanners())
def scan(request):
    return lambda data, **limits: request.param(data, ScanLimits(**limits))


def only_error(found: Scan) -> ScanError:
    assert found.error is ScanError.OK
    (record,) = found.records()
    return record.error


def test_an_empty_batch_has_no_records(scan):
    found = scan(packed([]))
    assert (found.error, found.count, found.table) == (ScanError.OK, 0, b"")


def test_offsets_point_at_the_payload_and_the_first_authorization(scan):
    data = packed([transaction(), A_TRANSACTION])
    record = list(scan(data).records())[1]
    assert record.error is ScanError.OK
    assert data[record.start : record.start + record.size] == A_TRANSACTION
    assert data[record.payload : record.payload + record.payload_size] == b"hello"
    assert record.body_end == record.payload + record.payload_size
    assert data[record.authorization :][: len(authorization())] == authorization()
    assert record.authorization_count == 1


def test_a_refused_transaction_does_not_hide_the_ones_after_it(scan):
    found = scan(packed([b"", A_TRANSACTION, b"\x02"]))
    assert [r.error for r in found.records()] == [
        ScanError.TRUNCATED,
        ScanError.OK,
        ScanError.UNKNOWN_FORMAT,
    ]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (transaction(format=0), ScanError.UNKNOWN_FORMAT),
        (transaction(format=2), ScanError.UNKNOWN_FORMAT),
        (transaction(lane=4), ScanError.UNKNOWN_LANE),
        (transaction(sponsor_nonce=1), ScanError.SPONSOR_NONCE),
        (transaction(relays=3), ScanError.TOO_MANY_RELAYS),
        (transaction(inputs=((IDS[1], 1, 0), (IDS[0], 1, 0))), ScanError.INPUTS_UNSORTED),
        (transaction(inputs=((IDS[0], 1, 0), (IDS[0], 2, 0))), ScanError.INPUTS_UNSORTED),
        (transaction(inputs=((IDS[0], 1, 6),)), ScanError.UNKNOWN_ACCESS),
        (transaction(authorizations=()), ScanError.AUTHORIZATION_COUNT),
        (transaction(authorizations=(authorization(),) * 2), ScanError.AUTHORIZATION_COUNT),
        (transaction(fee_payer=b"p" * 32, authorizations=(authorization(),)), ScanError.AUTHORIZATION_COUNT),
        (
            transaction(lane=3, sender=bytes(32), nonce=0, authorizations=(authorization(),)),
            ScanError.AUTHORIZATION_COUNT,
        ),
        (transaction(lane=2, sender=bytes(32), nonce=0), ScanError.NAMELESS),
        (transaction(lane=3, sender=bytes(32), nonce=1), ScanError.NAMELESS),
        (transaction(lane=3, sender=bytes(32), nonce=0, inputs=((IDS[0], 1, 0),)), ScanError.NAMELESS),
        (transaction(lane=3, sender=bytes(32), nonce=0, fee_payer=b"p" * 32), ScanError.NAMELESS),
        (transaction(lane=3, fee_payer=bytes(32)), ScanError.NAMELESS),
        (transaction(authorizations=(b"\x00" + authorization()[1:],)), ScanError.UNKNOWN_SUITE),
        (transaction(authorizations=(b"\x04" + authorization()[1:],)), ScanError.UNKNOWN_SUITE),
        (transaction(authorizations=(b"\x02" + authorization()[1:],)), ScanError.KEY_SIZE),
        (
            transaction(authorizations=(b"\x01" + byte_string(b"k" * 32) + byte_string(b"s" * 65),)),
            ScanError.SIGNATURE_SIZE,
        ),
        (transaction() + b"\x00", ScanError.TRAILING_BYTES),
    ],
)
def test_each_structural_fault_has_its_own_error(scan, data, error):
    assert only_error(scan(packed([data]))) is error


@pytest.mark.parametrize(
    "data",
    [
        transaction(lane=3, sender=bytes(32), nonce=0),
        transaction(fee_payer=b"p" * 32, sponsor_nonce=2**64 - 1),
        transaction(relays=2),
        transaction(payload=b""),
        *(transaction(authorizations=(authorization(suite),)) for suite in (1, 2, 3)),
        *(transaction(lane=lane) for lane in range(4)),
        *(transaction(inputs=((IDS[0], 1, access),)) for access in range(6)),
    ],
)
def test_every_canonical_form_is_accepted(scan, data):
    assert only_error(scan(packed([data]))) is ScanError.OK


def test_every_cut_of_a_transaction_is_refused(scan):
    cuts = [A_TRANSACTION[:size] for size in range(len(A_TRANSACTION))]
    assert {record.error for record in scan(packed(cuts)).records()} == {ScanError.TRUNCATED}


def test_every_cut_of_a_batch_is_refused(scan):
    data = packed([transaction(), A_TRANSACTION])
    assert {scan(data[:size]).error for size in range(len(data))} == {ScanError.TRUNCATED}


def test_bytes_after_the_last_transaction_are_refused(scan):
    found = scan(packed([A_TRANSACTION]) + b"\x00")
    assert (found.error, found.count) == (ScanError.TRAILING_BYTES, 1)


@pytest.mark.parametrize(
    ("limit", "data", "error"),
    [
        ("transaction_bytes_max", A_TRANSACTION, ScanError.TOO_LARGE),
        ("payload_bytes_max", A_TRANSACTION, ScanError.PAYLOAD_TOO_LARGE),
        ("inputs_max", A_TRANSACTION, ScanError.TOO_MANY_INPUTS),
    ],
)
def test_a_limit_admits_its_own_value_and_not_one_more(scan, limit, data, error):
    size = {"transaction_bytes_max": len(data), "payload_bytes_max": 5, "inputs_max": 2}[limit]
    assert only_error(scan(packed([data]), **{limit: size})) is ScanError.OK
    assert only_error(scan(packed([data]), **{limit: size - 1})) is error


def test_a_batch_that_states_too_many_transactions_is_refused_before_any_is_read(scan):
    found = scan(packed([A_TRANSACTION] * 3), transactions_max=2)
    assert (found.error, found.count) == (ScanError.TOO_MANY_TRANSACTIONS, 0)


def test_a_length_that_points_past_the_batch_is_truncated_not_followed(scan):
    data = struct.pack("<HI", 1, 0xFFFFFFFF) + A_TRANSACTION
    found = scan(data)
    assert (found.error, found.count) == (ScanError.TRUNCATED, 0)


def test_columns_give_the_same_numbers_as_records(scan):
    found = scan(packed([A_TRANSACTION, b"\x01"]))
    columns = found.columns()
    for row, record in enumerate(found.records()):
        assert columns[row, 0] == record.error
        assert columns[row, 1] == record.start
        assert columns[row, 7] == record.authorization_count


def test_limits_that_do_not_fit_in_32_bits_are_refused():
    with pytest.raises(ValueError, match="inputs_max is 4294967296; use 0 to 4294967295"):
        ScanLimits(inputs_max=2**32)


def reference_accepts(data: bytes) -> bool:
    """What the decoder of supervm.types says; kind 2 keeps it from looking into the payload."""
    try:
        Transaction.decode(data)
    except DecodeError:
        return False
    return True


def agrees_with_the_decoder(data: bytes) -> None:
    accepted = only_error(twin.scan_transactions(packed([data]), ScanLimits())) is ScanError.OK
    assert accepted == reference_accepts(data)


@settings(max_examples=200)
@given(valid_transactions())
def test_the_scan_and_the_decoder_accept_the_same_valid_transactions(data):
    assert reference_accepts(data)
    agrees_with_the_decoder(data)


@settings(max_examples=600)
@given(mutated(valid_transactions()))
def test_the_scan_and_the_decoder_refuse_the_same_mutated_transactions(data):
    # Kind 1 is the one payload that the decoder reads.
    assume(b"\x01\x00" not in data[196:] or reference_accepts(data))
    agrees_with_the_decoder(data)


@pytest.mark.parametrize("at", [0, 33, 65, 97, 105, 121, 194])
def test_the_scan_and_the_decoder_agree_on_every_value_of_a_telling_byte(at):
    for value in range(256):
        data = bytearray(A_TRANSACTION)
        data[at] = value
        agrees_with_the_decoder(bytes(data))


def test_the_scan_and_the_decoder_agree_on_every_body_without_an_account():
    for lane in range(5):
        for nonce in (0, 1):
            for inputs in ((), ((IDS[0], 1, 0),)):
                for sender, payer in ((bytes(32), None), (bytes(32), b"p" * 32), (b"a" * 32, bytes(32))):
                    for count in range(3):
                        agrees_with_the_decoder(
                            transaction(
                                lane=lane,
                                nonce=nonce,
                                inputs=inputs,
                                sender=sender,
                                fee_payer=payer,
                                authorizations=(authorization(),) * count,
                            )
                        )


needs_native = needs.c_library
LIMITS = st.builds(
    ScanLimits,
    transactions_max=st.sampled_from((0, 2, 65_535)),
    transaction_bytes_max=st.sampled_from((300, 262_144)),
    payload_bytes_max=st.sampled_from((0, 100, 131_072)),
    inputs_max=st.sampled_from((0, 3, 256)),
    relays_max=st.sampled_from((0, 2)),
)


def agree(data: bytes, limits: ScanLimits) -> None:
    from supervm.hardware.fastpath import native

    assert native.scan_transactions(data, limits) == twin.scan_transactions(data, limits)


@needs_native
@settings(max_examples=300)
@given(batches(), LIMITS)
def test_c_and_python_give_the_same_bytes_for_valid_batches(data, limits):
    agree(data, limits)


@needs_native
@settings(max_examples=600)
@given(mutated(batches()), LIMITS)
def test_c_and_python_give_the_same_bytes_for_mutated_batches(data, limits):
    agree(data, limits)


@needs_native
@settings(max_examples=300)
@given(st.binary(max_size=2000), LIMITS)
def test_c_and_python_give_the_same_bytes_for_random_bytes(data, limits):
    agree(data, limits)


@needs_native
def test_one_flipped_bit_anywhere_gives_the_same_answer_in_c_and_python():
    data = packed([A_TRANSACTION])
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            agree(bytes(flipped), ScanLimits())


@needs_native
def test_threads_scanning_at_once_do_not_disturb_each_other():
    data = packed([A_TRANSACTION, b"\x01"] * 500)
    expected = twin.scan_transactions(data, ScanLimits())
    found: list[Scan] = []
    threads = [
        threading.Thread(target=lambda: found.append(fastpath.scan_transactions(data))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
