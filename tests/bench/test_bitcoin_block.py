"""The block of tests/data, read by the parser and by the oracle."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.bench import oracle
from supervm.bench.bitcoin import COINBASE_OUTPOINT, BitcoinBlock, BlockInvalid, read_block

NAME = "0000000000000000001602407ac49862a7bca9d00f7f402db20b7be2f5de59d2"
DATA = (Path(__file__).parent.parent / "data" / f"bitcoin-block-{NAME}.blk").read_bytes()


@pytest.fixture(scope="module")
def block() -> BitcoinBlock:
    return read_block(DATA)


def test_the_real_block_holds_what_its_readme_says(block: BitcoinBlock) -> None:
    assert block.digest[::-1].hex() == NAME
    assert block.time_s == 1556771671
    assert len(block.payments) == 3315
    assert sum(len(payment.inputs) for payment in block.payments) == 5055
    assert sum(len(payment.outputs) for payment in block.payments) == 8150
    assert sum(payment.total for payment in block.payments) == 1_168_464_839_990
    assert block.payments[0].inputs == (COINBASE_OUTPOINT,)


def test_no_outpoint_is_spent_twice_and_no_transaction_pays_too_many(block: BitcoinBlock) -> None:
    spent = [outpoint for payment in block.payments for outpoint in payment.inputs]
    assert len(set(spent)) == len(spent)
    assert max(len(payment.outputs) for payment in block.payments) == 57


def test_the_oracle_finds_the_same_sums_by_itself(block: BitcoinBlock) -> None:
    paid, spenders, transactions = oracle.expected_balances(DATA)
    scripts = {output.script for payment in block.payments for output in payment.outputs}
    assert sum(paid.values()) == 1_168_464_839_990
    assert len(paid) == len(scripts) == 6162
    assert transactions == len(spenders) == 3315
    script = block.payments[0].outputs[0].script
    assert paid[oracle.address(oracle.SCRIPT_SEED, script)] == sum(
        output.value for payment in block.payments for output in payment.outputs if output.script == script
    )


@given(st.integers(0, len(DATA) - 1))
@settings(max_examples=30, deadline=None)
def test_a_block_cut_short_anywhere_is_refused(length: int) -> None:
    with pytest.raises(BlockInvalid):
        read_block(DATA[:length])


def test_bytes_after_the_block_are_refused() -> None:
    with pytest.raises(BlockInvalid, match="1 bytes follow"):
        read_block(DATA + b"\x00")


def test_a_changed_byte_in_a_transaction_is_caught_by_the_merkle_root() -> None:
    with pytest.raises(BlockInvalid, match="Merkle root"):
        read_block(DATA[:-4] + b"\x07\x00\x00\x00")


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_block_invalid(data: bytes) -> None:
    with pytest.raises(BlockInvalid):
        read_block(data)


@given(st.integers(0, 200_000), st.binary(min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_a_damaged_block_is_refused_or_reads_alike(at: int, patch: bytes) -> None:
    damaged = DATA[:at] + patch + DATA[at + len(patch) :]
    try:
        found = read_block(damaged)
    except BlockInvalid:
        return
    # Witnesses and the header's nonce aren't under the Merkle root.
    assert found.payments == read_block(DATA).payments
