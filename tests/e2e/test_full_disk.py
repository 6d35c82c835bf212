"""A full disk stops a node with a clear cause until there is room, and takes nothing that was acknowledged.

The disk is a small tmpfs in a mount namespace of its own, which ends with its holder: nothing is left
mounted, whatever happens.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import httpx
import pytest

from supervm.types.operations import ObjectCreate
from supervm.types.state import OwnerKind
from supervm.types.transaction import Transaction
from tests.e2e.harness import (
    ANY_PORT,
    COINS,
    Chain,
    Node,
    Wallet,
    new_chain,
    no_traceback,
    refused,
    running,
    until,
    verb,
)

BACKENDS = ("rocksdb", pytest.param("sqlite", marks=pytest.mark.slow))
MIB = 2**20
NO_STEPS = ("application.ledger.disk_full_bytes=0", "application.ledger.disk_tight_bytes=0")


@attrs.frozen
class Disk:
    """`path` as those inside see it, `seen` the same place as we see it, `inside` how to get inside."""

    path: Path
    seen: Path
    inside: tuple[str, ...]

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave about so many bytes free."""
        ballast = self.seen / "ballast"
        with ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(MIB // 4))
            except OSError:
                pass
        size = ballast.stat().st_size
        with ballast.open("ab") as file:
            file.truncate(max(0, size - leave_bytes))

    def empty(self) -> None:
        (self.seen / "ballast").unlink()


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Disk]:
    """A disk of that size at `path`, for those inside; skips the test where nothing may be mounted."""
    path.mkdir()
    script = f"mount -t tmpfs -o size={size_bytes},mode=700 tmpfs '{path}' && echo mounted && exec cat"
    try:
        holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    assert holder.stdin is not None and holder.stdout is not None
    try:
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip("this system lets the user mount nothing")
        enter = ("nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials")
        yield Disk(path, Path(f"/proc/{holder.pid}/root{path}"), enter)
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait()


def objects(wallet: Wallet, count: int) -> list[Transaction]:
    """Transactions that need room: each stores 20 kB."""
    create = ObjectCreate(1, OwnerKind.OWNED, wallet.address, bytes(20_000))
    return [wallet.sign(wallet.body(create)) for _ in range(count)]


def committed(node: Node, transactions: list[Transaction]) -> list[Transaction]:
    statuses = [node.client.transaction(f"0x{each.digest.hex()}")["status"] for each in transactions]
    return [each for each, status in zip(transactions, statuses, strict=True) if status == "committed"]


def fill_with_blocks(node: Node, wallet: Wallet) -> tuple[list[Transaction], list[Transaction]]:
    """(committed, the rest) of what was sent, a few at a time, until the disk took no more."""
    sent: list[Transaction] = []
    done: list[Transaction] = []
    while len(done) == len(sent):
        assert len(sent) < 1_000, "the disk took everything"
        more = objects(wallet, 4)
        sent += more
        node.send(*more)
        until(lambda wanted=more: committed(node, wanted) == wanted or not_ready(node), "a block, or no room")
        done += committed(node, more)
    return done, [each for each in sent if each not in done]


def not_ready(node: Node) -> httpx.Response | None:
    """The answer of a node that isn't ready because its disk is full."""
    answer = node.get("/readyz")
    return answer if answer.status_code == 503 and "full" in answer.text else None


def waits(node: Node, *components: str) -> httpx.Response | None:
    """The answer of a node that isn't ready, once each of these has found that it waits for room."""
    answer = not_ready(node)
    return answer if answer and all(f"{each} waits" in answer.text for each in components) else None


def none_taken(node: Node, transaction: Transaction) -> None:
    """A transaction is refused with a problem that says why, and when to come again."""
    answer = node.post(transaction.data)
    assert (answer.status_code, answer.json()["code"]) == (503, "DiskNearlyFull"), answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert node.client.transaction(f"0x{transaction.digest.hex()}")["status"] == "unknown"


def told(node: Node) -> list[str]:
    """What its log says of the room on its disk."""
    events = ("disk_tight", "disk_full", "disk_has_room", "blocks_wait_for_room", "blocks_go_on")
    lines = [line.split() for line in node.said().splitlines()]
    return [word for line in lines for word in line[:5] if word in events]


def restarts(node: Node) -> int:
    """How often the kernel opened any component again."""
    plugins = node.get("/v1/plugins").json()["plugins"]
    return sum(component["restarts"] for plugin in plugins for component in plugin["components"])


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return new_chain(tmp_path, accounts=2, coins=10**6)


def flags_of(chain: Chain, backend: str, *more: str) -> tuple[str, ...]:
    """Disk and health are looked at often, so that nobody has to wait for it."""
    settings = (
        f"storage.use={backend}",
        "plugins.health_interval_s=0.2",
        "application.ledger.disk_look_s=0.1",
        *more,
    )
    return ("--genesis", str(chain.genesis), *(word for each in settings for word in ("--set", each)))


