"""The application role: the ledger as a consensus engine drives it (CONS-80).

A component yields an `Application`. One engine at a time drives it (`driven`), and only that engine calls
what changes the chain. The calls, in order:

    gather -> check -> (certify) -> [apply_certified] -> propose -> execute -> header -> commit

A validator that receives a proposal calls `verify` instead of `propose`. An engine whose headers show
an older root (CONS-30) asks `header` for it before the block is final, and calls `execute` after.

What every method keeps
    Idempotent: the same call again, after a crash or a cancellation, gives the same answer and has no
    second effect. Calls that changed the chain are told apart by digest.
    Cancellation: any call may be cancelled at any checkpoint. `commit` has then happened fully or not
    at all; `tip` says which.
    Durability: `commit` returns when the block is durable. Nothing else here is durable: not what was
    gathered, checked or executed, and not the mempool.
    Time: none is read. What execution may know of time is in the block.
    Errors: `ApplicationError` is a bug or misuse of the engine; bad transactions are values (`Refused`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs

from supervm.contracts.roles import NodeMustStop
from supervm.types.batch import Batch
from supervm.types.block import Block, BlockHeader
from supervm.types.claims import Examined
from supervm.types.handover import HandOver
from supervm.types.validators import ValidatorSet


class ApplicationError(Exception):
    """The engine asked what it may not. `subject` is the offending value, `mend` what would be right."""

    def __init__(self, problem: str, subject: object = "", mend: str = "") -> None:
        self.problem = problem
        self.subject = subject
        self.mend = mend
        text = f"{problem}: {subject}" if subject != "" else problem
        super().__init__(f"{text} ({mend})" if mend else text)


class AlreadyDriven(ApplicationError):
    """Another engine drives the chain."""


class WrongParent(ApplicationError):
    """The block doesn't follow the tip."""


class NotExecuted(ApplicationError):
    """A root or a commit was asked for a block that wasn't executed here."""


class RootMismatch(ApplicationError):
    """The header shows other roots than this node computed. Nothing was written."""


class EffectsMismatch(ApplicationError, NodeMustStop):
    """A block gives a FAST transaction other effects than this node applied, signed or saw a quorum sign
    (CONS-41). Nothing was written.

    `how`: "applied", "signed" or "certified" here, with the effects digest `expected`; the block gives
    `given`.
    """

    def __init__(self, height: int, transaction: bytes, how: str, expected: bytes, given: bytes) -> None:
        self.height, self.transaction, self.how = height, transaction, how
        self.expected, self.given = expected, given
        super().__init__(
            "a final block folds other effects than are known here",
            f"transaction 0x{transaction.hex()} was {how} with effects 0x{expected.hex()}, "
            f"block {height} gives 0x{given.hex()}",
            "keep the folder; compare this node's chain with others', with supervm verify",
        )


class BlockInvalid(ApplicationError):
    """A block breaks a rule that the application checks before it executes or commits it."""


@attrs.frozen(kw_only=True)
class Refused:
    """Why a transaction was not taken. A value, since refusing is ordinary.

    `code` is one of EXEC-8, EXEC-20, GAS-21 or PRIV-10; `field` names the place, `value` the offending
    value as text, `mend` what would be right. `digest` is the transaction's, None where its bytes didn't
    decode. `conflict` is the digest signed first, for `Equivocated` and `LockBusy`, and `other` are its bytes
    where this node has them and they aren't long. `retry_after_s` is set where the node is full or busy: the
    same bytes may be taken after that many seconds.
    """

    code: str
    field: str
    value: str
    mend: str
    digest: bytes | None = None
    conflict: bytes | None = None
    other: bytes | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.field} = {self.value} ({self.mend})"


@attrs.frozen(kw_only=True)
class NodeIdentity:
    """Who this node is: its id, its ed25519 public key, and the use, never the bytes, of its private key.

    `node_id = blake3("supervm/node/v1" || u8 suite || public key)`. `founding`: where a file says, if it is
    there, that nothing was ever said with this key (CONS-67); None where nobody knows of one.
    """

    node_id: bytes
    public_key: bytes
    founding: Path | None = None
    _sign: Any = attrs.field(repr=False, eq=False)

    def sign(self, message: bytes) -> bytes:
        """An ed25519 signature over `message`, 64 bytes."""
        signature: bytes = self._sign(message)
        return signature


