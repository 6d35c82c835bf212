"""A full disk stops blocks with a clear cause, and takes nothing that was acknowledged.

The disk is a small tmpfs in a mount namespace of its own, which ends with its holder: nothing is left
mounted, whatever happens.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import httpx
import pytest

from supervm.client.http import ClientError
from supervm.types.operations import ObjectCreate
from supervm.types.state import OwnerKind
from supervm.types.transaction import Transaction
from tests.e2e.harness import (
    ANY_PORT,
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
    """(acknowledged, the rest) of what was sent, a few at a time, until no more was committed."""
    sent: list[Transaction] = []
    done: list[Transaction] = []
    try:
        while len(done) == len(sent):
            assert len(sent) < 1_000, "the disk took everything"
            more = objects(wallet, 4)
            sent += more
            node.client.send([each.data for each in more])
            node.client.transaction(f"0x{more[-1].digest.hex()}", wait=3)
            done += committed(node, more)
    except ClientError:
        # It stopped by itself in the middle of the last few.
        assert node.wait() == 1, node.said()
    return done, [each for each in sent if each not in done]


def not_ready(node: Node) -> httpx.Response | None:
    """The answer of a node that isn't ready because its disk is full."""
    answer = node.get("/readyz")
    return answer if answer.status_code == 503 and "full" in answer.text else None


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return new_chain(tmp_path, accounts=1, coins=10**6)


def flags_of(chain: Chain, backend: str) -> tuple[str, ...]:
    """Health is looked at often, so that nobody has to wait for it."""
    settings = (f"storage.use={backend}", "plugins.health_interval_s=0.5")
    return ("--genesis", str(chain.genesis), *(word for each in settings for word in ("--set", each)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_below_the_reserve_blocks_wait_and_go_on_when_there_is_room(
    backend: str, chain: Chain, tmp_path: Path
) -> None:
    """Default options: 64 MiB are kept free, so the disk itself never refuses anything."""
    with small_disk(tmp_path / "disk", 96 * MIB) as disk:
        chain.folder(disk.seen / "data")
        with running(disk.path / "data", *flags_of(chain, backend), inside=disk.inside) as node:
            wallet = chain.wallet(0)
            first = objects(wallet, 4)
            node.commit(*first)
            disk.fill(leave_bytes=60 * MIB)
            more = objects(wallet, 4)
            node.send(*more)
            answer = until(lambda: not_ready(node), "the node says that it isn't ready")
            for words in ("the disk is full", str(disk.path), "Free some"):
                assert words in answer.text, answer.text
            assert committed(node, [*first, *more]) == first
            # Reading goes on, and sending again is harmless.
            assert node.account(wallet.address)["nonce"] == "4"
            node.send(*more)
            disk.empty()
            for each in more:
                assert node.outcome(each)["status"] == "committed"
            until(node.client.ready, "the node is ready again")
        assert verb("verify", "--data", disk.path / "data", inside=disk.inside).code == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_disk_full_to_the_last_byte_loses_nothing_that_was_acknowledged(
    backend: str, chain: Chain, tmp_path: Path
) -> None:
    """Without a reserve the disk itself says no, in the middle of whatever the backend does."""
    flags = (*flags_of(chain, backend), "--set", f"storage.{backend}.free_bytes_min=0")
    wallet = chain.wallet(0)
    with small_disk(tmp_path / "disk", 48 * MIB) as disk:
        chain.folder(disk.seen / "data")
        with running(disk.path / "data", *flags, inside=disk.inside) as node:
            node.commit(*objects(wallet, 4))
            disk.fill(leave_bytes=MIB)
            done, rest = fill_with_blocks(node, wallet)
            assert rest
            if node.process.poll() is None:
                until(lambda: not_ready(node), "it says that the disk is full")
                node.stop()
            said = node.said()
            assert "the disk is full" in said or "No space left" in said, said
            no_traceback(said)
        disk.empty()
        with running(disk.path / "data", *flags, inside=disk.inside) as node:
            assert committed(node, done) == done
            node.commit(*(each for each in rest if each not in committed(node, rest)))
            assert int(node.account(wallet.address)["nonce"]) == wallet.nonce
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
