"""Transactions on stakes, good and bad, in an order that is mostly good."""

import random

import attrs

from supervm.execution.election import MINIMUM_COINS
from supervm.types.address import Suite, address_of
from supervm.types.codec import U128_MAX
from supervm.types.errors import DecodeError
from supervm.types.operations import (
    Operation,
    Output,
    StakeAdd,
    StakeLeave,
    StakeWithdraw,
    Transfer,
    encode_operations,
)
from supervm.types.stakes import ESCROW
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Authorization, Lane, Transaction, encode_transaction
from tests.differential.making import Maker

UNIT = MINIMUM_COINS * 10**6
"""Of these worlds' native token, which has six decimals."""


class Stakers:
    """Some keys, by draws of their own, so that the rest of a world is as it would be without."""

    def __init__(self, chance: random.Random, count: int = 12) -> None:
        self.chance = chance
        self.keys = [chance.randbytes(32) for _ in range(count)]
        self.counts: tuple[int, ...] = (0, 0, 1, 2, 6)

    def transactions(self, maker: Maker, epoch: int) -> list[Transaction]:
        """A few for a block, perhaps none. What the limits of a world refuse is left out."""
        made: list[Transaction] = []
        for _ in range(self.chance.choice(self.counts)):
            key = self.chance.choice(self.keys)
            try:
                made.append(self.transaction(maker, key, epoch))
            except DecodeError:
                continue
        return made

    def transaction(self, maker: Maker, key: bytes, epoch: int) -> Transaction:
        """Of a key's account. Raises `DecodeError` beyond the limits."""
        chance = self.chance
        count = chance.choice((1, 1, 1, 2, 3))
        operations = [self.operation() for _ in range(count)]
        sender = address_of(Suite.ED25519, key)
        lane = chance.choice((Lane.AUTO, Lane.AUTO, Lane.ORDERED, Lane.FAST))
        body = maker.body(maker.people[0], (), operations)
        body = attrs.evolve(
            body,
            sender=sender,
            fee_payer=sender,
            nonce=maker.nonce(sender),
            lane=lane,
            expiry_epoch=0,
            gas_limit=chance.choice((10**6, 10**6, 10**6, chance.randrange(12_000, 40_000))),
            payload=encode_operations(operations),
        )
        suite, shown = chance.choice(((1, key),) * 12 + ((2, b"\x02" + key),))
        made = Transaction.decode(
            encode_transaction(body.encode(), [Authorization(suite, shown, bytes(64))]), maker.limits
        )
        maker.nonces[sender] = body.nonce + 1
        return made

    def operation(self) -> Operation:
        chance = self.chance
        match chance.randrange(10):
            case 0 | 1 | 2:
                units = chance.choice((1, 1, 2, 9, 2**40))
                return StakeAdd(units * UNIT + chance.choice((0, 0, 1, -1)))
            case 3:
                return StakeAdd(chance.choice((0, 1, U128_MAX)))
            case 4 | 5:
                return StakeLeave()
            case 6 | 7 | 8:
                return StakeWithdraw()
        return Transfer(NATIVE_TOKEN, (Output(chance.choice((ESCROW, chance.randbytes(32))), 5),))