@attrs.frozen(kw_only=True)
class Engine:
    """What an engine says of itself when it takes the wheel.

    `certificates`: it certifies batches before it orders them (CONS-4). Without, FAST isn't offered, AUTO
    goes ORDERED and a FAST-only transaction is refused with the reason (CONS-81). `produces`: transactions
    sent to this node can reach a block; where not, they are refused with `reason`.
    """

    name: str
    certificates: bool = True
    produces: bool = True
    reason: str = ""


@attrs.frozen(kw_only=True)
class BatchBounds:
    """When a batch is full. Bytes are of its transactions, gas is the sum that its header states.

    It is sealed at `count_max` transactions, once `bytes_seal` is reached, or `seal_after_s` seconds
    after its first transaction was there; it never passes `bytes_max` or `gas_max` (CONS-1).
    """

    count_max: int = 4_096
    bytes_seal: int = 256 * 1024
    bytes_max: int = 2**20
    gas_max: int = 250_000_000
    seal_after_s: float = 0.020


@attrs.frozen(kw_only=True)
class BlockBounds:
    """What a block of this chain may hold (CONS-30, EXEC-7, GAS-3): sums over its batches' headers.

    `batch_gas_floor`: the gas of a batch of one transaction with the highest gas limit that the chain
    takes. A builder that allows a batch less could never place such a transaction.
    """

    gas_max: int
    bytes_max: int
    transactions_max: int
    batch_gas_floor: int
    batches_max: int = 1_024
    operations_bytes_max: int = 2**20


@attrs.frozen(kw_only=True)
class BatchSums:
    """What a batch's header states of its transactions (CONS-1)."""

    size_bytes: int
    count: int
    gas: int


@attrs.frozen(kw_only=True)
class Verdict:
    """The answer to a batch (CONS-3).

    `locks`: each lock (opaque bytes, CONS-10) that accepting takes, with the transaction digest it is
    locked to; the engine makes them durable before its accept leaves. `refused`: index in the batch to
    reason. If any is refused, the batch isn't accepted as it stands; the locks are those of the others.
    """

    locks: Mapping[bytes, bytes]
    refused: Mapping[int, Refused]


@attrs.frozen(kw_only=True)
class OrderedBlock:
    """All that execution may know of a block: what was ordered, and nothing of how.

    `batches` are lists of canonical transaction bytes, in proposal order; `operations` are the encoded
    system operations. An engine that orders raw transactions gives them as one batch. `ends_epoch`: it is
    the last block of its epoch.
    """

    height: int
    epoch: int
    parent: bytes
    proposer: bytes
    timestamp_ms: int
    operations: tuple[bytes, ...]
    batches: tuple[tuple[bytes, ...], ...]
    ends_epoch: bool = False


@attrs.frozen(kw_only=True)
class Executed:
    """The outcome of a block: roots, and counts of its receipts by status name (lower case)."""

    height: int
    state_root: bytes
    receipts_root: bytes
    gas_used: int
    outcomes: Mapping[str, int]


@attrs.frozen(kw_only=True)
class HeaderFacts:
    """What a header takes from the state at `root_height` (CONS-30).

    `receipts_root`: the Merkle root over the receipts roots of the blocks above the parent's root height
    up to this one, in order (none: zero). `base_price`: micro base units per gas. `next_validators_digest`
    is for an epoch's last block.
    """

    root_height: int
    state_root: bytes
    receipts_root: bytes
    base_price: int
    validators_digest: bytes
    next_validators_digest: bytes


@attrs.frozen(kw_only=True)
class Tip:
    """The last block that is final and durable here. `root_height` is what its header shows."""

    height: int
    digest: bytes
    epoch: int
    timestamp_ms: int
    root_height: int
    state_root: bytes


