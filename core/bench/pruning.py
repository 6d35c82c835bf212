"""`bench pruning`: how long blocks take while a node prunes, beside the same blocks while it doesn't.

First a chain of many small blocks is made, then everything below its newest 256 is pruned while blocks go on.
Windows of blocks take turns: in one the sweep may work, as a node's does, its share of the time and in short
pieces; in the next it is held. So both kinds meet the same machine, the same store and the same compactions.
"""

import tempfile
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median

import attrs
import trio

from supervm.bench.books import TRANSFER_FEE
from supervm.bench.chains import Maker, WrongBlock, component_of, genesis_of
from supervm.bench.gas import POLICY
from supervm.bench.pairs import PAIRS_MIN, short
from supervm.bench.race import Progress
from supervm.bench.report import BenchResult, percentile
from supervm.bench.transfers import BALANCE, TransferPlan, Transfers
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import Role
from supervm.contracts.storage import KeyValueStore, StorageError
from supervm.kernel.context import SystemClock
from supervm.kernel.errors import describe, leaf
from supervm.storage.errors import Pruned
from supervm.storage.ledger import Ledger, open_ledger
from supervm.storage.pace import Calm, Pace
from supervm.storage.pruning import KEPT_MIN, Removed, Sweeper, would_remove
from supervm.storage.spaces import Horizon, state_key, unseal
from supervm.storage.verify import verify_tree
from supervm.testing import opened
from supervm.types.genesis import Genesis
from supervm.types.state import ACCOUNT

STATE_CACHE_BYTES = 16 * 2**20
SECTIONS = 5
"""Into so many parts a run is divided, for the least and most ratio of one."""
BUILT_AT_ONCE = 1_000


@attrs.frozen(kw_only=True)
class PrunePlan:
    """`blocks` are pruned, of `block` transfers each; `window` blocks are a turn, `share` is the sweep's.

    `pace_ms`: a block at most every so many milliseconds; 0: as soon as the last is committed.
    """

    blocks: int = 100_000
    block: int = 4
    accounts: int = 20_000
    window: int = 50
    share: float = 0.2
    pace_ms: float = 0.0
    storage: str = "rocksdb"
    seed: int = 1
    folder: Path = Path()


@attrs.define
class Gate:
    """Holds the sweep between two pieces while it is closed."""

    _open: trio.Event = attrs.Factory(trio.Event)
    _held: trio.Event = attrs.Factory(trio.Event)
    ended: bool = False

    def open(self) -> None:
        self._held = trio.Event()
        self._open.set()

    async def close(self) -> None:
        """Return once the sweep stands before it, or is done."""
        self._open = trio.Event()
        if not self.ended:
            await self._held.wait()

    async def wait(self) -> None:
        if not self._open.is_set():
            self._held.set()
            await self._open.wait()
        await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """The sweep won't come again."""
        self.ended = True
        self._held.set()


@attrs.define
class Windows:
    """Milliseconds of each block, by whether the sweep worked; a list a window."""

    idle: list[list[float]] = attrs.Factory(list)
    pruning: list[list[float]] = attrs.Factory(list)
    removed: Removed = Removed()
    pauses: int = 0
    sweep_busy_s: float = 0.0


async def run_pruning(plan: PrunePlan, progress: Progress | None = None) -> BenchResult:
    """Run it. Raises CantMeasure for sizes that can't be, or a storage that isn't here."""
    world = Transfers(TransferPlan(accounts=plan.accounts, block=plan.block, seed=plan.seed))
    component = component_of(Role.STORAGE, plan.storage)
    genesis = genesis_of([world.address(each) for each in range(plan.accounts)], BALANCE)
    with tempfile.TemporaryDirectory(prefix="supervm-bench-", dir=plan.folder) as folder:
        async with AsyncExitStack() as stack:
            gas = await stack.enter_async_context(opened(component_of(Role.GAS, POLICY), Path(folder)))
            store = await stack.enter_async_context(opened(component, Path(folder) / "store"))
            try:
                await _build(plan, world, genesis, gas, store, progress)
                async with _ledger(genesis, gas, store) as ledger:
                    windows = await _race(
                        plan, world, Maker.on(ledger, gas, STATE_CACHE_BYTES), store, progress
                    )
                    problem = await _wrong(plan, world, ledger)
            except* (WrongBlock, StorageError) as broken:
                windows, problem = Windows(), describe(leaf(broken))
    return _result(plan, windows, problem)


def _ledger(
    genesis: Genesis, gas: GasPolicy, store: KeyValueStore, scratch: bool = False
) -> AbstractAsyncContextManager[Ledger]:
    first = gas.initial_state()
    return open_ledger(store, genesis, first, gas.base_price(first), scratch=scratch)


async def _build(
    plan: PrunePlan,
    world: Transfers,
    genesis: Genesis,
    gas: GasPolicy,
    store: KeyValueStore,
    progress: Progress | None,
) -> None:
    """Make the blocks that will be pruned, and as many as always stay. No block waits for the disk here."""
    count = plan.blocks + KEPT_MIN
    async with _ledger(genesis, gas, store, scratch=True) as ledger:
        maker = Maker.on(ledger, gas, STATE_CACHE_BYTES)
        with nullcontext() if progress is None else progress("blocks to prune", count) as bar:
            for height in range(count):
                await maker.next(world.next().blocks[0].transactions())
                if bar is not None and height % BUILT_AT_ONCE == 0:
                    bar.update(min(BUILT_AT_ONCE, count - height))


