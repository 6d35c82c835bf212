"""The application that consensus drives: the ledger, the mempool, and what the world is told (CONS-80).

One block at a time is executed ahead of the ledger; nothing of it is visible or lasts until `commit` has
made it durable. After that everything changes at once, without a pause between: mempool, waiters, events,
metrics and observers follow the tip and never run ahead of it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from supervm.chain.admission import Admission, Answer
from supervm.chain.claiming import examine_transactions, used_keys, used_slots
from supervm.chain.contests import Contests
from supervm.chain.doubling import doubts, forged, judge_contest, locks_named
from supervm.chain.events import EventLog
from supervm.chain.examine import ChainRules
from supervm.chain.examine import Examined as ExaminedBytes
from supervm.chain.examine import refused as refusal
from supervm.chain.fast import FastLane, Now
from supervm.chain.figures import ChainFigures
from supervm.chain.judging import admission_keys, check_batch
from supervm.chain.ledger_figures import LedgerFigures
from supervm.chain.mempool import Dropped, Entry, Mempool, MempoolBounds
from supervm.chain.mending import Mending
from supervm.chain.news import News
from supervm.chain.queries import Queries
from supervm.chain.recent import Recent
from supervm.chain.room import Room
from supervm.chain.roots import covered_receipts_root
from supervm.chain.snapshots import SnapshotKeeper
from supervm.chain.validator_sets import ValidatorSets
from supervm.chain.verifying import Examiner
from supervm.contracts.application import (
    AlreadyDriven,
    BatchBounds,
    BatchSums,
    BlockBounds,
    BlockInvalid,
    EffectsSource,
    Engine,
    EpochEnder,
    Executed,
    ExecutedFacts,
    FastApplied,
    HeaderFacts,
    NodeIdentity,
    NotExecuted,
    OrderedBlock,
    Refused,
    RootMismatch,
    SnapshotExchange,
    Tip,
    Verdict,
    WrongParent,
)
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import Role
from supervm.contracts.storage import DiskFull
from supervm.execution import (
    GAS_STATE_KEY,
    BlockInput,
    BlockResult,
)
from supervm.execution.ahead import choose_ahead
from supervm.execution.engine import BlockEngine
from supervm.execution.punishing import not_punished, owing_in
from supervm.kernel.component import Context, Health, HealthState
from supervm.storage.errors import Pruned
from supervm.storage.ledger import Ledger, Staged
from supervm.types.batch import Batch
from supervm.types.block import ORDERING_OPERATIONS, Block, BlockHeader
from supervm.types.claims import Examined, Facts
from supervm.types.digests import ZERO
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver
from supervm.types.packed_receipts import PackedReceipts, ReceiptHead, heads_of
from supervm.types.plain import PlainTransaction, sender_of
from supervm.types.receipt import Receipt, Status
from supervm.types.stakes import STAKES_KEY
from supervm.types.state import ACCOUNT, Account
from supervm.types.transaction import Lane, Transaction
from supervm.types.validators import ValidatorSet
from supervm.types.wrongs import (
    DOUBLES_KEY,
    EQUIVOCATION,
    EVIDENCE,
    OFFENCES,
    OFFENCES_KEY,
    Wrongs,
    wrongs_in,
)

KNOWN_OPERATIONS = (*ORDERING_OPERATIONS, EVIDENCE, EQUIVOCATION)
DECODED_MAX = 4_096
ROOTS_MAX = 256
CERTIFIED_MAX = 100_000
PROVING_MAX = 1_024
SMALL_TRANSACTIONS = 4
"""A block of so few takes less time than a thread takes to begin it."""

T = TypeVar("T")

# Refusals at the accept that time or a block may cure; all others are for good.
DEFERRED = frozenset({"NonceGap", "VersionBehind", "InsufficientFunds", "LockBusy", "PriceTooLow", "Busy"})


@attrs.frozen
class Roots:
    """What an executed block left: for the headers that show it."""

    state_root: bytes
    receipts_root: bytes
    base_price: int


@attrs.frozen
class Pending:
    """The block that was executed and isn't committed yet."""

    ordered: OrderedBlock
    transactions: tuple[Transaction, ...]
    result: BlockResult
    staged: Staged
    executed: Executed
    base_price: int


