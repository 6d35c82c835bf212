"""What must hold after every event, whoever is hostile: judged on what honest validators say and decide."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import combinations

import attrs

from supervm.execution.errors import Code
from supervm.execution.footprint import nonce_lock
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.driver.posting import unpack
from supervm.plugins.consensus.bft.effects_messages import Effects
from supervm.plugins.consensus.bft.messages import EpochDone, Message
from supervm.plugins.consensus.bft.proposals import TIMESTAMP_AHEAD_MS
from supervm.plugins.consensus.bft.votes import Accept, Proposal, ViewVote
from supervm.types.batch import Batch
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind, numbers_of
from supervm.types.digests import ZERO
from supervm.types.errors import InvalidInput
from supervm.types.receipt import Receipt, Status
from supervm.types.transaction import Transaction
from supervm.types.validators import ValidatorSet


@lru_cache(4_096)
def read_frame(frame: bytes) -> Message | None:
    """The message of a frame; None for bytes that are none."""
    try:
        return messages.decode(frame)
    except InvalidInput:
        return None


@attrs.define(eq=False)
class Oracles:
    """What was said, certified and final so far. `fail(oracle, text)` is called with what is violated.

    `is_honest`: neither hostile nor one whose disk is damaged.
    """

    genesis: bytes
    validators: ValidatorSet
    is_honest: Callable[[int], bool]
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
    _accepted: set[tuple[int, bytes]] = attrs.Factory(set)
    _blocks: dict[bytes, Block] = attrs.Factory(dict)
    _effects: dict[tuple[int, bytes], bytes] = attrs.Factory(dict)
    _signers: dict[tuple[int, bytes], set[int]] = attrs.Factory(dict)
    _slots: dict[bytes, list[bytes]] = attrs.Factory(dict)
    _fast_slots: dict[tuple[int, bytes], bytes] = attrs.Factory(dict)
    fast_final: dict[bytes, bytes] = attrs.Factory(dict)
    _fast_epochs: dict[bytes, int] = attrs.Factory(dict)
    bases: dict[int, int] = attrs.Factory(lambda: {1: 0})
    sets: dict[int, ValidatorSet] = attrs.Factory(dict)
    punished: dict[int, int] = attrs.Factory(dict)
    """Whom evidence in a final block named, with the height of the first."""
    _again: dict[bytes, None] = attrs.Factory(dict)
    _passed: dict[tuple[int, int, int], int] = attrs.Factory(dict)
    _in_view: dict[tuple[int, int, int], int] = attrs.Factory(dict)

    def __attrs_post_init__(self) -> None:
        self.sets[1] = self.validators

    def _places(self, epoch: int, numbers: Iterable[int]) -> list[int]:
        """The validators of these numbers in an epoch's set, by their place in genesis."""
        members = self.sets[min(epoch, max(self.sets))].members
        found = [self.validators.number_of(members[each].node_id) for each in numbers if each < len(members)]
        return [each for each in found if each is not None]

    # What is sent

    def on_sent(self, number: int, target: int, payload: bytes) -> None:
        """A validator lets messages go, to one of the others."""
        is_honest = self.is_honest(number)
        try:
            frames = unpack(payload)
        except InvalidInput as error:
            if is_honest:
                self.fail("garbage", f"{number} sends what is no parcel: {error}")
            return
        for frame in frames:
            message = read_frame(frame)
            if isinstance(message, Batch):
                self._content(message)
            elif isinstance(message, Proposal):
                digest = message.block.digest()
                self._blocks.setdefault(digest, message.block)
                if message.notarisation is not None:
                    self._again[digest] = None
            if is_honest and message is not None:
                self._honest(number, target, message)

    def _honest(self, number: int, target: int, message: Message) -> None:
        if isinstance(message, Proposal | ViewVote | Effects | Accept | EpochDone):
            self._votes_in(number, message.epoch)
        match message:
            case Proposal(epoch, view, block):
                self._say(number, epoch, VoteKind.PROPOSAL, view, block.digest())
            case ViewVote(kind, epoch, view, digest):
                self._say(number, epoch, kind, view, digest)
                self._enter((number, target, epoch), view)
                if kind is VoteKind.NOTARIZE:
                    self._notarize(number, digest)
                other = _AGAINST.get(kind)
                if other is not None and (number, epoch, other, view) in self._said:
                    where = f"view {view} in epoch {epoch}"
                    self.fail("contradiction", f"{number} says finalize and nullify of {where}")
            case Certificate():
                self._prove(number, message)
                at = number, target, message.epoch
                self._passed[at] = max(message.view, self._passed.get(at, 0))
            case Effects():
                self._sign_effects(number, message)
            case Accept(epoch, batch):
                self._accepted.add((number, batch))
                for slot, digest in self._contents.get(batch, ()):
                    earlier = self._accepted_slots.setdefault((number, epoch, slot), digest)
                    if earlier != digest:
                        self.fail("lock", f"{number} accepts two transactions for {slot.hex()[:18]}")
            case BatchCertificate():
                self._prove_batch(number, message)
                self._certify(message)
                if self.healed:
                    self._owed[message.header.digest()] = None

    def _say(self, number: int, epoch: int, kind: VoteKind, view: int, digest: bytes) -> None:
        if self._said.setdefault((number, epoch, kind, view), digest) != digest:
            where = f"view {view} in epoch {epoch}"
            self.fail("contradiction", f"{number} says {kind.name} of {where} for two blocks")

    # What it rests on

    def _votes_in(self, number: int, epoch: int) -> None:
        base = self.bases.get(epoch)
        if base is None or self.heights.get(number, 0) < base:
            self.fail(
                "epoch", f"{number} votes in epoch {epoch} before it has the last block of the one before"
            )

    def _prove(self, number: int, certificate: Certificate) -> None:
        """Whoever uses a certificate: those that it names are a quorum, and the honest of them said so."""
        self._quorum(number, certificate.epoch, certificate.bitmap)
        kind, view = certificate.kind, certificate.view
        for each in self._places(certificate.epoch, numbers_of(certificate.bitmap)):
            said = self._said.get((each, certificate.epoch, kind, view))
            if self.is_honest(each) and said != certificate.digest:
                self.fail("proof", f"{number} takes a {kind.name} of view {view} that {each} never said")

    def _prove_batch(self, number: int, certificate: BatchCertificate) -> None:
        header = certificate.header
        self._quorum(number, header.epoch, certificate.bitmap)
        digest = header.digest()
        for each in self._places(header.epoch, numbers_of(certificate.bitmap)):
            # A builder's own accept needs no message.
            is_own = self.validators.members[each].node_id == header.builder
            if self.is_honest(each) and not is_own and (each, digest) not in self._accepted:
                self.fail("proof", f"{number} takes an accept that {each} never gave")

    def _is_quorum(self, epoch: int, places: Iterable[int]) -> bool:
        # By its own arithmetic: this judges the product's.
        weights = {
            self.validators.number_of(each.node_id): each.weight
            for each in self.sets[min(epoch, max(self.sets))].members
        }
        return 3 * sum(weights.get(each, 0) for each in places) > 2 * sum(weights.values())

    def _quorum(self, number: int, epoch: int, bitmap: bytes) -> None:
        if not self._is_quorum(epoch, self._places(epoch, numbers_of(bitmap))):
            self.fail("proof", f"{number} takes a certificate of no quorum")

    def _notarize(self, number: int, digest: bytes) -> None:
        """A vote for a block rests on its parent's notarisation, and on a state that the voter computed."""
        block = self._blocks.get(digest)
        if block is None:
            self.fail("proof", f"{number} votes for a block that nobody proposed")
            return
        if block.body.justification:
            certificate = Certificate.decode(block.body.justification)
            if certificate.digest != block.header.parent:
                self.fail("proof", f"{number} votes for a block whose parent isn't the one it proves")
            self._prove(number, certificate)
        for each in block.body.certificates:
            self._prove_batch(number, each)
        header = block.header
        if digest in self._again:
            # An epoch's last block that is proposed again needs nothing but its own notarisation (CONS-55).
            return
        if header.root_height > self.heights.get(number, 0):
            self.fail("root", f"{number} votes for a root of {header.root_height} that it hasn't computed")
        elif header.root_height and self.roots[header.root_height] != header.state_root:
            self.fail("root", f"{number} votes for a wrong root of {header.root_height}")

    def _enter(self, at: tuple[int, int, int], view: int) -> None:
        """Who says something of a view to a peer has sent it the certificate that ended the view before,
        if it was in that one."""
        before = self._in_view.get(at)
        if before == view - 1 and self._passed.get(at, 0) < before:
            self.fail("spread", f"{at[0]} is in view {view} and didn't tell {at[1]} how view {before} ended")
        self._in_view[at] = max(view, before or 0)

    # FAST

    def _sign_effects(self, number: int, message: Effects) -> None:
        """All honest sign the same effects, and a quorum makes them final."""
        for each in message.effects:
            name = message.epoch, each.transaction
            if self._effects.setdefault(name, each.effects) != each.effects:
                self.fail("effects", f"{number} signs other effects of {each.transaction.hex()[:16]}")
            signers = self._signers.setdefault(name, set())
            signers.add(number)
            # Those who aren't honest may sign for anybody who asks, unseen.
            everyone = range(len(self.validators.members))
            if self._is_quorum(
                message.epoch, (at for at in everyone if at in signers or not self.is_honest(at))
            ):
                self._finish(message.epoch, each.transaction, each.effects)

    def _finish(self, epoch: int, transaction: bytes, effects: bytes) -> None:
        if self.fast_final.setdefault(transaction, effects) != effects:
            self.fail("effects", f"{transaction.hex()[:16]} is final with two effects")
        self._fast_epochs.setdefault(transaction, epoch)
        if epoch + 1 in self.bases and transaction not in self.transactions:
            self.fail(
                "undone", f"{transaction.hex()[:16]} is final by effects after epoch {epoch}, without a block"
            )
        for slot in self._slots.get(transaction, ()):
            if self._fast_slots.setdefault((epoch, slot), transaction) != transaction:
                self.fail("final", f"two transactions final by effects for {slot.hex()[:18]}")

    def on_receipts(self, height: int, receipts: Sequence[Receipt]) -> None:
        """What a final block did: nothing certified comes out void, and what was signed is what happened."""
        for receipt in receipts:
            name = receipt.digest.hex()[:16]
            if receipt.status is Status.VOID or receipt.code in (Code.FEE_UNFUNDED, Code.INSUFFICIENT_FUNDS):
                self.fail(
                    "outcome", f"{name} in final block {height} is {receipt.status.name} {receipt.code}"
                )
            signed = self.fast_final.get(receipt.digest)
            if signed is not None and receipt.effects_digest() != signed:
                self.fail("effects", f"{name} has other effects in final block {height} than were final")

    def _content(self, batch: Batch) -> tuple[tuple[bytes, bytes], ...]:
        """(slot, transaction digest) of what a batch locks. Its digest is the proof of its content."""
        digest = batch.header.digest()
        found = self._contents.get(digest)
        if found is None:
            slots: list[tuple[bytes, bytes]] = []
            for data in batch.transactions:
                own = slots_of(data)
                slots += own
                self._slots[own[0][1]] = [slot for slot, _ in own]
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

    def on_lost(self, number: int) -> None:
        """A validator's disk is gone: it begins with nothing, and is bound by what it said."""
        self.heights.pop(number, None)

    def on_start(self, number: int, height: int, digest: bytes) -> None:
        """A validator begins, again perhaps, with a tip."""
        if height < self.heights.get(number, 0):
            self.fail("undone", f"{number} is at {height}, and was at {self.heights[number]}")
        if self.digests.get(height, self.genesis if height == 0 else digest) != digest:
            self.fail("undone", f"{number} has another block at height {height} than before")
        self.heights[number] = height
        # It begins where its log says; what it sent on before isn't sent again.
        for at in [at for at in self._in_view if at[0] == number]:
            del self._in_view[at]

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
        if header.next_validators_digest != ZERO:
            self._hand_over(header.epoch, header.next_validators_digest)
            self._end(header.epoch, height)

    def _hand_over(self, epoch: int, digest: bytes) -> None:
        """The next set is that of genesis, without some of those who aren't honest: nobody else goes."""
        members = self.validators.members
        others = [at for at in range(len(members)) if not self.is_honest(at)]
        for count in range(len(others) + 1):
            for gone in combinations(others, count):
                found = ValidatorSet(tuple(each for at, each in enumerate(members) if at not in gone))
                if found.digest() == digest:
                    self.sets[epoch + 1] = found
                    return
        self.sets[epoch + 1] = self.sets[epoch]
        self.fail("sets", f"epoch {epoch} hands over to a set without an honest validator, or to strangers")

    def on_punished(self, height: int, keys: Iterable[bytes]) -> None:
        """After a final block these keys stand as punished: nobody honest may be among them (CONS-70)."""
        places = {each.public_key: at for at, each in enumerate(self.validators.members)}
        for key in keys:
            at = places[key]
            self.punished.setdefault(at, height)
            if self.is_honest(at):
                self.fail("slander", f"{at} is honest, and is punished by height {height}")

    def _end(self, epoch: int, height: int) -> None:
        """The last block of an epoch is final: what was final by effects is in it or below (CONS-52)."""
        self.bases[epoch + 1] = height
        for transaction, of in self._fast_epochs.items():
            if of <= epoch and transaction not in self.transactions:
                name = transaction.hex()[:16]
                self.fail("undone", f"{name} was final by effects in epoch {of}, which ends without it")

    def undone(self) -> list[bytes]:
        """Transactions that were final by effects, and are in no final block."""
        return [each for each in self.fast_final if each not in self.transactions]

    def not_final(self) -> list[bytes]:
        """Certified batches that honest validators spoke of since healing, and that are in no final block.

        One that was lost with the only validator who held it is owed by nobody (CONS-23); nor is one of an
        epoch that has ended (CONS-53).
        """
        epoch = max(self.bases)
        return [
            digest
            for digest in self._owed
            if digest not in self.ordered and self.certified[digest].header.epoch == epoch
        ]


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
