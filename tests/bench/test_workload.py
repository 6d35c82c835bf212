"""The real block as signed transactions and a genesis that covers them."""

from collections import Counter
from pathlib import Path

import pytest

from supervm.bench import oracle
from supervm.bench.bitcoin import read_block
from supervm.bench.workload import SAT_TOKEN, Workload, account_key, genesis_of, sign_all, workload_of
from supervm.crypto.transactions import verify_transactions
from supervm.types.address import format_address
from supervm.types.genesis import genesis_state
from supervm.types.operations import Transfer
from supervm.types.state import balance_key, decode_balance
from supervm.types.transaction import Transaction
from supervm.types.validators import Validator, ValidatorSet

DATA = next((Path(__file__).parent.parent / "data").glob("*.blk")).read_bytes()


def validators() -> ValidatorSet:
    key = account_key(b"test", b"validator")
    return ValidatorSet((Validator(key.node_id, key.public_key, 1),))


@pytest.fixture(scope="module")
def workload() -> Workload:
    return workload_of(read_block(DATA))


def test_every_payment_is_covered_to_the_satoshi_and_nothing_more(workload: Workload) -> None:
    state = genesis_state(genesis_of(workload, validators()))
    funded = [
        decode_balance(state[balance_key(key.address, SAT_TOKEN)])
        for key, payment in zip(workload.spenders, workload.block.payments, strict=True)
        if payment.total
    ]
    assert sum(funded) == 1_168_464_839_990


def test_every_run_makes_the_same_chain_and_signs_the_same_bytes(workload: Workload) -> None:
    again = workload_of(read_block(DATA))
    chain = genesis_of(workload, validators()).chain_id
    assert genesis_of(again, validators()).chain_id == chain
    first = Workload(again.block, again.spenders)
    assert sign_all(first, chain)[:10] == sign_all(workload, chain)[:10]


def test_the_signed_transactions_pay_what_the_oracle_expects(workload: Workload) -> None:
    signed = [Transaction.decode(data) for data in sign_all(workload, b"\x01" * 32)]
    assert verify_transactions(signed) == [None] * 3315
    paid: Counter[str] = Counter()
    for transaction in signed:
        (operation,) = transaction.operations
        assert isinstance(operation, Transfer)
        assert operation.token == SAT_TOKEN
        for output in operation.outputs:
            paid[format_address(output.to)] += output.amount
    expected, spenders, count = oracle.expected_balances(DATA)
    assert +paid == +expected
    assert {format_address(transaction.body.sender) for transaction in signed} == spenders
    assert count == len(signed)
