"""What block sync is told, beside messages and timers, and what it answers."""

import attrs

from supervm.plugins.consensus.bft.events import CancelTimer, Halt, Received, Send, SetTimer, TimedOut
from supervm.types.batch import Batch
from supervm.types.block import Block
from supervm.types.certificate import Certificate
from supervm.types.digests import Digest
from supervm.types.finality import FinalityProof
from supervm.types.validators import ValidatorSet


@attrs.frozen
class PeersNow:
    """The peers that may be asked, by node id. `guests`: those of them that are no members of the set, who
    should have its blocks; anyone can be many of them, so they take no member's place and no member's say."""

    nodes: tuple[bytes, ...]
    guests: frozenset[bytes] = frozenset()


@attrs.frozen
class Look:
    """There may be blocks above the tip: at the start, when validators are seen ahead, now and then."""


@attrs.frozen
class Committed:
    """This node's last block, executed and durable. `epoch`, `validators`: of the block that follows it.

    Told of every block, whoever made it final.
    """

    height: int
    digest: Digest
    epoch: int
    validators: ValidatorSet


@attrs.frozen
class Verified:
    """The answer to `Verify`: whether every signature holds."""

    ticket: int
    right: bool


@attrs.frozen
class SnapshotUseless:
    """What these peers offered as a snapshot doesn't check: they lied about what they pruned, or about it."""

    peers: tuple[bytes, ...]


@attrs.frozen
class Verify:
    """Verify the signatures of these certificates of one epoch, off the event loop."""

    ticket: int
    certificates: tuple[Certificate, ...]
    validators: ValidatorSet


@attrs.frozen
class Ready:
    """A final block with its batches, in the order of heights: execute it, commit it, tell `Committed`.

    `view`: in which it was proposed. `certificate`: its own finalisation, None for an ancestor of a block
    that has one. `proof`: what shows that it is final, with the headers up to that block.
    """

    block: Block
    view: int
    certificate: Certificate | None
    proof: FinalityProof


@attrs.frozen
class Dropped:
    """A peer isn't asked again for a while. `lied`: what it gave can't come from an honest node."""

    peer: bytes
    reason: str
    lied: bool


@attrs.frozen
class NeedsSnapshot:
    """These peers pruned what this node misses, and nobody serves it: only a snapshot helps (CONS-62).

    `oldest`: the lowest height that one of them holds.
    """

    oldest: int
    peers: tuple[bytes, ...]


@attrs.frozen
class CaughtUp:
    """No peer that answered has a block above this height."""

    height: int


SyncEvent = Received | TimedOut | PeersNow | Look | Committed | Verified | SnapshotUseless
SyncOutput = Send | SetTimer | CancelTimer | Verify | Ready | Dropped | NeedsSnapshot | CaughtUp | Halt


def with_batches(block: Block, batches: dict[Digest, Batch]) -> Block:
    """The block with the batches that its body certifies, in its order.

    The builder's signature isn't under a batch's digest: the one in the body is.
    """
    found = []
    for certificate in block.body.certificates:
        batch = batches[certificate.header.digest()]
        found.append(Batch(certificate.header, certificate.signature, batch.transactions))
    return Block(block.header, block.body, tuple(found))