async def _race(
    plan: PrunePlan, world: Transfers, maker: Maker, store: KeyValueStore, progress: Progress | None
) -> Windows:
    """Windows in turns until everything is pruned, and at least one of each kind."""
    ledger, gate, windows, clock = maker.ledger, Gate(), Windows(), SystemClock()
    calm = Calm(store, clock)

    async def may_go_on() -> None:
        await gate.wait()
        await calm.wait()

    pace = Pace(clock, plan.share)
    sweeper = Sweeper(ledger, pace, calm=may_go_on)
    with nullcontext() if progress is None else progress("pruning", plan.blocks) as bar:

        def tell(gone: Removed) -> None:
            windows.removed += gone
            if bar is not None:
                bar.update(gone.blocks)

        async def sweep() -> None:
            await sweeper.sweep(tell)
            gate.end()

        await _window(plan, world, maker)  # warms up
        await ledger.raise_horizon(Horizon(plan.blocks, plan.blocks))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep)
            await gate.close()
            while not gate.ended:
                windows.idle.append(await _window(plan, world, maker))
                gate.open()
                windows.pruning.append(await _window(plan, world, maker))
                await gate.close()
    windows.sweep_busy_s = pace.busy_s
    return windows


async def _window(plan: PrunePlan, world: Transfers, maker: Maker) -> list[float]:
    """How many milliseconds each block of a window took."""
    taken = []
    for _ in range(plan.window):
        raw = world.next().blocks[0].transactions()
        began_s = trio.current_time()
        taken.append(1_000 * await maker.next(raw))
        await trio.sleep(max(0.0, plan.pace_ms / 1_000 - (trio.current_time() - began_s)))
    return taken


async def _wrong(plan: PrunePlan, world: Transfers, ledger: Ledger) -> str:
    """What isn't as it must be after all: "ok", or in words."""
    if not world.books.conserved():
        return "the plan itself makes or loses value"
    wanted = {
        ACCOUNT + world.address(each): world.books.entry(each, TRANSFER_FEE) for each in range(plan.accounts)
    }
    async with ledger.view() as (view, _, _):
        found = await view.get_many([state_key(key) for key in wanted])
    for (key, value), stored in zip(wanted.items(), found, strict=True):
        if stored is None or unseal(state_key(key), stored) != value:
            return f"0x{key.hex()} isn't as the books have it"
    left = await would_remove(ledger, ledger.horizon)
    if left != Removed():
        return f"below the horizon there are {left.blocks} blocks and {left.pages} pages left"
    if ledger.horizon.blocks != plan.blocks or await ledger.block(plan.blocks) is None:
        return f"block {plan.blocks} isn't the lowest one kept"
    try:
        await ledger.block(plan.blocks - 1)
    except Pruned:
        pass
    else:
        return f"block {plan.blocks - 1} is there and should be pruned"
    await verify_tree(ledger)
    return "ok"


def _result(plan: PrunePlan, windows: Windows, problem: str) -> BenchResult:
    idle, pruning = _flat(windows.idle), _flat(windows.pruning)
    counted = problem == "ok" and len(windows.pruning) >= PAIRS_MIN
    slower = {name: _slower(windows, part) for name, part in (("p50", 0.5), ("p99", 0.99))} if counted else {}
    seconds = sum(pruning) / 1_000
    return BenchResult(
        name="pruning",
        parameters={
            **attrs.asdict(plan, filter=attrs.filters.exclude("folder")),
            "durability": "durable",
            "kept": KEPT_MIN,
            "goodput_of": "blocks while pruning",
        },
        goodput=round(len(pruning) * plan.block / seconds, 1) if seconds else None,
        attempts=plan.block * (len(idle) + len(pruning)),
        failed=0,
        latency_ms=_percentiles(pruning),
        ratios={"idle": short(1 / slower["p99"]["whole"])} if counted else {},
        oracle=problem,
        extra={
            "idle_ms": _percentiles(idle),
            "slower": slower,
            "pairs": len(windows.pruning),
            "removed": attrs.asdict(windows.removed),
            "sweep_busy_s": round(windows.sweep_busy_s, 3),
            "measured": {"supervm": ["state tree", "sealed rows", "one durable batch in the store"]},
            "left_out": {"supervm": ["decoding", "signatures", "execution", "receipts and their root"]},
        },
    )


def _flat(windows: Sequence[Sequence[float]]) -> list[float]:
    return sorted(each for window in windows for each in window)


def _percentiles(ordered: Sequence[float]) -> dict[str, float] | None:
    if not ordered:
        return None
    found = {name: percentile(ordered, part) for name, part in (("p50", 0.5), ("p99", 0.99))}
    return {name: round(value, 2) for name, value in found.items() if value is not None}


def _slower(windows: Windows, part: float) -> dict[str, float]:
    """A percentile while pruning over the same of idle blocks: of the whole run, and of its parts."""

    def ratio(first: int, end: int) -> float:
        one = percentile(_flat(windows.pruning[first:end]), part)
        other = percentile(_flat(windows.idle[first:end]), part)
        assert one is not None and other is not None, "a window has blocks"
        return one / other

    count = len(windows.pruning)
    edges = [count * at // SECTIONS for at in range(SECTIONS + 1)]
    parts = [ratio(first, end) for first, end in pairwise(edges)]
    return {
        "whole": short(ratio(0, count)),
        "median": short(median(parts)),
        "min": short(min(parts)),
        "max": short(max(parts)),
    }
