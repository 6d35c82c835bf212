"""The pages about hardware say what the code does."""

import re
from pathlib import Path

from supervm.hardware.explain import report_json
from supervm.hardware.facts import FACT_NAMES, ProbeContext
from supervm.hardware.probing import probe
from supervm.hardware.survey import conclude
from supervm.hardware.tiers import ROWS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_fact_is_on_the_reference_page():
    page = (DOCS / "reference/hardware-facts.md").read_text(encoding="utf-8")
    assert [name for name in FACT_NAMES if f"`{name}`" not in page] == []


async def test_every_key_of_the_json_report_is_on_the_reference_page(tmp_path):
    page = (DOCS / "reference/hardware-facts.md").read_text(encoding="utf-8")
    report = report_json(conclude(await probe([], ProbeContext(data_dir=tmp_path)), is_validator=True))
    assert re.findall(r"^\| `(\w+)` \|", page.partition("## `probe --json`")[2], re.MULTILINE) == list(report)


def test_the_operators_page_has_the_thresholds():
    page = (DOCS / "operator/tiers.md").read_text(encoding="utf-8")
    for row in ROWS[:3]:
        assert re.search(
            rf"^\| {row.tier} \| \w+ \| {row.cores} \| {row.memory_gb} GB \| {row.disk_gb} GB \|$", page, re.M
        )


async def test_the_example_probe_works(tmp_path):
    page = (DOCS / "reference/hardware-facts.md").read_text(encoding="utf-8")
    example: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], example)
    context = ProbeContext(data_dir=tmp_path, sys=tmp_path)
    (tmp_path / "class/hwmon/hwmon0").mkdir(parents=True)
    (tmp_path / "class/hwmon/hwmon0/fan1_input").write_text("1210\n")
    report = await probe(example["supervm_hardware_probes"](), context)
    assert report.extra == {"fan_rpm": 1210}
