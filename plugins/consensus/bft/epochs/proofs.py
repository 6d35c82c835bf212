"""Proofs that clients signed twice for a lock: which wait for a block, and which a leader places (CONS-17).

Their bytes alone prove them. What they are worth the state says: whether anybody can hold the lock, and
whether its signer can pay. Anybody makes as many as he likes that are worth nothing. So these are placed by
nobody, make no block due, and wait only where this node saw the conflict itself, until something better needs
the room.
"""

from collections.abc import Mapping

import attrs

from supervm.contracts.application import WeighedProofs
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.messages import Equivocation
from supervm.types.block import SYSTEM_OPERATIONS_BYTES_MAX

PROOFS_MAX = 64
"""Proofs of equivocation in a block (chosen): each asks voters for two signatures of clients."""

PLACED_BYTES_MAX = SYSTEM_OPERATIONS_BYTES_MAX // 4
"""Bytes of them that a leader places in a block, where it isn't one alone (chosen)."""

PROOFS_WAITING_MAX = 4 * PROOFS_MAX
PROOFS_BYTES_MAX = 8 * 2**20
"""Of those that wait (chosen): whoever floods with them mustn't make leaders slow."""


@attrs.define
class _Waiting:
    """`own`: this node saw the conflict. `told`: others were told that it counts. `weighed`: height of the
    state in which it was weighed last; -1 before."""

    proof: Equivocation
    operation: bytes
    own: bool
    told: bool = False
    weighed: int = -1


@attrs.frozen
class Outcome:
    """What weighing brought. `noted`: proofs that the state has now. `fresh`: those of which it is new that
    they would count, with whether this node saw the conflict itself."""

    noted: tuple[Equivocation, ...]
    fresh: tuple[tuple[Equivocation, bool], ...]


class Proofs:
    """One a lock. Whoever adds has verified what the bytes say, and has the application weigh them then and
    after each block: `to_weigh`, `weighed`."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, _Waiting] = {}
        self._counting: dict[bytes, None] = {}
        self._placed: dict[bytes, tuple[int, bytes]] = {}
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def holds(self, proof: Equivocation) -> bool:
        """Whether to add it is of no use: one for its lock waits or was just placed, or all the room is taken
        by what counts."""
        if proof.lock in self._waiting or proof.lock in self._placed:
            return True
        return len(self._waiting) >= PROOFS_WAITING_MAX and len(self._counting) >= len(self._waiting)

    def add(self, proof: Equivocation, own: bool) -> bool:
        """Keep one, where there is no room in the place of older ones that don't count; whether it is new."""
        operation = messages.encode(proof)
        if self.holds(proof) or not self._make_room(len(operation)):
            return False
        self._waiting[proof.lock] = _Waiting(proof, operation, own)
        self._size_bytes += len(operation)
        return True

    def _make_room(self, size_bytes: int) -> bool:
        while len(self._waiting) >= PROOFS_WAITING_MAX or self._size_bytes + size_bytes > PROOFS_BYTES_MAX:
            worthless = next((lock for lock in self._waiting if lock not in self._counting), None)
            if worthless is None:
                return False
            self._drop(worthless)
        return True

    def _drop(self, lock: bytes) -> None:
        gone = self._waiting.pop(lock, None)
        self._counting.pop(lock, None)
        if gone is not None:
            self._size_bytes -= len(gone.operation)

    def pick(self, branch: Branch, left_bytes: int) -> list[bytes]:
        """Those that count and aren't on the branch, who pays most first, within a leader's bounds."""
        chosen: list[bytes] = []
        for lock in self._counting:
            operation = self._waiting[lock].operation
            if len(chosen) == PROOFS_MAX:
                break
            if lock in self._placed or branch.places(operation) or len(operation) > left_bytes:
                continue
            chosen.append(operation)
            left_bytes = min(left_bytes, PLACED_BYTES_MAX) - len(operation)
        return chosen

    def placed(self, proof: Equivocation, operation: bytes, height: int) -> None:
        """A final block holds it. What that did shows when the block is executed."""
        self._placed[proof.lock] = (height, operation)

    def to_weigh(self, height: int) -> dict[bytes, bytes]:
        """The operations of which to ask the application by lock, since the block of this height is
        executed: what waits and wasn't weighed after it, and what blocks up to there hold."""
        asked = {lock: operation for lock, (at, operation) in self._placed.items() if at <= height}
        for lock, each in self._waiting.items():
            if lock in asked or (lock not in self._placed and each.weighed < height):
                asked[lock] = each.operation
                each.weighed = height
        return asked

    def weighed(self, asked: Mapping[bytes, bytes], height: int, found: WeighedProofs) -> Outcome:
        """The application's answer to what `to_weigh` gave for a height."""
        locks = list(asked)
        for lock in locks:
            if self._placed.get(lock, (height + 1, b""))[0] <= height:
                del self._placed[lock]
        noted = tuple(locks[at] for at in sorted(found.noted))
        for lock in noted:
            self._drop(lock)
        counting = [locks[at] for at in found.counting if locks[at] in self._waiting]
        unasked = [lock for lock in self._counting if lock not in asked]
        self._counting = dict.fromkeys((*unasked, *counting))
        for lock in locks:
            if lock in self._waiting and lock not in self._counting and not self._waiting[lock].own:
                self._drop(lock)
        fresh = [each for lock in counting if not (each := self._waiting[lock]).told]
        for each in fresh:
            each.told = True
        return Outcome(
            tuple(_read(asked[lock]) for lock in noted), tuple((each.proof, each.own) for each in fresh)
        )


def _read(operation: bytes) -> Equivocation:
    found = messages.decode(operation)
    assert isinstance(found, Equivocation), "it was added or placed as one"
    return found
