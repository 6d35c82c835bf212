"""What validators send is counted, and grows as the protocol says (CONS-99)."""

import json

import pytest

from supervm.cli.main import main
from supervm.plugins.consensus.simulation.counting import count_sent, growths


def test_each_batch_goes_to_every_other_validator_and_is_accepted_by_each() -> None:
    for validators in (4, 5):
        found = count_sent(validators, 2, 10, 1)
        assert found.problem == ""
        assert (found.batches, found.transactions) == (2, 20)
        assert found.sent["batch"][0] == 2 * (validators - 1)
        assert found.sent["accept"][0] == 2 * (validators - 1)
        assert found.sent["notarize"][0] % (validators * (validators - 1)) == 0


def test_the_same_seed_counts_the_same() -> None:
    assert count_sent(4, 1, 5, 3) == count_sent(4, 1, 5, 3)


def test_votes_a_block_grow_with_the_square_of_the_validators_and_a_batch_with_their_number() -> None:
    grown = growths([count_sent(each, 2, 20, 1) for each in (4, 8)])
    assert 1.7 < grown["messages_a_block"] < 2.6
    assert 0.8 < grown["messages_a_batch"] < 1.6


def test_the_verb_prints_each_size_and_the_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--validators", "4,5", "--batches", "1", "--transactions", "5"]
    assert main(["bench", "messages", *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["oracle"] == "ok"
    assert set(printed["sizes"]) == {"4", "5"}
    assert printed["sizes"]["4"]["transactions"] == 5


@pytest.mark.parametrize("sizes", ["4", "4,4", "3,4", "4,65", "four", ""])
def test_sizes_that_make_no_sense_are_refused(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "messages", "--validators", sizes]) == 2
    assert "validators" in capsys.readouterr().err
