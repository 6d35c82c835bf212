"""Operations on stakes in C give the bytes of the specification, in every way (EXEC-34)."""

from collections import Counter
from collections.abc import Sequence

import attrs
import pytest

from supervm.execution import BlockInput, execute_block
from supervm.execution.engine import NativeEngine, fits_c
from supervm.execution.working import GAS_STATE_KEY
from supervm.types.address import Suite, address_of, node_id_of
from supervm.types.operations import Operation, StakeAdd, StakeLeave, encode_operations
from supervm.types.receipt import Status
from supervm.types.stakes import ESCROW, STAKES_KEY, STAKES_MAX, Stake, Stakes
from supervm.types.state import NATIVE_TOKEN, Account, Token, account_key, token_key
from supervm.types.transaction import Authorization, Body, Transaction, encode_transaction
from supervm.types.validators import NOBODY, Validator, ValidatorSet
from tests import needs
from tests.differential.generate import World, world
from tests.differential.making import CHAIN, FUNDS
from tests.differential.staking import UNIT
from tests.differential.ways import SEED, WAYS, start

pytestmark = needs.c_engine
KEYS = sorted(at.to_bytes(2, "big") * 16 for at in range(1, STAKES_MAX + 3))


def test_stakes_come_and_go_over_epochs_in_every_way() -> None:
    happened: Counter[str] = Counter()
    for seed in (7, 15, 31):
        of = world(seed)
        assert of.stakers is not None and of.epochs
        del of.stakers.keys[3:]
        of.stakers.counts = (6,)
        runners = [start(way, of.state) for way in WAYS[seed % 2 :: 2]]
        for _ in range(24):
            block = of.block()
            wanted = execute_block(of.state, block, of.gas)
            for runner in runners:
                runner.run(block, of.gas, of.state, wanted)
                runner.follow(wanted.changes)
            of.follow(block, wanted.changes)
            happened.update(each.topic.decode() for receipt in wanted.receipts for each in receipt.events)
    assert {"stake.added", "stake.left", "stake.withdrawn"} <= set(happened), happened


def with_stakes(records: Sequence[Stake], granted: ValidatorSet = NOBODY) -> World:
    """A world in which these are at stake, and every key of `KEYS` has coins."""
    of = world(0, crowded=False)
    supply = sum(each.amount for each in records) + len(KEYS) * FUNDS
    of.state = {
        GAS_STATE_KEY: of.gas.initial_state(),
        token_key(NATIVE_TOKEN): Token(b"COIN", 6, bytes(32), False, supply).encode(),
    }
    if records:
        of.state[account_key(ESCROW)] = Account(balance=sum(each.amount for each in records)).encode()
        of.state[STAKES_KEY] = Stakes(tuple(records)).encode()
    of.state |= {account_key(address(key)): Account(balance=FUNDS).encode() for key in KEYS}
    of.granted = granted
    return of


def address(key: bytes) -> bytes:
    return address_of(Suite.ED25519, key)


def signed(key: bytes, operation: Operation) -> Transaction:
    body = Body(
        chain_id=CHAIN,
        sender=address(key),
        nonce=0,
        gas_limit=10**6,
        max_price=10,
        max_fee=0,
        payload=encode_operations([operation]),
    )
    authorization = Authorization(Suite.ED25519, key, bytes(64))
    return Transaction.decode(encode_transaction(body.encode(), [authorization]))


def outcomes(of: World, *transactions: Transaction) -> list[str]:
    """The codes of these as one block, the same in every way."""
    block = of.block_of(transactions)
    wanted = execute_block(of.state, block, of.gas)
    for way in WAYS:
        start(way, of.state).run(block, of.gas, of.state, wanted)
    return [each.code or Status(each.status).name for each in wanted.receipts]


def test_no_more_keys_stake_than_there_is_room_for() -> None:
    of = with_stakes([Stake(public_key=key, amount=UNIT) for key in KEYS[1:-1]])
    found = outcomes(of, *(signed(key, StakeAdd(UNIT)) for key in (KEYS[0], KEYS[5], KEYS[-1])))
    assert found == ["StakesFull", "COMMITTED", "StakesFull"]


@pytest.mark.parametrize(
    ("heavy", "code"), [(99, "COMMITTED"), (100, "COMMITTED"), (101, "COMMITTED"), (130, "COMMITTED")]
)
def test_only_those_who_get_a_seat_count(heavy: int, code: str) -> None:
    """A hundred seats, the heaviest first: with one more of the others the weights would pass 64 bits."""
    each = (2**64 - 1) // 100
    records = [
        Stake(public_key=key, amount=UNIT * (each if at < heavy else 1)) for at, key in enumerate(KEYS[:200])
    ]
    assert outcomes(with_stakes(records), signed(KEYS[150], StakeLeave())) == [code]


def test_who_leaves_may_leave_too_much_weight_behind() -> None:
    records = [Stake(public_key=key, amount=UNIT * 2**63) for key in KEYS[:2]]
    assert outcomes(
        with_stakes([*records, Stake(public_key=KEYS[2], amount=UNIT)]), signed(KEYS[2], StakeLeave())
    ) == ["LastValidator"]


def test_members_of_genesis_count_with_their_weight_until_they_leave() -> None:
    named = ValidatorSet(
        tuple(
            sorted(
                (Validator(node_id_of(Suite.ED25519, key), key, 2**62) for key in KEYS[:3]),
                key=lambda each: each.node_id,
            )
        )
    )
    of = with_stakes([Stake(public_key=KEYS[9], amount=UNIT, left_epoch=2)], named)
    leaving = [signed(key, StakeLeave()) for key in (*KEYS[:3], KEYS[9])]
    assert outcomes(of, *leaving) == ["COMMITTED", "COMMITTED", "LastValidator", "StakeLeaving"]


def test_a_genesis_whose_ids_are_not_its_keys_is_left_to_the_specification() -> None:
    odd = ValidatorSet((Validator(b"n" * 32, KEYS[0], 1), Validator(b"o" * 32, KEYS[1], 1)))
    assert not fits_c(odd) and fits_c(NOBODY)
    of = with_stakes([], odd)
    block: BlockInput = of.block_of([signed(KEYS[0], StakeLeave()), signed(KEYS[5], StakeAdd(UNIT))])
    engine = NativeEngine(threads=1, bytes_max=0, seed=SEED)
    with engine.open_block(block, of.gas, of.state[GAS_STATE_KEY]) as run:
        run.supply([of.state.get(key) for key in run.missing()])
        found = run.execute()
    assert engine.last is None
    assert attrs.asdict(found, recurse=False) == attrs.asdict(
        execute_block(of.state, block, of.gas), recurse=False
    )
