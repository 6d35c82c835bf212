"""`bench growth`: the memory of a ledger of many accounts, while they are loaded and while its chain grows.

Nothing here grows with the number of accounts: addresses are made of their number, and the few that pay are
known by theirs. So what the process takes is the ledger's and the store's, and little more. Accounts are
loaded as a snapshot's are: rows as they come, then the tree in the order of hashes.
"""

import random
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import trio
from blake3 import blake3

from supervm.bench.books import SUPPLY_KEY, TRANSFER_FEE, supply_entry
from supervm.bench.chains import Maker, WrongBlock, component_of, genesis_of
from supervm.bench.errors import CantMeasure
from supervm.bench.gas import POLICY
from supervm.bench.packing import account_value, pack_transfers
from supervm.bench.pairs import short
from supervm.bench.race import Progress
from supervm.bench.report import BenchResult, percentile
from supervm.bench.transfers import AMOUNT_MAX, BALANCE
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import Role
from supervm.contracts.storage import KeyValueStore, StorageError
from supervm.execution import GAS_STATE_KEY
from supervm.hardware import fastpath
from supervm.kernel.errors import describe, leaf
from supervm.node.allocator import fix_mapped_size
from supervm.storage.creation import create_from_entries
from supervm.storage.ledger import PAGE_CACHE_BYTES, Ledger, open_ledger
from supervm.storage.spaces import STATE, unseal
from supervm.storage.tree import SLICES
from supervm.storage.verify import verify_slice, verify_tree
from supervm.telemetry.process import resident_bytes
from supervm.testing import opened
from supervm.types.genesis import Genesis
from supervm.types.state import ACCOUNT, Account

LOADED_AT_ONCE = 20_000
EXECUTION_CACHE_BYTES = 16 * 2**20
SAMPLES = 20
CHECKED_WHOLE_MAX = 1_000_000
MIB = 2**20


@attrs.frozen(kw_only=True)
class GrowthPlan:
    """`payers` of the accounts send, everybody receives; `block` transfers a block."""

    accounts: int = 1_000_000
    blocks: int = 2_000
    block: int = 100
    payers: int = 10_000
    storage: str = "rocksdb"
    page_cache_bytes: int = PAGE_CACHE_BYTES
    cache_bytes: int | None = None
    seed: int = 1
    folder: Path = Path()

    def __attrs_post_init__(self) -> None:
        if self.accounts < 2 or not 1 <= self.payers <= self.accounts:
            raise CantMeasure(f"{self.payers} payers of {self.accounts} accounts: give at least 1 of 2")


