"""What must hold after every event, whoever is hostile: judged on what honest validators say and decide."""

from collections.abc import Callable
from functools import lru_cache

import attrs

from supervm.execution.footprint import nonce_lock
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.driver.posting import unpack
from supervm.plugins.consensus.bft.messages import Message
from supervm.plugins.consensus.bft.proposals import TIMESTAMP_AHEAD_MS
from supervm.plugins.consensus.bft.votes import Accept, Proposal, ViewVote
from supervm.types.batch import Batch
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, VoteKind
from supervm.types.errors import InvalidInput
from supervm.types.transaction import Transaction


@lru_cache(4_096)
def read_frame(frame: bytes) -> Message | None:
    """The message of a frame; None for bytes that are none."""
    try:
        return messages.decode(frame)
    except InvalidInput:
        return None


@attrs.define(eq=False)
class Oracles:
    """What was said, certified and final so far. `fail(oracle, text)` is called with what is violated."""

    genesis: bytes
    fail: Callable[[str, str], None]
    digests: dict[int, bytes] = attrs.Factory(dict)
    roots: dict[int, bytes] = attrs.Factory(dict)
    heights: dict[int, int] = attrs.Factory(dict)
    transactions: dict[bytes, int] = attrs.Factory(dict)
    ordered: dict[bytes, int] = attrs.Factory(dict)
    certified: dict[bytes, BatchCertificate] = attrs.Factory(dict)
    healed: bool = False
    _owed: dict[bytes, None] = attrs.Factory(dict)
    final_slots: dict[bytes, bytes] = attrs.Factory(dict)
    _times_ms: dict[int, int] = attrs.Factory(dict)
    _contents: dict[bytes, tuple[tuple[bytes, bytes], ...]] = attrs.Factory(dict)
    _certified_slots: dict[tuple[int, bytes], bytes] = attrs.Factory(dict)
    _accepted_slots: dict[tuple[int, int, bytes], bytes] = attrs.Factory(dict)
    _said: dict[tuple[int, int, int, int], bytes] = attrs.Factory(dict)

    # What is sent

    def on_sent(self, number: int, payload: bytes, is_honest: bool) -> None:
        """A validator lets messages go."""
        for frame in unpack(payload):
            message = read_frame(frame)
            if isinstance(message, Batch):
                self._content(message)
            if is_honest and message is not None:
                self._honest(number, message)

    def _honest(self, number: int, message: Message) -> None:
        match message:
            case Proposal(epoch, view, block):
                self._say(number, epoch, VoteKind.PROPOSAL, view, block.digest())
            case ViewVote(kind, epoch, view, digest):
                self._say(number, epoch, kind, view, digest)
                other = _AGAINST.get(kind)
                if other is not None and (number, epoch, other, view) in self._said:
                    self.fail("contradiction", f"{number} says finalize and nullify of view {view}")
            case Accept(epoch, batch):
                for slot, digest in self._contents.get(batch, ()):
                    earlier = self._accepted_slots.setdefault((number, epoch, slot), digest)
                    if earlier != digest:
                        self.fail("lock", f"{number} accepts two transactions for {slot.hex()[:18]}")
            case BatchCertificate():
                self._certify(message)
                if self.healed:
                    self._owed[message.header.digest()] = None

    def _say(self, number: int, epoch: int, kind: VoteKind, view: int, digest: bytes) -> None:
        if self._said.setdefault((number, epoch, kind, view), digest) != digest:
            self.fail("contradiction", f"{number} says {kind.name} of view {view} for two blocks")

    def _content(self, batch: Batch) -> tuple[tuple[bytes, bytes], ...]:
        """(slot, transaction digest) of what a batch locks. Its digest is the proof of its content."""
        digest = batch.header.digest()
        found = self._contents.get(digest)
        if found is None:
            slots: list[tuple[bytes, bytes]] = []
            for data in batch.transactions:
                slots += slots_of(data)
            found = self._contents[digest] = tuple(slots)
        return found

    def _certify(self, certificate: BatchCertificate) -> None:
        header = certificate.header
        digest = header.digest()
        self.certified[digest] = certificate
        for slot, transaction in self._contents.get(digest, ()):
            earlier = self._certified_slots.setdefault((header.epoch, slot), transaction)
            if earlier != transaction:
                self.fail("certificates", f"two certified transactions for {slot.hex()[:18]}")

    # What is final

    def on_final(self, number: int, block: Block, root: bytes, latest_honest_ms: int) -> None:
        """An honest validator has executed a final block, and it is durable there."""
        header, digest = block.header, block.digest()
        height = header.height
        known = self.digests.setdefault(height, digest)
        if known != digest:
            self.fail("agreement", f"two final blocks at height {height}, one at {number}")
        if self.roots.setdefault(height, root) != root:
            self.fail("roots", f"{number} has another state after height {height}")
        if self.heights.get(number, 0) + 1 != height:
            self.fail("undone", f"{number} commits {height} after {self.heights.get(number, 0)}")
        self.heights[number] = height
        if height not in self._times_ms:
            self._times_ms[height] = header.timestamp_ms
            self._first(number, block, latest_honest_ms)

    def on_start(self, number: int, height: int, digest: bytes) -> None:
        """A validator begins, again perhaps, with a tip."""
        if height < self.heights.get(number, 0):
            self.fail("undone", f"{number} is at {height}, and was at {self.heights[number]}")
        if self.digests.get(height, self.genesis if height == 0 else digest) != digest:
            self.fail("undone", f"{number} has another block at height {height} than before")
        self.heights[number] = height

    def _first(self, number: int, block: Block, latest_honest_ms: int) -> None:
        header, height = block.header, block.header.height
        if header.parent != self.digests.get(height - 1, self.genesis if height == 1 else b""):
            self.fail("agreement", f"final block {height} at {number} doesn't extend the final chain")
        if header.timestamp_ms > latest_honest_ms + TIMESTAMP_AHEAD_MS:
            self.fail("time", f"final block {height} is of the future")
        if header.timestamp_ms < self._times_ms.get(height - 1, 0):
            self.fail("time", f"final block {height} is before its parent")
        if header.root_height and self.roots.get(header.root_height) != header.state_root:
            self.fail("roots", f"final block {height} shows a wrong root of {header.root_height}")
        for batch, certificate in zip(block.batches, block.body.certificates, strict=True):
            digest = certificate.header.digest()
            if digest in self.ordered:
                self.fail("order", f"a batch is in final blocks {self.ordered[digest]} and {height}")
            if any(before not in self.ordered for before in certificate.header.after):
                self.fail("order", f"a batch in final block {height} stands before its past")
            self.ordered[digest] = height
            self._content(batch)
            self._certify(certificate)
            for slot, transaction in self._contents[digest]:
                if self.final_slots.setdefault(slot, transaction) != transaction:
                    self.fail("final", f"two final transactions for {slot.hex()[:18]}")
                self.transactions.setdefault(transaction, height)

    def not_final(self) -> list[bytes]:
        """Certified batches that honest validators spoke of since healing, and that are in no final block.

        One that was lost with the only validator who held it is owed by nobody (CONS-23).
        """
        return [digest for digest in self._owed if digest not in self.ordered]


def slots_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """(what may be used once, transaction digest): the sender's nonce, and each version it changes."""
    transaction = Transaction.decode(data)
    body, digest = transaction.body, transaction.digest
    slots = [(nonce_lock(body.sender, body.nonce), digest)]
    slots += [
        (b"object" + each.id + each.version.to_bytes(8, "big"), digest) for each in body.inputs if each.access
    ]
    return slots


_AGAINST = {VoteKind.NULLIFY: VoteKind.FINALIZE, VoteKind.FINALIZE: VoteKind.NULLIFY}
