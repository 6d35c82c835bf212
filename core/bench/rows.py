"""Balances in key-value rows, moved by small transactions: the work of `txn-2r2w`, and its books."""

import random
from collections.abc import Mapping

import attrs

from supervm.bench.errors import CantMeasure

BALANCE = 1_000_000
AMOUNT = 1
VALUE_BYTES = 8

Move = tuple[bytes, bytes]
"""Who pays one unit, and who gets it."""


@attrs.frozen
class Moves:
    """One turn: transfers of one unit, and what every account must have after it."""

    moves: tuple[Move, ...]
    balances: Mapping[bytes, int]


def account_names(count: int) -> list[bytes]:
    """Keys of 12 bytes."""
    return [b"acct%08d" % at for at in range(count)]


def encode(balance: int) -> bytes:
    """8 bytes, little-endian: what a row holds."""
    return balance.to_bytes(VALUE_BYTES, "little")


class MoveBook:
    """Accounts, and turn after turn of random moves among them; it stands at the newest turn."""

    def __init__(self, accounts: int, a_turn: int, seed: int) -> None:
        if accounts < 2 or a_turn < 1:
            raise CantMeasure(f"{accounts} accounts and {a_turn} transactions: give at least 2 and 1")
        self.names = account_names(accounts)
        self.balances = dict.fromkeys(self.names, BALANCE)
        self._chance = random.Random(seed)
        self._a_turn = a_turn

    def next(self) -> Moves:
        """The next turn's moves. The books then stand after it."""
        moves = tuple(self._move() for _ in range(self._a_turn))
        for payer, payee in moves:
            self.balances[payer] -= AMOUNT
            self.balances[payee] += AMOUNT
        return Moves(moves, self.balances)

    def _move(self) -> Move:
        names, chance = self.names, self._chance
        first, second = chance.randrange(len(names)), chance.randrange(len(names) - 1)
        return names[first], names[second + (second >= first)]


class HotMoveBook(MoveBook):
    """Of whose moves `percent` have one of the first `hot` accounts on one side, either of them."""

    def __init__(self, accounts: int, a_turn: int, seed: int, hot: int, percent: int) -> None:
        super().__init__(accounts, a_turn, seed)
        self._hot, self._percent = hot, percent

    def _move(self) -> Move:
        names, chance, hot = self.names, self._chance, self._hot
        if chance.randrange(100) >= self._percent:
            return super()._move()
        pair = names[chance.randrange(hot)], names[chance.randrange(hot, len(names))]
        return pair if chance.randrange(2) else pair[::-1]


def wrong_balances(found: Mapping[bytes, int], wanted: Mapping[bytes, int]) -> str | None:
    """What differs from the books; None where nothing does."""
    if sum(found.values()) != sum(wanted.values()):
        return f"{sum(found.values())} in all accounts, {sum(wanted.values())} by the books"
    for key, balance in wanted.items():
        if found.get(key) != balance:
            return f"{key.decode()} has {found.get(key)}, {balance} by the books"
    return None if len(found) == len(wanted) else f"{len(found)} accounts, {len(wanted)} by the books"
