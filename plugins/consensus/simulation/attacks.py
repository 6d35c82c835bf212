"""What hostile validators do. Each runs the honest code, so that it keeps up, and lies where it meets others.

A hostile validator's own messages pass through `Tongue` on their way out, peer by peer, and what comes in
passes its ears. It signs with its own key only: whatever it says could be said by anybody with that key and
the messages that it got.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import attrs

from supervm.plugins.consensus.bft.driver.posting import METHODS, pack, unpack
from supervm.plugins.consensus.bft.effects_messages import Effect, Effects
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.fetching import (
    Absent,
    Get,
    Got,
    GotBlock,
    Item,
    Want,
    WantDigest,
    What,
)
from supervm.plugins.consensus.bft.messages import Message, decode, encode
from supervm.plugins.consensus.bft.offences import Evidence, Offence
from supervm.plugins.consensus.bft.votes import Accept, Proposal, ViewVote
from supervm.types import merkle
from supervm.types.batch import BATCH_AFTER_MAX, BATCH_ATTEMPTS, Batch
from supervm.types.certificate import (
    NO_DIGEST,
    BatchCertificate,
    Certificate,
    VoteKind,
    bitmap_of,
    vote_message,
)
from supervm.types.codec import U64_MAX
from supervm.types.errors import InvalidInput
from supervm.types.transaction import Transaction
from supervm.types.validators import ValidatorSet


class Attack(Enum):
    """What a hostile validator does, beside running the honest code."""

    SILENT = "sends no vote"
    LATE = "keeps certificates of batches for long, and then sends them"
    HOARD = "sends certificates and batches to one peer only"
    PARTIAL = "sends half of its messages"
    SPLIT = "proposes two blocks, each to some"
    EVERY_VOTE = "votes for whatever it sees, and against"
    ACCEPT_ALL = "accepts every batch that it sees, whatever is locked"
    TWO_BATCHES = "builds two batches of one number, each for some"
    ORPHAN = "proposes on a parent that isn't notarised"
    WRONG_ROOT = "proposes a root that nobody computed"
    FUTURE = "proposes with a time in the future"
    STALE_PARENT = "proposes beside an old block"
    DISORDER = "proposes a batch twice"
    CENSOR = "proposes no batches"
    GARBAGE = "sends bytes that mean nothing, and damaged messages"
    STALE = "sends what it has seen long ago"
    LIE = "answers who is behind with what is wrong"
    STUFF = "builds batches of whatever clients signed, in any order, with and without their past"
    TWO_EFFECTS = "signs other effects for some"
    FORGE = "speaks for others, with signatures that aren't theirs"
    SLANDER = "accuses others with true votes that don't contradict each other, also in its blocks"
    INVENT = "signs effects of transactions that nobody made, and passes others' on under another batch"
    HOLLOW = "sends proposals of far views, or that hold what means nothing"


VOTES, DISSEMINATION, BULK = METHODS[Stream.VOTES], METHODS[Stream.DISSEMINATION], METHODS[Stream.BULK]
SEEN_MAX = 256
INVENTED, REPEATS = 64, 16
"""Transactions of a made-up list of effects; how often each of others' is passed on."""


