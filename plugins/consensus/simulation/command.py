"""`supervm simulate`: run seeds of the simulator, judge them, and make the first that fails small."""

import time
from pathlib import Path
from typing import Any

import blake3
import click

from supervm.cli.errors import Failure, Misuse
from supervm.cli.output import json_option, note, print_facts, progress
from supervm.plugins.consensus.simulation.plan import PROFILES, Plan, draw_plan
from supervm.plugins.consensus.simulation.search import TRIES_MAX, search, shrink, watched_run
from supervm.plugins.consensus.simulation.world import Outcome

SEEDS_MAX = 1_000_000


class _Seeds(click.ParamType[range]):
    """`A..B`, both included, or one seed."""

    name = "A..B"

    def convert(self, value: Any, param: Any, ctx: Any) -> range:
        if isinstance(value, range):
            return value
        first, separator, last = str(value).partition("..")
        try:
            seeds = range(int(first), int(last if separator else first) + 1)
        except ValueError:
            self.fail(f"{value!r} isn't A..B, such as 0..99", param, ctx)
        if not 0 < len(seeds) <= SEEDS_MAX or seeds[0] < 0:
            self.fail(f"{value!r}: B from A on, neither negative, at most {SEEDS_MAX:,} seeds", param, ctx)
        return seeds


@click.command()
@click.option(
    "--seeds", type=_Seeds(), default="0..99", show_default=True, help="The seeds to run, or one alone."
)
@click.option(
    "--profile", type=click.Choice(PROFILES), default="calm", show_default=True, help="Which faults come."
)
@click.option(
    "--validators",
    type=click.IntRange(4, 16),
    default=4,
    show_default=True,
    help="How many; fewer than a third may be hostile.",
)
@click.option("--shrink/--no-shrink", "shrinks", default=True, help="Make the first failing seed small.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what happened here; for one seed.",
)
@json_option
def simulate(
    seeds: range, profile: str, validators: int, shrinks: bool, trace: Path | None, as_json: bool
) -> int:
    """Run whole validators on a virtual clock, network and disk, and judge everything that they do.

    Each seed is one run, always the same: its faults, messages and their order. Exit code 1 if what must hold
    didn't, or nothing became final after healing.

    \b
    Example:
      supervm simulate --seeds 0..99 --profile storm
      supervm simulate --seeds 17 --profile crash --trace /tmp/17.trace
    """
    if trace is not None and len(seeds) > 1:
        raise Misuse(f"--trace {trace}: name one seed, this would be {len(seeds)}")
    failed: list[tuple[int, Plan, Outcome]] = []
    digests = blake3.blake3()
    began_s = time.monotonic()
    with progress(f"{profile}, {validators} validators", len(seeds)) as bar:

        def told(seed: int, plan: Plan, outcome: Outcome) -> None:
            digests.update(bytes.fromhex(outcome.digest))
            bar.update(1)
            if outcome.oracle:
                failed.append((seed, plan, outcome))
                note(f"seed {seed}: {outcome.oracle}: {outcome.problem}")
                note(f"  replay: {_replay(seed, profile, validators)}")

        tally = search(seeds, profile, validators, told)
    minutes = (time.monotonic() - began_s) / 60
    if trace is not None:
        with trace.open("w") as out:
            watched_run(draw_plan(seeds[0], profile, validators), out)
    if failed and shrinks:
        _tell_small(*failed[0])
    facts: dict[str, Any] = {
        "name": "simulate",
        "parameters": {"seeds": f"{seeds[0]}..{seeds[-1]}", "profile": profile, "validators": validators},
        "seeds": tally.seeds,
        "violations": tally.violations,
        "stalled": tally.stalled,
        "seeds_per_minute": round(tally.seeds / minutes, 1),
        "first_failing_seed": tally.first_failing_seed,
        "trace_digest": digests.hexdigest(),
    }
    print_facts(facts, as_json)
    if failed:
        raise Failure(
            f"{len(failed)} of {tally.seeds} seeds failed, the first is {failed[0][0]}; "
            f"{_replay(failed[0][0], profile, validators)}"
        )
    return 0


def _replay(seed: int, profile: str, validators: int) -> str:
    return f"supervm simulate --seeds {seed} --profile {profile} --validators {validators} --trace FILE"


def _tell_small(seed: int, plan: Plan, outcome: Outcome) -> None:
    note(f"making seed {seed} small, at most {TRIES_MAX} runs")
    small, tries = shrink(plan, outcome.oracle)
    note(f"after {tries} runs this still fails by {outcome.oracle!r}:")
    for line in small.lines():
        note(f"  {line}")
