"""What a consensus state machine is told, and what it answers (CONS-80).

A machine is a plain object with `step(event, now) -> list[Output]`. It reads no clock, draws nothing at
random and does no I/O. Whoever drives it keeps these promises:

Order: the outputs of a step are carried out in their order; steps don't overlap.
Logged: a machine numbers its own `Log` outputs 1, 2, ... from its construction. They reach the disk in
that order, so `Logged(n)` says that all up to n are durable. A `Send` isn't let go before `after` is.
Verified: the signatures of a received message, and of all that it holds (certificates, a block's
justification, batch certificates, system operations), were verified against the set of its epoch. A
machine that is unsure of an epoch, a number, a weight or a digest checks that itself.
Timers: `SetTimer` replaces a timer of the same name; one that was replaced or cancelled never fires.
"""

from enum import Enum, IntEnum
from typing import ClassVar, Protocol

import attrs

from supervm.contracts.application import Verdict
from supervm.plugins.consensus.bft.fetching import GotBlock, Want
from supervm.plugins.consensus.bft.messages import Message
from supervm.plugins.consensus.bft.offences import Evidence
from supervm.types.batch import Batch
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, Certificate
from supervm.types.codec import Writer
from supervm.types.digests import Digest


class Stream(IntEnum):
    """Where a message travels; votes go first (CONS-39)."""

    VOTES = 1
    DISSEMINATION = 2
    BULK = 3


class Everyone(Enum):
    """All validators of the epoch but oneself."""

    ALL = "all"


ALL = Everyone.ALL


@attrs.frozen
class Now:
    """The time of a step: microseconds of a clock that never goes back, and milliseconds UTC."""

    monotonic_us: int
    wall_ms: int


class Record(Protocol):
    """A value for the log: its kind, and the fields after it."""

    RECORD: ClassVar[int]

    def write(self, writer: Writer) -> None:
        """Append the fields."""


@attrs.frozen
class Received:
    """A verified message of a peer (its node id), or a block out of its answer."""

    peer: bytes
    message: Message | GotBlock


@attrs.frozen
class TimedOut:
    name: str


@attrs.frozen
class Logged:
    """Every `Log` output up to this number is durable."""

    number: int


@attrs.frozen
class ExecutedBlock:
    """This node executed the final block of a height. What headers may show of the state after it.

    `receipts_root` is that of this block alone. `next_validators` is the digest of the set that an epoch
    which ends on this state hands over to.
    """

    height: int
    state_root: Digest
    receipts_root: Digest
    base_price: int
    next_validators: Digest


@attrs.frozen
class Checked:
    """The application's answer to `Check`."""

    batch: Digest
    verdict: Verdict


@attrs.frozen
class Work:
    """There is something to place in a block now that wasn't there before (a certificate, an operation)."""


Event = Received | TimedOut | Logged | ExecutedBlock | Checked | Work


@attrs.frozen
class Log:
    """Append this record to the log. `number`: its place among this machine's records."""

    number: int
    record: Record


@attrs.frozen
class Send:
    """Send a message to peers (node ids) or to ALL, once the record `after` is durable (0: at once)."""

    to: tuple[bytes, ...] | Everyone
    message: Message
    stream: Stream
    after: int = 0


@attrs.frozen
class SetTimer:
    name: str
    delay_us: int


@attrs.frozen
class CancelTimer:
    name: str


@attrs.frozen
class Fetch:
    """Ask one of these peers, or any where there is none. What stays away is asked for again."""

    want: Want
    peers: tuple[bytes, ...] = ()


@attrs.frozen
class Check:
    """Ask the application for its verdict on a batch. `past`: batches before it, not executed, in order."""

    batch: Batch
    past: tuple[Digest, ...]


@attrs.frozen
class Apply:
    """Apply the FAST transactions of a certified batch (CONS-20)."""

    batch: Digest
    certificate: BatchCertificate


@attrs.frozen
class Final:
    """A block is final; blocks come in the order of their heights.

    `view` is the one in which it was proposed on this branch. `certificate` is its own finalisation, None
    for an ancestor of a block that has one.
    """

    block: Block
    view: int
    certificate: Certificate | None


@attrs.frozen
class EpochEnded:
    """The epoch's last block is final by this certificate: this machine has nothing more to decide."""

    certificate: Certificate


@attrs.frozen
class InView:
    """The machine entered a view; certificates that wait go to these two leaders (CONS-23)."""

    epoch: int
    view: int
    leader: bytes
    next_leader: bytes


@attrs.frozen
class Behind:
    """Validators of more than a third vote in a later epoch: blocks must be asked for (CONS-61)."""

    epoch: int
    peers: tuple[bytes, ...]


@attrs.frozen
class Offended:
    """Two votes of one validator contradict each other (CONS-70)."""

    evidence: Evidence


@attrs.frozen
class Refused:
    """A proposal that this machine doesn't vote for. `rule`: the requirement that it breaks."""

    view: int
    leader: bytes
    rule: str
    problem: str


@attrs.frozen
class Halt:
    """This node must stop: it found what can't be with at most f hostile validators, or a bug."""

    reason: str


Output = (
    Log
    | Send
    | SetTimer
    | CancelTimer
    | Fetch
    | Check
    | Apply
    | Final
    | EpochEnded
    | InView
    | Behind
    | Offended
    | Refused
    | Halt
)
