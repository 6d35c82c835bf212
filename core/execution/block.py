"""Executing a block: the specification that every faster way is compared with (EXEC-33, EXEC-34).

`execute_block` is a pure function of the state, the block and the chain's gas policy. It reads no clock
and no order of a set, so that every machine computes the same bytes. Whatever stands in a block has an
outcome, and nothing in it can make execution fail (CONS-45):

    COMMITTED  the operations happened, all of them
    FAILED     they didn't; the nonce is used, the fee is paid, Owned inputs have a new version
    VOID       nothing happened, not even a fee

A transaction whose digest was executed before, in this block or an earlier one, is skipped without a
receipt (CONS-40).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from supervm.contracts.gas import NO_NODE, BlockFacts, Charge, GasError, GasPolicy, Quote
from supervm.execution.errors import Code, Failed, LaneRefused
from supervm.execution.footprint import fee_terms
from supervm.execution.lanes import check_kind, lane_taken
from supervm.execution.objects import (
    create_object,
    delete_object,
    freeze_object,
    mutate_object,
    raise_versions,
    share_object,
    transfer_object,
    use_inputs,
)
from supervm.execution.punishing import collect, note_doubles, punish
from supervm.execution.staking import add_stake, leave_set, withdraw_stake
from supervm.execution.supply import check_conservation
from supervm.execution.tokens import burn, create_token, mint, transfer
from supervm.execution.turn import Meter, Turn
from supervm.execution.working import GAS_STATE_KEY, StateReader, WorkingState, encode_value
from supervm.types import merkle
from supervm.types.limits import Limits
from supervm.types.operations import (
    Burn,
    Mint,
    ObjectCreate,
    ObjectDelete,
    ObjectFreeze,
    ObjectMutate,
    ObjectShare,
    ObjectTransfer,
    StakeAdd,
    StakeLeave,
    StakeWithdraw,
    TokenCreate,
    Transfer,
)
from supervm.types.receipt import ObjectVersion, Receipt, Status
from supervm.types.state import ACCOUNT, NATIVE_TOKEN, TOKEN, Account, Object
from supervm.types.transaction import Body, Lane, Transaction
from supervm.types.validators import NOBODY, ValidatorSet
from supervm.types.wrongs import NO_WRONGS, Punished, Wrongs

OPERATIONS: dict[type, Callable[[Turn, Any, int], None]] = {
    Transfer: transfer,
    TokenCreate: create_token,
    Mint: mint,
    Burn: burn,
    ObjectCreate: create_object,
    ObjectMutate: mutate_object,
    ObjectTransfer: transfer_object,
    ObjectShare: share_object,
    ObjectFreeze: freeze_object,
    ObjectDelete: delete_object,
    StakeAdd: add_stake,
    StakeLeave: leave_set,
    StakeWithdraw: withdraw_stake,
}


@attrs.frozen(kw_only=True)
class BlockInput:
    """All that execution may know of a block. `timestamp_ms` is UTC milliseconds, from the header.

    `executed` are the digests, of those in this block, that earlier blocks have executed. `granted` is the
    validator set of genesis, whose weights count beside stakes. `wrongs`: what its system operations say.
    """

    height: int
    epoch: int
    timestamp_ms: int
    chain_id: bytes
    limits: Limits
    transactions: Sequence[Transaction]
    proposer: bytes = NO_NODE
    executed: Collection[bytes] = frozenset()
    granted: ValidatorSet = NOBODY
    wrongs: Wrongs = NO_WRONGS


@attrs.frozen
class BlockResult:
    """What a block did. `changes`: state key to its new entry, None where it has none any more.

    `receipts` are in block order; their `index` is the transaction's place in the block. `reasons` say
    in words why a digest failed or was void, for people: they are no part of anything hashed. `punished`:
    whom the block's evidence cost something.
    """

    changes: Mapping[bytes, bytes | None]
    receipts: Sequence[Receipt]
    receipts_root: bytes
    reasons: Mapping[bytes, str]
    punished: tuple[Punished, ...] = ()


@attrs.frozen
class BlockRun:
    """What every transaction of one block shares."""

    block: BlockInput
    gas: GasPolicy
    gas_state: bytes
    state: WorkingState
    charges: list[Charge] = attrs.Factory(list)
    reasons: dict[bytes, str] = attrs.Factory(dict)


def execute_block(state: StateReader, block: BlockInput, gas: GasPolicy) -> BlockResult:
    """Apply what a block says of wrongs, then its transactions in their order, then settle its fees.

    `state` gives the entry of a key, or None: a dict of the whole state, or `Fetched` with at least
    `block_keys` and `wrong_keys`. It is not changed. Never raises for what a transaction holds.
    """
    working = WorkingState(state)
    run = BlockRun(block, gas, working.gas_state(), working)
    punished = apply_wrongs(run)
    receipts: list[Receipt] = []
    executed = set(block.executed)
    for index, transaction in enumerate(block.transactions):
        if transaction.digest not in executed:
            executed.add(transaction.digest)
            receipts.append(execute_transaction(run, transaction, index))
    if block.wrongs.collects:
        run.charges.extend(collect(working, gas, run.gas_state))
    settle_fees(run)
    changed = working.changed()
    check_conservation(changed)
    return BlockResult(
        {key: encode_value(now) for key, _, now in changed},
        tuple(receipts),
        merkle.plain_root([receipt.encode() for receipt in receipts]),
        run.reasons,
        punished,
    )


def apply_wrongs(run: BlockRun) -> tuple[Punished, ...]:
    """Punish whom the block's evidence names, and remember who signed twice, until the epoch ends."""
    block, state = run.block, run.state
    found = [punish(state, each, block.epoch, block.granted) for each in block.wrongs.offences]
    note_doubles(state, block.wrongs.doubles, run.gas.base_price(run.gas_state))
    state.savepoint()
    return tuple(each for each in found if each is not None)


