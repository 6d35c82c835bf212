"""What every execution benchmark is asked, and how what it found becomes the one JSON shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from supervm.bench.ledgers import DIGESTS, MEASURED, SIGNATURES, STATE_ROOT, Way, native_by
from supervm.bench.pairs import PAIRS_MIN
from supervm.bench.race import WARM_UP, Race
from supervm.bench.report import BenchResult
from supervm.hardware import fastpath

OURS = "supervm"
NO_ROOT = "supervm, no state root"


@attrs.frozen(kw_only=True)
class Options:
    """Common to all. `threads`: of our engine. `growth`: sizes to measure, 0 for none.

    `engine`: native, twin, or auto for C where it is.
    """

    pairs: int = PAIRS_MIN
    blocks: int = 1
    threads: int = 1
    engine: str = "auto"
    seed: int = 1
    growth: int = 0
    peers: bool = True

    def way(self, **changes: Any) -> Way:
        """How our engine executes, with changes. Raises CantMeasure where C is asked for and isn't there."""
        native = native_by(self.engine)
        asked = {"threads": self.threads if native else 1, **changes}
        return Way(native=native, **asked)


@attrs.frozen(kw_only=True)
class Compared:
    """A claim to make: the ratio `name`, of the label `ours` to the label `theirs`."""

    name: str
    ours: str
    theirs: str


def finished(
    name: str,
    options: Options,
    race: "Race[Any]",
    *,
    parameters: Mapping[str, Any],
    goodput_of: str,
    claims: Sequence[Compared],
    measured: Mapping[str, Sequence[str]],
    left_out: Mapping[str, Sequence[str]],
    versions: Mapping[str, str],
    missing: Sequence[str] = (),
    growth: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, Any] | None = None,
) -> BenchResult:
    """The result of a run; without ratios where the oracle didn't hold."""
    ours = race.taken.get(goodput_of, [])
    compared = {}
    if race.oracle == "ok":
        compared = {
            claim.name: {"ours": claim.ours, "theirs": claim.theirs, **race.ratio(claim.ours, claim.theirs)}
            for claim in claims
            if claim.ours in race.taken and claim.theirs in race.taken
        }
    rates = race.rates() if race.oracle == "ok" else {}
    attempts, failed = sum(turn.done for turn in ours), sum(turn.wrong for turn in ours)
    return BenchResult(
        name=name,
        parameters={
            **parameters,
            "pairs": options.pairs,
            "warm_up": WARM_UP,
            "blocks_a_turn": options.blocks,
            "threads": options.way().threads,
            "engine": "native" if options.way().native else "python",
            "seed": options.seed,
            "backend": "memory, all of the state",
            "durability": "none",
            "goodput_of": goodput_of,
        },
        goodput=rates[goodput_of]["a_second"]["median"] if rates else None,
        attempts=attempts,
        failed=failed,
        ratios={each: facts["ratio"]["median"] for each, facts in compared.items()},
        peers_missing=tuple(missing),
        oracle=race.oracle,
        extra={
            "success_rate": (attempts - failed) / attempts if attempts else None,
            "rates": rates,
            "compared": compared,
            "measured": {who: list(what) for who, what in measured.items()},
            "left_out": {who: list(what) for who, what in left_out.items()},
            "versions": dict(versions),
            "path": fastpath.report()["execute_block"].reason if options.way().native else "specification",
            "execution": dict(race.facts),
            "growth": list(growth),
            **(extra or {}),
        },
    )


def measured_of(way: Way) -> tuple[list[str], list[str]]:
    """(what is inside our clock, what is left out), in words."""
    inside = [each for each in MEASURED if each != DIGESTS or not way.digests_given]
    outside = [DIGESTS] if way.digests_given else []
    (inside if way.signed else outside).append(SIGNATURES)
    (inside if way.root else outside).append(STATE_ROOT)
    return inside, [*outside, "storage"]
