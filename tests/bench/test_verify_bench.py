"""`bench verify`: right and wrong signatures, every answer judged, ratios made from turns in one run."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import pytest

from supervm.bench import verify, verify_peers
from supervm.bench.report import BenchResult
from supervm.bench.verify import WRONG_ONE_IN, VerifyPlan, run_verify, signed_items
from supervm.crypto.batch import batch_facts, verify_many
from supervm.crypto.suites import SUITE_NAMES, SignatureItem, provider_facts

SHAPE = {"name", "parameters", "goodput", "attempts", "failed", "latency_ms", "ratios", "peers_missing"}


class Bar:
    def update(self, _: int) -> None:
        """Nobody looks."""


@contextmanager
def quiet(_label: str, _total: int) -> Iterator[Bar]:
    yield Bar()


def short(**plan: object) -> BenchResult:
    return run_verify(attrs.evolve(VerifyPlan(seconds=0.01, threads=2), **plan), quiet)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_one_signature_in_each_batch_is_wrong_and_the_rest_are_right(name: str) -> None:
    items = signed_items(name, 3)
    assert verify_many([item for item, _ in items]) == [right for _, right in items]
    assert [right for _, right in items].count(False) * WRONG_ONE_IN == len(items)
    assert signed_items(name, 3)[0][0][:3] == items[0][0][:3]


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_every_installed_peer_gives_the_same_answers(name: str) -> None:
    peers, _ = verify_peers.peers_of(name)
    assert peers, "the libraries behind our providers are always there"
    for peer in peers:
        for item, right in signed_items(name, 3)[:16]:
            assert peer.check(*peer.prepare(*item[1:])) is right


def test_a_run_gives_the_shape_of_every_benchmark_with_a_ratio_for_each_peer_and_mode() -> None:
    found = short().to_json()
    json.dumps(found)
    assert set(found) >= {*SHAPE, "oracle", "machine"}
    assert (found["oracle"], found["failed"]) == ("ok", 0)
    assert found["attempts"] >= 3 * 2 * 5 * WRONG_ONE_IN
    assert {"PyNaCl ed25519 one", "coincurve secp256k1 all", "gmssl sm2 one"} <= set(found["ratios"])
    for name in SUITE_NAMES:
        facts = found["verify"][name]
        assert facts["provider"] == provider_facts(name).provider
        assert facts["reason"]
        assert (facts["batch"], facts["batch_reason"]) == attrs.astuple(batch_facts()[name])
        for mode, threads in (("one", 1), ("all", 2)):
            assert facts[mode]["threads"] == threads
            rates = facts[mode]["a_second"]
            assert 0 < rates["min"] <= rates["median"] <= rates["max"]
            for peer, compared in facts[mode]["peers"].items():
                assert found["ratios"][f"{peer} {name} {mode}"] == compared["ratio"]["median"]
                assert compared["ratio"]["min"] <= compared["ratio"]["max"]
    over = found["sm2_over_gmssl"]
    assert over["reached"] is (found["ratios"]["gmssl sm2 one"] >= over["wanted"] == 30)


def test_on_one_thread_there_is_one_mode_and_without_sm2_no_word_of_it() -> None:
    found = short(suites=("ed25519",), threads=1).to_json()
    assert set(found["verify"]) == {"ed25519"}
    assert "all" not in found["verify"]["ed25519"]
    assert found["parameters"]["goodput_of"] == "ed25519, one"
    assert found["sm2_over_gmssl"] is None


def test_a_wrong_answer_of_ours_breaks_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    def yes_to_all(items: Sequence[SignatureItem]) -> list[bool]:
        return [True for _ in items]

    monkeypatch.setattr(verify, "verify_many", yes_to_all)
    result = short(suites=("ed25519",), threads=1)
    assert result.failed * WRONG_ONE_IN == result.attempts
    assert result.oracle == f"supervm gave {result.failed} wrong answers on ed25519"


def test_a_wrong_answer_of_a_peer_breaks_the_oracle_too(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = verify_peers.Peer("hasty", "1", lambda *item: item, lambda *item: True)
    monkeypatch.setattr(verify, "peers_of", lambda name: ([peer], []))
    result = short(suites=("ed25519",), threads=1)
    assert result.failed == 0
    assert result.oracle.startswith("hasty gave ")


def test_a_missing_peer_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError

    peers = {name: dict(each) for name, each in verify_peers._PEERS.items()}
    for each in peers.values():
        for optional in {"cryptography", "solders"} & each.keys():
            each[optional] = absent  # type: ignore[assignment]
    monkeypatch.setattr(verify_peers, "_PEERS", peers)
    result = short(suites=("ed25519", "secp256k1"), threads=1)
    assert set(result.peers_missing) == {"cryptography", "solders"}
    assert set(result.ratios) == {"PyNaCl ed25519 one", "coincurve secp256k1 one"}


def test_the_verb_prints_one_json_object() -> None:
    command = [sys.executable, "-m", "supervm", "bench", "verify", "--suite", "ed25519", "--seconds", "0.01"]
    done = subprocess.run(
        [*command, "--threads", "1", "--json"], capture_output=True, check=True, timeout=240
    )
    found = json.loads(done.stdout)
    assert found["name"] == "verify"
    assert found["parameters"]["suites"] == ["ed25519"]
