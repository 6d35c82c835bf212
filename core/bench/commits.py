"""`bench block-commit`: blocks of transfers that a ledger stages and commits, its tree in C and in Python.

Both have a store of their own in one temporary folder, and are given the same executed blocks in turns. The
clock runs in `stage` and `commit`: the tree, sealing, encoding, the batch, the sync. Execution is outside.
"""

import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

import attrs
import trio

from supervm import __version__
from supervm.bench.books import TRANSFER_FEE
from supervm.bench.errors import CantMeasure
from supervm.bench.gas import POLICY
from supervm.bench.packing import CHAIN_ID
from supervm.bench.pairs import Clock, Turn, rates, ratio, turns
from supervm.bench.race import WARM_UP, Progress
from supervm.bench.report import BenchResult, percentile
from supervm.bench.transfers import BALANCE, TransferPlan, Transfers, Work, touched
from supervm.config import PluginsConfig
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import Role
from supervm.execution import GAS_STATE_KEY, BlockInput, BlockResult
from supervm.execution.engine import BlockEngine, choose_engine
from supervm.hardware import fastpath
from supervm.kernel.component import Component
from supervm.node.catalogue import read_catalogue
from supervm.storage.ledger import PAGE_CACHE_BYTES, Ledger, open_ledger
from supervm.storage.spaces import state_key, unseal
from supervm.testing import opened
from supervm.types.batch import BATCH_BYTES_MAX, Batch, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.genesis import Genesis
from supervm.types.limits import DEFAULT_LIMITS
from supervm.types.packed_receipts import heads_of
from supervm.types.receipt import Status
from supervm.types.state import ACCOUNT
from supervm.types.transaction import Transaction
from supervm.types.validators import Validator, ValidatorSet

OURS, PYTHON = "supervm", "tree in Python"
NODE = b"\x01" * 32
MEASURED = ("state tree", "sealed rows of state, tree, receipts and index", "one durable batch in the store")
LEFT_OUT = ("decoding", "signatures", "execution", "receipts and their root")


@attrs.frozen(kw_only=True)
class CommitPlan:
    """Blocks of transfers among accounts. `page_cache_bytes` bounds what of the tree is in memory."""

    accounts: int = 20_000
    block: int = 5_000
    pairs: int = 5
    storage: str = "rocksdb"
    page_cache_bytes: int = PAGE_CACHE_BYTES
    seed: int = 1


@attrs.define
class Side:
    """A ledger, and how long each of its blocks took."""

    ledger: Ledger
    taken: list[Turn] = attrs.Factory(list)
    counted: int = 0

    async def take(self, raw: Sequence[bytes], result: BlockResult) -> None:
        clock, height = Clock(), self.ledger.tip.height + 1
        with clock:
            staged = await self.ledger.stage(result.changes, height)
        block = make_block(self.ledger.tip_header, staged.root, raw)
        with clock:
            await self.ledger.commit(block, result.receipts, b"", staged)
        self.counted += 1
        if self.counted > WARM_UP:
            self.taken.append(Turn(len(raw), 0, clock.seconds, clock.cpu_seconds))


async def run_commits(plan: CommitPlan, progress: Progress | None = None) -> BenchResult:
    """Run it. Raises CantMeasure for sizes that can't be, or a storage that isn't here."""
    world = Transfers(TransferPlan(accounts=plan.accounts, block=plan.block, seed=plan.seed))
    _component(Role.STORAGE, plan.storage)
    native = fastpath.BLOCKS_NATIVE
    with tempfile.TemporaryDirectory(prefix="supervm-bench-") as folder:
        async with AsyncExitStack() as stack:
            gas = await stack.enter_async_context(opened(_component(Role.GAS, POLICY), Path(folder)))
            sides = {
                name: Side(await _open_ledger(stack, plan, world, gas, name, Path(folder)))
                for name in (OURS, PYTHON)[: 1 + native]
            }
            problems = await _race(plan, world, gas, sides, progress)
    ours = sides[OURS].taken
    ordered = sorted(1e3 * turn.seconds for turn in ours)
    p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
    compared = ratio(ours, sides[PYTHON].taken) if native and not problems else None
    figures = {name: rates(side.taken) for name, side in sides.items()} if not problems else {}
    return BenchResult(
        name="block-commit",
        parameters={
            **attrs.asdict(plan),
            "warm_up": WARM_UP,
            "durability": "durable",
            "backend": plan.storage,
            "goodput_of": OURS,
        },
        goodput=figures[OURS]["a_second"]["median"] if figures else None,
        attempts=sum(turn.done for turn in ours),
        failed=0,
        latency_ms=None if p50 is None or p99 is None else {"p50": round(p50, 1), "p99": round(p99, 1)},
        ratios={PYTHON: compared["ratio"]["median"]} if compared else {},
        oracle="; ".join(problems) or "ok",
        extra={
            "rates": figures,
            "compared": {PYTHON: compared} if compared else {},
            "measured": {OURS: list(MEASURED)},
            "left_out": {OURS: list(LEFT_OUT)},
            "versions": {OURS: __version__},
            "path": fastpath.report()["execute_block"].reason,
        },
    )