@attrs.define(eq=False)
class Tongue:
    """One hostile validator's, for all its lives. `given`: what clients signed, fit for a batch or not.

    `place`: its number in the set of genesis, by which peers are named. `sets`: those of the epochs so far.
    """

    place: int
    node_id: bytes
    sets: Mapping[int, ValidatorSet]
    chain_id: bytes
    sign: Callable[[bytes], bytes]
    attacks: frozenset[Attack]
    random: random.Random
    _votes: deque[ViewVote] = attrs.Factory(lambda: deque(maxlen=32))
    _seen: deque[tuple[int, bytes]] = attrs.Factory(lambda: deque(maxlen=SEEN_MAX))
    _blocks: dict[bytes, GotBlock] = attrs.Factory(dict)
    _digests: dict[int, set[bytes]] = attrs.Factory(dict)
    _certificates: deque[BatchCertificate] = attrs.Factory(lambda: deque(maxlen=64))
    _proposals: deque[Proposal] = attrs.Factory(lambda: deque(maxlen=8))
    _forged: dict[bytes, bytes] = attrs.Factory(dict)
    _effects: deque[Effects] = attrs.Factory(lambda: deque(maxlen=4))
    given: deque[Transaction] = attrs.Factory(lambda: deque(maxlen=64))
    _built: dict[bytes, Batch] = attrs.Factory(dict)
    _accepts: dict[bytes, dict[int, bytes]] = attrs.Factory(dict)
    _certified: list[BatchCertificate] = attrs.Factory(list)
    _told: dict[int, int] = attrs.Factory(dict)
    _late: dict[int, list[bytes]] = attrs.Factory(dict)

    def _set(self, epoch: int) -> ValidatorSet:
        return self.sets[min(epoch, max(self.sets))]

    def _count(self, epoch: int) -> int:
        return len(self._set(epoch).members)

    def _number(self, epoch: int) -> int:
        """Its number in an epoch's set; where it is in that no more, it still says something."""
        found = self._set(epoch).number_of(self.node_id)
        return 0 if found is None else found

    def say(self, target: int, method: int, payload: bytes) -> list[tuple[int, bytes]]:
        """What it sends to a peer where the honest code would send this: (method, payload) of each."""
        frames: list[bytes] = []
        more: list[tuple[int, bytes]] = []
        for frame in unpack(payload):
            frames += self._instead(target, method, frame)
            if Attack.GARBAGE in self.attacks and self.random.random() < 0.2:
                frames.append(self._garbage(frame))
            if Attack.FORGE in self.attacks and method == VOTES:
                frames += self._forgeries(frame)
            if Attack.INVENT in self.attacks and method == DISSEMINATION:
                frames += self._inventions(frame)
            if Attack.SLANDER in self.attacks and method == VOTES and self.random.random() < 0.1:
                frames += [encode(each) for each in self._slanders()]
            if Attack.HOLLOW in self.attacks and self._proposals and self.random.random() < 0.1:
                more.append((VOTES, pack([encode(self._hollow())])))
        if Attack.STALE in self.attacks and self._seen and self.random.random() < 0.3:
            old_method, old = self._seen[self.random.randrange(len(self._seen))]
            more.append((old_method, pack([old])))
        fresh = self._certified[self._told.get(target, 0) :]
        self._told[target] = len(self._certified)
        more += [(DISSEMINATION, pack([encode(each)])) for each in fresh]
        if self.random.random() < 0.02:
            more += [(DISSEMINATION, pack([each])) for each in self._late.pop(target, [])]
        return ([(method, pack(frames))] if frames else []) + more

    def hear(self, method: int, payload: bytes) -> list[tuple[int, bytes]]:
        """Take note of what a peer sent. Gives (method, frame) of what to send back at once."""
        answers: list[tuple[int, bytes]] = []
        for frame in unpack(payload):
            self._seen.append((method, frame))
            try:
                message = decode(frame)
            except InvalidInput:
                continue
            self._note(message)
            if isinstance(message, ViewVote) and message.kind == VoteKind.NOTARIZE:
                self._votes.append(message)
            if isinstance(message, Batch) and Attack.ACCEPT_ALL in self.attacks:
                header = message.header
                digest = header.digest()
                signature = self._sign(VoteKind.ACCEPT, 0, digest, header.epoch)
                accept = Accept(header.epoch, digest, self._number(header.epoch), signature)
                answers.append((DISSEMINATION, encode(accept)))
            elif isinstance(message, Accept):
                self._accept(message)
            elif isinstance(message, Effects):
                self._effects.append(message)
            elif isinstance(message, Get):
                # What it made up; the honest code answers for all else.
                made = [item for want in message.wants if (item := self._made_up(want)) is not None]
                answers += [(BULK, encode(Got(tuple(made))))] if made else []
        return answers

    def _made_up(self, want: Want) -> Item | None:
        match want:
            case WantDigest(What.BLOCK, digest):
                return self._blocks.get(digest)
            case WantDigest(What.BATCH, digest):
                return self._built.get(digest)
        return None

    def _accept(self, accept: Accept) -> None:
        """Count accepts of batches that the honest code didn't build, and certify them."""
        batch = self._built.get(accept.batch)
        if batch is None:
            return
        header = batch.header
        own = self._sign(VoteKind.ACCEPT, 0, accept.batch, header.epoch)
        members = self._set(header.epoch).members
        accepts = self._accepts.setdefault(accept.batch, {self._number(header.epoch): own})
        if len(accepts) > len(members):
            return
        accepts[accept.validator] = accept.signature
        weights = [each.weight for each in members]
        if 3 * sum(weights[each] for each in accepts if each < len(weights)) > 2 * sum(weights):
            numbers = sorted(accepts)
            bitmap, signatures = bitmap_of(numbers, len(members)), tuple(accepts[each] for each in numbers)
            self._certified.append(BatchCertificate(header, batch.signature, bitmap, signatures))
            self._certificates.append(self._certified[-1])
            del self._built[accept.batch]

    def _note(self, message: Message) -> None:
        if isinstance(message, ViewVote) and message.digest != NO_DIGEST:
            self._digests.setdefault(message.view, set()).add(message.digest)
        elif isinstance(message, Proposal):
            self._digests.setdefault(message.view, set()).add(message.block.digest())
            self._proposals.append(message)
            self._certificates.extend(message.block.body.certificates)
        while len(self._digests) > SEEN_MAX:
            del self._digests[min(self._digests)]

    def _instead(self, target: int, method: int, frame: bytes) -> list[bytes]:
        attacks, rng = self.attacks, self.random
        if Attack.SILENT in attacks and method == VOTES:
            return []
        if Attack.PARTIAL in attacks and rng.random() < 0.5:
            return []
        message = decode(frame)
        self._note(message)
        if Attack.HOARD in attacks and isinstance(message, Batch | BatchCertificate | Certificate):
            return [frame] if target == (self.place + 1) % self._count(1) else []
        if Attack.LATE in attacks and isinstance(message, BatchCertificate):
            self._late.setdefault(target, []).append(frame)
            return []
        match message:
            case Proposal():
                return [encode(self._proposal(target, message))]
            case ViewVote() if Attack.EVERY_VOTE in attacks:
                return [frame, encode(self._some_vote(message))]
            case Batch() if Attack.STUFF in attacks and self.given:
                return [frame, encode(self._stuffed(message))]
            case Batch() if Attack.TWO_BATCHES in attacks and target % 2:
                return [encode(self._twin(message))]
            case Effects() if Attack.TWO_EFFECTS in attacks and rng.random() < 0.5:
                return [encode(self._other_effects(message))]
            case Got() if Attack.LIE in attacks:
                return [encode(self._lie(message))]
        return [frame]

    def _sign(self, kind: VoteKind, view: int, digest: bytes, epoch: int) -> bytes:
        return self.sign(vote_message(self.chain_id, epoch, kind, view, digest))

    def _some_vote(self, vote: ViewVote) -> ViewVote:
        kind = self.random.choice((VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE))
        known = sorted(self._digests.get(vote.view, ())) or [b"nowhere".ljust(32, b".")]
        digest = NO_DIGEST if kind == VoteKind.NULLIFY else self.random.choice(known)
        signature = self._sign(kind, vote.view, digest, vote.epoch)
        return ViewVote(kind, vote.epoch, vote.view, digest, self._number(vote.epoch), signature)

    def _garbage(self, frame: bytes) -> bytes:
        if self.random.random() < 0.5:
            return self.random.randbytes(self.random.randint(0, 200))
        damaged = bytearray(frame)
        damaged[self.random.randrange(len(damaged))] ^= 1 << self.random.randrange(8)
        return bytes(damaged)

    def _forgeries(self, frame: bytes) -> list[bytes]:
        """The same vote by all others, and what that would certify."""
        vote = decode(frame)
        if not isinstance(vote, ViewVote):
            return []
        count, own = self._count(vote.epoch), self._number(vote.epoch)
        said = [encode(attrs.evolve(vote, validator=each)) for each in range(count) if each != own]
        everyone = bitmap_of(list(range(count)), count)
        signatures = (vote.signature,) * count
        return [
            *said,
            encode(Certificate(vote.kind, vote.epoch, vote.view, vote.digest, everyone, signatures)),
        ]

    def _hollow(self) -> Proposal:
        """A proposal that it saw, with a view, a certificate or an operation that is none; unsigned."""
        rng = self.random
        proposal = attrs.evolve(rng.choice(self._proposals), notarisation=None)
        if rng.random() < 0.3:
            return attrs.evolve(proposal, view=rng.choice((0, 2**20, 2**40, U64_MAX)))
        wrong = rng.choice((b"\xff", rng.randbytes(40), encode(proposal)))
        changes = rng.choice(({"justification": wrong}, {"system_operations": (wrong,)}))
        body = attrs.evolve(proposal.block.body, **changes)
        header = attrs.evolve(proposal.block.header, body_digest=body.digest())
        block = attrs.evolve(proposal.block, header=header, body=body)
        view = min(proposal.view + rng.randint(0, 9), U64_MAX)
        return attrs.evolve(proposal, view=view, block=block)

    def _slanders(self) -> list[Evidence]:
        """Evidence of two votes that somebody else did sign, in two views."""
        pairs = [(one, other) for one in self._votes for other in self._votes if _seem_opposed(one, other)]
        return [Evidence(Offence.NOTARIZES, *self.random.choice(pairs))] if pairs else []

    def _slander(self, proposal: Proposal) -> Proposal | None:
        made = self._slanders()
        if not made:
            return None
        before = proposal.block.body
        operations = (*before.system_operations, *(encode(each) for each in made))
        body = attrs.evolve(before, system_operations=operations)
        header = attrs.evolve(proposal.block.header, body_digest=body.digest())
        return self._signed(proposal, header=header, body=body)

    def _other_effects(self, effects: Effects) -> Effects:
        wrong = tuple(attrs.evolve(each, effects=b"other".ljust(32, b".")) for each in effects.effects)
        changed = attrs.evolve(effects, effects=wrong)
        return attrs.evolve(changed, signature=self.sign(changed.message(self.chain_id)))

    def _inventions(self, frame: bytes) -> list[bytes]:
        """Beside true effects: its own of what doesn't exist, and others' older ones under the same batch."""
        effects = decode(frame)
        if not isinstance(effects, Effects):
            return []
        invented = tuple(
            Effect(at, self.random.randbytes(32), self.random.randbytes(32)) for at in range(INVENTED)
        )
        made = attrs.evolve(effects, batch=self.random.randbytes(32), effects=invented)
        made = attrs.evolve(made, signature=self.sign(made.message(self.chain_id)))
        others = [attrs.evolve(each, batch=effects.batch) for each in self._effects]
        return [encode(each) for each in (made, *others * REPEATS)]

    def _twin(self, batch: Batch) -> Batch:
        """Another batch of the same number: the gas in its header is higher by one."""
        return self._rebuilt(batch, gas=batch.header.gas + 1)

    def _stuffed(self, batch: Batch) -> Batch:
        """Another batch: some of what clients signed, after nothing or after what it saw certified."""
        was = batch.digest()
        made = self._forged.get(was)
        if made is None:
            given = list(self.given)
            chosen = self.random.sample(given, min(len(given), self.random.randint(1, 4)))
            if chosen and self.random.random() < 0.5:
                sender = chosen[0].body.sender
                chosen = sorted(
                    (each for each in given if each.body.sender == sender), key=lambda each: each.body.nonce
                )[-self.random.randint(1, 3) :]
            known = sorted({each.header.digest() for each in self._certificates})
            packed = tuple(each.data for each in chosen)
            before = [Transaction.decode(each).body.gas_limit for each in batch.transactions]
            header = attrs.evolve(
                batch.header,
                attempt=BATCH_ATTEMPTS - 1,
                after=tuple(known[:BATCH_AFTER_MAX]) if self.random.random() < 0.5 else (),
                size_bytes=sum(map(len, packed)),
                count=len(packed),
                gas=batch.header.gas - sum(before) + sum(each.body.gas_limit for each in chosen),
                transactions_root=merkle.root(packed),
            )
            signature = self._sign(VoteKind.BATCH, 0, header.digest(), header.epoch)
            made = self._forged[was] = encode(Batch(header, signature, packed))
            self._built[header.digest()] = Batch(header, signature, packed)
            while len(self._built) > SEEN_MAX:
                del self._built[next(iter(self._built))]
        stuffed = decode(made)
        assert isinstance(stuffed, Batch)
        return stuffed

    def _rebuilt(self, batch: Batch, **changes: Any) -> Batch:
        header = attrs.evolve(batch.header, **changes)
        signature = self._sign(VoteKind.BATCH, 0, header.digest(), header.epoch)
        return Batch(header, signature, batch.transactions)

    # Proposals

    def _proposal(self, target: int, proposal: Proposal) -> Proposal:
        """The same to all peers, but for what is split."""
        if proposal.notarisation is not None:
            return proposal
        digest = proposal.block.digest()
        forged = self._forged.get(digest)
        if forged is None:
            forgeries = [attack for attack in _FORGERIES if attack in self.attacks]
            other = self.random.choice(forgeries) if forgeries else None
            made = _FORGERIES[other](self, proposal) if other is not None else None
            forged = self._forged[digest] = encode(made or proposal)
            while len(self._forged) > 32:
                del self._forged[next(iter(self._forged))]
        said = decode(forged)
        assert isinstance(said, Proposal)
        if Attack.SPLIT in self.attacks and target % 2:
            return self._with_header(said, timestamp_ms=said.block.header.timestamp_ms + 1)
        return said

    def _signed(self, proposal: Proposal, **changes: Any) -> Proposal:
        block = attrs.evolve(proposal.block, **changes)
        digest = block.digest()
        self._blocks[digest] = GotBlock(block)
        while len(self._blocks) > SEEN_MAX:
            del self._blocks[next(iter(self._blocks))]
        signature = self._sign(VoteKind.PROPOSAL, proposal.view, digest, proposal.epoch)
        return Proposal(proposal.epoch, proposal.view, block, None, signature)

    def _with_header(self, proposal: Proposal, **changes: Any) -> Proposal:
        return self._signed(proposal, header=attrs.evolve(proposal.block.header, **changes))

    def _with_certificates(self, proposal: Proposal, chosen: tuple[BatchCertificate, ...]) -> Proposal:
        body = attrs.evolve(proposal.block.body, certificates=chosen)
        header = attrs.evolve(
            proposal.block.header, body_digest=body.digest(), transactions_root=body.transactions_root()
        )
        return self._signed(proposal, header=header, body=body)

    def _orphan(self, proposal: Proposal) -> Proposal:
        """On a parent that nobody notarised: the certificate in the body is this node's alone."""
        header = proposal.block.header
        parent = self._with_header(proposal, timestamp_ms=header.timestamp_ms + 1).block
        digest, view = parent.digest(), max(proposal.view - 1, 1)
        signature = self._sign(VoteKind.NOTARIZE, view, digest, proposal.epoch)
        bitmap = bitmap_of([self._number(proposal.epoch)], self._count(proposal.epoch))
        alone = Certificate(VoteKind.NOTARIZE, proposal.epoch, view, digest, bitmap, (signature,))
        body = attrs.evolve(proposal.block.body, justification=alone.encode(), certificates=())
        child = attrs.evolve(
            parent.header,
            height=header.height + 1,
            parent=digest,
            body_digest=body.digest(),
            transactions_root=body.transactions_root(),
        )
        return self._signed(proposal, header=child, body=body)

    def _wrong_root(self, proposal: Proposal) -> Proposal:
        header = proposal.block.header
        height = self.random.choice((header.root_height, max(header.height - 2, header.root_height)))
        return self._with_header(proposal, root_height=height, state_root=b"wrong root".ljust(32, b"."))

    def _future(self, proposal: Proposal) -> Proposal:
        ahead_ms = self.random.choice((900, 5_000, 3_600_000))
        return self._with_header(proposal, timestamp_ms=proposal.block.header.timestamp_ms + ahead_ms)

    def _stale_parent(self, proposal: Proposal) -> Proposal | None:
        """Beside the parent that it should extend: on that one's own parent, with a true certificate."""
        wanted = proposal.block.header.parent
        parent = next((each.block for each in self._proposals if each.block.digest() == wanted), None)
        if parent is None:
            return None
        header = attrs.evolve(parent.header, timestamp_ms=parent.header.timestamp_ms + 1)
        return self._signed(proposal, header=header, body=parent.body)

    def _disorder(self, proposal: Proposal) -> Proposal | None:
        """A batch without its past where one is known, else one that was proposed before."""
        known = list(self._certificates)
        wrong = [each for each in known if each.header.after] or known
        return self._with_certificates(proposal, (self.random.choice(wrong),)) if wrong else None

    def _censor(self, proposal: Proposal) -> Proposal:
        return self._with_certificates(proposal, ())

    # Sync

    def _lie(self, got: Got) -> Got:
        return Got(tuple(self._lie_of(item) for item in got.items))

    def _lie_of(self, item: Item) -> Item:
        rng = self.random
        match item:
            case GotBlock(block, finalisation):
                if rng.random() < 0.3:
                    return Absent(WantDigest(What.BLOCK, block.digest()))
                header = attrs.evolve(block.header, timestamp_ms=block.header.timestamp_ms + 1)
                twin = attrs.evolve(block, header=header)
                if finalisation is not None and rng.random() < 0.5:
                    return GotBlock(twin, attrs.evolve(finalisation, digest=twin.digest()))
                return GotBlock(twin, finalisation)
            case Batch():
                return self._twin(item)
            case BatchCertificate():
                return attrs.evolve(item, header=attrs.evolve(item.header, gas=item.header.gas + 1))
        return item


_FORGERIES: dict[Attack, Callable[[Tongue, Proposal], Proposal | None]] = {
    Attack.ORPHAN: Tongue._orphan,
    Attack.WRONG_ROOT: Tongue._wrong_root,
    Attack.FUTURE: Tongue._future,
    Attack.STALE_PARENT: Tongue._stale_parent,
    Attack.DISORDER: Tongue._disorder,
    Attack.CENSOR: Tongue._censor,
    Attack.SLANDER: Tongue._slander,
}


def _seem_opposed(one: ViewVote, other: ViewVote) -> bool:
    """Whether somebody said these two of two views of one epoch, for two blocks."""
    return (one.validator, one.epoch) == (other.validator, other.epoch) and one.view < other.view
