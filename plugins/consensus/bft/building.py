"""A builder's side of batches: gathering, sealing, resealing, certificates (CONS-1, CONS-3, CONS-5).

One machine for one epoch. Transactions wait in a queue, in an order that checks. A batch takes from it what
doesn't rest on what is still under vote; it names in `after` the certified batches that its transactions
rest on, and no others, so that nobody else's missing batch delays it. A transaction that was dropped once
for want of funds or versions is tried again after everything certified that is known here.

Nothing here is a vote, so nothing is logged: a builder that restarts starts at a higher sequence number.
The batch goes to every validator, this node's own among them.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import attrs

from supervm.plugins.consensus.bft.batch_events import (
    BlockExecuted,
    BuilderEvent,
    BuilderOutput,
    Certified,
    Contested,
    EpochCloses,
    Learned,
    Offer,
    Offered,
    Paced,
    Returned,
)
from supervm.plugins.consensus.bft.batches import EpochFacts
from supervm.plugins.consensus.bft.claims import Claim
from supervm.plugins.consensus.bft.events import CancelTimer, Log, Now, Received, SetTimer, TimedOut
from supervm.plugins.consensus.bft.fetching import ANSWER_BYTES_MAX
from supervm.plugins.consensus.bft.messages import Accept, Batch, BatchCertificate, Refuse
from supervm.plugins.consensus.bft.outbox import Outbox
from supervm.types.batch import BATCH_AFTER_MAX, BATCH_ATTEMPTS, BATCH_BYTES_MAX, batch_header
from supervm.types.certificate import VoteKind, bitmap_of, vote_message
from supervm.types.digests import Digest

PASSING_CODES = frozenset(
    {"NonceGap", "VersionBehind", "InsufficientFunds", "LockBusy", "PriceTooLow", "Busy", "ObjectMissing"}
)
"""Refusals that time may cure; others are for good once more than f say so."""

SEAL = "seal"
RESEND_DOUBLINGS = 2


@attrs.frozen(kw_only=True)
class BuilderBounds:
    """When a batch is sealed (CONS-1), how many are under vote, and how long a transaction is tried.

    The first after a pause is sealed at once, the next ones after `seal_us`.
    Beyond `open_some` under vote only full batches are sealed: where votes take long, what comes meanwhile
    goes into one batch and not into many small ones, whose votes would take longer still.
    """

    count_max: int = 4_096
    bytes_seal: int = 256 * 1024
    seal_us: int = 20_000
    gas_max: int = 250_000_000
    gas_fold: int = 0
    open_max: int = 8
    open_some: int = 2
    open_us: int = 60_000_000
    queue_max: int = 65_536
    tries_max: int = 8
    missed_sends_max: int = 3


@attrs.define
class _Item:
    """A transaction in the queue; `wide` once it is tried after everything that is known."""

    offered: Offered
    tries: int = 0
    not_before_us: int = 0
    wide: bool = False

    @property
    def claim(self) -> Claim:
        return self.offered.claim


@attrs.define
class _Attempt:
    """A batch under vote, and the answers to it by validator."""

    batch: Batch
    claims: tuple[Claim, ...]
    accepts: dict[int, bytes] = attrs.Factory(dict)
    refusals: dict[int, dict[int, str]] = attrs.Factory(dict)
    codes: dict[int, str] = attrs.Factory(dict)
    missed_sends: dict[int, int] = attrs.Factory(dict)
    contested: set[tuple[int, int]] = attrs.Factory(set)
    resends: int = 0


@attrs.define
class _Number:
    """An open sequence number: its attempts, the last of which holds `items`."""

    items: list[_Item]
    until_us: int
    attempts: list[_Attempt] = attrs.Factory(list)


class Builder:
    """The builder of one node in one epoch. `first_sequence`: above any that it used in this epoch."""

    def __init__(
        self,
        facts: EpochFacts,
        sign: Callable[[bytes], bytes],
        *,
        first_sequence: int = 0,
        bounds: BuilderBounds | None = None,
        delay_us: int = 250_000,
    ) -> None:
        self._facts = facts
        self._sign = sign
        self._bounds = BuilderBounds() if bounds is None else bounds
        self._delay_us = delay_us
        self._sequence = first_sequence
        self._out: Outbox[BuilderOutput] = Outbox()
        self._members = tuple(each.node_id for each in facts.validators.members)
        self._queue: deque[_Item] = deque()
        self._numbers: dict[int, _Number] = {}
        self._by_digest: dict[Digest, int] = {}
        self._known: dict[Digest, tuple[BatchCertificate, Batch]] = {}
        self._givers: dict[bytes, Digest] = {}
        self._sealing = self._due = self._closing = False
        self._offered_us = -self._bounds.seal_us
        self._paused = False

    @property
    def queued(self) -> int:
        """Transactions that wait for a batch."""
        return len(self._queue)

    @property
    def under_vote(self) -> int:
        """Sequence numbers that are open."""
        return len(self._numbers)

    def accepts(self) -> Iterator[tuple[Batch, Mapping[int, bytes]]]:
        """Batches under vote, with the accepts of each so far."""
        for number in self._numbers.values():
            for attempt in number.attempts:
                yield attempt.batch, attempt.accepts

    def batch_of(self, digest: Digest) -> Batch | None:
        """A batch under vote."""
        sequence = self._by_digest.get(digest)
        if sequence is None:
            return None
        attempts = self._numbers[sequence].attempts
        return next(each.batch for each in attempts if each.batch.digest() == digest)

    def step(self, event: BuilderEvent, now: Now) -> list[BuilderOutput | Log]:
        """Take one event; give what is to be done, in order."""
        now_us = now.monotonic_us
        match event:
            case Offer(transactions):
                self._paused = now_us - self._offered_us >= self._bounds.seal_us
                self._offered_us = now_us
                self._offer(transactions)
            case Received(peer, message):
                number = self._facts.validators.number_of(peer)
                if number is not None and isinstance(message, Accept | Refuse):
                    self._answered(number, message, now_us)
            case TimedOut(name):
                if name == SEAL:
                    self._sealing, self._due = False, True
                else:
                    self._timed_out(int(name.removeprefix("resend ")), now_us)
            case Learned(certificate, batch, claims):
                self._learn(certificate, batch, claims)
            case BlockExecuted():
                self._executed(event)
            case Paced(delay_us):
                self._delay_us = delay_us
            case EpochCloses():
                self._close()
        self._seal_due(now_us)
        self._paused = False
        return self._out.take()

    @property
    def is_busy(self) -> bool:
        """Whether transactions wait for a batch, or batches for votes."""
        return bool(self._queue or self._numbers)

    # The queue

    def _offer(self, transactions: Iterable[Offered]) -> None:
        for each in transactions:
            if self._closing or len(self._queue) >= self._bounds.queue_max:
                self._out.put(Returned(each.data, "Closing" if self._closing else "Busy"))
            else:
                self._queue.append(_Item(each))

    def _close(self) -> None:
        """Give everything back; what is under vote may still be certified."""
        self._closing = True
        while self._queue:
            self._out.put(Returned(self._queue.popleft().offered.data, "Closing"))

    def _seal_due(self, now_us: int) -> None:
        while self._queue and len(self._numbers) < self._bounds.open_max:
            if not (self._may_seal_now() or self._is_enough()):
                break
            items = self._take(now_us)
            self._due = False
            if not items:
                break
            self._sequence += 1
            number = self._numbers[self._sequence] = _Number(items, now_us + self._bounds.open_us)
            self._seal(self._sequence, number, now_us)
        if self._queue and not self._sealing:
            self._sealing = True
            self._out.put(SetTimer(SEAL, self._bounds.seal_us))

    def _may_seal_now(self) -> bool:
        """Whether a batch that isn't full is sealed: at its time, if few enough are under vote; at once if
        none is and nothing came for so long that company isn't likely.

        One that somebody refused to accept holds nobody else up.
        """
        undisputed = sum(not number.attempts[-1].refusals for number in self._numbers.values())
        return undisputed < self._bounds.open_some if self._due else self._paused and not undisputed

    def _is_enough(self) -> bool:
        """Whether a batch is full before its time."""
        if len(self._queue) >= self._bounds.count_max:
            return True
        size_bytes = 0
        for item in self._queue:
            size_bytes += len(item.offered.data)
            if size_bytes >= self._bounds.bytes_seal:
                return True
        return False

    def _take(self, now_us: int) -> list[_Item]:
        """What the next batch holds: in order, within its bounds, and nothing that rests on what is left."""
        bounds = self._bounds
        held_back: set[bytes] = set()
        for number in self._numbers.values():
            held_back.update(slot for item in number.items for slot in item.claim.gives())
        taken: list[_Item] = []
        left: deque[_Item] = deque()
        given: set[bytes] = set()
        size_bytes, gas = 0, bounds.gas_fold
        queue = iter(self._queue)
        for item in queue:
            offered, claim = item.offered, item.claim
            fits = (
                len(taken) < bounds.count_max
                and size_bytes + len(offered.data) <= (BATCH_BYTES_MAX if not taken else bounds.bytes_seal)
                and gas + offered.gas <= bounds.gas_max
            )
            clashes = any(slot in held_back or slot in given for slot in claim.slots)
            waits = any(slot in held_back and slot not in given for slot in claim.needs())
            if not fits or clashes or waits or item.not_before_us > now_us:
                left.append(item)
                held_back.update(claim.gives())
                continue
            taken.append(item)
            given.update(claim.gives())
            size_bytes += len(offered.data)
            gas += offered.gas
            if len(taken) >= bounds.count_max or size_bytes >= bounds.bytes_seal:
                left.extend(queue)
        self._queue = left
        return taken

    # A number and its attempts

    def _seal(self, sequence: int, number: _Number, now_us: int) -> None:
        facts, items = self._facts, number.items
        transactions = tuple(item.offered.data for item in items)
        header = batch_header(
            chain_id=facts.chain_id,
            epoch=facts.epoch,
            builder=facts.node_id,
            sequence=sequence,
            attempt=len(number.attempts),
            after=self._after(items),
            transactions=transactions,
            gas=self._bounds.gas_fold + sum(item.offered.gas for item in items),
        )
        digest = header.digest()
        signature = self._sign(vote_message(facts.chain_id, facts.epoch, VoteKind.BATCH, 0, digest))
        attempt = _Attempt(Batch(header, signature, transactions), tuple(item.claim for item in items))
        number.attempts.append(attempt)
        number.until_us = now_us + self._bounds.open_us
        self._by_digest[digest] = sequence
        self._out.send(self._members, attempt.batch)
        self._wait(sequence)

    def _after(self, items: Iterable[_Item]) -> list[Digest]:
        """The certified batches that a batch rests on, without those in the past of others of them."""
        needed: dict[Digest, None] = {}
        wide = False
        for item in items:
            wide = wide or item.wide
            for slot in item.claim.needs():
                if slot in self._givers:
                    needed[self._givers[slot]] = None
        if wide:
            needed.update(dict.fromkeys(self._known))
        below = self._below(needed)
        return [each for each in needed if each not in below][:BATCH_AFTER_MAX]

    def _below(self, batches: Collection[Digest]) -> set[Digest]:
        """Everything in the past of these, as far as it isn't executed."""
        below: set[Digest] = set()
        todo = [each for batch in batches for each in self._known[batch][0].header.after]
        while todo:
            batch = todo.pop()
            if batch not in below and batch in self._known:
                below.add(batch)
                todo += self._known[batch][0].header.after
        return below

    def _wait(self, sequence: int, resends: int = 0) -> None:
        """Until it is sent again: longer each time, since whoever is slow is no faster for it."""
        self._out.put(SetTimer(f"resend {sequence}", 2 * self._delay_us << min(resends, RESEND_DOUBLINGS)))

    def _answered(self, validator: int, message: Accept | Refuse, now_us: int) -> None:
        sequence = self._by_digest.get(message.batch)
        if sequence is None or message.validator != validator or message.epoch != self._facts.epoch:
            return
        number = self._numbers[sequence]
        attempt = next(each for each in number.attempts if each.batch.digest() == message.batch)
        if isinstance(message, Accept):
            attempt.accepts[validator] = message.signature
            if self._is_quorum(attempt.accepts):
                self._certify(sequence, number, attempt)
        elif message.code == "PastMissing":
            self._send_missed(validator, attempt, message.missed)
        elif message.code:
            attempt.codes[validator] = message.code
        else:
            count = attempt.batch.header.count
            refused = {each.index: each.code for each in message.refusals if each.index < count}
            if refused and validator not in attempt.accepts:
                attempt.refusals[validator] = refused
            self._contest(attempt, message)
        if sequence in self._numbers and self._is_decided(number.attempts[-1]):
            self._timed_out(sequence, now_us)

    def _contest(self, attempt: _Attempt, message: Refuse) -> None:
        """Tell what is shown against transactions of an attempt, by each validator once. It isn't judged,
        and a liar's word mustn't hide another's."""
        for each in message.refusals:
            said = message.validator, each.index
            if each.other and each.index < len(attempt.claims) and said not in attempt.contested:
                attempt.contested.add(said)
                data, by = attempt.batch.transactions[each.index], self._members[message.validator]
                self._out.put(Contested(data, each.other, by))

    def _is_decided(self, attempt: _Attempt) -> bool:
        """Whether waiting can bring nothing more: all have answered, or no quorum takes what is dropped.

        A transaction that more than f refuse is in no certificate. What fewer refuse may be, until others
        have answered: who refuses everything, and is quick, mustn't decide.
        """
        if len(attempt.accepts.keys() | attempt.refusals.keys()) == len(self._members):
            return True
        dropped = self._least_refused(attempt)
        return bool(dropped) and all(
            self._is_some_honest(at for at, refused in attempt.refusals.items() if index in refused)
            for index in dropped
        )

    def _send_missed(self, validator: int, attempt: _Attempt, missed: Iterable[Digest]) -> None:
        """What a validator lacks of the past, and the same attempt again; so often and no more.

        Certificates of all of it, and batches as far as an answer has room: the rest of them it fetches from
        those who accepted them.
        """
        sends = attempt.missed_sends.get(validator, 0)
        if sends >= self._bounds.missed_sends_max:
            return
        attempt.missed_sends[validator] = sends + 1
        to = (self._members[validator],)
        after = attempt.batch.header.after
        past = self._below([each for each in after if each in self._known]).union(after)
        left = ANSWER_BYTES_MAX
        for digest in missed:
            if digest in past and digest in self._known:
                certificate, batch = self._known[digest]
                self._out.send(to, certificate)
                left -= batch.header.size_bytes
                if left > 0:
                    self._out.send(to, batch)
        self._out.send(to, attempt.batch)

    def _timed_out(self, sequence: int, now_us: int) -> None:
        number = self._numbers.get(sequence)
        if number is None:
            return
        if now_us >= number.until_us:
            self._give_up(sequence, number)
            return
        attempt = number.attempts[-1]
        for_good = self._said(
            attempt, lambda code: code in {"WrongEpoch", "NotAdmitted", "BatchMalformed", "Closing"}
        )
        if for_good:
            for item in number.items:
                self._out.put(Returned(item.offered.data, for_good))
            number.items = []
            self._give_up(sequence, number)
            return
        dropped = self._least_refused(attempt)
        if not dropped:
            silent = [
                node
                for at, node in enumerate(self._members)
                if at not in attempt.accepts and at not in attempt.refusals
            ]
            self._out.send(tuple(silent), attempt.batch)
            attempt.resends += 1
            self._wait(sequence, attempt.resends)
            return
        self._reseal(sequence, number, dropped, now_us)

    def _least_refused(self, attempt: _Attempt) -> dict[int, None]:
        """What a quorum that together refuses least refuses; empty while answers make no quorum."""
        answers: list[tuple[int, int, dict[int, str]]] = [(0, at, {}) for at in attempt.accepts]
        answers += [(len(refused), at, refused) for at, refused in attempt.refusals.items()]
        chosen: dict[int, None] = {}
        dropped: dict[int, None] = {}
        for _, validator, refused in sorted(answers, key=lambda each: each[:2]):
            chosen[validator] = None
            dropped.update(dict.fromkeys(refused))
            if self._is_quorum(chosen):
                return dropped
        return {}

    def _reseal(self, sequence: int, number: _Number, dropped: Collection[int], now_us: int) -> None:
        attempt = number.attempts[-1]
        gone: set[bytes] = set()
        kept: list[_Item] = []
        again: list[_Item] = []
        for index, item in enumerate(number.items):
            claim = item.claim
            if index in dropped:
                gone.update(claim.gives())
                if self._retry(item, index, attempt, now_us):
                    again.append(item)
            elif any(slot in gone for slot in claim.needs()):
                gone.update(claim.gives())
                again.append(item)
            else:
                kept.append(item)
        self._queue.extendleft(reversed(again))
        number.items = kept
        if kept and len(number.attempts) < BATCH_ATTEMPTS:
            self._seal(sequence, number, now_us)
        else:
            self._give_up(sequence, number)

    def _retry(self, item: _Item, index: int, attempt: _Attempt, now_us: int) -> bool:
        """Whether a dropped transaction is tried again; else it is given back with the reason."""
        weights: dict[str, dict[int, None]] = {}
        for validator, refused in sorted(attempt.refusals.items()):
            if index in refused:
                weights.setdefault(refused[index], {})[validator] = None
        codes = sorted(weights, key=lambda code: -self._weight(weights[code]))
        said = {at: None for code in codes if code not in PASSING_CODES for at in weights[code]}
        item.tries += 1
        if self._is_some_honest(said) or item.tries >= self._bounds.tries_max:
            self._out.put(Returned(item.offered.data, codes[0] if codes else ""))
            return False
        item.wide = True
        item.not_before_us = now_us + 2 * self._delay_us * item.tries
        return True

    def _give_up(self, sequence: int, number: _Number) -> None:
        """Nothing more is asked under this number; what it still holds goes on under another."""
        self._queue.extendleft(reversed(number.items))
        self._forget(sequence, number)

    def _certify(self, sequence: int, number: _Number, attempt: _Attempt) -> None:
        batch = attempt.batch
        numbers = sorted(attempt.accepts)
        certificate = BatchCertificate(
            batch.header,
            batch.signature,
            bitmap_of(numbers, len(self._members)),
            tuple(attempt.accepts[each] for each in numbers),
        )
        if attempt is not number.attempts[-1]:
            # An earlier attempt made it after all. What the last one still holds goes on in another batch.
            inside = frozenset(batch.transactions)
            self._queue = deque(item for item in self._queue if item.offered.data not in inside)
            rest = [item for item in number.items if item.offered.data not in inside]
            self._queue.extendleft(reversed(rest))
        self._out.send(self._members, certificate)
        self._out.put(Certified(batch.digest()))
        self._learn(certificate, batch, attempt.claims)
        self._out.put(CancelTimer(f"resend {sequence}"))
        self._forget(sequence, number)

    def _forget(self, sequence: int, number: _Number) -> None:
        for attempt in number.attempts:
            self._by_digest.pop(attempt.batch.digest(), None)
        del self._numbers[sequence]

    # What is known

    def _learn(self, certificate: BatchCertificate, batch: Batch, claims: Iterable[Claim]) -> None:
        digest = certificate.header.digest()
        self._known.setdefault(digest, (certificate, batch))
        for claim in claims:
            for slot in claim.gives():
                self._givers.setdefault(slot, digest)

    def _executed(self, block: BlockExecuted) -> None:
        gone = {digest for digest in block.batches if self._known.pop(digest, None) is not None}
        if gone:
            self._givers = {slot: digest for slot, digest in self._givers.items() if digest not in gone}
        done = frozenset(block.transactions)
        if any(item.claim.transaction in done for item in self._queue):
            self._queue = deque(item for item in self._queue if item.claim.transaction not in done)

    # Weights

    def _weight(self, validators: Iterable[int]) -> int:
        return sum(self._facts.validators.members[each].weight for each in validators)

    def _is_quorum(self, validators: Iterable[int]) -> bool:
        return self._facts.validators.is_quorum(self._weight(validators))

    def _is_some_honest(self, validators: Iterable[int]) -> bool:
        return 3 * self._weight(validators) > self._facts.validators.total_weight

    def _said(self, attempt: _Attempt, right: Callable[[str], bool]) -> str:
        """A code for the whole batch that more than f gave; empty if there is none."""
        codes = {at: code for at, code in attempt.codes.items() if right(code)}
        return codes[min(codes)] if codes and self._is_some_honest(codes) else ""
