"""Conservation: of every token, the balances together are its supply (GAS-22)."""

from collections.abc import Iterable, Mapping

from supervm.execution.working import Value
from supervm.types.state import (
    ACCOUNT,
    BALANCE,
    NATIVE_TOKEN,
    TOKEN,
    Account,
    Token,
    decode_balance,
)


def check_conservation(changes: Iterable[tuple[bytes, Value, Value]]) -> None:
    """Assert that balances changed by what supplies changed, for each token.

    `changes` are (state key, value before, value now). It looks at what was changed, not at how, so that
    no operation can forget a unit.
    """
    surplus: dict[bytes, int] = {}
    for key, before, now in changes:
        if type(now) is Account:
            assert type(before) is Account
            token, change = NATIVE_TOKEN, now.balance - before.balance
        elif type(now) is int:
            assert type(before) is int
            token, change = key[33:], now - before
        elif type(now) is Token:
            assert before is None or type(before) is Token
            token, change = key[1:], (before.supply if before else 0) - now.supply
        else:
            continue
        surplus[token] = surplus.get(token, 0) + change
    broken = {token.hex(): change for token, change in surplus.items() if change}
    assert not broken, f"balances and supply changed apart, by base units: {broken}"


def supply(state: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """The sum of all balances of each token, in base units, over a whole state; zeros left out."""
    sums: dict[bytes, int] = {}
    for key, data in state.items():
        if key[:1] == ACCOUNT:
            token, amount = NATIVE_TOKEN, Account.decode(data).balance
        elif key[:1] == BALANCE:
            token, amount = key[33:], decode_balance(data)
        else:
            continue
        if amount:
            sums[token] = sums.get(token, 0) + amount
    return sums


def recorded_supply(state: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """What the tokens' records say their supply is; zeros left out. It equals `supply`, always."""
    records = {key[1:]: Token.decode(data).supply for key, data in state.items() if key[:1] == TOKEN}
    return {token: amount for token, amount in records.items() if amount}
