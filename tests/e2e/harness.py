"""Real nodes in processes of their own: start, talk to, stop, kill, start again. Loopback only.

Nothing here waits by sleeping for a fixed time: `until` asks again and again, up to a deadline.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import httpx

from supervm.client.build import body_of
from supervm.client.http import NodeClient
from supervm.crypto.keyfile import read_key_file, write_key_file
from supervm.crypto.keys import KeyPair, generate
from supervm.types.genesis import Genesis
from supervm.types.genesis_json import dump_genesis
from supervm.types.operations import Operation, Output, Transfer
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Body, Transaction, build
from supervm.types.validators import Validator, ValidatorSet

T = TypeVar("T")

DEADLINE_S = 120.0
POLL_S = 0.01
ANY_PORT = "127.0.0.1:0"
COINS = 10**9
"""Base units of one native coin."""
NATIVE = f"0x{NATIVE_TOKEN.hex()}"


def until(found: Callable[[], T | None], what: str, limit_s: float = DEADLINE_S) -> T:
    """What `found` gives once that is true; fails with `what` when it isn't in time."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        pause.wait(POLL_S)


@attrs.frozen
class Ended:
    """How a verb ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that the command line itself wrote to stderr; the rest are the node's log."""
        return [line for line in self.err.splitlines() if line.startswith("supervm: ")]


def environment(**more: str) -> dict[str, str]:
    """The environment without any setting of ours, and with `more`."""
    return {name: text for name, text in os.environ.items() if not name.startswith("SUPERVM_")} | more


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "supervm", *map(str, arguments)]


def verb(
    *arguments: str | Path, limit_s: float = DEADLINE_S, inside: Sequence[str] = (), **environ: str
) -> Ended:
    """Run one verb to its end, in a process of its own."""
    done = subprocess.run(
        [*inside, *command(*arguments)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(**environ),
        timeout=limit_s,
    )
    ended = Ended(done.returncode, done.stdout, done.stderr)
    no_traceback(ended.err)
    return ended


def refused(code: int, *arguments: str | Path, inside: Sequence[str] = (), **environ: str) -> str:
    """Run a verb that must end with `code` and one line that says why; gives the line."""
    ended = verb(*arguments, inside=inside, **environ)
    assert ended.code == code, ended
    assert len(ended.errors) == 1, ended.err
    return ended.errors[0].removeprefix("supervm: ")


def no_traceback(said: str) -> None:
    assert "Traceback" not in said, said
    assert "internal error" not in said, said


@attrs.define(eq=False)
class Node:
    """A running node. `url` is where it said that its API is."""

    data: Path
    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    url: str = ""
    client: NodeClient = attrs.field(init=False)

    def said(self) -> str:
        """All that it printed, its log included."""
        return self.out.read_text() + self.err.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, limit_s: float = DEADLINE_S) -> int:
        """Its exit code, once it ended."""
        return self.process.wait(limit_s)

    def stop(self) -> None:
        """SIGTERM; it drains and exits with 0, and never told of a bug of its own."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.said()
        no_traceback(self.said())

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def get(self, path: str) -> httpx.Response:
        """An answer of any status."""
        return httpx.get(self.url + path, timeout=DEADLINE_S, trust_env=False)

    def post(self, data: bytes, content_type: str = "application/octet-stream") -> httpx.Response:
        headers = {"content-type": content_type}
        address = f"{self.url}/v1/transactions"
        return httpx.post(address, content=data, headers=headers, timeout=DEADLINE_S, trust_env=False)

    def account(self, address: bytes) -> dict[str, Any]:
        return self.client.account(f"0x{address.hex()}")

    def balance(self, address: bytes, token: str = NATIVE) -> int:
        return int(self.account(address)["balances"].get(token, "0"))

    def send(self, *transactions: Transaction) -> None:
        """Send transactions that must be taken."""
        sent = self.client.send([each.data for each in transactions])
        assert not any(sent.refusals), sent

    def outcome(self, transaction: Transaction) -> dict[str, Any]:
        """How a transaction stands once it has an outcome."""
        digest = f"0x{transaction.digest.hex()}"

        def ended() -> dict[str, Any] | None:
            found = self.client.transaction(digest, wait=30)
            return found if found["status"] != "pending" else None

        return until(ended, f"an outcome of {digest}")

    def commit(self, *transactions: Transaction) -> None:
        """Send transactions and see all of them committed."""
        self.send(*transactions)
        for each in transactions:
            found = self.outcome(each)
            assert found["status"] == "committed", found

    def rss_bytes(self) -> int:
        """Resident memory of the process (Linux)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@contextmanager
