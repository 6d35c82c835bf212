"""The APPLICATION component `ledger`: opens the ledger over the storage role and keeps the chain's tasks."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio
from attrs.validators import ge, gt, in_, le

from supervm.chain.application import Chain
from supervm.chain.exchange import SnapshotExchange
from supervm.chain.incoming import INCOMING, Incoming
from supervm.chain.keeping import PruneFigures, Pruning, UsageFigures, keep_counted
from supervm.chain.mempool import MempoolBounds
from supervm.chain.room import Room, RoomRules
from supervm.chain.snapshots import SnapshotFigures, SnapshotKeeper, SnapshotRules
from supervm.chain.validator_sets import read_validator_sets
from supervm.contracts.application import NodeIdentity
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import Role
from supervm.contracts.storage import PASSING, KeyValueStore
from supervm.crypto.batch import chosen
from supervm.execution.engine import MODES, choose_engine
from supervm.execution.working import GAS_STATE_KEY
from supervm.kernel.component import Component, Context
from supervm.storage.errors import Pruned, RowDamaged
from supervm.storage.ledger import PAGE_CACHE_BYTES, STATE_CACHE_BYTES, open_ledger
from supervm.storage.pruning import KEPT_MIN, Keep
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_restore import read_origin
from supervm.storage.state_tree import TREES
from supervm.storage.tree import SLICES
from supervm.storage.verify import verify_slice
from supervm.types.address import Suite
from supervm.types.genesis import Genesis

THREADS_MAX = 8
WORKERS_MAX = 256
REFRESH_S = 1.0
SPOT_CHECK_S = 600.0
SPOT_CHECK_BLOCKS = 16
SNAPSHOTS = "snapshots"
"""Their folder in the data folder, where no other is named."""


def _kept(options: object, field: "attrs.Attribute[int]", value: int) -> None:
    if value != 0 and value < KEPT_MIN:
        raise ValueError(f"{field.name} is {value}: give 0 to keep all, or at least {KEPT_MIN}")


@attrs.frozen(kw_only=True)
class LedgerOptions:
    """What an operator may set. Sizes in bytes, times in seconds.

    `mempool_*`: see `supervm.chain.mempool.MempoolBounds`. `admission_threads` 0: one for each core, at
    most 4. `admission_inflight_max`: transactions being admitted at once; beyond it clients are told to
    come back. `signatures_remembered`: checked signatures kept. `spot_check_blocks`: after so many blocks
    a part of the state is compared with its tree (STO-37), at most every ten minutes; 0: never.
    `execution`: `auto` takes C where it is there and lets it choose by the block, `serial`, `partitioned` and
    `block_stm` are its ways by name, `python` is the specification; the results are the same bytes.
    `execution_workers`: its threads. `execution_cache_bytes`: the state that it keeps in memory; 0: no bound.
    `state_tree`: `auto` takes C where it is there, on `execution_workers` threads, `python` is the
    specification; of either's pages at most `page_cache_bytes` stay in memory.
    `prune_keep_blocks`: of so many newest blocks the bodies and receipts are kept, of all others headers,
    certificates and index; 0: of all. `prune_keep_s`: those younger than that are kept too.
    `prune_keep_roots`: of so many newest heights the whole state tree is kept; 0: of all. Both counts are 0
    or at least 256. `prune_share`: the part of its time that pruning may work.
    `snapshot_blocks`, `snapshot_s`: after so many blocks, or after so long, a snapshot is taken, at most one
    every ten minutes; 0: never. `snapshot_keep`: the newest ones kept. `snapshot_path`: their folder; empty:
    `snapshots` in the data folder. `snapshot_body_blocks`: the newest blocks that go along whole; 0: all.
    `snapshot_bytes_max`: what all of them may take; 0: a fifth of the disk. `snapshot_free_bytes_min`: with
    less free on their disk none is taken. `snapshot_share`: the part of its time that taking one may work.
    `usage_s`: how often what the store's rows are for is counted; 0: never.
    `disk_tight_bytes`: with less free on the store's disk, or less than a tenth of it where that is less,
    the node prunes at once and takes no snapshot. `disk_full_bytes`: with less, or less than a twentieth,
    it takes no transactions and isn't ready. Both count from what the store keeps free, where that is
    more; 0: no such step. `disk_look_s`: how often it looks.
    """

    mempool_transactions_max: int = attrs.field(default=20_000, validator=ge(1))
    mempool_bytes_max: int = attrs.field(default=32 * 2**20, validator=ge(2**18))
    mempool_ahead_max: int = attrs.field(default=64, validator=in_(range(1, 1_025)))
    mempool_stay_s_max: float = attrs.field(default=3_600.0, validator=gt(0))
    mempool_retry_after_s: float = attrs.field(default=1.0, validator=gt(0))
    admission_threads: int = attrs.field(default=0, validator=in_(range(THREADS_MAX + 1)))
    admission_inflight_max: int = attrs.field(default=16_384, validator=ge(1))
    signatures_remembered: int = attrs.field(default=32_768, validator=ge(1))
    spot_check_blocks: int = attrs.field(default=1_000, validator=ge(0))
    page_cache_bytes: int = attrs.field(default=PAGE_CACHE_BYTES, validator=ge(0))
    state_cache_bytes: int = attrs.field(default=STATE_CACHE_BYTES, validator=ge(0))
    execution: str = attrs.field(default="auto", validator=in_((*MODES, "python")))
    execution_workers: int = attrs.field(default=1, validator=in_(range(1, WORKERS_MAX + 1)))
    execution_cache_bytes: int = attrs.field(default=STATE_CACHE_BYTES, validator=ge(0))
    state_tree: str = attrs.field(default="auto", validator=in_(TREES))
    prune_keep_blocks: int = attrs.field(default=0, validator=_kept)
    prune_keep_s: int = attrs.field(default=0, validator=ge(0))
    prune_keep_roots: int = attrs.field(default=0, validator=_kept)
    prune_share: float = attrs.field(default=0.2, validator=[gt(0), le(1)])
    snapshot_blocks: int = attrs.field(default=0, validator=ge(0))
    snapshot_s: int = attrs.field(default=0, validator=ge(0))
    snapshot_keep: int = attrs.field(default=3, validator=ge(1))
    snapshot_path: str = ""
    snapshot_body_blocks: int = attrs.field(default=1_000, validator=ge(0))
    snapshot_bytes_max: int = attrs.field(default=0, validator=ge(0))
    snapshot_free_bytes_min: int = attrs.field(default=5 * 10**9, validator=ge(0))
    snapshot_share: float = attrs.field(default=0.2, validator=[gt(0), le(1)])
    usage_s: int = attrs.field(default=6 * 3_600, validator=ge(0))
    disk_tight_bytes: int = attrs.field(default=5 * 10**9, validator=ge(0))
    disk_full_bytes: int = attrs.field(default=2 * 10**9, validator=ge(0))
    disk_look_s: float = attrs.field(default=5.0, validator=ge(0.1))

    @property
    def mempool(self) -> MempoolBounds:
        return MempoolBounds(
            transactions_max=self.mempool_transactions_max,
            bytes_max=self.mempool_bytes_max,
            ahead_max=self.mempool_ahead_max,
            stay_s_max=self.mempool_stay_s_max,
            retry_after_s=self.mempool_retry_after_s,
        )

    @property
    def keep(self) -> Keep:
        return Keep(blocks=self.prune_keep_blocks, roots=self.prune_keep_roots, seconds=self.prune_keep_s)

    @property
    def room(self) -> RoomRules:
        return RoomRules(tight_bytes=self.disk_tight_bytes, full_bytes=self.disk_full_bytes)

    @property
    def snapshots(self) -> SnapshotRules:
        return SnapshotRules(
            blocks=self.snapshot_blocks,
            seconds=self.snapshot_s,
            keep=self.snapshot_keep,
            share=self.snapshot_share,
            body_blocks=self.snapshot_body_blocks,
            bytes_max=self.snapshot_bytes_max,
            free_bytes_min=self.snapshot_free_bytes_min,
        )

    def snapshot_folder(self, data: Path) -> SnapshotFolder:
        """The folder of snapshots for a node whose data is in `data`."""
        own = self.snapshot_path
        return SnapshotFolder(Path(own).expanduser() if own else data / SNAPSHOTS)


@attrs.frozen(kw_only=True)
class LedgerConfig:
    """The chain to keep, who keeps it, and the options. The node's assembly fills it in.

    `data`: the node's data folder, "" for the component's own; `backend`: the storage component's name.
    `takes_snapshots`: whether the node can begin again with a snapshot of peers.
    """

    genesis: Genesis
    identity: NodeIdentity
    options: LedgerOptions = LedgerOptions()
    data: str = ""
    backend: str = ""
    takes_snapshots: bool = True


def ledger_component() -> Component:
    """The component; its configuration is a `LedgerConfig`."""
    return Component(
        role=Role.APPLICATION,
        name="ledger",
        open=open_chain,
        config=LedgerConfig,
        requires=(Role.STORAGE, Role.GAS),
        wants=(Role.PRIVACY,),
        description="admission, mempool, execution and the durable chain",
    )


@asynccontextmanager
async def open_chain(ctx: Context, config: LedgerConfig) -> AsyncIterator[Chain]:
    """Open the chain in the storage role's store; make it from genesis where the store is empty.

    Raises what `open_ledger` raises: `ForeignChain`, `StoreTooNew`, `StoreCorrupt`.
    """
    store: KeyValueStore = ctx.require(Role.STORAGE)
    gas: GasPolicy = ctx.require(Role.GAS)
    options = config.options
    first = gas.initial_state()
    async with open_ledger(
        store,
        config.genesis,
        first,
        gas.base_price(first),
        page_cache_bytes=options.page_cache_bytes,
        state_cache_bytes=options.state_cache_bytes,
        native_tree=options.state_tree != "python",
        tree_threads=options.execution_workers,
    ) as ledger:
        gas_state = (await ledger.get_state([GAS_STATE_KEY]))[GAS_STATE_KEY]
        assert gas_state is not None, "genesis puts the gas policy's state there"
        room = Room(ctx, store, options.room, options.disk_look_s)
        await room.look()
        chain = Chain(
            ctx,
            genesis=config.genesis,
            identity=config.identity,
            ledger=ledger,
            gas=gas,
            gas_state=gas_state,
            block_engine=choose_engine(
                native=options.execution != "python",
                threads=options.execution_workers,
                bytes_max=options.execution_cache_bytes,
                seed=ctx.random.randbytes(32),
                mode=options.execution if options.execution in MODES else "auto",
            ),
            room=room,
            bounds=options.mempool,
            threads=options.admission_threads or min(4, os.cpu_count() or 1),
            inflight_max=options.admission_inflight_max,
            signatures_remembered=options.signatures_remembered,
            sets=await read_validator_sets(store, config.genesis, ledger),
        )
        origin = await read_origin(store)
        chain.restored_height = 0 if origin is None else origin[0]
        for _ in range(chain.examiner.threads):
            ctx.nursery.start_soon(chain.examiner.run_worker)
        ctx.nursery.start_soon(_tell_libraries, ctx)
        ctx.nursery.start_soon(_keep_fresh, ctx, chain)
        ctx.nursery.start_soon(room.watch)
        ctx.nursery.start_soon(chain.mending.run)
        figures = PruneFigures.declare(ctx.metrics)
        figures.refresh(ledger, None)
        if not options.keep.everything:
            pruning = Pruning(ctx, store, ledger, options.keep, options.prune_share, room, figures)
            ctx.nursery.start_soon(pruning.run)
        usage = UsageFigures.declare(ctx.metrics)
        if options.usage_s:
            ctx.nursery.start_soon(keep_counted, ctx, store, options.usage_s, usage)
        snapshots = SnapshotFigures.declare(ctx.metrics)
        chain.snapshots = SnapshotKeeper(
            ctx,
            ledger,
            config.genesis,
            config.identity,
            options.snapshot_folder(Path(config.data) if config.data else ctx.data_dir),
            options.snapshots,
            snapshots,
            config.backend,
            room,
        )
        ctx.nursery.start_soon(chain.snapshots.run)
        exchange = SnapshotExchange(
            config.genesis,
            config.identity.node_id,
            chain.snapshots.folder,
            Incoming((Path(config.data) if config.data else ctx.data_dir) / INCOMING),
            takes=config.takes_snapshots,
        )
        chain.exchange = exchange
        if options.spot_check_blocks:
            ctx.nursery.start_soon(_spot_check, ctx, chain, options.spot_check_blocks)
        yield chain


async def _tell_libraries(ctx: Context) -> None:
    """Choose what verifies signatures, which takes a moment, before the first transaction waits for it."""
    library = await trio.to_thread.run_sync(chosen, limiter=trio.CapacityLimiter(1))
    for reason in library.unfit:
        ctx.log.warning("signature_library_unfit", reason=reason)
    for number, (batch, reason) in library.facts.items():
        ctx.log.info("signature_library", suite=Suite(number).name.lower(), batch=batch, reason=reason)


async def _keep_fresh(ctx: Context, chain: Chain) -> None:
    """Once a second: drop what expired, and bring the gauges up to date."""
    while True:
        chain.sweep()
        await ctx.clock.sleep(REFRESH_S)


async def _spot_check(ctx: Context, chain: Chain, blocks: int) -> None:
    """Compare a random 1/256 of the state with its tree now and then, and blocks with their index (STO-37).

    A store that can't be read for now is checked the next time, and so is one with a damaged row, once that
    is back. Raises `StoreCorrupt` where they differ and no row is to blame: the component fails, and nothing
    is voted for from then on.
    """
    checked_height = chain.ledger.tip.height
    while True:
        await ctx.clock.sleep(SPOT_CHECK_S)
        height = chain.ledger.tip.height
        if height - checked_height < blocks:
            continue
        part = ctx.random.randrange(SLICES)
        try:
            entries = await verify_slice(chain.ledger, part)
            for _ in range(SPOT_CHECK_BLOCKS):
                with suppress(Pruned):  # meanwhile
                    await chain.ledger.check_index(ctx.random.randint(chain.ledger.horizon.blocks, height))
        except (*PASSING, RowDamaged) as error:
            if isinstance(error, RowDamaged) and not chain.mending.noticed(error):
                raise
            ctx.log.warning("state_not_checked", height=height, part=part, cause=str(error))
            continue
        checked_height = height
        ctx.log.info("state_checked", height=height, part=part, entries=entries)