def execute_transaction(run: BlockRun, transaction: Transaction, index: int) -> Receipt:
    """Give one transaction its outcome, at its place in the block."""
    body, state = transaction.body, run.state
    objects = {declared.id: state.object(declared.id) for declared in body.inputs}
    lane = lane_taken(transaction, objects)
    try:
        check_turn(run, transaction)
        terms = fee_terms(transaction, lane)
        quote = run.gas.quote(terms, run.gas_state)
        intrinsic = run.gas.intrinsic(terms.size_bytes, terms.suites)
    except Failed as failed:
        return void(run, transaction, lane, index, failed.code, failed.reason)
    except GasError as refused:
        return void(run, transaction, lane, index, refused.code, str(refused))

    use_nonces(state, body)
    written = raise_versions(state, transaction, objects)
    meter = Meter(body.gas_limit)
    inputs = {declared.id: declared for declared in body.inputs}
    turn = Turn(
        transaction,
        state,
        run.gas.schedule,
        run.block.limits,
        meter,
        inputs,
        written,
        epoch=run.block.epoch,
        granted=run.block.granted,
    )
    failed_written = dict(written)

    funded = state.balance(body.fee_payer, quote.token) >= quote.reserve
    if not funded:
        code: str = Code.FEE_UNFUNDED
        run.reasons[transaction.digest] = f"the reserve of {quote.reserve} is not there"
        charge = charge_unfunded(run, body, quote, min(intrinsic, body.gas_limit))
    else:
        state.add(body.fee_payer, quote.token, -quote.reserve)
        state.savepoint()
        code = ""
        try:
            meter.use(intrinsic)
            run_operations(turn, objects)
        except Failed as failed:
            state.rollback()
            code = failed.code
            run.reasons[transaction.digest] = failed.reason
        charge = run.gas.charge(quote, meter.used, 0 if code else turn.refund_gas)
        state.add(body.fee_payer, quote.token, charge.returned)
    check_charge(charge, funded)
    run.charges.append(charge)
    written = failed_written if code else turn.written
    return Receipt(
        digest=transaction.digest,
        lane=lane,
        status=Status.FAILED if code else Status.COMMITTED,
        code=code,
        gas_used=charge.gas_used,
        fee=charge.fee,
        gas_token=quote.token,
        created=() if code else tuple(turn.created),
        written=tuple([ObjectVersion(*item) for item in sorted(written.items())]) if written else (),
        deleted=() if code else tuple(turn.deleted),
        events=() if code else tuple(turn.events),
        height=run.block.height,
        index=index,
    )


