"""The metrics page's table, made from a registry, so that it can't be wrong (OBS-24)."""

from supervm.telemetry.metrics import Registry

BEGIN = "<!-- generated: tests/telemetry/test_metrics_page.py -->"
END = "<!-- end of what is generated -->"


def table(registry: Registry) -> str:
    """Every family as a row of a Markdown table: name, type, labels, meaning."""
    rows = ["| family | type | labels | meaning |", "|---|---|---|---|"]
    for family in registry.families():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        if family.kind == "summary":
            labels = ", ".join(filter(None, (labels, "`quantile`")))
        rows.append(
            f"| `{family.name}` | {family.kind} | {labels} | {family.help.replace('|', chr(92) + '|')} |"
        )
    return "\n".join(rows)


def with_table(page: str, registry: Registry) -> str:
    """The page with its generated part replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert rest and after, "the page has both marks"
    return f"{before}{BEGIN}\n\n{table(registry)}\n\n{END}{after}"
