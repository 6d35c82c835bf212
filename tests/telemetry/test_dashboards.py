"""Every query of the dashboard and the alerts is about families that a running node has (OBS-50, OBS-53)."""

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.telemetry.conftest import RunningNode
from tests.telemetry.plain_yaml import read_yaml
from tests.telemetry.promql import RANGED, RISING, Query, read_query

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
DASHBOARD = OPERATIONS / "grafana-supervm-unified-dashboard.json"
ALERTS = OPERATIONS / "prometheus-supervm-alerts.yml"
SCRAPE = OPERATIONS / "prometheus-supervm-scrape.yml"
GUIDE = OPERATIONS.parent / "operator" / "dashboards.md"

OF_THE_SCRAPER = frozenset({"up"})
"""Families that Prometheus itself makes."""
ANYWHERE = frozenset({"instance", "job", "quantile"})
"""Labels that Prometheus, or the format, adds to ours."""
QUANTILES = {"0.5", "0.9", "0.99", "0.999"}


@attrs.frozen
class Shown:
    """A family as a scrape has it."""

    kind: str
    labels: frozenset[str]


def families(running: RunningNode) -> dict[str, Shown]:
    """What may stand in a query: a summary's own name, and its sum and count, which only rise."""
    found = {}
    for family in running.metrics.families():
        labels = frozenset(family.labels)
        found[family.name] = Shown(family.kind, labels)
        if family.kind == "summary":
            for suffix in ("_sum", "_count"):
                found[family.name + suffix] = Shown("counter", labels)
    return found


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return read


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in read_yaml(ALERTS.read_text())["groups"] for rule in group["rules"]]


def mistakes(query: Query, known: dict[str, Shown]) -> list[str]:
    """Everything that a query has wrong about the families it names."""
    found = []
    labels: set[str] = set(ANYWHERE)
    for use in query.uses:
        shown = known.get(use.name)
        if shown is None:
            if use.name not in OF_THE_SCRAPER:
                found.append(f"no node exports {use.name}")
            continue
        labels |= shown.labels
        if use.function in RISING and shown.kind != "counter":
            found.append(f"{use.function}({use.name}), which is a {shown.kind}")
        if use.function in RANGED and shown.kind == "counter":
            found.append(f"{use.function}({use.name}), which only rises: rate() shows what it does")
        strange = use.matchers.keys() - shown.labels - ANYWHERE
        if strange:
            found.append(f"{use.name} has no label {', '.join(sorted(strange))}")
        quantile = use.matchers.get("quantile")
        if (shown.kind == "summary") != (quantile is not None):
            found.append(f"{use.name} is a {shown.kind}: quantile {quantile}")
        if quantile is not None and quantile not in QUANTILES:
            found.append(f"{use.name} has no quantile {quantile}")
    unknown = query.labels - labels
    if unknown:
        found.append(f"nothing here has the label {', '.join(sorted(unknown))}")
    return found


def queries() -> dict[str, Query]:
    """Where a query stands, and what it says."""
    found = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    found.update({f"alert {rule['alert']}": rule["expr"] for rule in alerts()})
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert asked, variable
            found[f"variable {variable['name']}"] = f"sum by ({asked[2]}) ({asked[1]})"
    return {where: read_query(text) for where, text in found.items()}


async def test_every_query_is_of_families_that_a_running_node_exports_and_of_their_type(
    running: RunningNode,
) -> None:
    await running.client.get("/metrics")
    known = families(running)
    wrong = {where: mistakes(query, known) for where, query in queries().items()}
    assert not {where: found for where, found in wrong.items() if found}
    assert all(query.uses for query in queries().values())


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("mvcc_tpz", "no node exports mvcc_tpz"),
        ("rate(mvcc_tps[1m])", "rate(mvcc_tps), which is a gauge"),
        ("changes(mvcc_txn_committed_total[1m])", "which only rises"),
        ('supervm_health{node="a"}', "supervm_health has no label node"),
        ("mvcc_txn_latency_ms", "mvcc_txn_latency_ms is a summary: quantile None"),
        ('mvcc_tps{quantile="0.5"}', "mvcc_tps is a gauge: quantile 0.5"),
        ('mvcc_txn_latency_ms{quantile="0.95"}', "has no quantile 0.95"),
        ("sum by (lane) (mvcc_tps)", "nothing here has the label lane"),
    ],
)
async def test_a_query_that_is_wrong_about_a_family_is_found(
    running: RunningNode, query: str, complaint: str
) -> None:
    (found,) = mistakes(read_query(query), families(running))
    assert complaint in found


