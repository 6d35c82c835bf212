"""A validator's side of batches: what it answers a builder, what it holds, what it hands on (CONS-1..5).

One machine for one epoch. A batch is judged in three steps, each as cheap as it can be:

1. its header: epoch, builder, flow, the certificates of its past. Nothing is kept of one refused here;
2. the application examines its transactions (`Check`, one batch at a time) against the last executed block
   and the effects of its past: all that doesn't rest on locks;
3. the locks judge the rest, in the step in which that answer comes. Locks and batch are logged, and only
   then the answer leaves.

If a block was executed between 2 and 3 the application is asked again: its facts and the locks have to be
of one height. What is certified is examined in the same queue, ahead of what isn't, for the slots and
spends of its transactions.

Accepted batches that nobody certified leave memory, the oldest first, where a builder's have no room there;
the log has them. One that is certified later is fetched, as one that was never here: the driver looks in the
log first. So is what is certified beyond a builder's room, when blocks have made room.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from supervm.plugins.consensus.bft.batch_events import (
    Applied,
    BatchExamined,
    BlockExecuted,
    BlockFinal,
    Doubled,
    EpochCloses,
    Leaders,
    Learned,
    VoterEvent,
    VoterOutput,
)
from supervm.plugins.consensus.bft.batch_records import (
    NOTHING,
    BatchRecord,
    CertifiedClaims,
    HeldBatch,
    HeldCertificate,
    Locked,
    SignedEffects,
    UsedUp,
)
from supervm.plugins.consensus.bft.certificates import Certificates, Progress
from supervm.plugins.consensus.bft.claims import EXECUTED_CODES, Claim, Examined, chain_of
from supervm.plugins.consensus.bft.effects import EffectsSigner
from supervm.plugins.consensus.bft.events import Check, Fetch, Halt, Now, Received, Stream
from supervm.plugins.consensus.bft.fetching import ANSWER_BYTES_MAX, Absent, Get, Got, Item, WantDigest, What
from supervm.plugins.consensus.bft.holding import (
    DISK_BYTES,
    HELD_BYTES,
    INDEX_TIMES,
    HeldBatches,
    ToldLeaders,
    WaitingBatches,
)
from supervm.plugins.consensus.bft.locks import (
    EQUIVOCATORS_MAX,
    CertificatesConflict,
    Judgement,
    LockBounds,
    LockTable,
)
from supervm.plugins.consensus.bft.messages import (
    Accept,
    Batch,
    BatchCertificate,
    Equivocation,
    Refusal,
    Refuse,
)
from supervm.plugins.consensus.bft.outbox import Outbox
from supervm.plugins.consensus.bft.votes import MISSED_MAX
from supervm.types.address import Address
from supervm.types.batch import BatchHeader
from supervm.types.certificate import VoteKind, numbers_of, vote_message
from supervm.types.digests import ZERO, Digest
from supervm.types.errors import ProofInvalid
from supervm.types.validators import ValidatorSet

PROOF_BYTES_MAX = 1024 * 1024
LOOK_AGAIN_BLOCKS, LOOKS_A_BLOCK = 16, 64
"""What a batch that left memory still locks is counted again so many blocks later; so many with a block."""


@attrs.frozen(kw_only=True)
class EpochFacts:
    """What doesn't change in an epoch. `builders` are the node ids admitted, this node's own among them."""

    chain_id: bytes
    epoch: int
    validators: ValidatorSet
    node_id: bytes
    builders: frozenset[bytes]
    batch_gas_max: int

    @property
    def number(self) -> int:
        """This validator's place in the set."""
        found = self.validators.number_of(self.node_id)
        assert found is not None, "only a validator votes"
        return found


@attrs.frozen(kw_only=True)
class VoterBounds:
    """Of batches that no block holds, each shared by builder (CONS-2): `held_bytes_max` in memory, see
    `held_bytes_of`; `disk_bytes_max` in all; `index_bytes_max`: what stays in memory of those that are on
    disk alone. `alone_bytes_max`: of locked transactions whose batch isn't in memory, shared by builder, for
    proofs. `open_max`: batches of a builder that wait for an answer. `lag_max`: blocks that execution may be
    behind (CONS-44). `certificates_max` is `fast.overlay_max` (EXEC-22).

    The text counts a number as open until it is certified or 60 s old. Then eight transactions that lost a
    race elsewhere, each alone in a batch, would close an honest builder for a minute. What a number costs a
    validator is bounded without that: by unanswered batches here, by bytes held, and by locks (CONS-17).
    """

    locks: LockBounds = LockBounds()
    held_bytes_max: int = HELD_BYTES
    disk_bytes_max: int = DISK_BYTES
    index_bytes_max: int = INDEX_TIMES * HELD_BYTES
    alone_bytes_max: int = 64 * 2**20
    open_max: int = 8
    lag_max: int = 16
    certificates_max: int = 100_000
    fast_pending_max: int = 10_000