def check_turn(run: BlockRun, transaction: Transaction) -> None:
    """Fail with the code of a `void` outcome. After an honest quorum's accept none of these holds."""
    body, block = transaction.body, run.block
    if body.chain_id != block.chain_id:
        raise Failed(Code.WRONG_CHAIN, f"signed for chain 0x{body.chain_id.hex()}")
    if body.expiry_epoch and body.expiry_epoch < block.epoch:
        raise Failed(Code.EXPIRED, f"expired with epoch {body.expiry_epoch}, this is {block.epoch}")
    try:
        check_kind(transaction)
    except LaneRefused as refused:
        raise Failed(Code(refused.code), str(refused)) from refused
    check_nonce(body.nonce, run.state.account(body.sender).nonce)
    if body.is_sponsored:
        check_nonce(body.sponsor_nonce, run.state.account(body.fee_payer).sponsor_nonce)


def check_nonce(nonce: int, expected: int) -> None:
    """A nonce must be the account's next (EXEC-5)."""
    if nonce != expected:
        code = Code.NONCE_USED if nonce < expected else Code.NONCE_GAP
        raise Failed(code, f"the nonce is {nonce}, the next one is {expected}")


def use_nonces(state: WorkingState, body: Body) -> None:
    """Move on the sender's nonce and, of a sponsored transaction, the payer's sponsor nonce."""
    account = state.account(body.sender)
    state.write(ACCOUNT + body.sender, Account(account.nonce + 1, account.sponsor_nonce, account.balance))
    if body.is_sponsored:
        payer = state.account(body.fee_payer)
        state.write(ACCOUNT + body.fee_payer, Account(payer.nonce, payer.sponsor_nonce + 1, payer.balance))


def run_operations(turn: Turn, objects: Mapping[bytes, Object | None]) -> None:
    """Pay for what every transaction touches, check the inputs, then do each operation in order."""
    body = turn.transaction.body
    turn.use_entry()  # the sender's account
    if body.is_sponsored:
        turn.use_entry()  # the payer's account
    if body.gas_token != NATIVE_TOKEN:
        turn.use_entry()  # the balance that pays the fee
    if objects:
        use_inputs(turn, objects)
    for index, operation in enumerate(turn.transaction.operations):
        OPERATIONS[type(operation)](turn, operation, index)


def charge_unfunded(run: BlockRun, body: Body, quote: Quote, gas_used: int) -> Charge:
    """Take the fee of the intrinsic gas, or what there is of it (GAS-7)."""
    charge = run.gas.charge(quote, gas_used, 0)
    fee = min(charge.fee, run.state.balance(body.fee_payer, quote.token))
    run.state.add(body.fee_payer, quote.token, -fee)
    return attrs.evolve(charge, fee=fee, returned=0)


def check_charge(charge: Charge, funded: bool) -> None:
    """What holds of every charge (GAS-22), whoever wrote the policy."""
    quote = charge.quote
    assert 0 <= charge.gas_paid <= charge.gas_used <= quote.terms.gas_limit, charge
    assert 0 <= charge.fee <= quote.reserve, charge
    assert charge.fee + charge.returned == quote.reserve or not funded, charge


def void(run: BlockRun, transaction: Transaction, lane: Lane, index: int, code: str, reason: str) -> Receipt:
    run.reasons[transaction.digest] = reason
    return Receipt(
        digest=transaction.digest,
        lane=lane,
        status=Status.VOID,
        code=code,
        gas_token=transaction.body.gas_token,
        height=run.block.height,
        index=index,
    )


def settle_fees(run: BlockRun) -> None:
    """Let the policy divide the block's fees, credit its payees, burn the rest, and keep its new state."""
    block, state = run.block, run.state
    facts = BlockFacts(block.height, block.epoch, block.timestamp_ms, block.proposer)
    settlement = run.gas.end_block(run.gas_state, run.charges, facts)
    escrow: dict[bytes, int] = {}
    for charge in run.charges:
        escrow[charge.token] = escrow.get(charge.token, 0) + charge.fee
    for credit in settlement.credits:
        assert credit.amount >= 0, f"the gas policy credits {credit.amount}"
        escrow[credit.token] = escrow.get(credit.token, 0) - credit.amount
        state.add(credit.address, credit.token, credit.amount)
    for token, amount in settlement.burned:
        record = state.token(token)
        assert record is not None and 0 <= amount <= record.supply, f"the gas policy burns {amount}"
        escrow[token] = escrow.get(token, 0) - amount
        state.write(TOKEN + token, attrs.evolve(record, supply=record.supply - amount))
    assert not any(escrow.values()), f"fees left over or made up at the block's end: {escrow}"
    state.write(GAS_STATE_KEY, settlement.state)
