"""`bench signed-svm`: signed transfers end to end in one process, beside Solana's LiteSVM.

On both sides the clock has decoding from bytes, signatures (ed25519), execution and what is handed back:
encoded receipts and their root for ours, results with logs for LiteSVM. Both make the same transfers, each
signed for its own chain before the clock starts, and one set of books judges both. State roots are left out
on both sides. LiteSVM takes one transaction at a time, on one thread; ours takes blocks, on one and on all.
"""

from collections.abc import Callable
from typing import Any

import attrs

from supervm.bench import litesvm
from supervm.bench.growth import sizes_up_to
from supervm.bench.litesvm import LiteSvm
from supervm.bench.options import OURS, Compared, Options, finished, measured_of
from supervm.bench.payments import Ours, conflict_rate, ledger_of
from supervm.bench.race import Contestant, Done, Progress, measure_growth, run_race
from supervm.bench.report import BenchResult
from supervm.bench.slices import SLICE, wrong_slice
from supervm.bench.transfers import BALANCE, TransferPlan, Transfers, Work
from supervm.contracts.gas import GasPolicy
from supervm.crypto.batch import batch_facts

ONE_THREAD = "one thread"


@attrs.frozen
class Machine:
    """LiteSVM over the same transfers."""

    world: Transfers
    machine: LiteSvm

    @property
    def version(self) -> str:
        return self.machine.version

    def take(self, work: Work) -> Done:
        machine = self.machine
        turn = machine.run([machine.sign(one, other, amount) for one, other, amount, _ in work.transfers])
        if turn.wrong:
            return Done({}, f"{turn.wrong} transfers failed")
        return Done({litesvm.NAME: turn}, self.world.wrong_balance(work, litesvm.FEE, machine.balance))


def run_signed(
    accounts: int, block: int, options: Options, gas: GasPolicy, progress: Progress | None = None
) -> BenchResult:
    """Signed transfers among `accounts`, in blocks of `block`. Raises CantMeasure. Blocks."""
    plan = TransferPlan(
        accounts=accounts,
        block=block,
        blocks=options.blocks,
        distinct=True,
        signed=True,
        seed=options.seed,
    )
    world = Transfers(plan)
    way = options.way(root=False, signed=True)
    contestants: dict[str, Contestant[Work]] = {OURS: ledger_of(world, way, gas, {"bare": OURS})}
    if way.threads > 1:
        alone = attrs.evolve(way, threads=1)
        contestants[ONE_THREAD] = ledger_of(world, alone, gas, {"bare": ONE_THREAD})
    missing = _add_machine(contestants, world) if options.peers else []
    race = run_race(world.next, contestants, options.pairs, progress)
    again = Transfers(plan)
    work = again.next()
    wrong = wrong_slice(work.blocks[0], again.start_of(work.blocks[0], SLICE), way, gas)
    race.problems += [wrong] if wrong else []
    inside, outside = measured_of(way)
    return finished(
        "signed-svm",
        options,
        race,
        parameters={
            "accounts": accounts,
            "block": block,
            "suite": "ed25519",
            "keys_a_transaction": 2,
            "conflict_rate": round(conflict_rate(work), 4),
            "slice_compared": min(SLICE, block),
        },
        goodput_of=OURS,
        claims=_claims(way.threads),
        measured={OURS: inside, litesvm.NAME: litesvm.MEASURED},
        left_out={OURS: outside, litesvm.NAME: litesvm.LEFT_OUT},
        versions={who: one.version for who, one in contestants.items()},
        missing=missing,
        growth=_growth(plan, options, gas) if options.growth and race.oracle == "ok" else (),
        extra={"signatures": attrs.asdict(batch_facts()["ed25519"])},
    )


def _claims(threads: int) -> list[Compared]:
    claims = [Compared(name=litesvm.NAME, ours=OURS, theirs=litesvm.NAME)]
    if threads > 1:
        alone = f"{litesvm.NAME}, ours on one thread"
        claims.append(Compared(name=alone, ours=ONE_THREAD, theirs=litesvm.NAME))
        claims.append(Compared(name=ONE_THREAD, ours=OURS, theirs=ONE_THREAD))
    return claims


def _add_machine(contestants: dict[str, Contestant[Work]], world: Transfers) -> list[str]:
    """Let LiteSVM compete; its name where solders isn't installed."""
    assert world.keys is not None
    try:
        contestants[litesvm.NAME] = Machine(world, LiteSvm(world.keys.secrets, BALANCE))
    except ImportError:
        return [litesvm.NAME]
    return []


def _growth(plan: TransferPlan, options: Options, gas: GasPolicy) -> list[dict[str, Any]]:
    """Nanoseconds a transaction over the transactions of a block."""
    way = options.way(root=False, signed=True)

    def entered(size: int) -> tuple[Callable[[], Work], Ours]:
        world = Transfers(attrs.evolve(plan, block=size))
        return world.next, ledger_of(world, way, gas, {"bare": OURS})

    sizes = sizes_up_to(plan.block, options.growth)
    return measure_growth("transactions a block", "transaction", sizes, entered, options.pairs)
