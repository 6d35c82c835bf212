"""`bench light-client`: what it prints, and that its oracle sees a client that is fooled (CONS-72)."""

import json

import pytest

from supervm.bench import light_client
from supervm.bench.light_client import ANSWERS, LightPlan, run_light
from supervm.cli.main import main
from supervm.types.errors import ProofInvalid
from tests.bench.test_replay import quiet

PLAN = LightPlan(validators=(4, 31), accounts=50, turns=3)


def test_it_tells_bytes_and_time_of_each_kind_and_size() -> None:
    found = run_light(PLAN, quiet).to_json()
    json.dumps(found)
    assert (found["oracle"], found["failed"]) == ("ok", 0)
    assert found["attempts"] == 3 * ANSWERS * (1 + 2 * 3)
    small, large = found["validators"]["4"], found["validators"]["31"]
    assert set(small) == set(large) == {"header", "header_by_headers_above", "handover"}
    for name in small:
        # 3 and 21 signatures of 64 bytes, each after its length.
        assert large[name]["bytes"] - small[name]["bytes"] >= 18 * 68
    for figures in (*small.values(), *large.values(), found["account_under_header"]):
        assert 0 < figures["us"]["min"] <= figures["us"]["median"] <= figures["us"]["max"]
    assert found["goodput"] > 0


@pytest.mark.parametrize("check", ["check_header", "follow", "check_state"])
def test_a_client_that_believes_everything_breaks_the_oracle(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_client, check, lambda *given: None)
    assert "wrong answers" in run_light(PLAN, quiet).oracle


def test_a_client_that_believes_nothing_breaks_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise ProofInvalid("ProofInvalid", "no", b"")

    monkeypatch.setattr(light_client, "follow", refuse)
    assert run_light(PLAN, quiet).oracle.startswith(f"{3 * (ANSWERS - 1)} wrong answers on handover")


def test_the_verb_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--validators", "4", "--accounts", "20", "--turns", "1", "--json"]
    assert main(["bench", "light-client", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["validators"] == [4]