def started(
    data: Path, *flags: str | Path, api: str = ANY_PORT, inside: Sequence[str] = (), **environ: str
) -> Iterator[Node]:
    """A node that was started and may not be ready; whatever happens, it has ended at the end.

    `inside` is a command that runs another one, to be put before the node's.
    """
    out, err = data.with_name(data.name + ".out"), data.with_name(data.name + ".err")
    arguments = [*inside, *command("run", "--data", data, "--api", api, *flags)]
    with out.open("wb") as said, err.open("wb") as logged:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=logged, env=environment(**environ)
        )
    try:
        yield Node(data=data, process=process, out=out, err=err)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def running(
    data: Path, *flags: str | Path, api: str = ANY_PORT, inside: Sequence[str] = (), **environ: str
) -> Iterator[Node]:
    """A node that is ready. When the block ends well, so must the node, unless the test ended it."""
    with started(data, *flags, api=api, inside=inside, **environ) as node:
        wait_ready(node, environ.get("SUPERVM_API_TOKEN", ""))
        with node.client:
            yield node
            if node.process.poll() is None:
                node.stop()


def wait_ready(node: Node, token: str = "") -> None:
    """Read where its API is, and wait until it is ready."""

    def address() -> str | None:
        assert node.process.poll() is None, f"it ended with {node.process.returncode}: {node.said()}"
        lines = node.out.read_text().splitlines(keepends=True)
        return next(
            (line[4:].strip() for line in lines if line.startswith("API ") and line[-1] == "\n"), None
        )

    node.url = until(address, "the node says where its API is")
    node.client = NodeClient(node.url, token=token, timeout_s=DEADLINE_S)
    until(node.client.ready, "the node is ready")


def dev_key(data: Path) -> KeyPair:
    """The funded key of a development chain."""
    return read_key_file(data / "keys" / "dev.json")


@attrs.define
class Wallet:
    """Signs for one key on one chain, nonce after nonce."""

    key: KeyPair
    chain_id: bytes
    base_price: int
    nonce: int = 0

    @classmethod
    def at(cls, node: Node, key: KeyPair) -> "Wallet":
        """The wallet of a key as it stands at a node."""
        status = node.client.status()
        nonce = int(node.account(key.address)["pending_nonce"])
        return cls(key, bytes.fromhex(status["chain_id"][2:]), int(status["base_price"]), nonce)

    @property
    def address(self) -> bytes:
        return self.key.address

    def body(self, *operations: Operation, nonce: int | None = None, **changes: Any) -> Body:
        """A body for the next nonce, or for `nonce`; `changes` replace its fields."""
        if nonce is None:
            nonce, self.nonce = self.nonce, self.nonce + 1
        made = body_of(
            operations,
            chain_id=self.chain_id,
            sender=self.address,
            suite=self.key.suite,
            nonce=nonce,
            base_price=self.base_price,
            inputs=changes.pop("inputs", ()),
        )
        return attrs.evolve(made, **changes)

    def sign(self, body: Body) -> Transaction:
        return build(body, [self.key])

    def pay(self, *payments: tuple[bytes, int], nonce: int | None = None, **changes: Any) -> Transaction:
        """A signed transfer of native coins, in base units."""
        outputs = tuple(Output(to, amount) for to, amount in payments)
        return self.sign(self.body(Transfer(NATIVE_TOKEN, outputs), nonce=nonce, **changes))


@attrs.frozen
class Chain:
    """A chain of one validator that any number of folders can be started on, one at a time."""

    genesis: Path
    identity: KeyPair
    keys: tuple[KeyPair, ...]
    chain_id: bytes

    def folder(self, path: Path) -> Path:
        """A new data folder of the chain's validator."""
        path.mkdir(mode=0o700)
        write_key_file(path / "identity.json", self.identity, None, name="validator")
        return path

    def wallet(self, index: int, base_price: int = 10_000) -> Wallet:
        """An unused wallet of a funded key."""
        return Wallet(self.keys[index], self.chain_id, base_price)


def new_chain(folder: Path, accounts: int, coins: int = 1_000, **fields: Any) -> Chain:
    """A genesis file with so many funded keys; `fields` are more of the genesis."""
    identity, keys = generate(), tuple(generate() for _ in range(accounts))
    validator = Validator(node_id=identity.node_id, public_key=identity.public_key, weight=1)
    genesis = Genesis(
        name="e2e",
        created_ms=1_700_000_000_000,
        development=True,
        validators=ValidatorSet((validator,)),
        accounts=tuple(sorted((key.address, coins * COINS) for key in keys)),
        **fields,
    )
    path = folder / "genesis.json"
    path.write_bytes(dump_genesis(genesis))
    return Chain(path, identity, keys, genesis.chain_id)


def contents(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file below a folder by its name, to compare before and after."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }
