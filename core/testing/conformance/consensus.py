"""The consensus role's conformance suite: subclass `ConsensusConformance`, name your component, run pytest.

    class TestMine(ConsensusConformance):
        component = my_component

The engine drives a `RecordingApplication`: a chain in memory that answers as the contract says, watches
every call, and says what was wrong. Transactions are opaque to engines, so here they are any bytes. Time
is a mock clock: waiting costs nothing.

An engine that needs more than the application, such as a store that outlives it, gets that from `given`:

    class TestMine(ConsensusConformance):
        component = my_component

        @asynccontextmanager
        async def given(self, application, folder):
            async with open_my_store(folder) as store:
                yield {Role.STORAGE: store}
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import trio
from blake3 import blake3

from supervm.contracts.application import (
    AlreadyDriven,
    BatchBounds,
    BatchSums,
    BlockBounds,
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
    Tip,
    Verdict,
)
from supervm.contracts.consensus import CERTIFICATES, Consensus
from supervm.contracts.roles import Role
from supervm.contracts.storage import StoreFailed
from supervm.crypto.keys import KeyPair
from supervm.crypto.votes import verify_batch_certificate, verify_certificate
from supervm.kernel.component import Component
from supervm.testing.context import component_context
from supervm.types import merkle
from supervm.types.address import Suite
from supervm.types.batch import BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX, Batch
from supervm.types.block import Block
from supervm.types.claims import OBJECT_LOCK, Claim, Examined, Facts
from supervm.types.digests import ZERO
from supervm.types.errors import InvalidInput
from supervm.types.finality import FinalityProof
from supervm.types.validators import Validator, ValidatorSet

GAS_EACH = 10_000
BASE_PRICE = 7
CHAIN_ID = blake3(b"a chain for conformance").digest()
CREATED_MS = 1_700_000_000_000
SETTLE_S = 60.0


def identity_of(seed: int) -> NodeIdentity:
    """A node identity with a fixed ed25519 key."""
    key = KeyPair(Suite.ED25519, bytes([seed]) * 32)
    return NodeIdentity(node_id=key.node_id, public_key=key.public_key, sign=key.sign)


def one_validator(identity: NodeIdentity) -> ValidatorSet:
    return ValidatorSet((Validator(identity.node_id, identity.public_key, 1),))


@attrs.frozen
class Final:
    """A committed block with its certificate."""

    block: Block
    certificate: bytes


class RecordingApplication:
    """An application that checks the engine. What it finds wrong is in `violations`.

    `calls` are names of methods in order; commits appear as `commit` when they begin and `committed` when
    they are durable. `refuse` maps transactions to the code with which `check` refuses them.
    `interrupt_at` stops the engine for good inside that call, counted from 1, and sets `interrupted`.
    `may_repeat`: a transaction that was gathered may be ordered again after a restart (CONS-40: its second
    time is skipped), as engines do that keep certified batches.
    """

    def __init__(
        self,
        *,
        identity: NodeIdentity | None = None,
        validators: ValidatorSet | None = None,
        epoch_blocks: int = 3,
        bounds: BlockBounds | None = None,
    ) -> None:
        self._identity = identity if identity is not None else identity_of(1)
        self._validators = validators if validators is not None else one_validator(self._identity)
        self._epoch_blocks = epoch_blocks
        self._bounds = (
            bounds
            if bounds is not None
            else BlockBounds(
                gas_max=1_000_000_000, bytes_max=2**25, transactions_max=200_000, batch_gas_floor=GAS_EACH
            )
        )
        self.chain: list[Final] = []
        self.calls: list[str] = []
        self.violations: list[str] = []
        self.refuse: dict[bytes, str] = {}
        self.commit_error: BaseException | None = None
        self.interrupt_at = 0
        self.interrupted = trio.Event()
        self.hold: dict[str, trio.Event] = {}
        self.reached: dict[str, trio.Event] = {}
        self._engine: Engine | None = None
        self._waiting: list[bytes] = []
        self._gathered: list[bytes] = []
        self._ever_gathered: set[bytes] = set()
        self._deferred: list[bytes] = []
        self._checked: list[tuple[bytes, ...]] = []
        self._executed: dict[int, tuple[OrderedBlock, Executed]] = {}
        self._shown: set[int] = {0}
        self._receipts: dict[int, bytes] = {0: merkle.EMPTY_ROOT}
        self._starts = 0
        self.may_repeat = False
        self._changed = trio.Event()

    # For tests

    def submit(self, *transactions: bytes) -> None:
        """Give the engine work."""
        self._waiting.extend(transactions)
        self._wake()

    @property
    def height(self) -> int:
        return len(self.chain)

    @property
    def committed(self) -> list[bytes]:
        """All transactions in final blocks, in order, each where it was executed."""
        return list(dict.fromkeys(data for final in self.chain for data in final.block.transactions))

    async def until(self, condition: Callable[[], bool], seconds: float = SETTLE_S) -> None:
        """Wait until something holds; fails after that many seconds of the mock clock."""
        with trio.move_on_after(seconds):
            while not condition():
                await self._changed.wait()
        assert condition(), (
            f"not within {seconds} s: height {self.height}, calls {self.calls[-12:]}, "
            f"violations {self.violations}"
        )

    async def until_committed(self, count: int) -> None:
        """Wait until so many transactions are in final blocks; fails as `until` does."""
        await self.until(lambda: len(self.committed) >= count)

    async def until_committed_or_interrupted(self, count: int) -> None:
        """As `until_committed`, or until the engine was stopped by `interrupt_at`."""
        await self.until(lambda: self.interrupted.is_set() or len(self.committed) >= count)

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if self._engine is None:
            self.violations.append(f"{name}: called outside of driven()")
        if len(self.calls) == self.interrupt_at:
            self.interrupted.set()
            await trio.sleep_forever()
        if name in self.reached:
            self.reached[name].set()
        if name in self.hold:
            await self.hold[name].wait()
        await trio.lowlevel.checkpoint()

    def _require(self, holds: bool, wrong: str) -> None:
        if not holds:
            self.violations.append(wrong)

    # The contract

    @property
    def chain_id(self) -> bytes:
        return CHAIN_ID

    @property
    def identity(self) -> NodeIdentity:
        return self._identity

    @property
    def epoch_blocks(self) -> int:
        return self._epoch_blocks

    @property
    def bounds(self) -> BlockBounds:
        return self._bounds

    @contextmanager
    def driven(self, engine: Engine) -> Iterator[None]:
        if self._engine is not None:
            raise AlreadyDriven("another engine drives the chain", self._engine.name)
        self._engine = engine
        self._starts += 1
        try:
            yield
        finally:
            self._engine = None
            self._waiting = self._gathered + self._deferred + self._waiting
            self._gathered, self._deferred = [], []
            if not self.may_repeat:
                self._checked = []
            self._executed.clear()

    def tip(self) -> Tip:
        if not self.chain:
            return Tip(
                height=0,
                digest=CHAIN_ID,
                epoch=0,
                timestamp_ms=CREATED_MS,
                root_height=0,
                state_root=self._root(0),
            )
        header = self.chain[-1].block.header
        return Tip(
            height=header.height,
            digest=header.digest(),
            epoch=header.epoch,
            timestamp_ms=header.timestamp_ms,
            root_height=header.root_height,
            state_root=header.state_root,
        )

    def validators(self, epoch: int) -> ValidatorSet:
        return self._validators

    async def certificate(self, height: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.chain[height - 1].certificate if height else b""

    async def gather(self, bounds: BatchBounds, *, wait: bool = True) -> tuple[bytes, ...]:
        if wait:
            while not self._waiting:
                await self._changed.wait()
            await self._called("gather")
        else:
            await trio.lowlevel.checkpoint()
        self._require(bounds.count_max <= BATCH_TRANSACTIONS_MAX, f"gather: {bounds.count_max} transactions")
        self._require(bounds.bytes_max <= BATCH_BYTES_MAX, f"gather: {bounds.bytes_max} bytes")
        taken: list[bytes] = []
        while self._waiting and len(taken) < bounds.count_max:
            size = sum(map(len, taken)) + len(self._waiting[0])
            if size > bounds.bytes_max or GAS_EACH * (len(taken) + 1) > bounds.gas_max:
                break
            taken.append(self._waiting.pop(0))
        self._gathered += taken
        self._ever_gathered.update(taken)
        return tuple(taken)

    def give_back(self, transactions: Sequence[bytes], refused: Mapping[int, Refused] | None = None) -> None:
        reasons = refused if refused is not None else {}
        for index, data in enumerate(transactions):
            self._require(data in self._gathered, f"give_back: {data!r} was not gathered")
            if data in self._gathered:
                self._gathered.remove(data)
            if index not in reasons:
                self._deferred.append(data)

    def measure(self, transactions: Sequence[bytes]) -> BatchSums:
        return BatchSums(
            size_bytes=sum(map(len, transactions)),
            count=len(transactions),
            gas=GAS_EACH * len(transactions),
        )

    async def check(self, batch: Batch, past: Sequence[Batch], locks: Mapping[bytes, bytes]) -> Verdict:
        await self._called("check")
        refused = {
            index: Refused(code=self.refuse[data], field="test", value="", mend="")
            for index, data in enumerate(batch.transactions)
            if data in self.refuse
        }
        if not refused:
            self._checked.append(batch.transactions)
        fresh = {b"lock of " + data: blake3(data).digest() for data in batch.transactions}
        return Verdict(locks=fresh, refused=refused)

    # The contract of engines that certify among several validators

    async def examine(self, transactions: Sequence[bytes], past: Sequence[Batch]) -> Examined:
        await self._called("check")
        refused = {index: self.refuse[data] for index, data in enumerate(transactions) if data in self.refuse}
        done = set(self.committed)
        refused |= {index: "AlreadyExecuted" for index, data in enumerate(transactions) if data in done}
        if not refused:
            self._checked.append(tuple(transactions))
        # Opaque bytes lock nothing that another could want.
        claims = tuple(
            Claim(name := blake3(data).digest(), (OBJECT_LOCK + name + bytes(8),), (), (), 1, False)
            for data in transactions
        )
        return Examined(Facts(self.height, {}, {}), claims, refused, GAS_EACH * len(transactions))

    async def apply_fast(self, batch: Batch) -> Sequence[FastApplied]:
        await self._called("apply_fast")
        return (FastApplied(batch=batch.digest(), effects=()),)

    async def resume_fast(self) -> Sequence[FastApplied]:
        await trio.lowlevel.checkpoint()
        return ()

    def certified(self, transactions: Sequence[bytes]) -> None:
        self.violations.append("certified: nothing was applied here")

    @contextmanager
    def effects_from(self, source: EffectsSource) -> Iterator[None]:
        yield

    def epochs_ended_by(self, ender: EpochEnder) -> AbstractContextManager[None]:
        return nullcontext()

    async def contested(self, transaction: bytes, other: bytes) -> str:
        self.violations.append("contested: nobody signs twice here")
        await trio.lowlevel.checkpoint()
        return ""

    async def used_up(self, transactions: Sequence[bytes]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        await trio.lowlevel.checkpoint()
        names = tuple(blake3(data).digest() for data in transactions)
        return tuple(OBJECT_LOCK + name + bytes(8) for name in names), names

    def locks_named(self, transaction: bytes) -> tuple[bytes, frozenset[bytes]] | None:
        name = blake3(transaction).digest()
        return name, frozenset({OBJECT_LOCK + name + bytes(8)})

    def doubts(self, first: bytes, second: bytes, lock: bytes, epoch: int) -> str:
        return "nobody signs here"

    def forged(self, first: bytes, second: bytes, lock: bytes) -> str:
        return ""

    @property
    def oldest_block(self) -> int:
        return 0

    @property
    def restored_height(self) -> int:
        return 0

    async def block(self, which: int | bytes) -> Block | None:
        await trio.lowlevel.checkpoint()
        found = [final.block for final in self.chain]
        if isinstance(which, bytes):
            return next((each for each in found if each.digest() == which), None)
        return found[which - 1] if 0 < which <= len(found) else None

    def facts(self, height: int) -> ExecutedFacts:
        if height not in self._receipts:
            raise NotExecuted("no facts of a block that wasn't executed", height)
        self._shown.add(height)
        return ExecutedFacts(
            height=height,
            state_root=self._root(height),
            receipts_root=self._receipts[height],
            base_price=BASE_PRICE,
        )

    def recall(self, executed: Sequence[ExecutedFacts], lost: Collection[int] = ()) -> None:
        for each in executed:
            self._require(each == self.facts(each.height), f"recall: other facts of height {each.height}")

    def next_validators(self, height: int) -> ValidatorSet:
        return self._validators

    async def apply_certified(self, batch: Batch, certificate: bytes) -> Sequence[tuple[bytes, bytes]]:
        await self._called("apply_certified")
        return ()

    async def propose(self, bounds: BlockBounds) -> tuple[bytes, ...]:
        await self._called("propose")
        return ()

    async def verify(self, operations: Sequence[bytes]) -> str:
        await self._called("verify")
        return "there are none here" if operations else ""

    async def execute(self, block: OrderedBlock) -> Executed:
        await self._called("execute")
        tip = self.tip()
        require = self._require
        require(block.height == tip.height + 1, f"execute: height {block.height} after {tip.height}")
        require(block.parent == tip.digest, f"execute: height {block.height} names another parent")
        require(block.timestamp_ms >= tip.timestamp_ms, f"execute: time goes back at {block.height}")
        require(block.epoch == self._epoch_after_tip(), f"execute: epoch {block.epoch} at {block.height}")
        certified = self._engine is not None and self._engine.certificates
        for batch in block.batches:
            require(not certified or batch in self._checked, "execute: a batch that check didn't accept")
        done = set(self.committed)
        for data in [data for batch in block.batches for data in batch]:
            # What was decided before a restart is executed after it, and not gathered again.
            require(data in self._ever_gathered, f"execute: {data!r} was not gathered")
            again = self.may_repeat and self._starts > 1
            require(again or data not in done, f"execute: {data!r} is in a final block")
            done.add(data)
        executed = Executed(
            height=block.height,
            state_root=self._root(block.height),
            receipts_root=merkle.root([data for batch in block.batches for data in batch]),
            gas_used=GAS_EACH * sum(map(len, block.batches)),
            outcomes={},
        )
        self._executed = {block.height: (block, executed)}
        self._receipts[block.height] = executed.receipts_root
        return executed

    def _epoch_after_tip(self) -> int:
        """An epoch ends with the block that names the next set, and with no other."""
        if not self.chain:
            return 1
        header = self.chain[-1].block.header
        return header.epoch + (header.next_validators_digest != ZERO)

    async def header(self, root_height: int) -> HeaderFacts:
        await self._called("header")
        if root_height > self.height and root_height not in self._executed:
            raise NotExecuted("no root of a block that wasn't executed", root_height)
        self._shown.add(root_height)
        return HeaderFacts(
            root_height=root_height,
            state_root=self._root(root_height),
            receipts_root=self._covered(self.tip().root_height, root_height),
            base_price=BASE_PRICE,
            validators_digest=self._validators.digest(),
            next_validators_digest=self._validators.digest(),
        )

    def _covered(self, above: int, upto: int) -> bytes:
        """The receipts root of a header that newly covers these heights (CONS-30)."""
        covered = [self._receipts[height] for height in range(above + 1, upto + 1)]
        return merkle.root(covered) if covered else ZERO

    async def commit(self, block: Block, certificate: bytes, *, durable: bool = True) -> None:
        await self._called("commit")
        if self.commit_error is not None:
            raise self.commit_error
        height = block.header.height
        if height <= self.height:
            same = self.chain[height - 1].block.digest() == block.digest()
            self._require(same, f"commit: another block of height {height}")
            self.violations.append(f"commit: height {height} again")
            return
        self._check_block(block, certificate)
        # Between here and `committed` there is no checkpoint: a commit happens fully or not at all.
        self.chain.append(Final(block, certificate))
        done = set(block.transactions)
        self._gathered = [data for data in self._gathered if data not in done]
        self._waiting = [data for data in self._deferred + self._waiting if data not in done]
        self._deferred = []
        self.calls.append("committed")
        self._wake()
        if len(self.calls) == self.interrupt_at:
            self.interrupted.set()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    def _check_block(self, block: Block, certificate: bytes) -> None:
        require, header, tip = self._require, block.header, self.tip()
        where = f"commit: height {header.height}"
        require(header.height == tip.height + 1, f"{where} after {tip.height}")
        require(header.parent == tip.digest, f"{where} names another parent")
        require(header.chain_id == CHAIN_ID, f"{where} is of another chain")
        try:
            block.check()
        except InvalidInput as error:
            self.violations.append(f"{where}: {error}")
        executed = self._executed.get(header.height)
        require(executed is not None, f"{where} was not executed before")
        if executed is not None:
            ordered = executed[0]
            same = (
                ordered.parent == header.parent
                and ordered.epoch == header.epoch
                and ordered.timestamp_ms == header.timestamp_ms
                and ordered.proposer == header.proposer
                and ordered.operations == block.body.system_operations
                and ordered.ends_epoch == (block.header.next_validators_digest != ZERO)
                and ordered.batches == tuple(batch.transactions for batch in block.batches)
            )
            require(same, f"{where} is not the block that was executed")
        require(header.root_height in self._shown, f"{where} shows a root that it never asked for")
        if header.root_height in self._shown:
            covered = self._covered(tip.root_height, header.root_height)
            root = self._root(header.root_height)
            require(header.state_root == root, f"{where} shows another state root")
            require(header.receipts_root == covered, f"{where} shows another receipts root")
            require(header.base_price == BASE_PRICE, f"{where} shows another base price")
        following = header.next_validators_digest
        require(following in (ZERO, self._validators.digest()), f"{where} names another next set")
        headers = [each.header for each in block.body.certificates]
        most = self._bounds
        require(sum(each.gas for each in headers) <= most.gas_max, f"{where} is over the gas bound")
        require(
            sum(each.size_bytes for each in headers) <= most.bytes_max, f"{where} is over the bytes bound"
        )
        require(sum(each.count for each in headers) <= most.transactions_max, f"{where} has too many")
        require(len(headers) <= most.batches_max, f"{where} has too many batches")
        if self._engine is not None and self._engine.certificates:
            self._check_certificates(where, block, certificate)

    def _check_certificates(self, where: str, block: Block, certificate: bytes) -> None:
        try:
            proof = FinalityProof.decode(certificate)
            proof.check_of(block.digest())
            final = proof.finalisation
            verify_certificate(final, CHAIN_ID, self._validators)
            self._require(final.epoch == block.header.epoch, f"{where}: the certificate is of another epoch")
            for each in block.body.certificates:
                number = self._validators.number_of(each.header.builder)
                assert number is not None, "the builders of this suite are validators"
                key = self._validators.members[number].public_key
                verify_batch_certificate(each, CHAIN_ID, self._validators, key)
        except InvalidInput as error:
            self.violations.append(f"{where}: {error}")

    @staticmethod
    def _root(height: int) -> bytes:
        return blake3(b"state at " + height.to_bytes(8, "little")).digest()


def transactions(count: int, size_bytes: int = 200, tag: str = "") -> list[bytes]:
    """Different opaque transactions."""
    return [f"{tag}{number}".encode().ljust(size_bytes, b".") for number in range(count)]


class ConsensusConformance:
    """What any engine keeps (see `supervm.contracts.consensus`). Subclass it and set `component`.

    `config` is the component's configuration, None for its defaults. The engine must be able to run a
    chain of one validator, and to order its work within `SETTLE_S` seconds. An engine that needs more than
    the application gets it from `given`, which a subclass overrides; else it is skipped. `may_repeat`: see
    `RecordingApplication`.
    """

    component: ClassVar[Component]
    config: ClassVar[Any] = None
    may_repeat: ClassVar[bool] = False

    @asynccontextmanager
    async def given(self, application: RecordingApplication, folder: Path) -> AsyncIterator[dict[str, Any]]:
        """What the engine needs beside the application, by role. It is asked for at each start: what lasts
        must be found again by the application or the folder."""
        yield {}

    def _check_needs(self) -> None:
        beyond = sorted(set(self.component.requires) - {Role.APPLICATION})
        if beyond and type(self).given is ConsensusConformance.given:
            pytest.skip(f"it needs {', '.join(beyond)}, which this suite doesn't give; see its own tests")

    @asynccontextmanager
    async def _driving(self, application: RecordingApplication, folder: Path) -> AsyncIterator[Consensus]:
        component = self.component
        self._check_needs()
        config = component.config() if self.config is None else self.config
        application.may_repeat = self.may_repeat
        async with (
            self.given(application, folder) as others,
            component_context(
                folder, component.role, component.name, requires={Role.APPLICATION: application, **others}
            ) as ctx,
            component.open(ctx, config) as engine,
        ):
            assert isinstance(engine, Consensus), "the component yields no Consensus"
            yield engine

    async def test_work_becomes_final(self, tmp_path: Path, autojump_clock: object) -> None:
        application = RecordingApplication()
        work = transactions(10)
        async with self._driving(application, tmp_path) as engine:
            application.submit(*work)
            await application.until_committed(10)
            assert engine.status().height == application.height
        assert application.committed == work
        assert application.violations == []

    async def test_each_block_is_checked_then_executed_then_committed(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        application = RecordingApplication()
        async with self._driving(application, tmp_path) as engine:
            for number in range(4):
                application.submit(*transactions(3, tag=f"{number}-"))
                await application.until_committed(3 * (number + 1))
            certifies = CERTIFICATES in engine.capabilities
        since: list[str] = []
        for name in application.calls:
            if name == "commit":
                assert "execute" in since, f"commit without execute: {since}"
                if certifies and "gather" in since:
                    order = [each for each in since if each in ("check", "execute")]
                    assert order[0] == "check", f"executed before it was checked: {since}"
            since = [] if name == "committed" else [*since, name]
        assert application.violations == []

    async def test_heights_rise_by_one_and_each_block_names_its_parent(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        application = RecordingApplication(epoch_blocks=2)
        async with self._driving(application, tmp_path):
            for number in range(7):
                application.submit(*transactions(1, tag=f"{number}-"))
                await application.until_committed(number + 1)
        parent = CHAIN_ID
        for height, final in enumerate(application.chain, 1):
            assert final.block.header.height == height
            assert final.block.header.parent == parent
            parent = final.block.digest()
        assert application.violations == []

    async def test_every_transaction_is_committed_once(self, tmp_path: Path, autojump_clock: object) -> None:
        application = RecordingApplication()
        work = transactions(3_000)
        async with self._driving(application, tmp_path):
            for first in range(0, 3_000, 500):
                application.submit(*work[first : first + 500])
                await application.until_committed(first + 1)
            await application.until_committed(3_000)
        assert sorted(application.committed) == sorted(work)
        assert application.violations == []

    async def test_a_refused_transaction_is_left_out_and_the_rest_goes_on(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        application = RecordingApplication()
        work = transactions(20)
        bad = set(work[3:9:2])
        application.refuse = dict.fromkeys(bad, "VersionMismatch")
        async with self._driving(application, tmp_path) as engine:
            if CERTIFICATES not in engine.capabilities:
                pytest.skip("without certificates nothing is checked before it is ordered")
            application.submit(*work)
            await application.until_committed(17)
        assert application.committed == [data for data in work if data not in bad]
        assert application.violations == []

    async def test_work_that_is_all_refused_stops_nothing(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        application = RecordingApplication()
        bad, good = transactions(5, tag="bad"), transactions(5, tag="good")
        application.refuse = dict.fromkeys(bad, "VersionMismatch")
        async with self._driving(application, tmp_path) as engine:
            if CERTIFICATES not in engine.capabilities:
                pytest.skip("without certificates nothing is checked before it is ordered")
            application.submit(*bad)
            await application.until(lambda: "check" in application.calls)
            application.submit(*good)
            await application.until(lambda: application.committed == good)
        assert application.violations == []

    async def test_no_block_is_over_its_bounds(self, tmp_path: Path, autojump_clock: object) -> None:
        bounds = BlockBounds(
            gas_max=45 * GAS_EACH,
            bytes_max=9_000,
            transactions_max=40,
            batches_max=3,
            batch_gas_floor=GAS_EACH,
        )
        application = RecordingApplication(bounds=bounds)
        async with self._driving(application, tmp_path):
            application.submit(*transactions(400, size_bytes=250))
            await application.until_committed(400)
        assert application.violations == []

    async def test_drain_finishes_the_block_in_hand_and_starts_no_other(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        application = RecordingApplication()
        application.hold["execute"] = trio.Event()
        application.reached["execute"] = trio.Event()
        async with self._driving(application, tmp_path) as engine, trio.open_nursery() as nursery:
            application.submit(*transactions(3))
            await application.reached["execute"].wait()
            nursery.start_soon(engine.drain, trio.current_time() + 1_000)
            await trio.sleep(1)
            application.submit(*transactions(3, tag="late"))
            application.hold["execute"].set()
            await application.until_committed(3)
            await trio.sleep(SETTLE_S)
            assert application.height == 1
        assert application.violations == []

    async def test_drain_ends_at_its_deadline_and_may_be_called_again(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        application = RecordingApplication()
        application.hold["execute"] = trio.Event()
        application.reached["execute"] = trio.Event()
        async with self._driving(application, tmp_path) as engine:
            application.submit(*transactions(3))
            await application.reached["execute"].wait()
            began = trio.current_time()
            await engine.drain(began + 5)
            await engine.drain(began + 5)
            assert trio.current_time() - began < 10
        assert application.height == 0
        assert application.violations == []

    async def test_an_idle_engine_rests(self, tmp_path: Path, autojump_clock: object) -> None:
        application = RecordingApplication()
        async with self._driving(application, tmp_path):
            await trio.sleep(60)
        assert len(application.calls) < 60 * 10, "more than ten calls a second without any work"
        assert application.violations == []

    async def test_opened_again_it_goes_on_where_the_chain_stands(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        application = RecordingApplication()
        for number in range(5):
            async with self._driving(application, tmp_path):
                application.submit(*transactions(2, tag=f"{number}-"))
                await application.until_committed(2 * (number + 1))
        assert application.violations == []

    async def test_stopped_inside_any_call_it_loses_nothing_and_repeats_nothing(
        self, tmp_path: Path, autojump_clock: object
    ) -> None:
        work = transactions(6)
        for stop_at in range(1, 200):
            application = RecordingApplication()
            application.interrupt_at = stop_at
            async with self._driving(application, tmp_path):
                application.submit(*work[:3])
                await application.until_committed_or_interrupted(3)
                application.submit(*work[3:])
                await application.until_committed_or_interrupted(6)
            was_stopped = application.interrupted.is_set()
            application.interrupt_at = 0
            missing = [data for data in work if data not in application.committed + application._waiting]
            async with self._driving(application, tmp_path):
                application.submit(*missing)
                await application.until_committed(6)
            assert sorted(application.committed) == sorted(work), f"stopped at call {stop_at}"
            assert application.violations == [], f"stopped at call {stop_at}: {application.violations}"
            if not was_stopped:
                return
        raise AssertionError("the engine makes 200 calls for six transactions")

    async def test_a_failed_store_stops_it(self, tmp_path: Path, autojump_clock: object) -> None:
        self._check_needs()
        application = RecordingApplication()
        application.commit_error = StoreFailed("the disk is gone", "test")
        with pytest.RaisesGroup(StoreFailed, flatten_subgroups=True, allow_unwrapped=True):
            async with self._driving(application, tmp_path):
                application.submit(*transactions(3))
                await trio.sleep(SETTLE_S)
        assert application.calls.count("commit") == 1, "it went on from a state it can't be sure of"
        assert application.height == 0