async def _race(
    plan: CommitPlan, world: Transfers, gas: GasPolicy, sides: dict[str, Side], progress: Progress | None
) -> list[str]:
    """Commit block after block, each side in its turn; what was wrong."""
    engine = choose_engine(native=True, threads=1, bytes_max=0, seed=bytes(32))
    first = sides[OURS].ledger
    with nullcontext() if progress is None else progress(", ".join(sides), WARM_UP + plan.pairs) as bar:
        order = [*(WARM_UP * [[*sides]]), *_orders(list(sides), plan.pairs)]
        for names in order:
            work = world.next()
            transactions = [Transaction.decode(data) for data in work.blocks[0].transactions()]
            result = await _execute(engine, first, gas, transactions)
            for name in names:
                await sides[name].take([each.data for each in transactions], result)
            engine.follow(result.changes)
            problem = await _wrong(world, work, result, [side.ledger for side in sides.values()])
            if problem is not None:
                return [problem]
            if bar is not None:
                bar.update(1)
    return []


def _orders(names: Sequence[str], pairs: int) -> list[list[str]]:
    """Whose turn it is, pair by pair."""
    found: list[list[str]] = [[] for _ in range(pairs)]
    for pair, name in turns(names, pairs):
        found[pair].append(name)
    return found


async def _execute(
    engine: BlockEngine, ledger: Ledger, gas: GasPolicy, transactions: Sequence[Transaction]
) -> BlockResult:
    gas_state = (await ledger.get_state([GAS_STATE_KEY]))[GAS_STATE_KEY]
    assert gas_state is not None, "genesis puts the gas policy's state there"
    block = BlockInput(
        height=ledger.tip.height + 1,
        epoch=1,
        timestamp_ms=ledger.tip_header.timestamp_ms + 1,
        chain_id=CHAIN_ID,
        limits=DEFAULT_LIMITS,
        transactions=tuple(transactions),
    )
    with engine.open_block(block, gas, gas_state) as run:
        asked = run.missing()
        found = await ledger.get_state(asked)
        run.supply([found[key] for key in asked])
        return await trio.to_thread.run_sync(run.execute)


async def _wrong(world: Transfers, work: Work, result: BlockResult, ledgers: Sequence[Ledger]) -> str | None:
    """What of a block isn't as the books have it, or isn't the same in all ledgers."""
    if any(head.status is not Status.COMMITTED for head in heads_of(result.receipts)):
        return "a transfer of the plan wasn't committed"
    if len({ledger.tip.state_root for ledger in ledgers}) != 1:
        return "the state roots of the trees differ"
    wanted = {ACCOUNT + world.address(each): world.books.entry(each, TRANSFER_FEE) for each in touched(work)}
    for ledger in ledgers:
        # From the store, whatever the ledger has in memory.
        async with ledger.view() as (view, _, _):
            found = await view.get_many([state_key(key) for key in wanted])
        for (key, value), stored in zip(wanted.items(), found, strict=True):
            if stored is None or unseal(state_key(key), stored) != value:
                return f"0x{key.hex()} isn't as the books have it"
        digest = result.receipts[0].digest
        located = await ledger.transaction(digest)
        if located is None or located.receipt != result.receipts[0]:
            return f"0x{digest.hex()} isn't found with its receipt"
    return None


async def _open_ledger(
    stack: AsyncExitStack, plan: CommitPlan, world: Transfers, gas: GasPolicy, name: str, folder: Path
) -> Ledger:
    first = gas.initial_state()
    accounts = tuple(sorted((world.address(each), BALANCE) for each in range(plan.accounts)))
    validator = Validator(node_id=NODE, public_key=bytes(32), weight=1)
    genesis = Genesis(name="bench", created_ms=0, validators=ValidatorSet((validator,)), accounts=accounts)
    store = await stack.enter_async_context(opened(_component(Role.STORAGE, plan.storage), folder / name))
    return await stack.enter_async_context(
        open_ledger(
            store,
            genesis,
            first,
            gas.base_price(first),
            page_cache_bytes=plan.page_cache_bytes,
            native_tree=name == OURS,
        )
    )


def _component(role: Role, name: str) -> Component:
    """One of the default composition's."""
    known = read_catalogue(PluginsConfig()).named(role)
    if name not in known:
        raise CantMeasure(f"there is no {role.value} {name}; there are {', '.join(sorted(known))}")
    component: Component = known[name].component
    return component


def make_block(parent: BlockHeader, root: bytes, transactions: Sequence[bytes]) -> Block:
    """The block after `parent` with these transactions, in batches; nobody has signed it."""
    batches: list[Batch] = []
    first = 0
    while first < len(transactions):
        end, size_bytes = first, 0
        while end < len(transactions) and size_bytes + len(transactions[end]) <= BATCH_BYTES_MAX:
            size_bytes += len(transactions[end])
            end += 1
        some = tuple(transactions[first:end])
        header = batch_header(
            chain_id=parent.chain_id, epoch=1, builder=NODE, sequence=len(batches), transactions=some, gas=0
        )
        batches.append(Batch(header, bytes(64), some))
        first = end
    certificates = [BatchCertificate(each.header, bytes(64), b"\x01", (bytes(64),)) for each in batches]
    body = BlockBody(certificates=tuple(certificates))
    sealing = BlockHeader(
        chain_id=parent.chain_id,
        epoch=1,
        height=parent.height + 1,
        parent=parent.digest(),
        proposer=NODE,
        timestamp_ms=parent.timestamp_ms + 1,
        root_height=parent.height + 1,
        state_root=root,
        receipts_root=bytes(32),
        base_price=parent.base_price,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=parent.validators_digest,
    )
    return Block(sealing, body, tuple(batches))
