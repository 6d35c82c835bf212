"""One command makes a node; a second run makes nothing; what it would be can be asked beforehand."""

import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import needs
from tests.e2e.harness import ANY_PORT, DEADLINE_S, contents, refused, running, until, verb

IDLE_BYTES_MAX = 120 * 2**20


@needs.linux
def test_a_first_run_is_ready_soon_and_small_when_idle(
    tmp_path: Path, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    began_s = time.monotonic()
    with running(tmp_path / "data") as node:
        ready_s = time.monotonic() - began_s
        first = int(node.client.status()["height"])
        until(lambda: int(node.client.status()["height"]) > first, "an idle block", DEADLINE_S)
        idle = node.rss_bytes()
    record_property("start_to_ready_s", round(ready_s, 2))
    record_property("idle_rss_mib", round(idle / 2**20, 1))
    with capsys.disabled():
        print(f"\n  start to ready {ready_s:.2f} s, resident when idle {idle / 2**20:.1f} MiB")
    assert idle < IDLE_BYTES_MAX


def test_a_first_run_says_what_it_made_and_a_second_makes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = verb("run", "--data", data, "--api", ANY_PORT, "--once")
    assert first.code == 0
    for word in ("SuperVM", "tier L", "made identity", "funded key", "composed", "API http://", "next: "):
        assert word in first.out, first.out
    assert data.stat().st_mode & 0o777 == 0o700
    made = {name: contents(data)[name] for name in ("identity.json", "genesis.json", "keys/dev.json")}
    second = verb("run", "--data", data, "--api", ANY_PORT, "--once")
    assert second.code == 0
    assert "made " not in second.out
    assert made == {name: contents(data)[name] for name in made}


def test_the_command_printed_as_next_works_as_it_stands(tmp_path: Path) -> None:
    with running(tmp_path / "data") as node:
        line = next(line for line in node.out.read_text().splitlines() if line.startswith("next: "))
        words = line.removeprefix("next: ").split()
        assert words[0] == "supervm"
        done = verb(*words[1:])
        assert done.code == 0, done
        assert node.account(bytes.fromhex(_dev_address(node.data)))["nonce"] == "1"


def _dev_address(data: Path) -> str:
    address: str = json.loads((data / "keys" / "dev.json").read_text())["address"]
    return address.removeprefix("0x")


def test_print_config_is_toml_that_says_the_same_again(tmp_path: Path) -> None:
    flags = ("--tier", "l3", "--set", "storage.use=sqlite", "--set", "node.name=first")
    printed = verb("run", "--data", tmp_path / "data", *flags, "--print-config")
    assert printed.code == 0
    assert not (tmp_path / "data").exists()
    table = tomllib.loads(printed.out)
    assert table["storage"]["use"] == "sqlite"
    assert table["node"]["name"] == "first"
    file = tmp_path / "kept.toml"
    file.write_text(printed.out)
    again = verb("run", "--config", file, "--print-config")
    assert again.code == 0, again.err
    assert tomllib.loads(again.out) == table
    assert "# file" in again.out


def test_an_unknown_tier_is_refused_in_the_words_of_the_specification() -> None:
    for flags, environ in ((("--tier", "bogus"), {}), ((), {"SUPERVM_NODE__TIER": "bogus"})):
        said = refused(2, "run", *flags, **environ)
        wanted = "unknown tier 'bogus'; use auto, l1 (supernode), l2 (miner), l3 (edge) or l4 (mobile)"
        assert said.endswith(wanted), said


def test_without_native_code_the_twins_run_and_probe_says_so(tmp_path: Path) -> None:
    probed = verb("probe", "--json", SUPERVM_NATIVE="off")
    assert probed.code == 0
    paths = json.loads(probed.out)["fast_paths"]
    assert paths
    for chosen in paths.values():
        assert chosen["path"] == "python", chosen
        assert "SUPERVM_NATIVE" in chosen["reason"], chosen
    with running(tmp_path / "data", SUPERVM_NATIVE="off") as node:
        assert node.client.ready()
