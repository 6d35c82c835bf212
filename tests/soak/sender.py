"""A client that pays without end, in a process of its own, and writes down what the node acknowledged.

    python -m tests.soak.sender --api URL --keys FILE --chain ID --rate N --log FILE

A transaction counts as acknowledged when the node shows it in a block: the log gets a line for each block
seen. Whatever happens to the node, the same bytes are sent until a block holds them. When stdin ends, no
more are made; the last line on stdout, once all are in blocks, is what was done.
"""

import argparse
import json
import random
import select
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import attrs

from supervm.client.http import NodeClient, NodeUnreachable, RequestRefused
from supervm.crypto.keys import KeyPair
from tests.e2e.harness import Wallet

AHEAD = 32
"""Transactions of one key that wait at a time; a node takes 64."""
REQUEST = 256
BLOCKS_A_REQUEST = 16
IDLE_S = 0.01
TROUBLE_S = 0.1
AGAIN_S = 5.0
"""After so long without a block, send again what the node was thought to have."""
NEW_ACCOUNT = 8
"""One payment in so many goes to an account that isn't there yet."""
AMOUNT_MAX = 1_000
BASE_PRICE = 10_000
PASSES = frozenset({"NonceUsed", "AlreadyExecuted", "NonceGap"})
"""Refusals of a transaction that a block holds, or whose forerunner was lost with the node."""


class Rejected(Exception):
    """The node refused a good transaction for good, or showed one in two blocks."""


@attrs.define
class Sender:
    """What waits, in the order made, and where the chain was last seen."""

    client: NodeClient
    wallets: list[Wallet]
    rate: float
    dice: random.Random
    log: TextIO
    waiting: dict[str, bytes] = attrs.Factory(dict)
    owner: dict[str, Wallet] = attrs.Factory(dict)
    ahead: dict[bytes, int] = attrs.Factory(dict)
    posted: set[str] = attrs.Factory(set)
    next_height: int = 1
    made: int = 0
    committed: int = 0
    lost: int = 0
    pause: threading.Event = attrs.Factory(threading.Event)
    began_s: float = attrs.Factory(time.monotonic)
    moved_s: float = attrs.Factory(time.monotonic)

    def make(self) -> bool:
        """Sign what the rate allows; whether there was any."""
        due = int((time.monotonic() - self.began_s) * self.rate) - self.made
        free = [each for each in self.wallets if self.ahead.get(each.address, 0) < AHEAD]
        self.dice.shuffle(free)
        for wallet in free[: min(due, REQUEST)]:
            other = self.dice.choice(self.wallets).address
            to = self.dice.randbytes(32) if self.dice.randrange(NEW_ACCOUNT) == 0 else other
            paid = wallet.pay((to, self.dice.randint(1, AMOUNT_MAX)))
            digest = f"0x{paid.digest.hex()}"
            self.waiting[digest], self.owner[digest] = paid.data, wallet
            self.ahead[wallet.address] = self.ahead.get(wallet.address, 0) + 1
            self.made += 1
        return due > 0 and bool(free)

    def post(self) -> bool:
        """Send what the node doesn't have; whether there was any."""
        if time.monotonic() - self.moved_s > AGAIN_S:
            self.moved_s = time.monotonic()
            self.posted.clear()
        digests = [digest for digest in self.waiting if digest not in self.posted][:REQUEST]
        if not digests:
            return False
        sent = self.client.send([self.waiting[digest] for digest in digests])
        for digest, refusal in zip(digests, sent.refusals, strict=True):
            if refusal is None:
                self.posted.add(digest)
            elif refusal.retry_after_s is None and refusal.code not in PASSES:
                raise Rejected(f"{digest}: {refusal.code}: {refusal.text}")
        return all(refusal is None for refusal in sent.refusals)

    def follow(self) -> bool:
        """Write down the blocks that came; whether there were any."""
        blocks = self.client.get("/v1/blocks", **{"from": self.next_height, "limit": BLOCKS_A_REQUEST})
        for block in blocks["blocks"]:
            self._saw(int(block["header"]["height"]), block)
        return bool(blocks["blocks"])

    def _saw(self, height: int, block: dict[str, Any]) -> None:
        if height != self.next_height:
            raise Rejected(f"block {height} after {self.next_height - 1}")
        self.next_height, self.moved_s = height + 1, time.monotonic()
        for digest in block["transactions"]:
            wallet = self.owner.pop(digest, None)
            if wallet is None:
                raise Rejected(f"{digest} of block {height} was in a block before, or was never sent")
            self.ahead[wallet.address] -= 1
            del self.waiting[digest]
            self.posted.discard(digest)
            self.committed += 1
        line = {"height": height, "digest": block["digest"], "transactions": block["transactions"]}
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()

    def turn(self, stopping: bool) -> None:
        """One round: make, send, look at the chain; a pause where there was nothing to do."""
        made = not stopping and self.make()
        try:
            busy = self.post() | self.follow()
        except NodeUnreachable:
            self.lost += bool(self.posted)
            self.posted.clear()
            self.pause.wait(TROUBLE_S)
        except RequestRefused as refused:
            # Full, draining or not open yet: any of it passes.
            if refused.status not in (429, 503):
                raise
            self.pause.wait(min(refused.retry_after_s or TROUBLE_S, 1.0))
        else:
            if not (made or busy):
                self.pause.wait(IDLE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api", required=True)
    parser.add_argument("--keys", required=True, type=Path)
    parser.add_argument("--chain", required=True)
    parser.add_argument("--rate", required=True, type=float)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--log", required=True, type=Path)
    asked = parser.parse_args()
    chain_id = bytes.fromhex(asked.chain)
    keys = [KeyPair(suite, bytes.fromhex(secret)) for suite, secret in json.loads(asked.keys.read_text())]
    wallets = [Wallet(key, chain_id, BASE_PRICE) for key in keys]
    dice = random.Random(asked.seed)
    with NodeClient(asked.api) as client, asked.log.open("w") as log:
        sender = Sender(client, wallets, asked.rate, dice, log)
        stopping = False
        while not stopping or sender.waiting:
            stopping = stopping or bool(select.select([sys.stdin], [], [], 0)[0])
            sender.turn(stopping)
    facts = {"made": sender.made, "committed": sender.committed, "lost": sender.lost}
    print(json.dumps(facts | {"height": sender.next_height - 1}), flush=True)


if __name__ == "__main__":
    main()
