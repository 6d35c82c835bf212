"""`bench transfers-50`, `transfers-5`, `uniform-1m`, and `hot-5` by blocks: transfers of the native token.

Ours executes whole blocks of canonical transactions and has everything but signatures inside the clock.
revm, through pyrevm, makes the same transfers in the same run, and is given what it leaves out; its balances
are judged by the same books.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from supervm import __version__
from supervm.bench import revm
from supervm.bench.growth import sizes_up_to
from supervm.bench.ledgers import Way, open_ledger
from supervm.bench.options import NO_ROOT, OURS, Compared, Options, finished, measured_of
from supervm.bench.race import Contestant, Done, Progress, Race, measure_growth, run_race
from supervm.bench.report import BenchResult
from supervm.bench.revm import Revm, address_text
from supervm.bench.shapes import ACCOUNTS, Shape
from supervm.bench.slices import SLICE, wrong_slice
from supervm.bench.transfers import BALANCE, HOT_SHARE, TransferPlan, Transfers, Work
from supervm.contracts.gas import GasPolicy

ONE_THREAD = "one thread, no state root"
SERIAL = "serial"
BLOCK_STM = "block_stm"


CLAIMS = (
    Compared(name=revm.NAME, ours=OURS, theirs=revm.NAME),
    Compared(name=f"{revm.NAME}, no state root", ours=NO_ROOT, theirs=revm.NAME),
    *(Compared(name=each, ours=NO_ROOT, theirs=each) for each in (ONE_THREAD, SERIAL, BLOCK_STM)),
)


@attrs.frozen
class Ours:
    """One of our ledgers, judged by the books. `labels`: of its turn with and without the state root."""

    world: Transfers
    ledger: Any
    labels: Mapping[str, str]
    version: str = __version__

    def take(self, work: Work) -> Done:
        ran = self.ledger.run(work.blocks)
        kinds = {"turn": ran.turn, "bare": ran.bare}
        turns = {label: kinds[kind] for kind, label in self.labels.items()}
        return Done(turns, self.world.wrong(work, ran), ran.facts)


@attrs.frozen
class Theirs:
    """revm over the same transfers."""

    world: Transfers
    evm: Revm
    names: Callable[[int], str]

    @property
    def version(self) -> str:
        return self.evm.version

    def take(self, work: Work) -> Done:
        names = self.names
        calls = [(names(one), names(other), None, amount) for one, other, amount, _ in work.transfers]
        turn = self.evm.run(calls)
        wrong = self.world.wrong_balance(work, 0, lambda account: self.evm.balance(names(account)))
        return Done({revm.NAME: turn}, wrong)


def run_payments(
    name: str, shape: Shape, options: Options, gas: GasPolicy, progress: Progress | None = None
) -> BenchResult:
    """Run one of `SHAPES`, or a shape like it. Raises CantMeasure for sizes that can't be. Blocks."""
    world = Transfers(_plan(shape, options))
    way = options.way()
    contestants: dict[str, Contestant[Work]] = {OURS: ledger_of(world, way, gas)}
    if way.native and way.threads > 1:
        alone = attrs.evolve(way, threads=1, root=False)
        contestants[ONE_THREAD] = ledger_of(world, alone, gas, {"bare": ONE_THREAD})
    if way.native and shape.hot:
        for mode in (SERIAL, BLOCK_STM):
            forced = attrs.evolve(way, mode=mode, root=False)
            contestants[mode] = ledger_of(world, forced, gas, {"bare": mode})
    missing = _add_revm(contestants, world) if options.peers else []
    race = run_race(world.next, contestants, options.pairs, progress)
    _check_slice(race, _plan(shape, options), way, gas)
    inside, outside = measured_of(way)
    versions = {who: one.version for who, one in contestants.items()}
    contestants.clear()  # their memory is needed for the growth
    return finished(
        name,
        options,
        race,
        parameters={
            "accounts": shape.accounts,
            "block": shape.block,
            "hot_accounts": shape.hot,
            "hot_share": HOT_SHARE if shape.hot else None,
            "keys_a_transaction": 2,
            "conflict_rate": round(conflict_rate(Transfers(_plan(shape, options)).next()), 4),
            "slice_compared": min(SLICE, shape.block),
        },
        goodput_of=OURS,
        claims=CLAIMS,
        measured={OURS: inside, revm.NAME: revm.MEASURED},
        left_out={OURS: outside, revm.NAME: revm.LEFT_OUT},
        versions=versions,
        missing=missing,
        growth=_growth(shape, options, gas) if options.growth and race.oracle == "ok" else (),
    )


def conflict_rate(work: Work) -> float:
    """The share of a block's transactions that have an account in common with an earlier one of it."""
    met = 0
    seen: set[int] = set()
    transfers = work.transfers[: len(work.blocks[0])]
    for sender, recipient, _, _ in transfers:
        met += sender in seen or recipient in seen
        seen.update((sender, recipient))
    return met / len(transfers)


def _plan(shape: Shape, options: Options) -> TransferPlan:
    return TransferPlan(
        accounts=shape.accounts, block=shape.block, blocks=options.blocks, hot=shape.hot, seed=options.seed
    )


def ledger_of(world: Transfers, way: Way, gas: GasPolicy, labels: Mapping[str, str] | None = None) -> Ours:
    """One of ours that starts where the world does."""
    return Ours(world, open_ledger(way, world.start(), gas), labels or {"turn": OURS, "bare": NO_ROOT})


def _add_revm(contestants: "dict[str, Contestant[Work]]", world: Transfers) -> list[str]:
    """Let revm compete; its name where it isn't installed."""
    count = world.plan.accounts
    try:
        evm = Revm((address_text(world.address(each)) for each in range(count)), BALANCE)
    except ImportError:
        return [revm.NAME]
    names = [address_text(world.address(each)) for each in range(count)]
    contestants[revm.NAME] = Theirs(world, evm, names.__getitem__)
    return []


def _check_slice(race: "Race[Work]", plan: TransferPlan, way: Way, gas: GasPolicy) -> None:
    """Compare C with the specification on the start of the run; told as a problem of the run."""
    world = Transfers(plan)
    block = world.next().blocks[0]
    wrong = wrong_slice(block, world.start_of(block, SLICE), way, gas)
    if wrong is not None:
        race.problems.append(wrong)


def _growth(shape: Shape, options: Options, gas: GasPolicy) -> list[dict[str, Any]]:
    """Nanoseconds a transaction at sizes a factor of ten apart, with and without the state root."""
    grows = shape.grows

    def entered(size: int) -> tuple[Callable[[], Work], Ours]:
        sized = attrs.evolve(shape, accounts=size) if grows == ACCOUNTS else attrs.evolve(shape, block=size)
        world = Transfers(_plan(sized, options))
        return world.next, ledger_of(world, options.way(), gas)

    of = ACCOUNTS if grows == ACCOUNTS else "transactions a block"
    sizes = sizes_up_to(shape.accounts if grows == ACCOUNTS else shape.block, options.growth)
    return measure_growth(of, "transaction", sizes, entered, options.pairs)