@runtime_checkable
class Application(Protocol):
    """The ledger, as consensus drives it. See the module for what every method keeps."""

    @property
    def chain_id(self) -> bytes:
        """32 bytes, the genesis digest."""

    @property
    def identity(self) -> NodeIdentity:
        """This node's."""

    @property
    def epoch_blocks(self) -> int:
        """Blocks in an epoch, from genesis."""

    @property
    def bounds(self) -> BlockBounds:
        """What a block may hold."""

    def driven(self, engine: Engine) -> AbstractContextManager[None]:
        """Take the wheel for the length of a `with`; at its end all that was gathered is given back.

        Raises `AlreadyDriven`.
        """

    def tip(self) -> Tip:
        """The last committed block; genesis at height 0 on a new chain."""

    def validators(self, epoch: int) -> ValidatorSet:
        """The set of an epoch that has begun, or of the one that follows the tip's."""

    async def certificate(self, height: int) -> bytes:
        """The certificate that `commit` was given for a block, empty for genesis."""

    async def gather(self, bounds: BatchBounds, *, wait: bool = True) -> tuple[bytes, ...]:
        """Wait until there is work, then give the next batch's transactions, in an order that checks.

        Waits as long as it takes; an engine that wants to stop cancels it, and nothing is lost. With
        `wait` False it gives what is there at once, possibly nothing. What was given stays locked and
        pending until `commit`, `give_back`, or the end of `driven`.
        """

    def give_back(self, transactions: Sequence[bytes], refused: Mapping[int, Refused] | None = None) -> None:
        """These were gathered and not placed; `refused` says why, by their index, where it is known.

        They are tried again after the next block, except those refused for good and those given back
        too often, whose status is then `unknown`.
        """

    def measure(self, transactions: Sequence[bytes]) -> BatchSums:
        """The sums of a batch header over these bytes. Raises `InvalidInput` where one doesn't decode."""

    async def check(self, batch: Batch, past: Sequence[Batch], locks: Mapping[bytes, bytes]) -> Verdict:
        """Judge each transaction of a batch for an accept (CONS-10..14, EXEC-20).

        `past`: the certified batches before it that no executed block holds, oldest first. `locks`: what
        this validator holds in this epoch, lock to digest. State is that of the last executed block.
        Signatures are checked here for whatever admission has not checked.
        """

    async def apply_certified(self, batch: Batch, certificate: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Apply the FAST transactions of a certified batch (CONS-20): (digest, effects digest) of those
        applied now. Empty where this application offers FAST finality only through blocks."""

    async def propose(self, bounds: BlockBounds) -> tuple[bytes, ...]:
        """Encoded system operations for the next block."""

    async def verify(self, operations: Sequence[bytes]) -> str:
        """Why a proposal's system operations are not valid; empty if they are."""

    async def execute(self, block: OrderedBlock) -> Executed:
        """Execute the block that follows the last executed one. Changes nothing that lasts.

        The result is kept until its block is committed; another block for the same height replaces it.
        Raises `WrongParent`, `BlockInvalid`.
        """

    async def header(self, root_height: int) -> HeaderFacts:
        """What the header of the next block shows. Raises `NotExecuted` above the last executed block."""

    async def commit(self, block: Block, certificate: bytes, *, durable: bool = True) -> None:
        """Make a final block durable, in one batch, then tell the world.

        Whoever catches up may say that it need not be `durable`: after a crash it may be gone then, with all
        that follow it, and never one that was durable before it.

        `certificate` proves that it is final, as the engine's light clients check it. Again with the same
        block: nothing happens. Raises `WrongParent`, `NotExecuted`, `RootMismatch`; a storage error
        passes through and leaves the chain as it was.
        """


@attrs.frozen(kw_only=True)
class ExecutedFacts:
    """What headers may show of a block that was executed. `receipts_root` is that of this block alone."""

    height: int
    state_root: bytes
    receipts_root: bytes
    base_price: int


@attrs.frozen(kw_only=True)
class FastApplied:
    """What was applied now of a certified batch (CONS-20): (index, transaction, effects digest), ascending.
    `waiting`: how many of it wait for what they need."""

    batch: bytes
    effects: tuple[tuple[int, bytes, bytes], ...]
    waiting: int = 0


class EffectsSource(Protocol):
    """Where an engine gives what proves that a FAST transaction is final (CONS-21)."""

    def vouched(self, epoch: int) -> Mapping[str, Mapping[bytes, bytes]]:
        """The effects digest by transaction of what this node "signed" in an epoch, or saw "certified": a
        block of it must fold these so (CONS-41)."""

    def want(self, transaction: bytes) -> None:
        """Gather the signatures of its effects; `certified` follows where a quorum signed. Never blocks."""

    def certificate(self, transaction: bytes) -> bytes | None:
        """What proves it, encoded, as far as it is here."""


@attrs.frozen(kw_only=True)
class EpochWish:
    """How far an epoch is from ending early (CONS-50), as one validator knows.

    `weight` of `weight_of` want it; more than two thirds close it. `asked`: this one does. `closing`: it has
    begun to close.
    """

    epoch: int
    asked: bool
    weight: int
    weight_of: int
    closing: bool


class EpochEnder(Protocol):
    """An engine whose operator may have an epoch end early."""

    def wish(self) -> EpochWish | None:
        """How far it is; None while this node is no validator."""

    def end_epoch(self) -> EpochWish | None:
        """Say that this validator wants it. Never blocks; again: says it again."""


class SnapshotVerdict(Protocol):
    """`lied`: why no honest node offers this snapshot. `unfit`: why it isn't one for this node."""

    @property
    def lied(self) -> str: ...
    @property
    def unfit(self) -> str: ...


class SnapshotExchange(Protocol):
    """Snapshots between nodes (CONS-62). A manifest and chunks are those of storage's snapshot format.

    `takes`: whether this node can begin with one of others; else it only gives its own.
    """

    takes: bool

    async def offered(self, above: int) -> bytes | None:
        """The manifest of the newest snapshot that this node made, above a height; None where it has none."""

    async def blob(self, digest: bytes) -> bytes | None:
        """A chunk or table of this node's snapshots; None where it isn't there, or is damaged."""

    async def judge(self, manifest: Any, handovers: Sequence[HandOver]) -> SnapshotVerdict:
        """Whether hand-overs from genesis hold, its maker signed it, its anchor is final, and it fits."""

    async def held(self, digests: Sequence[bytes], tables: bool) -> Mapping[bytes, bytes]:
        """Which of these were kept; with `tables`, their bytes."""

    async def keep(self, blob: bytes) -> None:
        """Keep a chunk or table, whose digest was checked. Raises a storage error."""

    async def finish(self, manifest: Any, handovers: Sequence[HandOver]) -> None:
        """Everything of a snapshot is kept: the node ends its components and begins again with it."""

    async def refused(self) -> Sequence[bytes]:
        """Nodes whose snapshots turned out wrong when they were restored."""


@runtime_checkable
class CertifyingApplication(Application, Protocol):
    """An application whose transactions several validators certify before they order them (CONS-1..24).

    The engine keeps the locks: it is told what they rest on. Facts are of the last committed block.
    """

    async def examine(self, transactions: Sequence[bytes], past: Sequence[Batch]) -> Examined:
        """All that an accept asks of a batch but its locks: see `supervm.types.claims.Examined`.

        `past`: the certified batches before it that no executed block holds, oldest first. Nothing of it is
        `executed` yet; credits of its FAST transactions count as far as they are applied.
        """

    async def apply_fast(self, batch: Batch) -> Sequence[FastApplied]:
        """Apply the FAST transactions of a certified batch whose past was handed over before; and whatever
        waited for them. What is applied stays until a block folds it, and is not durable by itself: after a
        restart the engine hands over again what no block holds, and the effects are the same."""

    async def resume_fast(self) -> Sequence[FastApplied]:
        """Apply what waited and can go on, after a block."""

    def certified(self, transactions: Sequence[bytes]) -> None:
        """Effects of these are signed by a quorum: they are final (CONS-21)."""

    def effects_from(self, source: EffectsSource) -> AbstractContextManager[None]:
        """Ask this source, for the length of a `with`, when a client asks about a FAST transaction."""

    def epochs_ended_by(self, ender: EpochEnder) -> AbstractContextManager[None]:
        """Ask this engine, for the length of a `with`, when the operator wants an epoch to end."""

    async def used_up(self, transactions: Sequence[bytes]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Of the transactions of a committed block: the slots that the state has moved past (CONS-15), and
        their digests."""

    def locks_named(self, transaction: bytes) -> tuple[bytes, frozenset[bytes]] | None:
        """A transaction's digest, and of what it locks all that its bytes alone tell (CONS-70); None for
        bytes that are no transaction of this chain."""

    def doubts(self, first: bytes, second: bytes, lock: bytes, epoch: int) -> str:
        """Why two transactions don't prove that their sender signed both for one lock, neither expired in
        this epoch (CONS-17); empty if they do. Checks their signatures. May be called from any thread."""

    def forged(self, first: bytes, second: bytes, lock: bytes) -> str:
        """Why the bytes alone of two transactions show that they are no such proof, whatever epoch and state:
        whoever sends them as one lies. Empty where an honest node may take them for one. Checks their
        signatures. May be called from any thread."""

    async def contested(self, transaction: bytes, other: bytes) -> str:
        """A validator refused a transaction for this other one. If they prove that somebody signed both for
        one lock, clients who ask are shown both (CONS-16); else nothing happens. Checks their signatures, in
        a thread.

        Returns why the bytes alone show that no honest validator says so, whatever epoch and state; empty
        where one may."""

    def next_validators(self, height: int) -> ValidatorSet:
        """The set that an epoch hands over to which ends on the state after this executed block (CONS-54)."""

    @property
    def oldest_block(self) -> int:
        """The height from which on `block` gives committed blocks: those below were pruned, or never here."""

    @property
    def restored_height(self) -> int:
        """Of the snapshot that the chain was restored from; 0 where it wasn't. What headers show of blocks
        below was never computed here, and isn't compared."""

    async def block(self, which: int | bytes) -> Block | None:
        """A committed block with its batches, by height or digest; None where there is none, or where it was
        pruned."""

    async def handovers(self, first: int, limit: int) -> Sequence[HandOver]:
        """What proves the set of each epoch after the one that epoch `first` has, at most `limit` (64)."""

    @property
    def exchange(self) -> SnapshotExchange | None:
        """Snapshots for peers and from them; None where the application keeps none."""

    async def bare_blocks(self, first: int, limit: int) -> Sequence[tuple[Block, bytes]]:
        """Committed blocks from a height up without their batches, each with its certificate: at most `limit`
        (at most 64), none where there is none or the first was pruned. One read, for whoever serves many."""

    def facts(self, height: int) -> ExecutedFacts:
        """Of an executed block among the last ones. Raises `NotExecuted` for any other."""

    def recall(self, executed: Sequence[ExecutedFacts], lost: Collection[int] = ()) -> None:
        """Facts of blocks below the tip, which the engine kept over a restart: later headers show them.

        `lost`: heights of which they can't be read any more. What later final headers show of these isn't
        compared: an engine that has lost some votes for nothing."""


@runtime_checkable
class Mendable(Protocol):
    """An application whose ledger gets rows back that are damaged here and good on other nodes (STO-43).

    A row is named by its key in the ledger. Its value is judged here by what the ledger knows besides, so it
    may come from anybody.
    """

    def fetching(self) -> AbstractContextManager[None]:
        """Other nodes are asked for what is lacking, for the length of a `with`."""

    async def row(self, key: bytes, height: int) -> bytes | None:
        """A row for another node, a state entry as it is after `height`, as far as that is known; None where
        there is none here that is good, or it is no one's business."""

    async def lacking(self) -> tuple[bytes, ...]:
        """Wait until rows are damaged that other nodes may have; their keys."""

    async def mend(self, key: bytes, value: bytes, prove: Callable[[BlockHeader, bytes], None]) -> bool:
        """A row as another node gave it: whether it was right, and is served again.

        `prove(header, certificate)` raises `InvalidInput` where that doesn't prove the block final.
        """
