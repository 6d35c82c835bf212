"""What must hold after every event, whoever is hostile: judged on what honest validators say and decide."""

from collections.abc import Callable

import attrs

from supervm.plugins.consensus.bft.events import Final
from supervm.plugins.consensus.bft.proposals import TIMESTAMP_AHEAD_MS
from supervm.plugins.consensus.bft.votes import Proposal, ViewVote
from supervm.types.block import Block
from supervm.types.certificate import VoteKind
from supervm.types.digests import ZERO


class Violation(Exception):
    """An oracle's verdict: `oracle` is its name."""

    def __init__(self, oracle: str, what: str) -> None:
        self.oracle = oracle
        super().__init__(f"{oracle}: {what}")


@attrs.define(eq=False)
class Oracles:
    """What was final and said so far. `roots`: the true state root after each final height."""

    base: bytes
    roots: dict[int, bytes]
    root_after: Callable[[bytes, bytes], bytes]
    proves: Callable[[bytes, bytes], bool]
    final: dict[int, Block] = attrs.field(factory=dict)
    digests: dict[int, bytes] = attrs.field(factory=dict)
    batches: dict[bytes, int] = attrs.field(factory=dict)
    last_blocks: set[bytes] = attrs.field(factory=set)
    said: dict[tuple[int, int, VoteKind, int], bytes] = attrs.field(factory=dict)

    def on_sent(
        self, node: int, message: object, executed: int, root_of: Callable[[bytes], Block | None]
    ) -> None:
        """An honest validator lets a message go: it never says something else (CONS-60, CONS-70)."""
        if isinstance(message, Proposal):
            self._say(node, message.epoch, VoteKind.PROPOSAL, message.view, message.block.digest())
        elif isinstance(message, ViewVote):
            self._say(node, message.epoch, message.kind, message.view, message.digest)
            other = {VoteKind.NULLIFY: VoteKind.FINALIZE, VoteKind.FINALIZE: VoteKind.NULLIFY}.get(
                message.kind
            )
            if other is not None and (node, message.epoch, other, message.view) in self.said:
                raise Violation("contradiction", f"{node} says finalize and nullify of view {message.view}")
            if message.kind == VoteKind.NOTARIZE:
                self._check_notarize(node, message, executed, root_of(message.digest))

    def _say(self, node: int, epoch: int, kind: VoteKind, view: int, digest: bytes) -> None:
        earlier = self.said.setdefault((node, epoch, kind, view), digest)
        if earlier != digest:
            raise Violation("contradiction", f"{node} says {kind.name} of view {view} for two blocks")

    def _check_epoch(self, height: int, block: Block) -> None:
        """An epoch's last block is extended by the first of the next, of the set that it names, alone."""
        parent = self.final[height - 1].header if height > 1 else None
        if parent is None:
            return
        header = block.header
        if parent.next_validators_digest == ZERO:
            expected = (parent.epoch, parent.validators_digest)
        else:
            expected = (parent.epoch + 1, parent.next_validators_digest)
        if (header.epoch, header.validators_digest) != expected:
            raise Violation(
                "epoch", f"final block {height} extends the epoch's last block, or isn't of its set"
            )

    def _check_notarize(self, node: int, vote: ViewVote, executed: int, block: Block | None) -> None:
        if block is None or vote.digest in self.last_blocks:
            # An epoch's last block is proposed again, and then checked for its notarisation alone (CONS-55).
            return
        if block.header.next_validators_digest != ZERO:
            self.last_blocks.add(vote.digest)
        height, root = block.header.root_height, block.header.state_root
        if height > executed:
            raise Violation("root", f"{node} votes in view {vote.view} for a root that it hasn't computed")
        if self.roots[height] != root:
            raise Violation("root", f"{node} votes in view {vote.view} for a wrong root")

    def on_final(self, node: int, final: Final, latest_honest_ms: int) -> None:
        """An honest validator holds a block final."""
        block, header = final.block, final.block.header
        digest = block.digest()
        height = header.height
        known = self.digests.get(height)
        if known is not None:
            if known != digest:
                raise Violation("agreement", f"two final blocks at height {height}, one at {node}")
            return
        if header.parent != self.digests.get(height - 1, self.base if height == 1 else None):
            raise Violation("agreement", f"final block {height} at {node} doesn't extend the final chain")
        self._check_epoch(height, block)
        if height > 1 and not self.proves(block.body.justification, header.parent):
            raise Violation("proof", f"final block {height} doesn't prove that its parent is notarised")
        if header.timestamp_ms > latest_honest_ms + TIMESTAMP_AHEAD_MS:
            raise Violation("time", f"final block {height} is of the future")
        if height > 1 and header.timestamp_ms < self.final[height - 1].header.timestamp_ms:
            raise Violation("time", f"final block {height} is before its parent")
        if self.roots.get(header.root_height) != header.state_root:
            raise Violation("root", f"final block {height} shows a wrong root for {header.root_height}")
        for certificate in block.body.certificates:
            if certificate.header.epoch != header.epoch:
                raise Violation("epoch", f"final block {height} holds a batch of another epoch")
            batch = certificate.header.digest()
            if batch in self.batches:
                raise Violation("order", f"a batch is in final blocks {self.batches[batch]} and {height}")
            for before in certificate.header.after:
                if before not in self.batches:
                    raise Violation("order", f"a batch in final block {height} stands before its past")
            self.batches[batch] = height
        self.final[height] = block
        self.digests[height] = digest
        self.roots[height] = self.root_after(self.roots[height - 1], digest)


_AGAINST = {VoteKind.NULLIFY: VoteKind.FINALIZE, VoteKind.FINALIZE: VoteKind.NULLIFY}
