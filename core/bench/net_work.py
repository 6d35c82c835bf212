"""The work of `net-4`: accounts with native coins, and signed transfers among them, the same for one seed."""

import random
from collections.abc import Callable, Sequence

import attrs

from supervm.bench.workload import PRICE, account_key
from supervm.client.build import body_of
from supervm.crypto.keys import KeyPair
from supervm.types.operations import Output, Transfer
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Lane, build

SEED = b"supervm/bench/net/"
FUNDS = 10**12
AMOUNT_MAX = 1_000


@attrs.frozen
class Payment:
    """From and to are numbers of accounts; `nonce` counts the sender's own."""

    sender: int
    to: int
    amount: int
    nonce: int


def keys_of(accounts: int) -> list[KeyPair]:
    return [account_key(SEED, number.to_bytes(4, "little")) for number in range(accounts)]


def payments_of(accounts: int, count: int, seed: int) -> list[Payment]:
    """Each account pays in its turn, so that two of one sender are as far apart as can be."""
    chance = random.Random(seed)
    return [
        Payment(at % accounts, chance.randrange(accounts), chance.randint(1, AMOUNT_MAX), at // accounts)
        for at in range(count)
    ]


def sign_payments(
    payments: Sequence[Payment],
    keys: Sequence[KeyPair],
    chain_id: bytes,
    lane: Lane,
    progress: Callable[[int], object] = lambda _: None,
) -> list[bytes]:
    """The canonical bytes of each. `progress` is told of each one done."""
    addresses = [key.address for key in keys]
    signed = []
    for each in payments:
        key = keys[each.sender]
        body = body_of(
            [Transfer(NATIVE_TOKEN, (Output(addresses[each.to], each.amount),))],
            chain_id=chain_id,
            sender=addresses[each.sender],
            suite=key.suite,
            nonce=each.nonce,
            base_price=PRICE,
            lane=lane,
        )
        signed.append(build(body, [key]).data)
        progress(1)
    return signed


def expected(payments: Sequence[Payment], accounts: int, fee: int) -> list[tuple[int, int]]:
    """(nonce, balance) of each account once every payment is made, at one fee for each."""
    nonces, balances = [0] * accounts, [FUNDS] * accounts
    for each in payments:
        nonces[each.sender] += 1
        balances[each.sender] -= each.amount + fee
        balances[each.to] += each.amount
    return list(zip(nonces, balances, strict=True))