class Chain:
    """What the APPLICATION component yields: an `Application`, and the reads and writes of surfaces."""

    def __init__(
        self,
        ctx: Context,
        *,
        genesis: Genesis,
        identity: NodeIdentity,
        ledger: Ledger,
        gas: GasPolicy,
        gas_state: bytes,
        block_engine: BlockEngine,
        room: Room,
        bounds: MempoolBounds,
        threads: int,
        inflight_max: int,
        signatures_remembered: int,
        sets: ValidatorSets,
    ) -> None:
        self.genesis = genesis
        self.sets = sets
        self.ledger = ledger
        self.gas = gas
        self.gas_state = gas_state
        self.block_engine = block_engine
        self.room = room
        self.mempool = Mempool(bounds)
        self.events = EventLog()
        self.figures = ChainFigures(ctx.metrics, bounds, ctx.clock.monotonic())
        self.ledger_figures = LedgerFigures.declare(ctx.metrics)
        self.news = News(ctx, self.events, self.figures)
        self.queries = Queries(self)
        self.mending = Mending(ctx, ledger)
        self.snapshots: SnapshotKeeper | None = None
        self.exchange: SnapshotExchange | None = None
        self._ctx = ctx
        self._identity = identity
        self.restored_height = 0
        self._engine: Engine | None = None
        self._pending: Pending | None = None
        self._executing = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._examining = trio.CapacityLimiter(1)
        self._judging = trio.CapacityLimiter(1)
        self._work = trio.Event()
        self._in_hand: dict[bytes, Entry] = {}
        self._decoded: Recent[bytes, Transaction] = Recent(DECODED_MAX)
        self._roots: Recent[int, Roots] = Recent(ROOTS_MAX)
        self._lost: frozenset[int] = frozenset()
        self.fast = FastLane(gas, self._state, self._fast_now, choose_ahead(block_engine, gas))
        self.contests = Contests()
        self._certified: Recent[bytes, None] = Recent(CERTIFIED_MAX)
        self._effects_source: EffectsSource | None = None
        self._proving: dict[bytes, trio.Event] = {}
        self.epoch_ender: EpochEnder | None = None
        tip = ledger.tip
        self._roots.put(tip.height, Roots(tip.state_root, tip.receipts_root, self.base_price))
        self._private_kinds: frozenset[int] = frozenset().union(
            *(scheme.payload_kinds for scheme in ctx.all(Role.PRIVACY))
        )
        self.examiner = Examiner(self._rules, threads, signatures_remembered)
        self.admission = Admission(self, inflight_max)

    # What it is

    @property
    def chain_id(self) -> bytes:
        return self.genesis.chain_id

    @property
    def identity(self) -> NodeIdentity:
        return self._identity

    @property
    def epoch_blocks(self) -> int:
        return self.genesis.epoch_blocks

    @property
    def epoch(self) -> int:
        """The epoch of the next block: the tip's, or the one after it where the tip ends its own."""
        header = self.ledger.tip_header
        ended = header.height == 0 or header.next_validators_digest != ZERO
        return header.epoch + 1 if ended else header.epoch

    @property
    def base_price(self) -> int:
        """Micro base units per gas, of the state at the tip."""
        return self.gas.base_price(self.gas_state)

    @property
    def engine(self) -> Engine | None:
        """Who drives the chain now."""
        return self._engine

    @property
    def bounds(self) -> BlockBounds:
        schedule, limits = self.gas.schedule, self.genesis.limits
        return BlockBounds(
            gas_max=schedule.block_gas_limit,
            bytes_max=limits.block_bytes_max,
            transactions_max=limits.block_transactions_max,
            batch_gas_floor=schedule.transaction_gas_max + schedule.fold_batch,
        )

    def tip(self) -> Tip:
        marker, header = self.ledger.tip, self.ledger.tip_header
        return Tip(
            height=marker.height,
            digest=marker.block_digest,
            epoch=header.epoch,
            timestamp_ms=header.timestamp_ms,
            root_height=header.root_height,
            state_root=header.state_root,
        )

    def validators(self, epoch: int) -> ValidatorSet:
        return self.sets.of_epoch(epoch)

    def next_validators(self, height: int) -> ValidatorSet:
        return self.sets.after(height)

    async def health(self) -> Health:
        if self.room.reason:
            return Health(HealthState.DEGRADED, self.room.reason, ready=False)
        if self._engine is None:
            return Health(HealthState.DEGRADED, "no consensus engine drives the chain")
        reason = self.mending.reason
        return Health(HealthState.DEGRADED, reason) if reason else Health()

    async def _state(self, keys: Collection[bytes]) -> dict[bytes, bytes | None]:
        """State at the tip for what can't go on without it: an entry that is being mended is waited for."""
        return await self.mending.patiently(lambda: self.ledger.get_state(keys))

    # Rows that are damaged here, or elsewhere

    def fetching(self) -> AbstractContextManager[None]:
        return self.mending.fetching()

    async def row(self, key: bytes, height: int) -> bytes | None:
        return await self.mending.row(key, height)

    async def lacking(self) -> tuple[bytes, ...]:
        return await self.mending.lacking()

    async def mend(self, key: bytes, value: bytes, prove: Callable[[BlockHeader, bytes], None]) -> bool:
        return await self.mending.mend(key, value, prove)

    # Driven by consensus

    @contextmanager
    def driven(self, engine: Engine) -> Iterator[None]:
        if self._engine is not None:
            raise AlreadyDriven("another engine drives the chain", self._engine.name, "close it first")
        self._engine = engine
        try:
            yield
        finally:
            self._engine = None
            self._pending = None
            self.sets.unchanged()
            self._in_hand.clear()
            self.mempool.release(self._ctx.clock.monotonic())
            self.wake()

    async def certificate(self, height: int) -> bytes:
        found = await self.ledger.certificate(height)
        if found is None:
            raise NotExecuted("no final block of this height here", height)
        return found

    async def gather(self, bounds: BatchBounds, *, wait: bool = True) -> tuple[bytes, ...]:
        fold_gas = self.gas.schedule.fold_batch
        await trio.lowlevel.checkpoint()
        while True:
            now_s = self._ctx.clock.monotonic()
            seal_in_s = self._seal_in_s(bounds, now_s)
            if not wait or seal_in_s == 0:
                taken = self.mempool.take(
                    count_max=bounds.count_max,
                    bytes_seal=bounds.bytes_seal,
                    bytes_max=bounds.bytes_max,
                    gas_max=bounds.gas_max - fold_gas,
                    now_s=now_s,
                )
                # No checkpoint from here on: what was taken is given, or it was not taken.
                if taken or not wait:
                    self._in_hand.update((entry.transaction.data, entry) for entry in taken)
                    return tuple(entry.transaction.data for entry in taken)
                seal_in_s = None
            work = self._work
            with trio.move_on_after(seal_in_s if seal_in_s is not None else float("inf")):
                await work.wait()

    def _seal_in_s(self, bounds: BatchBounds, now_s: float) -> float | None:
        """Seconds until the next batch is sealed, 0 for now, None while there is nothing to seal."""
        since_s = self.mempool.ready_since_s
        if since_s is None:
            return None
        figures = self.mempool.figures()
        if figures.ready >= bounds.count_max or figures.ready_bytes >= bounds.bytes_seal:
            return 0.0
        return max(0.0, since_s + bounds.seal_after_s - now_s)

    def give_back(self, transactions: Sequence[bytes], refused: Mapping[int, Refused] | None = None) -> None:
        reasons = refused if refused is not None else {}
        now_s = self._ctx.clock.monotonic()
        for index, data in enumerate(transactions):
            entry = self._in_hand.pop(data, None)
            if entry is None:
                continue
            reason = reasons.get(index)
            if reason is not None and reason.code not in DEFERRED:
                dropped = self.mempool.drop(entry.digest, reason.code, now_s)
            else:
                dropped = self.mempool.give_back(entry.digest, now_s)
            if dropped is not None:
                self.tell_dropped([dropped])

    def measure(self, transactions: Sequence[bytes]) -> BatchSums:
        gas = self.gas.schedule.fold_batch + sum(self._gas_of(self.decode(data)) for data in transactions)
        return BatchSums(size_bytes=sum(map(len, transactions)), count=len(transactions), gas=gas)

    def _gas_of(self, transaction: Transaction) -> int:
        """What a transaction counts for in its batch (CONS-1)."""
        if isinstance(transaction, PlainTransaction):
            return transaction.plain.gas_limit
        body = transaction.body
        return self.gas.intrinsic(len(transaction.data), ()) if body.lane is Lane.PRIVATE else body.gas_limit

    async def check(self, batch: Batch, past: Sequence[Batch], locks: Mapping[bytes, bytes]) -> Verdict:
        unknown = [data for data in batch.transactions if data not in self._in_hand]
        wrong = {
            data: one
            for data, one in zip(unknown, await self.examiner.examine(unknown), strict=True)
            if isinstance(one, Refused)
        }
        # What isn't in order by itself is left out before the rest is judged, so indexes are kept apart.
        kept = [index for index, data in enumerate(batch.transactions) if data not in wrong]
        transactions = [self.decode(batch.transactions[index]) for index in kept]
        before = [self.decode(data) for each in past for data in each.transactions]
        keys = {key for each in (*transactions, *before) for key in admission_keys(each)}
        state = await self._state(keys)
        checked = await trio.to_thread.run_sync(
            check_batch,
            transactions,
            before,
            locks,
            state,
            self.gas,
            self.gas_state,
            self._private_kinds,
            limiter=self._thread,
        )
        refused = {index: wrong[data] for index, data in enumerate(batch.transactions) if data in wrong}
        for place, error in checked.refused.items():
            refused[kept[place]] = refusal(error, transactions[place].digest)
        return Verdict(locks=checked.locks, refused=refused)

    async def examine(self, transactions: Sequence[bytes], past: Sequence[Batch]) -> Examined:
        unknown = [data for data in transactions if data not in self._in_hand]
        judged = dict(zip(unknown, await self.examiner.examine(unknown), strict=True))
        wrong: dict[int, str] = {}
        decoded: list[Transaction] = []
        try:
            for index, data in enumerate(transactions):
                found = judged.get(data)
                if isinstance(found, ExaminedBytes):
                    # Its block will ask for it.
                    self._decoded.put(data, found.transaction)
                    decoded.append(found.transaction)
                    continue
                if found is not None:
                    wrong[index] = found.code
                decoded.append(self.decode(data))
        except InvalidInput as error:
            return Examined(Facts(self.ledger.tip.height, {}, {}), (), malformed=str(error))
        gas_sum = self.gas.schedule.fold_batch + sum(map(self._gas_of, decoded))
        keys = {key for each in decoded for key in admission_keys(each)}
        before = [self.decode(data).digest for each in past for data in each.transactions]
        while True:
            height, gas_state = self.ledger.tip.height, self.gas_state
            entries = await self._state(keys)
            # What was read is of one block, and the answer says of which.
            if self.ledger.tip.height == height:
                break
        state = self.fast.overlay.view_of(entries, before)
        judge = partial(
            examine_transactions,
            decoded,
            state,
            height,
            self.gas,
            gas_state,
            wrong=wrong,
            gas_sum=gas_sum,
            private_kinds=self._private_kinds,
        )
        if len(decoded) <= SMALL_TRANSACTIONS:
            return judge()
        return await trio.to_thread.run_sync(judge, limiter=self._examining)

    async def apply_fast(self, batch: Batch) -> Sequence[FastApplied]:
        transactions = [self.decode(data) for data in batch.transactions]
        return await self.fast.apply(batch.digest(), transactions)

    async def resume_fast(self) -> Sequence[FastApplied]:
        return await self.fast.resume()

    def certified(self, transactions: Sequence[bytes]) -> None:
        for digest in transactions:
            self._certified.put(digest, None)
            proven = self._proving.pop(digest, None)
            if proven is not None:
                proven.set()
        self.news.certified(transactions)

    @contextmanager
    def effects_from(self, source: EffectsSource) -> Iterator[None]:
        before, self._effects_source = self._effects_source, source
        try:
            yield
        finally:
            self._effects_source = before

    @contextmanager
    def epochs_ended_by(self, ender: EpochEnder) -> Iterator[None]:
        before, self.epoch_ender = self.epoch_ender, ender
        try:
            yield
        finally:
            self.epoch_ender = before

    def effects_certificate(self, digest: bytes) -> bytes | None:
        """What proves a FAST transaction final ahead of its block, where this node has it."""
        return None if self._effects_source is None else self._effects_source.certificate(digest)

    async def prove_effects(self, digest: bytes, seconds: float) -> bytes | None:
        """As `effects_certificate`; where it isn't here its validators are asked, for at most so long.

        Beyond `PROVING_MAX` such transactions at a time nobody waits.
        """
        source = self._effects_source
        if source is None:
            return None
        found = source.certificate(digest)
        if found is not None or (digest not in self._proving and len(self._proving) >= PROVING_MAX):
            return found
        proven = self._proving.setdefault(digest, trio.Event())
        source.want(digest)
        with trio.move_on_after(seconds):
            await proven.wait()
        if not proven.is_set() and self._proving.get(digest) is proven:
            del self._proving[digest]
        return self.effects_certificate(digest)

    def _fast_now(self) -> Now:
        block = BlockInput(
            height=self.ledger.tip.height + 1,
            epoch=self.epoch,
            timestamp_ms=0,
            chain_id=self.chain_id,
            limits=self.genesis.limits,
            transactions=(),
        )
        return Now(height=self.ledger.tip.height, gas_state=self.gas_state, block=block)

    async def used_up(self, transactions: Sequence[bytes]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        decoded = [self.decode(data) for data in transactions]
        state = await self._state(used_keys(decoded))
        return used_slots(decoded, state), tuple(each.digest for each in decoded)

    def locks_named(self, transaction: bytes) -> tuple[bytes, frozenset[bytes]] | None:
        return locks_named(transaction, self.chain_id, self.genesis.limits)

    def doubts(self, first: bytes, second: bytes, lock: bytes, epoch: int) -> str:
        rules = attrs.evolve(self._rules(), epoch=epoch)
        return doubts(first, second, lock, rules, self.examiner.checked)

    def forged(self, first: bytes, second: bytes, lock: bytes) -> str:
        return forged(first, second, lock, self._rules(), self.examiner.checked)

    async def contested(self, transaction: bytes, other: bytes) -> str:
        judge = partial(judge_contest, transaction, other, self._rules(), self.examiner.checked)
        found = await trio.to_thread.run_sync(judge, limiter=self._judging)
        if found.names is not None:
            first, second = found.names
            self.contests.put((first, transaction), (second, other))
        return found.lie

    @property
    def oldest_block(self) -> int:
        return self.ledger.horizon.blocks

    async def block(self, which: int | bytes) -> Block | None:
        try:
            return await self.ledger.block(which)
        except Pruned:
            return None

    async def handovers(self, first: int, limit: int) -> Sequence[HandOver]:
        return await self.queries.handovers(first, limit)

    async def bare_blocks(self, first: int, limit: int) -> Sequence[tuple[Block, bytes]]:
        try:
            return await self.ledger.bare_blocks(first, limit)
        except Pruned:
            return []

    def facts(self, height: int) -> ExecutedFacts:
        at = self._known_roots(height)
        return ExecutedFacts(
            height=height,
            state_root=at.state_root,
            receipts_root=at.receipts_root,
            base_price=at.base_price,
        )

    def recall(self, executed: Sequence[ExecutedFacts], lost: Collection[int] = ()) -> None:
        self._lost = frozenset(lost) - {self.ledger.tip.height}
        for each in executed:
            if each.height < self.ledger.tip.height:
                self._roots.put(each.height, Roots(each.state_root, each.receipts_root, each.base_price))

    async def apply_certified(self, batch: Batch, certificate: bytes) -> Sequence[tuple[bytes, bytes]]:
        await trio.lowlevel.checkpoint()
        return ()

    async def propose(self, bounds: BlockBounds) -> tuple[bytes, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    async def verify(self, operations: Sequence[bytes]) -> str:
        await trio.lowlevel.checkpoint()
        unknown = [each for each in operations if each[:1] not in KNOWN_OPERATIONS]
        return f"{len(unknown)} system operations that are not known" if unknown else ""

    async def execute(self, block: OrderedBlock) -> Executed:
        async with self._executing:
            if self._pending is not None and self._pending.ordered == block:
                return self._pending.executed
            tip = self.ledger.tip
            if block.height != tip.height + 1 or block.parent != tip.block_digest:
                raise WrongParent(
                    "the block doesn't follow the tip", block.height, f"the tip is at height {tip.height}"
                )
            transactions = self._decode_all(block)
            wrongs = await self._wrongs(block)
            began_s = self._ctx.clock.monotonic()
            given = BlockInput(
                height=block.height,
                epoch=block.epoch,
                timestamp_ms=block.timestamp_ms,
                proposer=block.proposer,
                chain_id=self.chain_id,
                limits=self.genesis.limits,
                transactions=transactions,
                executed=await self.mending.patiently(
                    lambda: self.ledger.known([each.digest for each in transactions])
                ),
                granted=self.genesis.validators,
                wrongs=wrongs,
            )
            result = await self._run(given)
            staged = await self.mending.patiently(lambda: self.ledger.stage(result.changes, block.height))
            self.figures.executed(len(transactions), self._ctx.clock.monotonic() - began_s)
            gas_state = result.changes.get(GAS_STATE_KEY)
            executed = Executed(
                height=block.height,
                state_root=staged.root,
                receipts_root=result.receipts_root,
                gas_used=sum(receipt.gas_used for receipt in heads_of(result.receipts)),
                outcomes=_outcomes(heads_of(result.receipts)),
            )
            base_price = self.gas.base_price(self.gas_state if gas_state is None else gas_state)
            if STAKES_KEY in result.changes:
                self.sets.executed(block.height, result.changes[STAKES_KEY])
            else:
                self.sets.unchanged()
            self._pending = Pending(block, transactions, result, staged, executed, base_price)
            return executed

    async def _wrongs(self, block: OrderedBlock) -> Wrongs:
        """What a block says of wrongs, and who pays at its end. Raises `BlockInvalid`."""
        if any(each[:1] not in KNOWN_OPERATIONS for each in block.operations):
            raise BlockInvalid("a system operation that is not known", block.height)
        owing = None
        if block.ends_epoch:
            owing = owing_in((await self._state([DOUBLES_KEY]))[DOUBLES_KEY])
        try:
            validators = self.sets.of_epoch(block.epoch)
            found = wrongs_in(block.operations, validators, self.genesis.limits, owing)
        except InvalidInput as error:
            raise BlockInvalid(
                f"a system operation that voters don't let pass: {error}", block.height
            ) from error
        if found.offences:
            entry = (await self._state([OFFENCES_KEY]))[OFFENCES_KEY]
            found = attrs.evolve(found, offences=not_punished(found.offences, entry, block.epoch))
        return found

    async def _run(self, block: BlockInput) -> BlockResult:
        """Execute on the state at the tip, of which the engine keeps a part in memory."""
        opened = self.block_engine.open_block(block, self.gas, self.gas_state)
        with ExitStack() as stack:
            # Opening decodes the block: no work for the event loop, where it isn't a few transactions.
            run = await self._called(block, stack.enter_context, opened)
            asked = run.missing()
            found = await self._state(asked)
            run.supply([found[key] for key in asked])
            return await self._called(block, run.execute)

    async def _called(self, block: BlockInput, call: Callable[..., T], *args: object) -> T:
        if len(block.transactions) > SMALL_TRANSACTIONS:
            return await trio.to_thread.run_sync(call, *args, limiter=self._thread)
        await trio.lowlevel.checkpoint()
        return call(*args)

    def _decode_all(self, block: OrderedBlock) -> tuple[Transaction, ...]:
        try:
            return tuple(self.decode(data) for batch in block.batches for data in batch)
        except InvalidInput as error:
            raise BlockInvalid(f"a transaction doesn't decode: {error}", block.height) from error

    async def header(self, root_height: int) -> HeaderFacts:
        parent = self.ledger.tip_header
        covered = [await self._roots_at(height) for height in range(parent.root_height + 1, root_height + 1)]
        at = covered[-1] if covered else await self._roots_at(root_height)
        return HeaderFacts(
            root_height=root_height,
            state_root=at.state_root,
            receipts_root=covered_receipts_root([each.receipts_root for each in covered]),
            base_price=at.base_price,
            validators_digest=self.sets.of_epoch(self.epoch).digest(),
            next_validators_digest=self.sets.after(root_height).digest(),
        )

    async def _roots_at(self, height: int) -> Roots:
        await trio.lowlevel.checkpoint()
        return self._known_roots(height)

    def _known_roots(self, height: int) -> Roots:
        if self._pending is not None and self._pending.executed.height == height:
            executed = self._pending.executed
            return Roots(executed.state_root, executed.receipts_root, self._pending.base_price)
        known = self._roots.get(height)
        if known is None:
            raise NotExecuted(
                "the roots of this height aren't here", height, f"the last {ROOTS_MAX} executed blocks are"
            )
        return known

    async def _check_shown(self, header: BlockHeader) -> None:
        """Raises `RootMismatch` where a header shows other facts than this node computed.

        Of blocks below a restored snapshot nothing was computed here: that the header is final proves them.
        """
        if header.root_height < self.restored_height:
            if header.next_validators_digest != ZERO and self.sets.handed_over(header) is None:
                raise RootMismatch(
                    "this node doesn't know the next set: the snapshot that it began with came without "
                    "the hand-over",
                    header.next_validators_digest,
                    f"block {header.height}",
                )
            return
        for name, computed in (await self._computed(header)).items():
            shown = getattr(header, name)
            if shown != computed:
                raise RootMismatch(f"the header's {name} isn't what this node computed", shown, f"{computed}")
        following = self.sets.after(header.root_height).digest()
        if header.next_validators_digest not in (ZERO, following):
            raise RootMismatch(
                "the next set isn't what this node computed", header.next_validators_digest, f"{following!r}"
            )

    async def _computed(self, header: BlockHeader) -> dict[str, object]:
        """Of the facts that a header shows, those that this node can compare: of heights below a restored
        snapshot nothing was computed here, and what was lost isn't known any more."""
        height, covered_from = header.root_height, self.ledger.tip_header.root_height + 1
        if height in self._lost:
            return {}
        if covered_from < self.restored_height or self._lost.intersection(range(covered_from, height)):
            roots = await self._roots_at(height)
            return {"state_root": roots.state_root, "base_price": roots.base_price}
        facts = await self.header(height)
        names = ("state_root", "base_price", "receipts_root")
        return {name: getattr(facts, name) for name in names}

    async def commit(self, block: Block, certificate: bytes, *, durable: bool = True) -> None:
        header, tip = block.header, self.ledger.tip
        if header.height == tip.height and block.digest() == tip.block_digest:
            return
        if header.height != tip.height + 1 or header.parent != tip.block_digest:
            raise WrongParent(
                "the block doesn't follow the tip", header.height, f"the tip is at height {tip.height}"
            )
        pending = self._pending
        if pending is None or not _is_block(pending.ordered, block):
            raise NotExecuted("this block wasn't executed here", header.height)
        await self._check_shown(header)
        receipts = PackedReceipts.of(pending.result.receipts)
        names = [head.digest for head in receipts.heads]
        source = self._effects_source
        self.fast.overlay.check_folded(
            header.height,
            names,
            lambda at: Receipt.effects_digest_of(receipts.encoded[at]),
            {} if source is None else source.vouched(header.epoch),
        )
        try:
            await self.sets.write(header)
            await self.ledger.commit(
                block, pending.result.receipts, certificate, pending.staged, durable=durable
            )
        except DiskFull as error:
            self.room.refused(error)
            raise
        finally:
            # A commit that was cancelled may have happened: the tip says so.
            if self.ledger.tip.height == header.height:
                self._settle(block, pending)
                self.room.wrote()

    def _settle(self, block: Block, pending: Pending) -> None:
        """Follow the new tip with everything that shows it. There is no checkpoint in here."""
        now_s = self._ctx.clock.monotonic()
        header, receipts = block.header, pending.result.receipts
        heads = heads_of(receipts)
        changes = pending.result.changes
        self.gas_state = changes.get(GAS_STATE_KEY) or self.gas_state
        self.block_engine.follow(changes)
        self._roots.put(
            header.height,
            Roots(pending.executed.state_root, pending.executed.receipts_root, pending.base_price),
        )
        self._pending = None
        self.sets.settle(header)
        self.fast.overlay.folded([head.digest for head in heads])
        if header.next_validators_digest != ZERO:
            # What no block of the epoch holds is void with it, and may be certified anew (CONS-53).
            self.fast.forget()
        came = [self.mempool.since_s(receipt.digest) for receipt in heads]
        dropped = self.mempool.settle(
            [receipt.digest for receipt in heads], _next_nonces(pending.transactions, changes), now_s
        )
        for data in block.transactions:
            entry = self._in_hand.pop(data, None)
            if entry is not None:
                # The engine asks next what they used up.
                self._decoded.put(data, entry.transaction)
        for each in pending.result.punished:
            name = OFFENCES[each.kind]
            self.ledger_figures.slashed.inc(offence=name)
            self._ctx.log.warning(
                "validator_punished",
                key=each.public_key.hex(),
                offence=name,
                epoch=each.epoch,
                slashed=each.slashed,
            )
        self.news.committed(
            block,
            receipts,
            [transaction.data for transaction in pending.transactions],
            [now_s - at for at in came if at is not None],
            now_s,
        )
        self.ledger_figures.committed(heads, self.gas.schedule.block_gas_limit)
        if self._engine is not None and self._engine.certificates:
            self._alarm(header.height, self.ledger_figures.beyond_f(heads))
        self.tell_dropped(dropped)
        self.wake()

    def _alarm(self, height: int, wrong: Sequence[Receipt | ReceiptHead]) -> None:
        """Say once a block that more than f validators are hostile (CONS-45)."""
        if wrong:
            first = wrong[0]
            self._ctx.log.error(
                "more_than_f_hostile",
                height=height,
                transactions=len(wrong),
                first=first.digest.hex(),
                code=first.code,
            )

    def tell_dropped(self, dropped: Sequence[Dropped]) -> None:
        """Forget what left the mempool without a block, and say so."""
        for one in dropped:
            self._in_hand.pop(one.entry.transaction.data, None)
        self.news.dropped(dropped)

    def wake(self) -> None:
        """There may be work: wake whoever gathers."""
        work, self._work = self._work, trio.Event()
        work.set()

    # Taking transactions

    async def submit(self, transactions: Sequence[bytes]) -> list[Answer]:
        """Take or refuse each, in order: see `supervm.chain.admission`."""
        return await self.admission.submit(transactions)

    async def drain(self, deadline: float) -> None:
        """Take no more transactions. What waits is for the engine to finish, or to leave."""
        await trio.lowlevel.checkpoint()
        self.admission.draining = True

    def sweep(self) -> None:
        """Drop what expired or waited too long, and bring the gauges up to date."""
        now_s = self.now_s()
        self.tell_dropped(self.mempool.expire(self.epoch, now_s))
        bounded = {
            "events": (len(self.events), self.events.events_max),
            "admission": (self.admission.inflight, self.admission.inflight_max),
            "signatures": (len(self.examiner.checked), self.examiner.checked.entries_max),
            "recent_receipts": (len(self.news.recent), self.news.recent.entries_max),
        }
        self.figures.refresh(self.mempool.figures(), bounded, self.events.dropped, now_s)
        self.ledger_figures.refresh(self.ledger.stats(), self.base_price)

    def now_s(self) -> float:
        return self._ctx.clock.monotonic()

    def _rules(self) -> ChainRules:
        return ChainRules(
            chain_id=self.chain_id,
            epoch=self.epoch,
            limits=self.genesis.limits,
            private_kinds=self._private_kinds,
        )

    # For queries and admission

    def pending(self, digest: bytes) -> tuple[Lane, bytes] | None:
        """The lane and bytes of a transaction that waits here, or None."""
        entry = self.mempool.get(digest)
        return (entry.lane, entry.transaction.data) if entry is not None else None

    def fast_status(self, digest: bytes) -> Status | None:
        """CERTIFIED where a quorum signed a transaction's effects, APPLIED where this node has applied them;
        None where no block folds it ahead of time, or one has."""
        if self.fast.overlay.get(digest) is None:
            return None
        return Status.CERTIFIED if digest in self._certified else Status.APPLIED

    def outcome(self, digest: bytes) -> trio.Event | None:
        """Set when a waiting transaction is in a block, or dropped; None for one that doesn't wait here."""
        return self.news.outcome(digest) if digest in self.mempool else None

    def decode(self, data: bytes) -> Transaction:
        """A transaction of these bytes, decoded once where it is in hand or was lately."""
        entry = self._in_hand.get(data)
        if entry is not None:
            return entry.transaction  # type: ignore[no-any-return]
        found = self._decoded.get(data)
        if found is None:
            found = Transaction.decode(data, self.genesis.limits)
            self._decoded.put(data, found)
        return found


def _is_block(ordered: OrderedBlock, block: Block) -> bool:
    header = block.header
    return (
        ordered.height == header.height
        and ordered.epoch == header.epoch
        and ordered.parent == header.parent
        and ordered.proposer == header.proposer
        and ordered.timestamp_ms == header.timestamp_ms
        and ordered.operations == block.body.system_operations
        and ordered.batches == tuple(batch.transactions for batch in block.batches)
        and ordered.ends_epoch == (header.next_validators_digest != ZERO)
    )


def _outcomes(receipts: Sequence[Receipt | ReceiptHead]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for receipt in receipts:
        name = receipt.status.name.lower()
        counts[name] = counts.get(name, 0) + 1
    return counts


def _next_nonces(
    transactions: Sequence[Transaction], changes: Mapping[bytes, bytes | None]
) -> dict[bytes, int]:
    """The next nonce of each sender whose account a block changed."""
    nonces = {}
    for sender in {sender_of(transaction) for transaction in transactions}:
        data = changes.get(ACCOUNT + sender)
        if data is not None:
            nonces[sender] = Account.decode(data).nonce
    return nonces
