"""System operations: what waits to be placed, and what makes those of a block invalid (CONS-17, 30, 50)."""

from collections.abc import Callable, Container, Sequence

from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.epochs.evidence import LocksOf, check_evidence, validator_of
from supervm.plugins.consensus.bft.epochs.proofs import PROOFS_MAX, Proofs
from supervm.plugins.consensus.bft.leading import Content, Pool
from supervm.plugins.consensus.bft.messages import EndEpoch, EpochDone, Equivocation, Evidence, Message
from supervm.types.block import SYSTEM_OPERATIONS_BYTES_MAX, Block
from supervm.types.certificate import bitmap_of, signed_by_quorum
from supervm.types.errors import InvalidInput, ProofInvalid
from supervm.types.validators import ValidatorSet

WAITING_BYTES_MAX = 8 * 2**20
"""Of evidence that waits (chosen). Beyond it new ones aren't taken."""

PLACED_MAX = 65_536
"""Operations in final blocks that are remembered, so that none like them is placed again."""

DONE, END, EVIDENCE = range(3)

CheckEquivocation = Callable[[Equivocation], str]
"""Why two transactions don't prove that their sender signed both for one lock; empty if they do."""


class SystemOperations:
    """What waits to be placed, verified before it is added. A `leading.Pool` of operations alone.

    One epoch-done a validator, one end-epoch, one evidence a validator and offence: what a final block holds
    is remembered, as far as `PLACED_MAX`. `proofs`: those of clients, apart, so that who signs twice, and has
    it proven, doesn't take the room in which a validator is accused.
    """

    def __init__(self, epoch: int, validators: ValidatorSet) -> None:
        self._epoch = epoch
        self._validators = validators
        self._waiting: dict[tuple[int, bytes], bytes] = {}
        self.proofs = Proofs()
        self._evidence_bytes = 0
        self._placed: dict[tuple[int, bytes], None] = {}
        self.closing = False

    @property
    def ends(self) -> bool:
        """Whether a final block holds an end-epoch."""
        return (END, b"") in self._placed

    @property
    def accusing(self) -> int:
        """How much of it is evidence."""
        return sum(rank == EVIDENCE for rank, _ in self._waiting)

    def __len__(self) -> int:
        return len(self._waiting) + len(self.proofs)

    def add(self, message: Message) -> bool:
        """Keep what isn't here yet, but no client's proof; whether it was new."""
        key = self._key(message)
        if key is None or self.holds(message):
            return False
        encoded = messages.encode(message)
        if key[0] == EVIDENCE:
            if self._evidence_bytes + len(encoded) > WAITING_BYTES_MAX:
                return False
            self._evidence_bytes += len(encoded)
        self._waiting[key] = encoded
        return True

    def _key(self, message: Message) -> tuple[int, bytes] | None:
        """Its kind's rank, and which of that kind it is; None for what is no operation of this epoch."""
        match message:
            case EpochDone(epoch, validator):
                known = epoch == self._epoch and validator < len(self._validators.members)
                return (DONE, validator.to_bytes(2, "big")) if known else None
            case EndEpoch(epoch):
                return (END, b"") if epoch == self._epoch else None
            case Evidence(offence):
                return (EVIDENCE, bytes([offence]) + validator_of(message).to_bytes(2, "big"))
        return None

    def waits(self, branch: Branch, batches: bool) -> bool:
        """While the epoch closes there is always work (CONS-51). Proofs of clients make no block due: they
        cost nobody a view, and stand in the next."""
        done = branch.done()
        return self.closing or any(self._is_missing(key, branch, done) for key in self._waiting)

    def pick(self, branch: Branch, batches: bool) -> Content:
        """What isn't on the branch, epoch-dones first, within the bytes of a block."""
        return Content(tuple(self._next(branch)))

    def _next(self, branch: Branch) -> list[bytes]:
        done = branch.done()
        chosen: list[bytes] = []
        left = SYSTEM_OPERATIONS_BYTES_MAX
        for key in sorted(self._waiting):
            operation = self._waiting[key]
            if not self._is_missing(key, branch, done):
                continue
            if len(operation) <= left:
                chosen.append(operation)
                left -= len(operation)
        return chosen + self.proofs.pick(branch, left)

    def _is_missing(self, key: tuple[int, bytes], branch: Branch, done: Container[int]) -> bool:
        """Whether what waits isn't on a branch, in whose blocks these said epoch-done."""
        rank, which = key
        is_done = rank == DONE and int.from_bytes(which, "big") in done
        return not is_done and not branch.holds_operation(self._waiting[key])

    def holds(self, message: Message) -> bool:
        """Whether to add it is of no use: one like it waits or was placed, it is no operation of this epoch,
        or there is no room for it."""
        if isinstance(message, Equivocation):
            return self.proofs.holds(message)
        key = self._key(message)
        return key is None or key in self._waiting or key in self._placed

    def placed(self, block: Block) -> None:
        """A final block holds its operations: whatever says the same has no second effect."""
        for operation in block.body.system_operations:
            message = messages.decode(operation)
            if isinstance(message, Equivocation):
                self.proofs.placed(message, operation, block.header.height)
            key = self._key(message)
            if key is not None:
                gone = self._waiting.pop(key, b"")
                self._evidence_bytes -= len(gone) if key[0] == EVIDENCE else 0
                self._placed[key] = None
                if len(self._placed) > PLACED_MAX:
                    del self._placed[next(iter(self._placed))]