class BatchVoter:
    """A validator of one epoch, as far as batches go. `sign` makes this validator's ed25519 signature."""

    def __init__(
        self,
        facts: EpochFacts,
        sign: Callable[[bytes], bytes],
        *,
        height: int,
        bounds: VoterBounds | None = None,
    ) -> None:
        bounds = VoterBounds() if bounds is None else bounds
        self.table = LockTable(bounds.locks, len(facts.builders))
        self.certificates = Certificates()
        self._shown: dict[Address, None] = {}
        self._facts = facts
        self._bounds = bounds
        self._sign = sign
        self._out: Outbox[VoterOutput] = Outbox()
        self.effects = EffectsSigner(
            facts.chain_id, facts.epoch, facts.number, sign, self._out, pending_max=bounds.fast_pending_max
        )
        self._executed_height = self._final_height = height
        self._not_before = 0
        self._closing = False
        self._held = HeldBatches()
        self._accepted: dict[Digest, tuple[Claim, ...] | None] = {}
        """Claims by batch; None for one that left memory."""
        self._left: deque[tuple[int, Digest, tuple[Claim, ...]]] = deque()
        """Batches that left memory, what of them was locked, and at which height that is counted again."""
        self._later: dict[bytes, dict[Digest, None]] = {}
        """Certified batches that wait for room in memory, by builder."""
        self._learned_claims: dict[Digest, tuple[Claim, ...]] = {}
        self._waiting = WaitingBatches()
        self._checking: Batch | None = None
        self._leaders = ToldLeaders()
        self._all_fast: dict[Digest, None] = {}
        self._prompt: dict[Digest, None] = {}
        self._patient: dict[Digest, None] = {}

    # What it is told

    def step(self, event: VoterEvent, now: Now) -> list[VoterOutput]:
        """Take one event; give what is to be done, in order."""
        now_s = now.monotonic_us / 1_000_000
        try:
            match event:
                case Received(peer, message):
                    if not isinstance(message, Batch | BatchCertificate | Get | Got):
                        return []
                    self._received(peer, message)
                case BatchExamined(batch, examined):
                    self._examined(batch, examined, now_s)
                case BlockFinal(height, batches):
                    self._final_height = max(self._final_height, height)
                    self._progressed(self.certificates.ordered(batches))
                    self._forget_work(batches)
                case BlockExecuted():
                    self._executed(event)
                case Applied():
                    self.effects.applied(event)
                case Leaders(_, _, nodes):
                    self._leaders.now(tuple(each for each in nodes if each != self._facts.node_id))
                    self._tell_leaders()
                case EpochCloses(last_effects):
                    self._closing = True
                    if last_effects:
                        self.effects.stop()
                case Doubled(account):
                    self._proven(account)
        except CertificatesConflict as error:
            self._out.put(Halt(str(error)))
        self._next_check()
        return self._out.take()

    def restore(self, records: Iterable[BatchRecord]) -> list[VoterOutput]:
        """Rebuild from this epoch's records, in the order of the log, before the first step.

        Answers are given again when a builder asks again, in the same words; what was signed is not signed
        anew. Then, before any message, the driver tells the executed blocks above the last of the log, the
        final ones above those, and whether the epoch closes.
        """
        for record in records:
            self.recall(record)
        return self.resume()

    def recall(self, record: BatchRecord) -> None:
        """One record of `restore`, for who reads the log piece by piece; `resume` ends it."""
        match record:
            case HeldBatch(batch):
                self._keep(batch)
            case Locked(batch_digest, builder, accepted, claims, equivocators):
                self.table.take(claims, builder, 0.0)
                self.table.equivocated(equivocators)
                if accepted:
                    self._recall_accepted(batch_digest, claims)
            case HeldCertificate(certificate):
                self.certificates.add(certificate)
                self._has_room(certificate.header)
                self._certify_accepted(certificate.header.digest())
            case CertifiedClaims(batch_digest, claims):
                if batch_digest in self.certificates:
                    self._recall_claims(batch_digest, claims)
            case UsedUp(height, batches, slots, transactions):
                self._final_height = max(self._final_height, height)
                self._settle(BlockExecuted(height, batches, slots, transactions))
            case SignedEffects(signed):
                self.effects.restore(signed)

    def _recall_accepted(self, digest: Digest, claims: tuple[Claim, ...]) -> None:
        if digest in self._held:
            self._accepted[digest] = self.table.shared(claims)
            self._held.accepted(digest, _placed(claims))
        else:
            self._accepted[digest] = None

    def _recall_claims(self, digest: Digest, claims: tuple[Claim, ...]) -> None:
        """What isn't in memory any more is examined again when it is."""
        self.table.certify(digest, claims)
        if digest in self._held:
            self._held.learned_again(digest, claims)
            self._learned_claims[digest] = claims
            self.certificates.examined(digest)

    def resume(self) -> list[VoterOutput]:
        """All records were recalled: what is to be done first."""
        for certificate in self.certificates.unordered():
            digest = certificate.header.digest()
            self._prompt[digest] = None
            if self.certificates.is_known(digest):
                self._progressed(Progress(known=(digest,)))
        self._fetch_missing()
        self._next_check()
        return self._out.take()

    def duties(self) -> list[BatchCertificate]:
        """Certificates that this validator must get into a final block, oldest first (CONS-23)."""
        return self.certificates.unordered()

    @property
    def duties_count(self) -> int:
        """How many these are."""
        return self.certificates.unordered_count

    def work(self, is_resting: bool) -> Iterator[Digest]:
        """The duties that are work now (CONS-31): where ordering rests, none whose transactions all travel as
        FAST, since they are final without their block."""
        yield from self._prompt
        if not is_resting:
            yield from self._patient

    def batch(self, digest: Digest) -> Batch | None:
        """A batch that is in memory, for whoever asks. Of others that are held the log has them."""
        return self._held.get(digest)

    # Messages

    def _received(self, peer: bytes, message: Batch | BatchCertificate | Get | Got) -> None:
        match message:
            case Batch():
                self._offered(message)
            case BatchCertificate():
                self._certified(message)
            case Get(wants):
                self._answer(peer, wants)
            case Got(items):
                for item in items:
                    if isinstance(item, BatchCertificate):
                        self._certified(item)
                    elif isinstance(item, Batch) and self.certificates.wants_content(item.digest()):
                        self._learn(item)

    def _offered(self, batch: Batch) -> None:
        digest = batch.digest()
        if self.certificates.wants_content(digest):
            self._learn(batch)
        if digest in self._accepted:
            # Asked again: the answer got lost, or this validator restarted.
            self._accept(batch)
            return
        if self._is_awaited(digest):
            return
        code = self._refusal(batch)
        if code:
            self._refuse(batch, code)
            return
        _, missing = self.certificates.past(batch.header.after)
        if missing:
            self._miss(batch, missing)
            return
        self._waiting.add(batch, certified=False)

    def _refusal(self, batch: Batch) -> str:
        """Why a batch isn't even examined; empty if it is."""
        header, facts, bounds = batch.header, self._facts, self._bounds
        if header.epoch != facts.epoch:
            return "WrongEpoch"
        if self._closing:
            return "Closing"
        if header.builder not in facts.builders:
            return "NotAdmitted"
        if header.chain_id != facts.chain_id or header.gas > facts.batch_gas_max:
            return "BatchMalformed"
        behind = self._final_height - self._executed_height
        builders, held = len(facts.builders), self._held
        if (
            behind >= bounds.lag_max
            or len(self.certificates) >= bounds.certificates_max
            or held.certified_bytes(header.builder) + header.size_bytes > self._share_bytes
            or held.size_bytes(header.builder) + header.size_bytes > bounds.disk_bytes_max // builders
            or held.index_bytes(header.builder) >= bounds.index_bytes_max // builders
            or self._waiting.count(header.builder) >= bounds.open_max
        ):
            return "Busy"
        return ""

    def _certified(self, certificate: BatchCertificate) -> None:
        """A certificate whose signatures were verified."""
        header = certificate.header
        digest = header.digest()
        if header.epoch != self._facts.epoch or header.chain_id != self._facts.chain_id:
            return
        if digest in self.certificates or self.certificates.is_settled(digest):
            return
        try:
            certificate.signed(self._facts.validators)
        except ProofInvalid:
            return
        self._out.log(HeldCertificate(certificate))
        self._progressed(self.certificates.add(certificate))
        self._has_room(header)
        self._progressed(self._certify_accepted(digest))
        self._fetch(certificate)

    def _answer(self, peer: bytes, wants: Iterable[object]) -> None:
        """Give what is asked for and held, up to the bound of an answer; the rest is asked for again."""
        items: list[Item] = []
        size_bytes = 0
        for want in wants:
            if not isinstance(want, WantDigest) or want.what is What.BLOCK:
                continue
            found = self._item(want)
            size_bytes += found.header.size_bytes + 1024 if isinstance(found, Batch) else 8192
            if items and size_bytes > ANSWER_BYTES_MAX // 2:
                break
            items.append(Absent(want) if found is None else found)
        if items:
            self._out.send((peer,), Got(tuple(items)))

    def _item(self, want: WantDigest) -> Item | None:
        match want.what:
            case What.BATCH:
                return self._held.get(want.digest)
            case What.BATCH_CERTIFICATE:
                return self.certificates.get(want.digest)
        return self.effects.said(self._held.batch_of(want.digest), want.digest)

    # Examining, one batch at a time

    def _learn(self, batch: Batch) -> None:
        """A certified batch came. Where its builder's have no room in memory it comes again, later."""
        if not self._is_awaited(batch.digest()) and self._has_room(batch.header):
            self._waiting.add(batch, certified=True)

    def _is_awaited(self, digest: Digest) -> bool:
        """Whether a batch is in the queue or with the application."""
        return digest in self._waiting or (self._checking is not None and self._checking.digest() == digest)

    def _next_check(self) -> None:
        while self._checking is None and self._executed_height >= self._not_before and self._waiting:
            batch = self._waiting.take()
            if self.certificates.is_settled(batch.digest()):
                continue
            if self._closing and not self.certificates.wants_content(batch.digest()):
                self._refuse(batch, "Closing")
                continue
            self._check(batch)

    def _check(self, batch: Batch) -> None:
        past, missing = self.certificates.past(batch.header.after)
        if missing and not self.certificates.wants_content(batch.digest()):
            self._miss(batch, missing)
            return
        self._checking = batch
        self._out.put(Check(batch, tuple(past)))

    def _examined(self, digest: Digest, examined: Examined, now_s: float) -> None:
        batch = self._checking
        if batch is None or batch.digest() != digest:
            return
        self._checking = None
        if self.certificates.is_settled(digest):
            return
        if examined.facts.height != self._executed_height:
            # Facts and locks have to be of one height. The block that is executed is told soon.
            self._not_before = examined.facts.height
            self._waiting.put_back(batch, self.certificates.wants_content(digest))
        elif self.certificates.wants_content(digest):
            self._learned(batch, examined)
        else:
            self._vote(batch, examined, now_s)

    def _learned(self, batch: Batch, examined: Examined) -> None:
        """The transactions of a certified batch: what they lock and spend counts from now on."""
        digest = batch.digest()
        claims = tuple(
            claim
            for index, claim in enumerate(examined.claims)
            if examined.refused.get(index) not in EXECUTED_CODES
            and not _is_used(claim, examined.facts.nonces)
        )
        if digest not in self._held:
            self._held.keep(batch)
            self._out.log(HeldBatch(batch))
        self._has_room(batch.header)
        self._out.log(CertifiedClaims(digest, claims))
        self.table.certify(digest, claims)
        self._held.learned(digest, enumerate(examined.claims))
        self._learned_claims[digest] = claims
        self._progressed(self.certificates.examined(digest))

    def _certify_accepted(self, digest: Digest) -> Progress:
        """A certified batch that was accepted here: its claims are known, and stand where a lock still does.

        A lock goes only when what it names is used up. The log needs only the lock and the certificate.
        """
        accepted = self._accepted.get(digest)
        if accepted is None or digest not in self._held or not self.certificates.wants_content(digest):
            return Progress()
        claims = tuple(each for _, each in _placed(accepted) if self.table.holds(each))
        self.table.certify(digest, claims)
        self._learned_claims[digest] = claims
        return self.certificates.examined(digest)

    def _vote(self, batch: Batch, examined: Examined, now_s: float) -> None:
        header, digest = batch.header, batch.digest()
        if self._closing:
            self._refuse(batch, "Closing")
            return
        named = {claim.transaction for claim in examined.claims}
        if (
            examined.malformed
            or examined.gas != header.gas
            or len(examined.claims) != header.count
            or len(named) != len(examined.claims)
        ):
            self._refuse(batch, "BatchMalformed")
            return
        past, missing = self.certificates.past(header.after)
        if missing:
            self._miss(batch, missing)
            return
        found = self.table.judge(
            examined.claims, examined.facts, frozenset(past), header.builder, now_s, examined.refused
        )
        accepted = not found.refused
        locked = tuple(found.locked.values())
        # Of a batch that isn't accepted the log needs what is new: else repeats would fill it.
        logged = locked if accepted else tuple(each for each in locked if not self.table.holds(each))
        self.table.take(locked, header.builder, now_s)
        proven = self.table.equivocated(found.equivocators)
        if accepted:
            if examined.all_fast:
                self._all_fast[digest] = None
            self._out.log(HeldBatch(batch))
            self._accepted[digest] = self.table.shared(locked)
            self._held.accepted(digest, found.locked.items())
            self._keep(batch)
        else:
            self._held.keep_alone(batch, found.locked.items(), self._alone_share_bytes)
        if logged or proven:
            self._out.log(Locked(digest, header.builder, accepted, logged, proven))
        if accepted:
            self._accept(batch)
        else:
            self._prove(batch, examined, found)
            self._refuse(batch, "", refusals=self._refusals(found))

    def _proven(self, account: Address) -> None:
        """Somebody showed a proof: no further lock here either, in this epoch (CONS-17)."""
        if self.table.equivocated((account,)):
            self._out.log(Locked(ZERO, ZERO, False, (), (account,)))

    def _prove(self, batch: Batch, examined: Examined, found: Judgement) -> None:
        """Say what proves each equivocation, for the leaders (CONS-17): once an account."""
        names = [claim.transaction for claim in examined.claims]
        for conflict in found.conflicts:
            first = self._held.transaction(conflict.other)
            second = batch.transactions[names.index(conflict.transaction)]
            is_new = conflict.account not in self._shown and len(self._shown) < EQUIVOCATORS_MAX
            if first and is_new:
                self._shown[conflict.account] = None
                lower, higher = sorted((first, second))
                proof = Equivocation(lower, higher, conflict.slot)
                self._out.send(self._leaders.nodes, proof, Stream.VOTES)

    def _refusals(self, found: Judgement) -> tuple[Refusal, ...]:
        """What is refused, by index, with proofs of equivocation as far as a frame has room for them."""
        refusals: list[Refusal] = []
        left = PROOF_BYTES_MAX
        for index, why in sorted(found.refused.items()):
            other = b"" if why.other is None else self._held.transaction(why.other)
            if len(other) > left:
                other = b""
            left -= len(other)
            refusals.append(Refusal(index, why.code, other))
        return tuple(refusals)

    # Answers

    def _accept(self, batch: Batch) -> None:
        header, digest, facts = batch.header, batch.digest(), self._facts
        signature = self._sign(vote_message(facts.chain_id, facts.epoch, VoteKind.ACCEPT, 0, digest))
        self._out.vote((header.builder,), Accept(facts.epoch, digest, facts.number, signature))

    def _refuse(
        self,
        batch: Batch,
        code: str,
        missed: Iterable[Digest] = (),
        refusals: tuple[Refusal, ...] = (),
    ) -> None:
        facts = self._facts
        message = Refuse(facts.epoch, batch.digest(), facts.number, code, tuple(sorted(missed)), refusals)
        self._out.vote((batch.header.builder,), message)

    def _miss(self, batch: Batch, missing: list[Digest]) -> None:
        """The builder sends what is missed: nobody else can say that those batches exist at all."""
        self._refuse(batch, "PastMissing", missing[:MISSED_MAX])

    # What is held

    @property
    def _share_bytes(self) -> int:
        """What a builder's batches may take of memory."""
        return self._bounds.held_bytes_max // len(self._facts.builders)

    @property
    def _alone_share_bytes(self) -> int:
        return self._bounds.alone_bytes_max // len(self._facts.builders)

    def _keep(self, batch: Batch) -> None:
        """A batch that is in the log, or will be with this step. The oldest of its builder that nobody
        certified leave memory for it."""
        self._held.keep(batch)
        self._make_room(batch.header.builder)

    def _has_room(self, header: BatchHeader) -> bool:
        """Whether a certified batch stays in memory, or has its room there now."""
        if not self._held.certify(header.digest(), header, self._share_bytes):
            return False
        self._make_room(header.builder)
        return True

    def _make_room(self, builder: bytes) -> None:
        for batch in self._held.let_go(builder, self._share_bytes):
            digest = batch.digest()
            claims = self._accepted.get(digest)
            locked = [(index, each) for index, each in _placed(claims or ()) if self.table.holds(each)]
            if claims is not None:
                self._accepted[digest] = None
            self._held.gone(digest, claims or ())
            self._held.count_locks(digest, len(locked))
            self._held.keep_alone(batch, locked, self._alone_share_bytes)
            if locked:
                left = tuple(each for _, each in locked)
                self._left.append((self._executed_height + LOOK_AGAIN_BLOCKS, digest, left))

    def _look_again(self) -> None:
        """Some blocks after batches left memory: most of their transactions hold no lock any more."""
        for _ in range(LOOKS_A_BLOCK):
            if not self._left or self._left[0][0] > self._executed_height:
                return
            _, digest, claims = self._left.popleft()
            self._held.count_locks(digest, sum(self.table.holds(each) for each in claims))

    def _progressed(self, progress: Progress) -> None:
        for digest in progress.known:
            certificate = self.certificates.get(digest)
            batch = self._held.get(digest)
            assert certificate is not None and batch is not None, "what is known is there"
            self.effects.known(certificate)
            self._out.put(Learned(certificate, batch, self._learned_claims.pop(digest, ())))
        for digest in progress.held:
            if self.certificates.is_ordered(digest):
                continue
            (self._patient if digest in self._all_fast else self._prompt)[digest] = None
        if progress.held:
            self._tell_leaders()

    def _fetch(self, certificate: BatchCertificate) -> None:
        """Ask for what a certificate needs, its batch and its past, from those who accepted it."""
        digest = certificate.header.digest()
        members = self._facts.validators.members
        signers = tuple(members[number].node_id for number in numbers_of(certificate.bitmap))
        if self.certificates.wants_content(digest):
            held = self._held.get(digest)
            if not self._has_room(certificate.header):
                self._later.setdefault(certificate.header.builder, {})[digest] = None
            elif held is not None:
                self._learn(held)
            elif not self._is_awaited(digest):
                self._out.put(Fetch(WantDigest(What.BATCH, digest), signers))
        for each in certificate.header.after:
            if each not in self.certificates and not self.certificates.is_held(each):
                self._out.put(Fetch(WantDigest(What.BATCH_CERTIFICATE, each), signers))

    def _fetch_missing(self) -> None:
        for certificate in self.certificates.all():
            if self.certificates.wants_content(certificate.header.digest()):
                self._fetch(certificate)

    def _fetch_later(self) -> None:
        """What waited for room in memory, as far as there is some now."""
        for builder, waiting in list(self._later.items()):
            while waiting:
                digest = next(iter(waiting))
                certificate = self.certificates.get(digest)
                if certificate is not None and not self._has_room(certificate.header):
                    break
                del waiting[digest]
                if certificate is not None:
                    self._fetch(certificate)
            if not waiting:
                del self._later[builder]

    def _tell_leaders(self) -> None:
        for to, certificate in self._leaders.untold(self.certificates.unordered()):
            self._out.send(to, certificate)

    def _executed(self, block: BlockExecuted) -> None:
        if block.height <= self._executed_height:
            return
        assert block.height == self._executed_height + 1, "blocks are executed in order"
        self._final_height = max(self._final_height, block.height)
        self._out.log(UsedUp(block.height, block.batches, block.used, block.transactions))
        self._settle(block)
        self._fetch_later()

    def _settle(self, block: BlockExecuted) -> None:
        self._executed_height = block.height
        self.table.executed(block.used, block.transactions)
        progress = self.certificates.executed(block.batches)
        self.effects.settled(block.batches)
        self._leaders.settled(block.batches)
        self._held.settled(block.batches, block.transactions)
        for digest in block.batches:
            self._accepted.pop(digest, None)
            self._learned_claims.pop(digest, None)
            self._all_fast.pop(digest, None)
        self._forget_work(block.batches)
        self._look_again()
        self._progressed(progress)

    def _forget_work(self, batches: Iterable[Digest]) -> None:
        for digest in batches:
            self._prompt.pop(digest, None)
            self._patient.pop(digest, None)


def _placed(claims: Iterable[Claim]) -> Iterator[tuple[int, Claim]]:
    """Those of a batch that the log still has, with their indices."""
    return ((index, each) for index, each in enumerate(claims) if each.transaction != NOTHING.transaction)


def _is_used(claim: Claim, nonces: Mapping[bytes, int]) -> bool:
    """Whether a nonce of a claim is behind its account: an executed block used it up."""
    places = [place for slot in claim.slots if (place := chain_of(slot)) is not None]
    return any(nonce < nonces.get(chain, 0) for chain, nonce in places)
