"""A node under load for a long time, killed and started again: nothing is lost, nothing grows (OBS-75..78).

    SOAK_SECONDS=14400 pytest tests/soak        (or: tox -e soak)

SOAK_SECONDS: how long (20). SOAK_PERIOD: seconds between two kills (a quarter of it, 5 to 600).
SOAK_RATE: transfers a second (300). SOAK_SEED: of the payments and the moments of the kills (1).

The node's caches are made small, so that they are full within seconds: what still grows after that is a
leak. At the end the chain is read back without a node.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.execution.supply import recorded_supply, supply
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy
from supervm.plugins.storage.rocksdb import RocksdbConfig, rocksdb
from supervm.storage.ledger import Ledger, open_ledger
from supervm.testing.context import opened
from supervm.types.genesis_json import load_genesis
from supervm.types.receipt import Status
from supervm.types.state import ACCOUNT, BALANCE, TOKEN
from tests import needs
from tests.e2e.harness import Chain, Node, environment, new_chain, running, until, verb
from tests.soak.watching import Sample, Stream, first_and_last, sample, settled

pytest.importorskip("rocksdict")
pytestmark = [
    pytest.mark.slow,
    needs.linux,
]

ROOT = Path(__file__).parents[2]
MIB = 2**20
ACCOUNTS = 64
EVERY_S = 0.5
DRAIN_S = 120.0
GROWTH_BYTES_MAX = 32 * MIB
GROWTH_SHARE_MAX = 0.10
FILES_GROWTH_MAX = 32
SMALL = {
    "application.ledger.page_cache_bytes": 2 * MIB,
    "application.ledger.state_cache_bytes": MIB,
    "application.ledger.signatures_remembered": 1_024,
    "storage.rocksdb.cache_bytes": 4 * MIB,
    "storage.rocksdb.write_buffer_bytes": 4 * MIB,
}


@attrs.frozen
class Plan:
    """How long, how often killed, how hard; from the environment."""

    seconds: float
    period_s: float
    rate: float
    seed: int

    @classmethod
    def asked(cls) -> "Plan":
        seconds = float(os.environ.get("SOAK_SECONDS", "20"))
        period_s = float(os.environ.get("SOAK_PERIOD", min(600.0, max(5.0, seconds / 4))))
        rate = float(os.environ.get("SOAK_RATE", "300"))
        return cls(seconds, period_s, rate, int(os.environ.get("SOAK_SEED", "1")))


@attrs.define
class Soaked:
    """What a soak saw."""

    samples: list[Sample]
    stream: Stream
    sender: dict[str, Any]
    kills: int
    data: Path


@contextmanager
def sending(chain: Chain, url: str, plan: Plan, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The sender, from the start of the block; it has ended at the end, whatever happens."""
    keys = folder / "sender-keys.json"
    keys.write_text(json.dumps([(key.suite, key.secret.hex()) for key in chain.keys]))
    arguments = ["--api", url, "--keys", str(keys), "--chain", chain.chain_id.hex()]
    arguments += ["--rate", str(plan.rate), "--seed", str(plan.seed), "--log", str(folder / "acknowledged")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.sender", *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def reading(url: str) -> Iterator[Stream]:
    """A reader of the event stream for the length of the block."""
    stream, stop = Stream(), threading.Event()
    thread = threading.Thread(target=stream.read, args=(url, stop), daemon=True)
    thread.start()
    try:
        yield stream
    finally:
        stop.set()
        thread.join(120)
    assert not thread.is_alive(), "the stream of a node that ended has ended"


@attrs.define
class Lives:
    """The node's lives one after another, and what is seen of its process in them."""

    plan: Plan
    chain: Chain
    sender: subprocess.Popen[str]
    began_s: float = attrs.Factory(time.monotonic)
    samples: list[Sample] = attrs.Factory(list)
    kills: int = 0

    def live(self, node: Node, born_s: float, until_s: float) -> None:
        """Ask the node what clients ask, and sample it, until a moment."""
        pause = threading.Event()
        while time.monotonic() < until_s:
            key = self.chain.keys[len(self.samples) % ACCOUNTS]
            address = f"0x{key.address.hex()}"
            for path in ("/metrics", "/summary", f"/v1/accounts/{address}", f"/v1/proofs/{address}"):
                assert node.get(path).status_code == 200, path
            assert self.sender.poll() is None, self.sender.communicate()
            now_s = time.monotonic()
            self.samples.append(sample(node.process.pid, now_s - self.began_s, now_s - born_s, self.kills))
            pause.wait(EVERY_S)


def soak(folder: Path, chain: Chain, plan: Plan, port: int) -> Soaked:
    """Run the plan: lives of the node that end with a kill, and a last one that ends in order."""
    dice = random.Random(plan.seed)
    data, url = chain.folder(folder / "node"), f"http://127.0.0.1:{port}"
    flags = ["--genesis", str(chain.genesis), "--set", "storage.use=rocksdb"]
    flags += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    with sending(chain, url, plan, folder) as sender, reading(url) as stream:
        lives = Lives(plan, chain, sender)
        ends_s = lives.began_s + plan.seconds
        while True:
            with running(data, *flags, api=f"127.0.0.1:{port}") as node:
                born_s = time.monotonic()
                dies_s = born_s + plan.period_s * dice.uniform(0.9, 1.1)
                # However long a slow machine takes to begin, one life ends with a kill.
                last = lives.kills > 0 and dies_s >= ends_s - plan.period_s / 2
                lives.live(node, born_s, ends_s if last else dies_s)
                if last:
                    told = finish(sender, stream)
                else:
                    node.kill()
                    lives.kills += 1
            if last:
                return Soaked(lives.samples, stream, told, lives.kills, data)


def finish(sender: subprocess.Popen[str], stream: Stream) -> dict[str, Any]:
    """Let the sender see all that it sent in blocks, and the stream all blocks; what the sender tells."""
    out, err = sender.communicate(timeout=DRAIN_S)
    assert sender.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    until(lambda: (stream.height or 0) >= told["height"], "the stream has every block")
    return told


async def read_back(chain: Chain, data: Path, acknowledged: Path) -> dict[str, int]:
    """Open the chain without a node: every acknowledged transaction committed where it was seen, once.

    Gives the counts; the balances of the whole state are what the tokens' records say.
    """
    gas = FlatPolicy(FlatConfig())
    state = gas.initial_state()
    genesis = load_genesis(chain.genesis.read_bytes())
    store_at = RocksdbConfig(path=str(data / "storage" / "rocksdb"))
    checked = 0
    async with (
        opened(rocksdb, data / "storage" / "rocksdb", store_at) as store,
        open_ledger(store, genesis, state, gas.base_price(state)) as ledger,
    ):
        with acknowledged.open() as lines:
            for line in lines:
                seen = json.loads(line)
                block = await ledger.block(seen["height"])
                receipts = await ledger.receipts(seen["height"])
                assert block is not None
                assert f"0x{block.digest().hex()}" == seen["digest"], seen["height"]
                assert receipts is not None
                assert [f"0x{each.digest.hex()}" for each in receipts] == seen["transactions"]
                assert all(each.status is Status.COMMITTED for each in receipts), seen["height"]
                checked += len(receipts)
        entries = await whole_state(ledger)
        assert supply(entries) == recorded_supply(entries), "units were made or lost"
        return {"checked": checked, "height": ledger.tip.height, "entries": len(entries)}


async def whole_state(ledger: Ledger) -> dict[bytes, bytes]:
    """All accounts, balances and tokens."""
    entries: dict[bytes, bytes] = {}
    for prefix in (ACCOUNT, BALANCE, TOKEN):
        after = b""
        while page := await ledger.scan_state(prefix, after=after):
            entries.update(page)
            after = page[-1][0]
    return entries


def growth(samples: list[Sample]) -> tuple[float, float, float, float]:
    """Memory and files, each in the first and the last quarter."""
    return (
        *first_and_last([float(each.rss_bytes) for each in samples]),
        *first_and_last([float(each.files) for each in samples]),
    )


def is_flat(samples: list[Sample]) -> bool:
    rss, rss_last, files, files_last = growth(samples)
    bound = max(GROWTH_BYTES_MAX, GROWTH_SHARE_MAX * rss)
    return rss_last - rss <= bound and files_last - files <= FILES_GROWTH_MAX


def test_a_node_under_load_that_is_killed_again_and_again_loses_nothing_and_does_not_grow(
    tmp_path: Path,
    unused_port: int,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = Plan.asked()
    chain = new_chain(tmp_path, ACCOUNTS)
    found = soak(tmp_path, chain, plan, unused_port)
    counts = trio.run(read_back, chain, found.data, tmp_path / "acknowledged")
    verified = verb("verify", "--data", found.data, "--json", limit_s=max(120.0, plan.seconds))
    assert verified.code == 0, verified.err

    whole, late = growth(found.samples), growth(settled(found.samples))
    figures = {
        "seconds": plan.seconds,
        "kills": found.kills,
        "transactions": counts["checked"],
        "committed_a_second": round(counts["checked"] / plan.seconds, 1),
        "height": counts["height"],
        "state_entries": counts["entries"],
        "rss_mib_quarters": [round(value / MIB, 1) for value in whole[:2]],
        "rss_mib_max": round(max(each.rss_bytes for each in found.samples) / MIB, 1),
        "settled_life_rss_mib": [round(value / MIB, 1) for value in late[:2]],
        "files_quarters": list(whole[2:]),
        "events": found.stream.events,
        "event_gaps": found.stream.gaps,
        "event_blocks_missed": found.stream.blocks_missed,
    }
    for name, value in figures.items():
        record_property(name, value)
    with capsys.disabled():
        print("\n  soak: " + json.dumps(figures))

    assert found.sender["committed"] == found.sender["made"] == counts["checked"] > 0
    assert json.loads(verified.out)["verified"] is True
    assert found.kills >= 1
    assert found.stream.problems == []
    assert found.stream.gaps >= 1
    assert found.stream.height is not None
    assert found.stream.height >= found.sender["height"]
    assert is_flat(found.samples), whole
    assert is_flat(settled(found.samples)), late
