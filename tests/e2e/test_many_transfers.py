"""Thousands of payments from a sender of its own: all in blocks, and not one coin more or less."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from supervm.types.codec import pack_transactions
from supervm.types.operations import Output, TokenCreate, Transfer
from supervm.types.state import token_id
from supervm.types.transaction import Transaction
from tests.e2e.harness import COINS, NATIVE, Node, Wallet, new_chain, running, verb

ACCOUNTS = 50
EACH_COINS = 1_000
SUPPLY = 10**15


def payments(wallets: list[Wallet], token: bytes, each: int, chance: random.Random) -> list[Transaction]:
    """`each` payments of every wallet to others, in native coins or in a token, interleaved by chance."""
    signed: list[list[Transaction]] = []
    for wallet in wallets:
        others = [other.address for other in wallets if other is not wallet]
        mine = []
        for _ in range(each):
            to, amount = chance.choice(others), chance.randrange(1, 10**6)
            if chance.random() < 0.3:
                mine.append(wallet.sign(wallet.body(Transfer(token, (Output(to, amount),)))))
            else:
                mine.append(wallet.pay((to, amount)))
        signed.append(mine)
    order = [index for index in range(len(wallets)) for _ in range(each)]
    chance.shuffle(order)
    return [signed[index].pop(0) for index in order]


def sums(node: Node, wallets: list[Wallet]) -> Counter[str]:
    """What all accounts hold together, by token."""
    total: Counter[str] = Counter()
    for wallet in wallets:
        total.update({name: int(text) for name, text in node.account(wallet.address)["balances"].items()})
    return total


@pytest.mark.parametrize("each", [40, pytest.param(160, marks=pytest.mark.slow)])
def test_every_payment_is_committed_and_every_token_conserved(each: int, tmp_path: Path) -> None:
    chain = new_chain(tmp_path, accounts=ACCOUNTS, coins=EACH_COINS)
    wallets = [chain.wallet(index) for index in range(ACCOUNTS)]
    with running(chain.folder(tmp_path / "data"), "--genesis", chain.genesis) as node:
        made = wallets[0].sign(wallets[0].body(TokenCreate(b"COIN", 0, SUPPLY, fixed=True)))
        node.commit(made)
        token = token_id(made.digest, 0)
        share = tuple(Output(wallet.address, SUPPLY // ACCOUNTS) for wallet in wallets[1:])
        spread = wallets[0].sign(wallets[0].body(Transfer(token, share)))
        node.commit(spread)

        sent = payments(wallets, token, each, random.Random(7))
        for first in range(0, len(sent), ACCOUNTS * 40):
            part = sent[first : first + ACCOUNTS * 40]
            file = tmp_path / f"signed-{first}"
            file.write_bytes(pack_transactions([one.data for one in part]))
            done = verb("tx", "submit", file, "--node", node.url, "--wait", "--json", limit_s=300)
            assert done.code == 0, done
            facts = json.loads(done.out)
            assert (facts["accepted"], facts["refused"]) == (len(part), 0), facts
            assert facts["statuses"] == {"committed": len(part)}, facts

        everything = [made, spread, *sent]
        fees = sum(int(node.outcome(one)["receipt"]["fee"]) for one in everything)
        held = sums(node, wallets)
        assert held == {
            NATIVE: ACCOUNTS * EACH_COINS * COINS - fees,
            f"0x{token.hex()}": SUPPLY,
        }
        native = node.client.get(f"/v1/tokens/{NATIVE}")
        assert int(native["supply"]) == held[NATIVE], "burned fees leave the supply"
        assert [node.account(each.address)["nonce"] for each in wallets] == [str(w.nonce) for w in wallets]
        # Every payment stands in exactly one block.
        seen: Counter[str] = Counter()
        for height in range(int(node.client.status()["height"]) + 1):
            seen.update(node.client.block(height)["transactions"])
        assert seen == Counter(f"0x{one.digest.hex()}" for one in everything)
    assert verb("verify", "--data", tmp_path / "data", limit_s=300).code == 0