def whole(disk: Disk, node: Node, chain: Chain, payments: list[int]) -> None:
    """Nothing of these payments was lost, or made twice, and the chain is what its blocks make of it."""
    receiver = chain.wallet(1)
    assert node.balance(receiver.address) == 10**6 * COINS + sum(payments)
    status = node.client.get("/v1/status")
    node.stop()
    checked = verb("verify", "--data", disk.path / "data", "--json", inside=disk.inside)
    assert checked.code == 0, checked
    assert int(json.loads(checked.out)["height"]) >= int(status["height"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_before_its_disk_is_full_a_node_takes_nothing_more_and_goes_on_by_itself_when_there_is_room(
    backend: str, chain: Chain, tmp_path: Path
) -> None:
    """Default bounds: on so small a disk, 16 MiB above the 64 that the store keeps free."""
    with small_disk(tmp_path / "disk", 112 * MIB) as disk:
        chain.folder(disk.seen / "data")
        with running(disk.path / "data", *flags_of(chain, backend), inside=disk.inside) as node:
            wallet, to = chain.wallet(0), chain.wallet(1).address
            node.commit(wallet.pay((to, 5)))
            disk.fill(leave_bytes=75 * MIB)
            answer = until(lambda: not_ready(node), "the node says that it isn't ready")
            for words in ("application ledger waits", "nearly full", "bytes free", "goes on by itself"):
                assert words in answer.text, answer.text
            later = wallet.pay((to, 7))
            none_taken(node, later)
            # Reading goes on, and so does the node; it was told once.
            assert node.account(wallet.address)["nonce"] == "1"
            assert told(node) == ["disk_full"]
            disk.empty()
            until(node.client.ready, "the node is ready again")
            node.commit(later)
            assert told(node) == ["disk_full", "disk_has_room"]
            whole(disk, node, chain, [5, 7])


@pytest.mark.parametrize("backend", BACKENDS)
def test_below_the_reserve_blocks_wait_and_go_on_when_there_is_room(
    backend: str, chain: Chain, tmp_path: Path
) -> None:
    """The store keeps 64 MiB free, so the disk itself never refuses anything; nobody steps back before."""
    flags = flags_of(chain, backend, *NO_STEPS)
    with small_disk(tmp_path / "disk", 112 * MIB) as disk:
        chain.folder(disk.seen / "data")
        with running(disk.path / "data", *flags, inside=disk.inside) as node:
            wallet, to = chain.wallet(0), chain.wallet(1).address
            first = wallet.pay((to, 5))
            node.commit(first)
            disk.fill(leave_bytes=60 * MIB)
            more = [wallet.pay((to, amount)) for amount in (7, 11, 13)]
            node.send(*more)
            answer = until(
                lambda: waits(node, "application ledger", "consensus solo"), "both say that they wait"
            )
            for words in ("the disk is full", str(disk.path), "Free some"):
                assert words in answer.text, answer.text
            assert committed(node, [first, *more]) == [first]
            # Meanwhile its health is asked ten times, and no component is opened again for what it says.
            assert node.client.transaction(f"0x{more[0].digest.hex()}", wait=2)["status"] == "pending"
            assert not_ready(node)
            assert told(node) == ["disk_full", "blocks_wait_for_room"]
            none_taken(node, wallet.pay((to, 1), nonce=wallet.nonce))
            assert node.account(wallet.address)["nonce"] == "1"
            disk.empty()
            for each in more:
                assert node.outcome(each)["status"] == "committed"
            until(node.client.ready, "the node is ready again")
            assert sorted(told(node)[2:]) == ["blocks_go_on", "disk_has_room"]
            assert restarts(node) == 0
            whole(disk, node, chain, [5, 7, 11, 13])


@pytest.mark.parametrize("backend", [*BACKENDS, pytest.param("lmdb", marks=pytest.mark.slow)])
def test_a_disk_full_to_the_last_byte_loses_nothing_and_the_node_goes_on_without_a_restart(
    backend: str, chain: Chain, tmp_path: Path
) -> None:
    """Without a reserve the disk itself says no, in the middle of whatever the backend does."""
    # What the disk refuses is a block of what was sent, not an empty one.
    steps = (*NO_STEPS, "consensus.solo.idle_blocks=false")
    flags = flags_of(chain, backend, f"storage.{backend}.free_bytes_min=0", *steps)
    wallet, payer = chain.wallet(0), chain.wallet(1)
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        chain.folder(disk.seen / "data")
        with running(disk.path / "data", *flags, inside=disk.inside) as node:
            node.commit(*objects(wallet, 4))
            disk.fill(leave_bytes=MIB)
            done, rest = fill_with_blocks(node, wallet)
            assert rest
            until(lambda: not_ready(node), "it says that the disk is full")
            none_taken(node, payer.pay((wallet.address, 3), nonce=0))
            disk.empty()
            for each in rest:
                assert node.outcome(each)["status"] == "committed"
            until(node.client.ready, "the node is ready again")
            assert committed(node, done) == done
            node.commit(payer.pay((wallet.address, 3)))
            assert int(node.account(wallet.address)["nonce"]) == wallet.nonce
            assert restarts(node) == 0
            node.stop()
        assert verb("verify", "--data", disk.path / "data", inside=disk.inside).code == 0


def test_a_first_run_on_a_full_disk_says_so_and_a_later_one_is_good(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16 * MIB) as disk:
        data = disk.path / "data"
        once = (
            "run",
            "--data",
            data,
            "--api",
            ANY_PORT,
            "--once",
            "--set",
            "storage.rocksdb.free_bytes_min=0",
        )
        for left_bytes in (0, 4_096, 12_288):
            disk.fill(left_bytes)
            said = refused(1, *once, inside=disk.inside)
            assert "pace" in said, said
            disk.empty()
        # Here there is room for the chain and none to close the store tidily: its log has all, so it's good.
        disk.fill(65_536)
        ended = verb(*once, inside=disk.inside)
        assert "No space left" in ended.err or "the disk is full" in ended.err, ended
        no_traceback(ended.err)
        disk.empty()
        assert verb(*once, inside=disk.inside).code == 0
        assert verb("verify", "--data", data, inside=disk.inside).code == 0
