"""`devnet up`: validators as processes. They go on without one, stop without two, and go on by themselves.

LATE_BLOCKS: how many blocks a late node and a validator that was off have to catch up (40; `tox -e soak`:
10,000). With more than 1,000 times are judged, too: that asks for a machine for it alone.
"""

import itertools
import json
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervm.client.http import ClientError, NodeClient
from supervm.node.devnet import add_node, make_devnet
from tests.e2e.harness import DEADLINE_S, command, environment, until, verb

RECEIVER = "0x" + "44" * 32
LATE_BLOCKS = int(os.environ.get("LATE_BLOCKS", "40"))
JUDGES_TIME = LATE_BLOCKS > 1_000
LIMIT_S = 240.0 + LATE_BLOCKS / 4
"""With few blocks less than the 300 s after which a test that hangs ends the run."""
GAP_MS_MAX = 3_000
KILLED = range(4) if JUDGES_TIME else range(1)
SEEN_BLOCKS = 300 if JUDGES_TIME else 5
STANDS_S = 3.0
IN_HAND_MAX = 40
"""Final blocks that may wait to be executed (32), and those of views under way."""
KEPT = "application.ledger.prune_keep_blocks=0"
"""Nobody prunes: what is caught up with are blocks, however many."""
INTERVAL = f"consensus.bft.block_interval_max_ms={5 if JUDGES_TIME else 50}"
"""Blocks come as often while nothing is sent."""


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
        reaches(self.clients[at], height)

    def pays(self, at: int) -> None:
        """A transfer, sent to this node, is final: by a block, or by a quorum's effects before any."""
        api = self.nodes[at]["api"]
        arguments = ("--data", self.folder, "--key", "dev", "--node", api, "--no-wait", "--json")
        sent = verb("tx", "transfer", f"{RECEIVER}=1", *arguments, limit_s=LIMIT_S)
        assert sent.code == 0, sent
        digest = json.loads(sent.out)["digest"]
        done = verb("tx", "wait", digest, "--timeout", str(DEADLINE_S), "--node", api, limit_s=LIMIT_S)
        assert done.code == 0, done
        assert {"certified", "committed"} & set(done.out.split()), done

    def stands(self) -> int:
        """The height at which the first two stay for a while. Idle blocks would come far more often."""
        seen, since_s = (0, 0), 0.0

        def still() -> bool:
            nonlocal seen, since_s
            now = self.height(0), self.height(1)
            if now != seen or now[0] != now[1]:
                seen, since_s = now, time.monotonic()
            return time.monotonic() - since_s >= STANDS_S

        until(still, "both that are left stay at the same height", DEADLINE_S)
        return seen[0]

    def kill(self, at: int) -> None:
        os.kill(self.nodes[at]["pid"], signal.SIGKILL)


def gap(client: NodeClient, first: int, last: int) -> int:
    """The longest time between two blocks of these heights, in milliseconds, as headers say."""
    times = [int(client.block(each)["header"]["timestamp_ms"]) for each in range(first, last + 1)]
    return max(later - sooner for sooner, later in itertools.pairwise(times))


def reaches(client: NodeClient, height: int) -> None:
    def reached() -> bool:
        try:
            return int(client.status()["height"]) >= height
        except ClientError:
            return False

    until(reached, f"{client.url} reaches height {height}", LIMIT_S)


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
    process.wait(LIMIT_S)