@attrs.define
class People:
    """Accounts by number. Of the payers the nonces are known; what anybody holds is in the ledger alone."""

    plan: GrowthPlan
    chance: random.Random = attrs.field(init=False)
    nonces: list[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.chance = random.Random(self.plan.seed)
        self.nonces = [0] * self.plan.payers

    def address(self, account: int) -> bytes:
        name = account.to_bytes(8, "little") + self.plan.seed.to_bytes(8, "little", signed=True)
        return blake3(b"growth" + name).digest()

    def payer(self, number: int) -> int:
        """They stand far apart, and so do their entries: addresses are as good as random."""
        return number * (self.plan.accounts // self.plan.payers)

    @property
    def paid(self) -> int:
        """Fees of all so far, which are burned."""
        return TRANSFER_FEE * sum(self.nonces)

    def next(self) -> list[bytes]:
        """The transactions of a block."""
        transfers = []
        for _ in range(self.plan.block):
            number = self.chance.randrange(self.plan.payers)
            recipient = self.chance.randrange(self.plan.accounts)
            amount = self.chance.randint(1, AMOUNT_MAX)
            transfers.append((self.payer(number), recipient, amount, self.nonces[number]))
            self.nonces[number] += 1
        return pack_transfers(transfers, self.address).transactions()


@attrs.frozen
class Sample:
    """Bytes at a height: resident ones, and what the store and the ledger say that their caches hold."""

    height: int
    resident: int
    caches: int


@attrs.define
class Grown:
    """What was seen. Bytes are resident ones of the process."""

    start_bytes: int = 0
    loaded_bytes: int = 0
    load_s: float = 0.0
    load_peak_bytes: int = 0
    samples: list[Sample] = attrs.Factory(list)
    block_ms: list[float] = attrs.Factory(list)
    store_bytes: int = 0
    checked_entries: int = 0
    transactions: int = 0


async def run_growth(plan: GrowthPlan, progress: Progress | None = None) -> BenchResult:
    """Run it. Raises CantMeasure for sizes that can't be, or a storage that isn't here."""
    fix_mapped_size()  # as a node does
    component = component_of(Role.STORAGE, plan.storage)
    options: dict[str, Any] = {} if plan.cache_bytes is None else {"cache_bytes": plan.cache_bytes}
    try:
        config = component.config(**options)
    except TypeError:
        raise CantMeasure(f"storage {plan.storage} has no cache_bytes") from None
    people, seen, genesis = People(plan), Grown(start_bytes=int(resident_bytes())), genesis_of([], 0)
    with tempfile.TemporaryDirectory(prefix="supervm-bench-", dir=plan.folder) as folder:
        async with AsyncExitStack() as stack:
            gas = await stack.enter_async_context(opened(component_of(Role.GAS, POLICY), Path(folder)))
            store = await stack.enter_async_context(opened(component, Path(folder) / "store", config))
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_watch_load, seen)
                    await _load(people, genesis, gas, store, seen, progress)
                    nursery.cancel_scope.cancel()
                async with _ledger(plan, genesis, gas, store) as ledger:
                    maker = Maker.on(ledger, gas, EXECUTION_CACHE_BYTES)
                    await _grow(people, maker, store, seen, progress)
                    seen.store_bytes = (await store.stats()).bytes
                    problem = await _wrong(people, ledger, seen)
            except* (WrongBlock, StorageError) as broken:
                problem = describe(leaf(broken))
    return _result(plan, seen, problem)


def _ledger(
    plan: GrowthPlan, genesis: Genesis, gas: GasPolicy, store: KeyValueStore
) -> AbstractAsyncContextManager[Ledger]:
    first = gas.initial_state()
    return open_ledger(store, genesis, first, gas.base_price(first), page_cache_bytes=plan.page_cache_bytes)


async def _watch_load(seen: Grown) -> None:
    """The most that loading takes, looked at ten times a second."""
    while True:
        seen.load_peak_bytes = max(seen.load_peak_bytes, int(resident_bytes()))
        await trio.sleep(0.1)


async def _load(
    people: People,
    genesis: Genesis,
    gas: GasPolicy,
    store: KeyValueStore,
    seen: Grown,
    progress: Progress | None,
) -> None:
    accounts, first = people.plan.accounts, gas.initial_state()
    began_s = trio.current_time()
    with nullcontext() if progress is None else progress("accounts", accounts) as bar:

        async def entries() -> AsyncGenerator[Sequence[tuple[bytes, bytes]], None]:
            yield [(GAS_STATE_KEY, first), (SUPPLY_KEY, supply_entry(accounts * BALANCE))]
            value = account_value(0, BALANCE)
            for start in range(0, accounts, LOADED_AT_ONCE):
                some = range(start, min(start + LOADED_AT_ONCE, accounts))
                yield [(ACCOUNT + people.address(each), value) for each in some]
                if bar is not None:
                    bar.update(len(some))

        async with aclosing(entries()) as all_of_them:
            await create_from_entries(store, genesis, all_of_them, gas.base_price(first))
    seen.load_s = trio.current_time() - began_s
    seen.loaded_bytes = int(resident_bytes())


async def _cached_bytes(ledger: Ledger, store: KeyValueStore) -> int:
    """Rows and blocks in the store's memory, pages and entries in the ledger's."""
    extras, stats = (await store.stats()).extras, ledger.stats()
    below = sum(extras.get(name, 0.0) for name in ("memtable_bytes", "block_cache_bytes", "cached_bytes"))
    return int(below) + stats.pages.bytes + stats.state.bytes


async def _grow(
    people: People, maker: Maker, store: KeyValueStore, seen: Grown, progress: Progress | None
) -> None:
    """Commit the blocks, looking at the memory SAMPLES times."""
    plan = people.plan
    every = max(1, plan.blocks // SAMPLES)
    with nullcontext() if progress is None else progress("blocks", plan.blocks) as bar:
        for height in range(1, plan.blocks + 1):
            seen.block_ms.append(1_000 * await maker.next(people.next()))
            seen.transactions += plan.block
            if height % every == 0:
                caches = await _cached_bytes(maker.ledger, store)
                seen.samples.append(Sample(height, int(resident_bytes()), caches))
                if bar is not None:
                    bar.update(every)


async def _wrong(people: People, ledger: Ledger, seen: Grown) -> str:
    """Count every account and all that they hold; then compare a part of the tree, or all of it."""
    plan, accounts, held, nonces = people.plan, 0, 0, 0
    async with ledger.view() as (view, _, _):
        async for row, stored in view.scan_prefix(STATE + ACCOUNT):
            found = Account.decode(unseal(row, stored))
            accounts, held, nonces = accounts + 1, held + found.balance, nonces + found.nonce
    wanted = plan.accounts * BALANCE - people.paid
    if (accounts, nonces) != (plan.accounts, sum(people.nonces)):
        return f"{accounts} accounts with {nonces} transfers, of {plan.accounts} with {sum(people.nonces)}"
    if held != wanted:
        return f"all accounts together hold {held}, they must hold {wanted}"
    if (await ledger.get_state([SUPPLY_KEY]))[SUPPLY_KEY] != supply_entry(wanted):
        return "the token's supply isn't what the accounts hold"
    if plan.accounts <= CHECKED_WHOLE_MAX:
        seen.checked_entries = await verify_tree(ledger)
    else:
        # Each slice is one more reading of the whole state.
        seen.checked_entries = await verify_slice(ledger, people.chance.randrange(SLICES))
    return "ok"


def _result(plan: GrowthPlan, seen: Grown, problem: str) -> BenchResult:
    ordered, seconds = sorted(seen.block_ms), sum(seen.block_ms) / 1_000
    p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
    resident = [each.resident for each in seen.samples]
    besides = [each.resident - each.caches for each in seen.samples]
    flat = {"resident": _flat(resident), "besides_caches": _flat(besides)} if len(resident) >= 4 else {}
    return BenchResult(
        name="growth",
        parameters={
            **attrs.asdict(plan, filter=attrs.filters.exclude("folder")),
            "durability": "durable",
            "backend": plan.storage,
            "goodput_of": "stage and commit",
        },
        goodput=round(seen.transactions / seconds, 1) if seconds else None,
        attempts=seen.transactions,
        failed=0,
        latency_ms=None if p50 is None or p99 is None else {"p50": round(p50, 1), "p99": round(p99, 1)},
        oracle=problem,
        extra={
            "resident_mib": {
                "start": _mib(seen.start_bytes),
                "loading_peak": _mib(seen.load_peak_bytes),
                "loaded": _mib(seen.loaded_bytes),
                "blocks_peak": _mib(max(resident, default=0)),
                "over_time": [[each.height, _mib(each.resident), _mib(each.caches)] for each in seen.samples],
            },
            "flat": flat,
            "load": {
                "seconds": round(seen.load_s, 1),
                "accounts_a_second": round(plan.accounts / seen.load_s) if seen.load_s else None,
            },
            "store_mib": _mib(seen.store_bytes),
            "checked_entries": seen.checked_entries,
            "path": fastpath.report()["execute_block"].reason,
        },
    )


def _flat(sizes: Sequence[int]) -> dict[str, float]:
    """The median of the second quarter of these beside that of the last."""
    quarter = len(sizes) // 4
    early, late = median(sizes[quarter : 2 * quarter]), median(sizes[-quarter:])
    return {"second_quarter": _mib(early), "last_quarter": _mib(late), "growth": short(late / early)}


def _mib(size_bytes: float) -> float:
    return round(size_bytes / MIB, 1)
