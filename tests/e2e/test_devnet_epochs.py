"""A network of processes goes from epoch to epoch, also without one of its validators (CONS-50..55, 72)."""

import json
from pathlib import Path

from supervm.client.http import ClientError
from tests.e2e.harness import until, verb
from tests.e2e.test_devnet import LIMIT_S, RECEIVER, Devnet, devnet


def epoch(net: Devnet, at: int) -> int:
    try:
        return int(net.clients[at].status()["epoch"])
    except ClientError:
        return 0


def test_a_network_of_processes_goes_through_epochs_and_its_chain_is_proven_and_verified(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "net"
    flags = ("--epoch-blocks", "12", "--set", "storage.use=sqlite")
    with devnet(folder, *flags, "--set", "consensus.bft.block_interval_max_ms=50") as net:
        net.pays(0)
        until(lambda: epoch(net, 0) >= 2, "the first epoch ends", LIMIT_S)
        net.kill(3)
        before = epoch(net, 0)
        until(lambda: epoch(net, 1) > before, "an epoch begins without one of four", LIMIT_S)
        net.pays(1)
        # What was final in an epoch that has ended is in its blocks.
        shown = verb(
            "query", "proof", RECEIVER, "--genesis", folder / "genesis.json", "--node", net.nodes[2]["api"],
            "--json", limit_s=LIMIT_S,
        )  # fmt: skip
        assert shown.code == 0, shown
        proven = json.loads(shown.out)
        assert proven["proven"] == "present" and "epochs" in proven["header_trust"], proven
        net.reaches(2, int(net.clients[1].status()["height"]))
    checked = verb("verify", "--data", folder / "node-2", "--json", limit_s=LIMIT_S)
    assert checked.code == 0, checked
    assert json.loads(checked.out)["verified"] is True
