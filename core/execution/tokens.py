"""Operations on balances and tokens. Only the sender is debited; credits commute and can't fail (EXEC-4)."""

import attrs

from supervm.execution.errors import Code, Failed
from supervm.execution.turn import Turn
from supervm.types.codec import U128_MAX
from supervm.types.operations import Burn, Mint, TokenCreate, Transfer
from supervm.types.state import NATIVE_TOKEN, TOKEN, Token, token_id

# Topics of events; the emitter is the token.
CREATED = b"token.created"
MINTED = b"token.minted"
BURNED = b"token.burned"


def transfer(turn: Turn, operation: Transfer, index: int) -> None:
    """Debit the sender by the sum of the outputs, then credit each output in order.

    An output to the sender, or two to one account, are outputs like any. A zero one credits nothing,
    and costs the same.
    """
    token, outputs = operation.token, operation.outputs
    if token != NATIVE_TOKEN:  # the native balance is in the account, which every transaction pays for
        turn.use_entry()
    turn.meter.use(turn.schedule.credit * len(outputs))
    debit(turn, token, sum([output.amount for output in outputs]))
    for output in outputs:
        turn.state.add(output.to, token, output.amount)


def create_token(turn: Turn, operation: TokenCreate, index: int) -> None:
    """Make a token named after the transaction and the operation; its supply goes to the sender."""
    turn.use_new_entry(len(operation.symbol))
    turn.meter.use(turn.schedule.credit)
    token = token_id(turn.transaction.digest, index)
    assert turn.state.token(token) is None, f"token id {token.hex()} is taken"
    record = Token(operation.symbol, operation.decimals, turn.sender, operation.fixed, operation.supply)
    turn.emit(token, CREATED, _amount(operation.supply))
    turn.state.write(TOKEN + token, record)
    turn.state.add(turn.sender, token, operation.supply)


def mint(turn: Turn, operation: Mint, index: int) -> None:
    """Raise the supply, within 128 bits, and credit it: the minter's right alone."""
    turn.use_entry()
    turn.meter.use(turn.schedule.credit)
    record = known_token(turn, operation.token)
    if record.fixed:
        raise Failed(Code.SUPPLY_FIXED, f"the supply of token 0x{operation.token.hex()} is fixed")
    if record.minter != turn.sender:
        raise Failed(Code.NOT_MINTER, f"only 0x{record.minter.hex()} mints token 0x{operation.token.hex()}")
    supply = record.supply + operation.amount
    if supply > U128_MAX:
        raise Failed(Code.SUPPLY_OVERFLOW, f"the supply would be {supply}, beyond 128 bits")
    turn.emit(operation.token, MINTED, operation.to + _amount(operation.amount))
    turn.state.write(TOKEN + operation.token, attrs.evolve(record, supply=supply))
    turn.state.add(operation.to, operation.token, operation.amount)


def burn(turn: Turn, operation: Burn, index: int) -> None:
    """Debit the sender and lower the supply."""
    if operation.token != NATIVE_TOKEN:
        turn.use_entry()
    turn.use_entry()
    record = known_token(turn, operation.token)
    turn.emit(operation.token, BURNED, turn.sender + _amount(operation.amount))
    debit(turn, operation.token, operation.amount)
    supply = record.supply - operation.amount
    assert supply >= 0, f"token {operation.token.hex()}: burned more than its supply"
    turn.state.write(TOKEN + operation.token, attrs.evolve(record, supply=supply))


def debit(turn: Turn, token: bytes, amount: int) -> None:
    """Take from the sender's balance, or fail; there is no other debit in an operation."""
    if amount > U128_MAX:
        raise Failed(Code.AMOUNT_OVERFLOW, f"the amounts add up to {amount}, beyond 128 bits")
    have = turn.state.balance(turn.sender, token)
    if have < amount:
        raise Failed(
            Code.INSUFFICIENT_FUNDS, f"{amount} of token 0x{token.hex()} are needed, {have} are there"
        )
    turn.state.add(turn.sender, token, -amount)


def _amount(amount: int) -> bytes:
    """An amount as it stands in an event: u128, little-endian."""
    return amount.to_bytes(16, "little")


def known_token(turn: Turn, token: bytes) -> Token:
    record = turn.state.token(token)
    if record is None:
        raise Failed(Code.TOKEN_UNKNOWN, f"there is no token 0x{token.hex()}")
    return record
