"""What every benchmark ends with: its one JSON object, the machine it ran on, and the word of its oracle."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from supervm.cli.errors import Failure, Misuse
from supervm.cli.output import print_facts, print_json

if TYPE_CHECKING:
    from supervm.bench.report import BenchResult


def measure(run: "Callable[[], BenchResult]", as_json: bool) -> None:
    """Run a benchmark and `finish` it; what it can't measure as asked is told as a misuse."""
    from supervm.bench.errors import CantMeasure

    try:
        result = run()
    except CantMeasure as error:
        raise Misuse(str(error)) from error
    finish(result, as_json)


def finish(result: "BenchResult", as_json: bool) -> None:
    """Print what a benchmark found; exits 1 where its oracle doesn't hold."""
    if result.tier is None:
        tier, hardware = trio.run(_machine)
        result = attrs.evolve(result, tier=tier, hardware=hardware)
    if as_json:
        print_json(result.to_json())
    else:
        print_facts(result.to_json(), as_json=False)
    if result.oracle != "ok":
        raise Failure(f"the oracle of {result.name} doesn't hold: {result.oracle}")


async def _machine() -> tuple[str, dict[str, Any]]:
    """The tier that this machine would run a node in, and what the probes say of it."""
    from supervm.hardware.facts import ProbeContext
    from supervm.hardware.probes import BUILTIN
    from supervm.hardware.survey import survey

    found = await survey(BUILTIN, ProbeContext(data_dir=Path()), is_validator=True)
    facts = found.report.facts
    features = sorted(facts.cpu_features or ())
    known = {
        "cpu": facts.cpu_model,
        "cpu_features": features or None,
        "memory_bytes": facts.memory_total_bytes,
    }
    return str(found.decision.tier), {name: fact for name, fact in known.items() if fact is not None}
