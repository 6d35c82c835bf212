"""However a node ends, what it acknowledged is there when it comes back.

SOAK_KILLS: how often it is killed under load (5).
"""

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from supervm.client.http import ClientError
from supervm.types.transaction import Transaction
from tests.e2e.harness import (
    COINS,
    NATIVE,
    Node,
    Wallet,
    dev_key,
    new_chain,
    no_traceback,
    running,
    started,
    until,
    verb,
    wait_ready,
)

RECEIVER = b"\x44" * 32
KILLS = int(os.environ.get("SOAK_KILLS", "5"))


def verifies(data: Path) -> None:
    """`verify` executes the folder's chain again and finds nothing wrong."""
    done = verb("verify", "--data", data)
    assert done.code == 0, done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains_and_exits_with_0(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path / "data", "--set", "logs.level=debug") as node:
        wallet = Wallet.at(node, dev_key(node.data))
        paid = wallet.pay((RECEIVER, 1))
        node.commit(paid)
        node.signal(number)
        assert node.wait() == 0, node.said()
        no_traceback(node.said())
        log = node.err.read_text()
        assert f"signal={number.name}" in log
        order = ["surface.http", "consensus.solo", "application.ledger", "storage.rocksdb"]
        places = [log.index(f"subject={part} old=serving new=draining") for part in order]
        assert places == sorted(places)
    with running(tmp_path / "data") as again:
        assert again.outcome(paid)["status"] == "committed"


def test_a_second_signal_ends_it_at_once_with_1(tmp_path: Path) -> None:
    """A plugin whose drain would take a minute is not waited for."""
    plugin = tmp_path / "slow_to_drain.py"
    plugin.write_text(SLOW_TO_DRAIN)
    flags = ("--plugin", "slow_to_drain", "--set", "privacy.use=none,slow")
    with running(tmp_path / "data", *flags, PYTHONPATH=str(tmp_path)) as node:
        node.signal(signal.SIGINT)
        until(lambda: "draining_slowly" in node.err.read_text(), "it drains")
        assert node.process.poll() is None
        node.signal(signal.SIGINT)
        assert node.wait() == 1, node.said()
        no_traceback(node.said())
        assert "stopped at once" in node.err.read_text()
    verifies(tmp_path / "data")


SLOW_TO_DRAIN = """
from contextlib import asynccontextmanager

import attrs
import trio

from supervm.api import Component, Role, hookimpl

@attrs.frozen
class Nothing:
    pass

class Scheme:
    name = "slow"
    payload_kinds = frozenset()

    def __init__(self, ctx):
        self.ctx = ctx

    async def drain(self, deadline):
        self.ctx.log.warning("draining_slowly")
        await trio.sleep(60)

@asynccontextmanager
async def open_scheme(ctx, config):
    yield Scheme(ctx)

@hookimpl
def supervm_components():
    yield Component(role=Role.PRIVACY, name="slow", open=open_scheme, config=Nothing)
"""


def acknowledged(node: Node, transactions: list[Transaction]) -> dict[bytes, int]:
    """The fees by digest of those that the node says are committed; no answer says nothing."""
    fees = {}
    for each in transactions:
        try:
            found = node.client.transaction(f"0x{each.digest.hex()}")
        except ClientError:
            return fees
        if found["status"] == "committed":
            fees[each.digest] = int(found["receipt"]["fee"])
    return fees


def kill_under_load(
    data: Path, flags: tuple[str | Path, ...], wallets: list[Wallet], kills: int, seed: int
) -> None:
    """Kill a node at random moments while payments arrive; look at what was acknowledged each time."""
    moments = random.Random(seed)
    paid: dict[bytes, list[Transaction]] = {each.address: [] for each in wallets}
    seen: set[bytes] = set()
    for life in range(kills + 1):
        with started(data, *flags) as node:
            wait_ready(node)
            with node.client:
                _check(node, wallets, paid, seen)
                if life == kills:
                    _finish(node, wallets, paid)
                    node.stop()
                    continue
                killer = threading.Timer(moments.uniform(0.02, 0.6), node.kill)
                killer.start()
                try:
                    _pay_until_killed(node, wallets, paid, seen)
                finally:
                    killer.join()


def _pay_until_killed(
    node: Node, wallets: list[Wallet], paid: dict[bytes, list[Transaction]], seen: set[bytes]
) -> None:
    while node.process.poll() is None:
        fresh = []
        for wallet in wallets:
            for _ in range(4):
                fresh.append(wallet.pay((RECEIVER, 1)))
                paid[wallet.address].append(fresh[-1])
        try:
            node.client.send([each.data for each in fresh])
        except ClientError:
            return
        seen.update(acknowledged(node, fresh))


def _check(node: Node, wallets: list[Wallet], paid: dict[bytes, list[Transaction]], seen: set[bytes]) -> None:
    """What was acknowledged is committed, once; nonces and balances tell of the same payments."""
    total = 0
    for wallet in wallets:
        signed = [each.digest for each in paid[wallet.address]]
        fees = acknowledged(node, paid[wallet.address])
        assert seen.intersection(signed) <= fees.keys()
        # What is in the chain is an unbroken beginning of what was signed.
        assert list(fees) == signed[: len(fees)]
        account = node.account(wallet.address)
        assert int(account["nonce"]) == len(fees)
        assert int(account["balances"][NATIVE]) == 1_000 * COINS - len(fees) - sum(fees.values())
        seen.update(fees)
        total += len(fees)
    assert node.balance(RECEIVER) == total


def _finish(node: Node, wallets: list[Wallet], paid: dict[bytes, list[Transaction]]) -> None:
    """Send again, as a sender must, whatever has no outcome; then all of it is in the chain."""
    for wallet in wallets:
        rest = paid[wallet.address][int(node.account(wallet.address)["nonce"]) :]
        for first in range(0, len(rest), 64):
            node.commit(*rest[first : first + 64])
    assert node.balance(RECEIVER) == sum(map(len, paid.values()))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["rocksdb", "sqlite"])
def test_what_was_acknowledged_outlives_a_kill_at_any_moment(backend: str, tmp_path: Path) -> None:
    chain = new_chain(tmp_path, accounts=4)
    data = chain.folder(tmp_path / "data")
    flags = ("--genesis", chain.genesis, "--set", f"storage.use={backend}")
    kill_under_load(data, flags, [chain.wallet(index) for index in range(4)], KILLS, seed=KILLS)
    verifies(data)
