"""What the machines of batches and effects are told, beside messages and timers, and what they answer."""

import attrs

from supervm.plugins.consensus.bft.claims import Claim, Examined
from supervm.plugins.consensus.bft.effects_messages import Effect
from supervm.plugins.consensus.bft.events import (
    Apply,
    CancelTimer,
    Check,
    Fetch,
    Halt,
    Log,
    Received,
    Send,
    SetTimer,
    TimedOut,
)
from supervm.types.address import Address
from supervm.types.batch import Batch
from supervm.types.certificate import BatchCertificate
from supervm.types.digests import Digest


@attrs.frozen
class BatchExamined:
    """The application's answer to `Check`: of a batch to vote on, or of a certified one."""

    batch: Digest
    examined: Examined


@attrs.frozen
class BlockFinal:
    """A final block holds these batches. Heights come in order."""

    height: int
    batches: tuple[Digest, ...]


@attrs.frozen
class BlockExecuted:
    """This node executed a final block: its batches, the slots that it used up, and the transactions.

    `used` are the nonces, versions and key images that the block moved past, by whatever transaction.
    """

    height: int
    batches: tuple[Digest, ...]
    used: tuple[bytes, ...]
    transactions: tuple[Digest, ...]


@attrs.frozen
class Applied:
    """The application's answer to `Apply`, and again whenever more of it could be applied.

    `effects`: of FAST transactions of the batch applied by now and not told for it before, ascending by
    index. `waiting`: how many of its FAST transactions wait for what they need.
    """

    batch: Digest
    effects: tuple[Effect, ...]
    waiting: int = 0


@attrs.frozen
class Leaders:
    """The leaders of the current and the next view: who gets certificates that no block holds (CONS-23)."""

    epoch: int
    view: int
    nodes: tuple[bytes, ...]


@attrs.frozen
class EpochCloses:
    """The epoch closes (CONS-51). `last_effects`: from here on no effects are signed (rule 2)."""

    last_effects: bool


@attrs.frozen
class Doubled:
    """A proof, verified or in a final block, that an account signed twice for one lock (CONS-17)."""

    account: Address


@attrs.frozen
class Learned:
    """A certified batch is known here, with its past: later batches may name it in `after`."""

    certificate: BatchCertificate
    batch: Batch
    claims: tuple[Claim, ...]


VoterEvent = Received | BatchExamined | BlockFinal | BlockExecuted | Applied | Leaders | EpochCloses | Doubled
VoterOutput = Log | Send | Fetch | Check | Apply | Learned | Halt


@attrs.frozen
class Offered:
    """A transaction for a builder: its bytes, its claim as far as bytes and ownership say, and its gas."""

    data: bytes
    claim: Claim
    gas: int


@attrs.frozen
class Offer:
    """Transactions for the next batches, in an order that checks."""

    transactions: tuple[Offered, ...]


@attrs.frozen
class Returned:
    """A transaction that the builder gives up, with the code of its last refusal; empty if it had none."""

    data: bytes
    code: str


@attrs.frozen
class Contested:
    """A validator refuses a transaction and shows another, which it says is signed for the same lock. Whether
    it is, its receiver looks. `by`: the node that says so."""

    data: bytes
    other: bytes
    by: bytes


@attrs.frozen
class Certified:
    """A batch of this builder is certified: its transactions will be in a block."""

    batch: Digest


@attrs.frozen
class Paced:
    """The bound on message delay that ordering has found (D, CONS-31), in microseconds."""

    delay_us: int


BuilderEvent = Received | Offer | TimedOut | BlockExecuted | Learned | Paced | EpochCloses
BuilderOutput = Send | SetTimer | CancelTimer | Returned | Certified | Contested
