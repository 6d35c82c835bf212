"""What verbs print: facts as aligned text or one JSON object, and progress on a terminal only."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def print_json(facts: Any) -> None:
    """One JSON document on stdout. Amounts and bytes are text already, as in the HTTP interface."""
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """A mapping, as JSON or as `name  value` lines; nested values are indented under their name."""
    if as_json:
        print_json(facts)
    else:
        click.echo("\n".join(_lines(facts)))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Rows under a heading, or as a JSON list of all their facts."""
    if as_json:
        print_json(list(rows))
        return
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress(label: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr; call `update(n)`. In a pipe it prints nothing."""
    # click would print the label once into a pipe; long work stays quiet there.
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=total, label=label, file=sys.stderr, hidden=hidden) as bar:
        yield bar


def note(message: str) -> None:
    """Something for a person to read, on stderr, so that stdout holds facts alone."""
    click.echo(message, err=True)


def _lines(facts: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    width = max((len(str(name)) for name, value in facts.items() if not _nested(value)), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield f"{indent}{name}"
            for item in value:
                inner = list(_lines(item, indent + "    ")) if isinstance(item, Mapping) else [str(item)]
                yield f"{indent}  - {inner[0].strip()}"
                yield from inner[1:]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else _plain(value)
            yield f"{indent}{str(name).ljust(width)}  {shown}".rstrip()


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(map(_nested, value)))


def _plain(value: Any) -> str:
    return (
        {None: "-", True: "yes", False: "no"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )
