"""System operations: what waits to be placed, and what makes those of a block invalid (CONS-17, 30, 50)."""

from collections.abc import Callable, Container, Sequence

from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.epochs.evidence import LocksOf, check_evidence, validator_of
from supervm.plugins.consensus.bft.leading import Content, Pool
from supervm.plugins.consensus.bft.messages import EndEpoch, EpochDone, Equivocation, Evidence, Message
from supervm.types.block import SYSTEM_OPERATIONS_BYTES_MAX, Block
from supervm.types.certificate import bitmap_of, signed_by_quorum
from supervm.types.errors import InvalidInput, ProofInvalid
from supervm.types.validators import ValidatorSet

WAITING_BYTES_MAX = 8 * 2**20
"""Of evidence that waits, and as much of proofs of equivocation (chosen): who signs twice, and has it proven,
doesn't take the room in which a validator is accused. Beyond it new ones aren't taken."""

PROOFS_MAX = 64
"""Proofs of equivocation in a block (chosen): each asks voters for two signatures of clients."""

PROOFS_WAITING_MAX = 4 * PROOFS_MAX
"""Beyond it new ones are dropped: whoever floods with them mustn't make leaders slow."""

PLACED_MAX = 65_536
"""Operations in final blocks that are remembered, so that none like them is placed again."""

DONE, END, EVIDENCE, EQUIVOCATION = range(4)

CheckEquivocation = Callable[[Equivocation], str]
"""Why two transactions don't prove that their sender signed both for one lock; empty if they do."""


class SystemOperations:
    """What waits to be placed, verified before it is added. A `leading.Pool` of operations alone.

    One epoch-done a validator, one end-epoch, one evidence a validator and offence, one proof a lock: what a
    final block holds is remembered, as far as `PLACED_MAX`.
    """

    def __init__(self, epoch: int, validators: ValidatorSet) -> None:
        self._epoch = epoch
        self._validators = validators
        self._waiting: dict[tuple[int, bytes], bytes] = {}
        self._bytes = dict.fromkeys((DONE, END, EVIDENCE, EQUIVOCATION), 0)
        self._proofs = 0
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
        return len(self._waiting)

    def add(self, message: Message) -> bool:
        """Keep what isn't here yet; whether it was new."""
        key = self._key(message)
        if key is None or self.holds(message):
            return False
        encoded = messages.encode(message)
        is_bounded = key[0] in (EVIDENCE, EQUIVOCATION)
        if is_bounded and self._bytes[key[0]] + len(encoded) > WAITING_BYTES_MAX:
            return False
        self._waiting[key] = encoded
        self._bytes[key[0]] += len(encoded)
        self._proofs += key[0] == EQUIVOCATION
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
            case Equivocation(_, _, lock):
                return (EQUIVOCATION, lock)
        return None

    def waits(self, branch: Branch, batches: bool) -> bool:
        """While the epoch closes there is always work (CONS-51)."""
        done = branch.done()
        return self.closing or any(self._is_missing(key, branch, done) for key in self._waiting)

    def pick(self, branch: Branch, batches: bool) -> Content:
        """What isn't on the branch, epoch-dones first, within the bytes of a block."""
        return Content(tuple(self._next(branch)))

    def _next(self, branch: Branch) -> list[bytes]:
        done = branch.done()
        chosen: list[bytes] = []
        left, proofs = SYSTEM_OPERATIONS_BYTES_MAX, PROOFS_MAX
        for key in sorted(self._waiting):
            operation = self._waiting[key]
            if not self._is_missing(key, branch, done):
                continue
            if key[0] == EQUIVOCATION:
                if not proofs:
                    continue
                proofs -= 1
            if len(operation) <= left:
                chosen.append(operation)
                left -= len(operation)
        return chosen

    def _is_missing(self, key: tuple[int, bytes], branch: Branch, done: Container[int]) -> bool:
        """Whether what waits isn't on a branch, in whose blocks these said epoch-done."""
        rank, which = key
        is_done = rank == DONE and int.from_bytes(which, "big") in done
        return not is_done and not branch.holds_operation(self._waiting[key])

    def holds(self, message: Message) -> bool:
        """Whether to add it is of no use: one like it waits or was placed, it is no operation of this epoch,
        or there is no room for it."""
        key = self._key(message)
        if key is None or key in self._waiting or key in self._placed:
            return True
        return key[0] == EQUIVOCATION and self._proofs >= PROOFS_WAITING_MAX

    def placed(self, block: Block) -> None:
        """A final block holds its operations: whatever says the same has no second effect."""
        for operation in block.body.system_operations:
            key = self._key(messages.decode(operation))
            if key is not None:
                gone = self._waiting.pop(key, b"")
                self._bytes[key[0]] -= len(gone)
                self._proofs -= bool(gone) and key[0] == EQUIVOCATION
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
