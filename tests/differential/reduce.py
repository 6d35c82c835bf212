"""Makes a case smaller as long as it still fails, and writes it down to be run again."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import attrs

from supervm.execution import GAS_STATE_KEY, execute_block
from supervm.execution.footprint import block_keys
from supervm.types.errors import InvalidInput
from supervm.types.operations import ObjectCreate, ObjectMutate, Operation, Transfer, encode_operations
from supervm.types.state import ACCOUNT, Account
from supervm.types.transaction import PAYLOAD_NATIVE, Body, Transaction, encode_transaction
from tests.differential.case import Block, Case
from tests.differential.ways import Unequal, applied

ROUNDS_MAX = 6

Item = TypeVar("Item")
Fails = Callable[[Case], bool]


def fewer(items: Sequence[Item], fails: Callable[[list[Item]], bool]) -> list[Item]:
    """Some of the items, none of which can be left out alone (Zeller and Hildebrandt's ddmin, 2002)."""
    kept = list(items)
    size = max(1, len(kept) // 2)
    while kept:
        at = 0
        while at < len(kept):
            without = kept[:at] + kept[at + size :]
            if fails(without):
                kept = without
            else:
                at += size
        if size == 1:
            break
        size = max(1, min(size // 2, len(kept) // 2))
    return kept


def reduce_case(case: Case, differs: Fails) -> Case:
    """A small case for which `differs` holds, as it holds for this one."""

    def fails(candidate: Case) -> bool:
        try:
            return differs(candidate)
        except Unequal:
            raise
        except (AssertionError, InvalidInput):
            return False  # the specification itself doesn't know what to do with it

    plain = attrs.evolve(case, chance=None)
    if fails(plain):
        case = plain
    case = _last_block_alone(case, fails)
    case = attrs.evolve(case, blocks=tuple(_fewer_blocks(case, fails)))
    for _ in range(ROUNDS_MAX):
        before = case
        case = _fewer_transactions(case, fails)
        case = _fewer_parts(case, fails)
        case = _fewer_entries(case, fails)
        if case == before:
            break
    return case


def _last_block_alone(case: Case, fails: Fails) -> Case:
    """Without the blocks before it, where it doesn't need them."""
    if len(case.blocks) < 2:
        return case
    state = {**case.state, GAS_STATE_KEY: case.gas.initial_state()}
    for block in case.inputs()[:-1]:
        state = applied(state, execute_block(state, block, case.gas).changes)
    del state[GAS_STATE_KEY]
    alone = attrs.evolve(case, state=state, blocks=case.blocks[-1:])
    return alone if fails(alone) else case


def _fewer_blocks(case: Case, fails: Fails) -> list[Block]:
    """Without whole blocks that aren't needed; each one left keeps its height."""
    return fewer(case.blocks, lambda some: bool(some) and fails(attrs.evolve(case, blocks=tuple(some))))


def _with_block(case: Case, at: int, transactions: Sequence[bytes]) -> Case:
    block = attrs.evolve(case.blocks[at], transactions=tuple(transactions))
    return attrs.evolve(case, blocks=(*case.blocks[:at], block, *case.blocks[at + 1 :]))


def _fewer_transactions(case: Case, fails: Fails) -> Case:
    for at in reversed(range(len(case.blocks))):
        case = _fewer_transactions_of(case, at, fails)
    return attrs.evolve(case, blocks=tuple(_still_executed(case, block) for block in case.blocks))


def _still_executed(case: Case, block: Block) -> Block:
    """Without the digests of transactions that are left out. Those that are left must stay: what was executed
    before is skipped, and the engine may rely on that."""
    digests = {Transaction.decode(data, case.limits).digest for data in block.transactions}
    return attrs.evolve(block, executed=tuple(each for each in block.executed if each in digests))


def _fewer_transactions_of(case: Case, at: int, fails: Fails) -> Case:
    """Those that are left out leave gaps in the nonces, which would keep others in: they may be closed."""

    def closed(some: Sequence[bytes]) -> Case:
        return _with_block(case, at, _without_gaps(case, some))

    def still(some: Sequence[bytes]) -> bool:
        return fails(_with_block(case, at, some)) or fails(closed(some))

    kept = fewer(case.blocks[at].transactions, still)
    return closed(kept) if fails(closed(kept)) else _with_block(case, at, kept)


def _without_gaps(case: Case, transactions: Sequence[bytes]) -> list[bytes]:
    nonces: dict[bytes, int] = {}
    made = []
    for data in transactions:
        body = Transaction.decode(data, case.limits).body
        account = case.state.get(ACCOUNT + body.sender)
        nonce = nonces.setdefault(body.sender, Account.decode(account).nonce if account else 0)
        nonces[body.sender] += 1
        made.append(_rebuilt(case, data, nonce=nonce))
    return made


def _rebuilt(case: Case, data: bytes, **changes: object) -> bytes:
    transaction = Transaction.decode(data, case.limits)
    body: Body = attrs.evolve(transaction.body, **changes)
    return encode_transaction(body.encode(), transaction.authorizations)


def _fewer_parts(case: Case, fails: Fails) -> Case:
    for at, block in enumerate(case.blocks):
        for number in range(len(block.transactions)):
            case = _fewer_parts_of(case, at, number, fails)
    return case


def _fewer_parts_of(case: Case, at: int, number: int, fails: Fails) -> Case:
    def replaced(**changes: object) -> Case:
        transactions = list(case.blocks[at].transactions)
        transactions[number] = _rebuilt(case, transactions[number], **changes)
        return _with_block(case, at, transactions)

    def body() -> Body:
        return Transaction.decode(case.blocks[at].transactions[number], case.limits).body

    inputs = fewer(body().inputs, lambda some: fails(replaced(inputs=tuple(some))))
    case = replaced(inputs=tuple(inputs))
    if body().relays and fails(replaced(relays=())):
        case = replaced(relays=())
    if body().payload_kind != PAYLOAD_NATIVE:
        return case

    def operations() -> list[Operation]:
        return list(Transaction.decode(case.blocks[at].transactions[number], case.limits).operations)

    def doing(some: Sequence[Operation]) -> Case:
        return replaced(payload=encode_operations(some))

    case = doing(fewer(operations(), lambda some: bool(some) and fails(doing(some))))
    for place in range(len(operations())):
        for smaller in _smaller(operations()[place]):
            some = operations()
            some[place] = smaller
            if fails(doing(some)):
                case = doing(some)
                break
    return case


def _smaller(operation: Operation) -> Iterator[Operation]:
    match operation:
        case ObjectCreate(data=data) | ObjectMutate(data=data) if data:
            yield attrs.evolve(operation, data=b"")
            yield attrs.evolve(operation, data=data[:1])
        case Transfer(outputs=outputs) if len(outputs) > 1:
            yield attrs.evolve(operation, outputs=outputs[:1])
            yield attrs.evolve(operation, outputs=outputs[-1:])
            yield attrs.evolve(operation, outputs=outputs[: len(outputs) // 2])
            yield attrs.evolve(operation, outputs=outputs[len(outputs) // 2 :])
            yield attrs.evolve(operation, outputs=outputs[:-1])


def _fewer_entries(case: Case, fails: Fails) -> Case:
    """Without the state that nothing touches, then without what isn't needed either."""
    gas_state = case.gas.initial_state()
    touched: set[bytes] = set()
    for block in case.inputs():
        touched |= set(block_keys(block.transactions, case.gas, gas_state))
    near = attrs.evolve(case, state={key: v for key, v in case.state.items() if key in touched})
    if near != case and fails(near):
        case = near
    entries = fewer(list(case.state.items()), lambda some: fails(attrs.evolve(case, state=dict(some))))
    return attrs.evolve(case, state=dict(entries))


def literal(case: Case) -> str:
    """Python that runs the case again."""
    blocks = "".join(
        f"        Block({block.height}, ({''.join(f'{data!r}, ' for data in block.transactions)}), "
        f"{block.executed!r}, {block.epoch}),\n"
        for block in case.blocks
    )
    entries = "".join(f"        {key!r}: {value!r},\n" for key, value in case.state.items())
    return (
        "from supervm.types.limits import Limits\n"
        "from supervm.types.validators import Validator, ValidatorSet\n"
        "from tests.differential.case import Block, Case, difference\n\n"
        f"case = Case(\n    {case.price}, {case.collector!r},\n    {case.limits!r},\n"
        f"    {{\n{entries}    }},\n    (\n{blocks}    ),\n    {case.chance},\n    {case.granted!r},\n)\n"
        "print(difference(case) or 'equal')\n"
    )


__all__ = ["Block", "Case", "fewer", "literal", "reduce_case"]
