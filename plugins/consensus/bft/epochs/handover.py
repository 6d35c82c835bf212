"""From one epoch to the next: what the next begins with, and votes that came before it did (CONS-53, 54)."""

from collections.abc import Callable, Sequence

import attrs

from supervm.plugins.consensus.bft.branches import node_of, tip_of
from supervm.plugins.consensus.bft.messages import Message
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.validators import ValidatorSet

EARLY_PEERS_MAX = 256
EARLY_A_PEER_MAX = 32


def next_epoch(
    epoch: Epoch,
    last: Block,
    finalisation: Certificate,
    validators: ValidatorSet,
    judge_operations: Callable[[Sequence[bytes]], str] | None = None,
) -> Epoch:
    """The epoch that begins on an epoch's last block, once that is executed here and not before.

    `validators`: the set that the state gives; the block's header names its digest. A member that isn't in
    it goes on as one that only follows (`Start.own` None) and serves the last block with its finalisation.
    """
    header = last.header
    digest = last.digest()
    assert header.epoch == epoch.number, f"block {header.height} of epoch {header.epoch}, not {epoch.number}"
    assert header.next_validators_digest == validators.digest(), "another set than the last block names"
    named = (finalisation.kind, finalisation.epoch, finalisation.digest)
    assert named == (VoteKind.FINALIZE, epoch.number, digest), "not the last block's finalisation"
    return attrs.evolve(
        epoch,
        number=epoch.number + 1,
        validators=validators,
        base=tip_of(node_of(last, digest)),
        base_finalisation=finalisation,
        judge_operations=judge_operations or epoch.judge_operations,
    )


class EarlyMessages:
    """Messages of the next epoch that came before this node began it: unverified, since its set isn't known.

    Bounded: 256 peers, 32 messages each; what has no room is dropped, and said again by who is stuck.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, list[tuple[int, Message]]] = {}

    def add(self, peer: bytes, epoch: int, message: Message) -> bool:
        """Whether there was room."""
        kept = self._kept.get(peer)
        if kept is None:
            if len(self._kept) >= EARLY_PEERS_MAX:
                return False
            kept = self._kept[peer] = []
        if len(kept) >= EARLY_A_PEER_MAX:
            return False
        kept.append((epoch, message))
        return True

    def take(self, epoch: int) -> list[tuple[bytes, Message]]:
        """Those of an epoch that begins, by peer in the order in which they came; all others go."""
        found = [(peer, message) for peer, kept in self._kept.items() for at, message in kept if at == epoch]
        self._kept.clear()
        return found
