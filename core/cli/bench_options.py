"""Options that several benchmarks have."""

from collections.abc import Callable
from typing import Any

import click

# A decorator of a verb's function.
Option = Callable[[Callable[..., Any]], Callable[..., Any]]

pairs: Option = click.option(
    "--pairs", type=click.IntRange(5, 1000), default=5, show_default=True, help="Turns of everybody."
)
peers: Option = click.option("--peers/--no-peers", default=True, help="Let others compete.  [default: peers]")


def count(name: str, default: int, help: str, *, least: int = 1) -> Option:
    """A whole number, `least` or more."""
    return click.option(name, type=click.IntRange(least), default=default, show_default=True, help=help)


def seed(help: str) -> Option:
    return click.option("--seed", type=int, default=1, show_default=True, help=help)


def growth(what: str) -> Option:
    return click.option(
        "--growth",
        type=click.IntRange(3, 6),
        metavar="SIZES",
        help=f"Measure this many {what} too, a factor of ten apart.  [default: none]",
    )
