"""`supervm probe` says what checks the signatures of each suite, one and many, and why."""

import json
from pathlib import Path

import pytest

from supervm.cli.main import main
from supervm.crypto.batch import batch_facts
from supervm.crypto.suites import SUITE_NAMES, provider_facts


def test_probe_names_the_libraries_and_the_reasons_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--data", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["signatures"]
    assert main(["probe", "--data", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert list(found) == list(SUITE_NAMES)
    for name, facts in found.items():
        one, many = provider_facts(name), batch_facts()[name]
        assert facts == {
            "provider": one.provider,
            "reason": one.reason,
            "batch": many.batch,
            "batch_reason": many.reason,
        }
        at = lines.index(f"  {name:28} {one.provider} ({one.reason})")
        assert lines[at + 1].strip() == f"in batches: {many.batch} ({many.reason})"