class Both:
    """A `leading.Pool` of system operations and of what another pool has."""

    def __init__(self, operations: SystemOperations, certificates: Pool) -> None:
        self._operations = operations
        self._certificates = certificates

    def waits(self, branch: Branch, batches: bool) -> bool:
        return self._operations.waits(branch, batches) or self._certificates.waits(branch, batches)

    def pick(self, branch: Branch, batches: bool) -> Content:
        operations = self._operations.pick(branch, batches).operations
        return Content(operations, self._certificates.pick(branch, batches).certificates)


def judge_operations(
    operations: Sequence[bytes],
    chain_id: bytes,
    epoch: int,
    validators: ValidatorSet,
    locks_of: LocksOf,
    check_equivocation: CheckEquivocation,
) -> str:
    """Why a block's operations aren't valid by their own bytes and the epoch's set; empty if they are.

    Signatures of validators are verified with the proposal (`verifying.claims_of`), those of clients by
    `check_equivocation`.
    """
    if sum(operation[0] == Equivocation.KIND for operation in operations if operation) > PROOFS_MAX:
        return f"more than {PROOFS_MAX} proofs of equivocation"
    for operation in operations:
        try:
            message = messages.decode(operation)
            match message:
                case EpochDone():
                    _check_epoch(message.epoch, epoch)
                    if message.validator >= len(validators.members):
                        return "an epoch-done of nobody in the set"
                case EndEpoch():
                    _check_epoch(message.epoch, epoch)
                    signed_by_quorum(message.bitmap, message.signatures, validators)
                case Evidence():
                    check_evidence(message, chain_id, epoch, validators, locks_of)
                case Equivocation():
                    problem = check_equivocation(message)
                    if problem:
                        return problem
                case _:
                    return f"a system operation of kind {operation[0]}"
        except InvalidInput as error:
            return str(error)
    return ""


def _check_epoch(found: int, epoch: int) -> None:
    if found != epoch:
        raise ProofInvalid("WrongEpoch", "of another epoch", found, f"epoch {epoch}")


def end_epoch(signatures: dict[int, bytes], epoch: int, validators: ValidatorSet) -> EndEpoch | None:
    """The operation that closes an epoch early, once a quorum signed `VoteKind.END_EPOCH` (CONS-50)."""
    weight = sum(validators.members[number].weight for number in signatures)
    if not validators.is_quorum(weight):
        return None
    numbers = sorted(signatures)
    bitmap = bitmap_of(numbers, len(validators.members))
    return EndEpoch(epoch, bitmap, tuple(signatures[number] for number in numbers))
