"""`devnet up`: validators as processes; they go on without one, and by themselves after two came back."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from supervm.client.http import ClientError, NodeClient
from supervm.node.devnet import make_devnet
from tests.e2e.harness import DEADLINE_S, command, environment, until, verb

RECEIVER = "0x" + "44" * 32


@attrs.define
class Devnet:
    """A running `devnet up`, and clients of its nodes."""

    folder: Path
    process: subprocess.Popen[str]
    nodes: list[dict[str, Any]]
    clients: list[NodeClient]

    def height(self, at: int) -> int:
        return int(self.clients[at].status()["height"])

    def reaches(self, at: int, height: int) -> None:
        def reached() -> bool:
            try:
                return self.height(at) >= height
            except ClientError:
                return False

        until(reached, f"node {at} reaches height {height}")

    def pays(self, at: int) -> None:
        """A transfer, sent to this node, is final: by a block, or by a quorum's effects before any."""
        api = self.nodes[at]["api"]
        done = verb("tx", "transfer", f"{RECEIVER}=1", "--data", self.folder, "--key", "dev", "--node", api)
        assert done.code == 0, done
        assert {"certified", "committed"} & set(done.out.split()), done

    def kill(self, at: int) -> None:
        os.kill(self.nodes[at]["pid"], signal.SIGKILL)


@contextmanager
def devnet(folder: Path, *flags: str) -> Iterator[Devnet]:
    arguments = command("devnet", "up", "--data", folder, "--json", *flags)
    said = folder.with_suffix(".err")
    with said.open("wb") as errors, ExitStack() as stack:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
        )
        # Its own end takes the nodes down; a kill of it would leave them.
        stack.callback(_ended, process)
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, said.read_text()
            text += line
        nodes = json.loads(text)["nodes"]
        clients = [stack.enter_context(NodeClient(each["api"], timeout_s=DEADLINE_S)) for each in nodes]
        yield Devnet(folder, process, nodes, clients)


def _ended(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait(DEADLINE_S)


def test_a_network_goes_on_without_one_validator_and_after_two_came_back(tmp_path: Path) -> None:
    with devnet(tmp_path / "net", "--set", "storage.use=sqlite") as net:
        net.pays(0)
        net.kill(3)
        net.pays(1)
        net.kill(2)
        stood = net.height(0)
        with ExitStack() as stack:
            for at in (2, 3):
                node = subprocess.Popen(
                    command("run", "--config", tmp_path / "net" / f"node-{at}.toml"),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment(),
                )
                stack.callback(node.wait, DEADLINE_S)
                stack.callback(node.terminate)
            for at in range(4):
                net.reaches(at, stood + 2)
            net.pays(3)
            roots = {net.clients[at].block(stood + 1)["digest"] for at in range(4)}
            assert len(roots) == 1
        net.process.send_signal(signal.SIGINT)
        assert net.process.wait(DEADLINE_S) == 0
    for at in (0, 3):
        done = verb("verify", "--data", tmp_path / "net" / f"node-{at}", "--set", "storage.use=sqlite")
        assert done.code == 0, done


def test_a_folder_holds_a_network_of_one_size(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    made = make_devnet(folder, 1)
    done = verb("devnet", "up", "--validators", "2", "--data", folder)
    assert done.code == 2
    assert done.errors == [
        f"supervm: {folder} holds a network of 1 validators, not 2; give that number, or another folder"
    ]
    again = make_devnet(folder, 1)
    assert (again.chain_id, again.members[0].node_id) == (made.chain_id, made.members[0].node_id)