@contextmanager
def started(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a network, by itself."""
    with config.with_suffix(".err").open("ab") as said:
        node = subprocess.Popen(
            command("run", "--config", config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment(),
        )
    try:
        yield node
    finally:
        node.terminate()
        node.wait(LIMIT_S)


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU time that a process has had (Linux)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def caught_up(net: Devnet, who: str, process: subprocess.Popen[bytes], api: str, began: int) -> int:
    """Wait until a node has what the first one has now; say how fast it was. Gives the height."""
    goal = net.height(0)
    since_s = time.monotonic()
    with NodeClient(api, timeout_s=DEADLINE_S) as client:
        reaches(client, began + 1)
        first_s, first_cpu_s = time.monotonic(), cpu_s(process)
        reaches(client, goal)
        seconds, cpu_ms = time.monotonic() - first_s, (cpu_s(process) - first_cpu_s) * 1_000
        blocks = max(goal - began - 1, 1)
        print(
            f"{who}: {goal - began} blocks, {blocks / max(seconds, 0.001):.0f} a second, "
            f"{cpu_ms / blocks:.2f} ms of CPU a block, begun after {first_s - since_s:.1f} s"
        )
        ours = {each["digest"] for at in (goal, goal // 2 + 1) for each in (client.block(at),)}
        theirs = {net.clients[0].block(at)["digest"] for at in (goal, goal // 2 + 1)}
        assert ours == theirs
    return goal


def test_a_network_loses_one_then_two_validators_and_late_nodes_catch_up(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    settings = ("--set", "storage.use=sqlite", "--set", INTERVAL, "--set", KEPT)
    with devnet(folder, *settings) as net, ExitStack() as stack:
        net.pays(0)
        net.kill(3)
        killed = net.height(0)
        net.pays(1)
        net.reaches(0, killed + LATE_BLOCKS)

        member = add_node(folder, "late")
        late = stack.enter_context(started(member.config))
        caught_up(net, "late node", late, f"http://{member.api}", 0)

        net.kill(2)
        stood = net.height(0)
        # What two of four have in hand may still become final; nothing new does.
        stands = net.stands()
        assert stands <= stood + IN_HAND_MAX

        back = [stack.enter_context(started(folder / f"node-{at}.toml")) for at in (2, 3)]
        api = net.nodes[3]["api"]
        until(lambda: net.height(0) > stands, "it goes on by itself", LIMIT_S)
        goal = caught_up(net, "a validator that was off", back[1], api, killed)
        for at in range(4):
            net.reaches(at, goal)
        net.pays(3)
        for height in range(stood, goal + 1):
            assert len({net.clients[at].block(height)["digest"] for at in range(4)}) == 1
        net.process.send_signal(signal.SIGINT)
        assert net.process.wait(LIMIT_S) == 0
    for name in ("node-3", "late"):
        done = verb("verify", "--data", folder / name, "--set", "storage.use=sqlite", limit_s=LIMIT_S)
        assert done.code == 0, done


def test_whichever_one_is_killed_finality_goes_on_and_with_time_judged_has_no_gap_over_3_seconds(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "net"
    with devnet(folder, "--set", "storage.use=sqlite", "--set", INTERVAL) as net, ExitStack() as stack:
        for at in KILLED:
            witness = net.clients[(at + 1) % 4]
            net.kill(at)
            killed = int(witness.status()["height"])
            reaches(witness, killed + SEEN_BLOCKS)
            if JUDGES_TIME:
                gap_ms = gap(witness, killed, killed + SEEN_BLOCKS)
                print(f"longest gap after a kill of node {at}: {gap_ms} ms")
                assert gap_ms <= GAP_MS_MAX
            stack.enter_context(started(folder / f"node-{at}.toml"))
            net.reaches(at, int(witness.status()["height"]) + SEEN_BLOCKS)


def test_a_late_node_whose_peer_has_pruned_begins_again_with_a_snapshot_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    taken = folder / "node-0" / "snapshots"
    snapshots = "application.ledger.snapshot_blocks=280"
    quick = "consensus.bft.block_interval_min_ms=1"
    settings = ("--set", "storage.use=sqlite", "--set", INTERVAL, "--set", quick, "--set", snapshots)
    with devnet(folder, "--validators", "1", *settings) as net:
        until(lambda: list(taken.glob("*.manifest")), "it takes a snapshot", LIMIT_S)
        api = net.nodes[0]["api"]
    # Its blocks rest now, and it keeps only the last.
    config = folder / "node-0.toml"
    rests = [line for line in config.read_text().splitlines() if not line.startswith("consensus.bft.")]
    rests += ["consensus.bft.block_interval_max_ms = 3600000", "application.ledger.prune_keep_blocks = 256"]
    config.write_text("\n".join(rests) + "\n")
    member = add_node(folder, "late")
    with ExitStack() as stack:
        stack.enter_context(started(config))
        peer = stack.enter_context(NodeClient(api, timeout_s=DEADLINE_S))

        def pruned() -> bool:
            try:
                return int(peer.status()["oldest_block"]) > 0
            except ClientError:
                return False

        until(pruned, "the peer has pruned", LIMIT_S)
        goal = int(peer.status()["height"])
        stack.enter_context(started(member.config))
        late = stack.enter_context(NodeClient(f"http://{member.api}", timeout_s=DEADLINE_S))
        reaches(late, goal)
        assert late.block(goal)["digest"] == peer.block(goal)["digest"]
        # What came stands in the place of the store of before, and nothing of it is left elsewhere.
        (old,) = (folder / "late" / "storage").glob("sqlite.replaced-*")
        assert old.is_dir()
        assert not (folder / "late" / "incoming").exists()
    said = member.config.with_suffix(".err").read_text()
    assert "needs_snapshot" in said and "begins_again" in said and "snapshot_restored" in said
    # Nothing went wrong, and nobody reads that anything did.
    assert not [line for line in said.splitlines() if line.split()[1:3] == ["error", "kernel:"]], said
    done = verb("verify", "--data", folder / "late", "--set", "storage.use=sqlite", limit_s=LIMIT_S)
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


def test_a_node_is_added_to_a_network_and_not_in_place_of_a_validator(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    made = make_devnet(folder, 1)
    late = add_node(folder, "late")
    options, known = (tomllib.loads(each.config.read_text()) for each in (late, made.members[0]))
    assert options["transport"]["tcp"]["peers"] == known["transport"]["tcp"]["peers"]
    assert options["transport"]["tcp"]["listen"] == [late.peer] != [made.members[0].peer]
    assert options["node"]["genesis"] == known["node"]["genesis"]
    assert options["node"]["data"] == str(folder / "late")
    assert add_node(folder, "late").node_id == late.node_id
    with pytest.raises(ValueError, match="holds no network"):
        add_node(tmp_path / "none", "late")
    refused = verb("devnet", "add", "--data", folder, "--name", "node-0")
    assert refused.code == 2
    assert refused.errors == ["supervm: node-0 is one of the network's validators; give another name"]


def test_nodes_of_lower_tiers_follow_and_all_end_with_the_terminal(tmp_path: Path) -> None:
    with devnet(tmp_path / "net", "--validators", "1", "--edges", "1", "--mobiles", "1") as net:
        tiers = {
            each["name"]: client.status()["tier"] for each, client in zip(net.nodes, net.clients, strict=True)
        }
        assert {name: tiers[name] for name in ("edge-0", "mobile-0")} == {"edge-0": "L3", "mobile-0": "L4"}
        net.pays(0)
        for at in (1, 2):
            net.reaches(at, net.height(0))
        net.process.send_signal(signal.SIGHUP)
        assert net.process.wait(DEADLINE_S) == 0
        until(lambda: not any(is_alive(each["pid"]) for each in net.nodes), "all nodes end", DEADLINE_S)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