@pytest.mark.parametrize(
    "query",
    [
        "rate(mvcc_txn_committed_total)",
        "mvcc_tps[1m]",
        "sum(mvcc_tps",
        "mvcc_tps)",
        "wobble(mvcc_tps)",
        "a ? b",
    ],
)
def test_a_query_that_prometheus_would_refuse_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match=re.escape(query[:4])):
        read_query(query)


def test_names_in_strings_labels_and_ranges_are_no_families() -> None:
    query = read_query(
        'sum by (a, b) (rate(x_total{c=~"d|e", f!="g_total"}[$__rate_interval])) / 2e3 > y offset 5m'
    )
    assert [(use.name, use.function) for use in query.uses] == [("x_total", "rate"), ("y", "")]
    assert query.uses[0].matchers == {"c": "d|e", "f": "g_total"}
    assert query.labels == {"a", "b"}


def test_every_panel_filters_by_instance_and_says_which_instance_a_line_is() -> None:
    for panel in panels():
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            assert "{{instance}}" in target["legendFormat"], panel["title"]
            uses = read_query(target["expr"]).uses
            assert all(use.matchers.get("instance") == "$instance" for use in uses), target["expr"]


def test_a_legend_names_only_labels_that_its_query_leaves() -> None:
    for panel in panels():
        for target in panel["targets"]:
            asked = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            query = read_query(target["expr"])
            if query.labels:
                assert asked <= query.labels, target


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    everything = dashboard()["panels"]
    ids = [panel["id"] for panel in everything]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for panel in everything
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_every_alert_has_a_severity_a_summary_and_a_mend() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names)) >= 12
    for rule in alerts():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, rule
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s")), rule
        assert "$labels.instance" in rule["annotations"]["summary"], rule
        assert rule["annotations"]["mend"], rule


def test_the_scrape_jobs_keep_disjoint_parts_of_one_endpoint() -> None:
    jobs = {
        job["job_name"]: job["metric_relabel_configs"]
        for job in read_yaml(SCRAPE.read_text())["scrape_configs"]
    }
    ((drop,), (keep,)) = jobs["supervm-mvcc"], jobs["supervm-routing"]
    assert (drop["action"], keep["action"]) == ("drop", "keep")
    assert drop["source_labels"] == keep["source_labels"] == ["__name__"]
    assert drop["regex"] == keep["regex"]
    assert re.fullmatch(keep["regex"], "vm_routing_fast_total")
    assert not re.fullmatch(keep["regex"], "mvcc_tps")


def test_the_guide_names_every_alert_and_every_file() -> None:
    guide = GUIDE.read_text()
    for name in [rule["alert"] for rule in alerts()] + [DASHBOARD.name, ALERTS.name, SCRAPE.name]:
        assert f"`{name}`" in guide or f"({name})" in guide or f"/{name})" in guide, name


@pytest.mark.parametrize("file", [ALERTS, SCRAPE])
def test_the_files_mean_the_same_to_a_whole_yaml_parser(file: Path) -> None:
    yaml = pytest.importorskip("yaml")
    whole = yaml.load(file.read_text(), Loader=yaml.BaseLoader)
    assert read_yaml(file.read_text()) == whole


@pytest.mark.parametrize("text", ["a: 'b'", "a: b: c", "a:\n  b: c\n d: e", "a: {b: c}", "a: b\na: c", "a:"])
def test_what_the_plain_reader_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"'|value|line"):
        read_yaml(text)
