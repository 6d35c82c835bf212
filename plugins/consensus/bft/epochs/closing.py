"""How an epoch closes, as one validator sees it (CONS-51). A machine without I/O.

Closing starts at height c. From then on batches are refused (rule 1). When block c + margin / 2 is final no
more effects are signed (rule 2), and what the validator then holds of certificates is its duty: once each is
in a final block it says epoch-done (rule 3), to the leaders until it is in a final block.

Rule 2 takes two steps. The machine says `EpochCloses(True)`; when the one that signs effects has taken that,
the driver tells `EffectsStopped`, and only then are the duties asked for: so nothing whose effects were
signed can be missing from them.
"""

from collections.abc import Callable, Iterable, Sequence

import attrs

from supervm.plugins.consensus.bft.batch_events import EpochCloses
from supervm.plugins.consensus.bft.events import Final, InView, Log, Logged, Now, Send, Stream
from supervm.plugins.consensus.bft.messages import END_EPOCH, EpochDone, decode
from supervm.plugins.consensus.bft.records import DidEpoch
from supervm.types.certificate import VoteKind, vote_message
from supervm.types.digests import Digest

CLOSE_MARGIN = 8
"""`epoch_close_margin`: blocks of an epoch in which it closes (chosen)."""


@attrs.frozen(kw_only=True)
class ClosingFacts:
    """What doesn't change. `base_height`: of the last block of the epoch before. `own`: this validator's
    number; None for who votes nothing in this epoch: a follower, or one that is silent (CONS-67)."""

    chain_id: bytes
    epoch: int
    base_height: int
    epoch_blocks: int
    own: int | None
    margin: int = CLOSE_MARGIN

    @property
    def closing_height(self) -> int:
        """The height at which the epoch starts to close by itself."""
        return self.base_height + max(self.epoch_blocks - self.margin, 1)


@attrs.frozen
class EffectsStopped:
    """`EpochCloses(True)` was taken: no effects are signed any more."""


@attrs.frozen(kw_only=True)
class ClosingState:
    """What storage says after a restart: up to which height blocks are final, the height of the first of
    them with an end-epoch, and whether one of them holds this validator's epoch-done."""

    final_height: int
    end_epoch_height: int | None = None
    done: bool = False


ClosingEvent = Final | EffectsStopped | Logged | InView
ClosingOutput = EpochCloses | Log | Send


class Closing:
    """One epoch's. `duties` gives digests of the held certificates that no final block holds, of this
    moment; `batches` of a block are told to whoever answers before the block is told here."""

    def __init__(
        self,
        facts: ClosingFacts,
        sign: Callable[[bytes], bytes],
        duties: Callable[[], Iterable[Digest]],
    ) -> None:
        self._facts = facts
        self._sign = sign
        self._duties = duties
        self.started: int | None = None
        self._stopping = False
        self._owed: dict[Digest, None] | None = None
        self._said: EpochDone | None = None
        self._logged = 0
        self._placed = False
        self._leaders: tuple[bytes, ...] = ()
        self._out: list[ClosingOutput] = []

    @property
    def done(self) -> EpochDone | None:
        """This validator's epoch-done, once it is decided."""
        return self._said

    def step(self, event: ClosingEvent, now: Now) -> list[ClosingOutput]:
        self._out = []
        match event:
            case Final(block):
                self._on_final(block.header.height, block.body.system_operations)
                for certificate in block.body.certificates if self._owed is not None else ():
                    assert self._owed is not None, "duties are known"
                    self._owed.pop(certificate.header.digest(), None)
            case EffectsStopped():
                if self._stopping and self._owed is None:
                    self._owed = dict.fromkeys(self._duties())
            case Logged(number):
                self._logged = max(self._logged, number)
            case InView():
                self._leaders = tuple(dict.fromkeys((event.leader, event.next_leader)))
                self._send()
        self._decide()
        return self._out

    def start(self, state: ClosingState, record: DidEpoch | None = None) -> list[ClosingOutput]:
        """Begin, or begin again. Duties are then those of this moment: a certificate that came after rule 2
        may be among them, which costs time and nothing else."""
        self._out = []
        self._placed = state.done
        if record is not None and record.vote.epoch == self._facts.epoch:
            self._said, self._logged = record.vote, 1
        starts = [state.end_epoch_height] if state.end_epoch_height is not None else []
        starts.append(self._facts.closing_height)
        if min(starts) <= state.final_height:
            self._closes(min(starts), state.final_height)
        return self._out

    def _on_final(self, height: int, operations: Sequence[bytes]) -> None:
        for operation in operations:
            if operation[:1] == bytes([EpochDone.KIND]):
                held = decode(operation)
                if isinstance(held, EpochDone) and held.validator == self._facts.own:
                    self._placed = True
        ends = any(operation[:1] == bytes([END_EPOCH]) for operation in operations)
        if self.started is not None:
            self._closes(self.started, height)
        elif ends or height >= self._facts.closing_height:
            self._closes(height, height)

    def _closes(self, start: int, height: int) -> None:
        if self.started is None:
            self.started = start
            self._out.append(EpochCloses(last_effects=False))
        if height >= start + self._facts.margin // 2 and not self._stopping:
            self._stopping = True
            self._out.append(EpochCloses(last_effects=True))

    def _decide(self) -> None:
        """Say epoch-done once no duty is left."""
        facts = self._facts
        if self._owed is None or self._owed or self._said is not None or facts.own is None:
            return
        message = vote_message(facts.chain_id, facts.epoch, VoteKind.EPOCH_DONE)
        self._said = EpochDone(facts.epoch, facts.own, self._sign(message))
        self._out.append(Log(1, DidEpoch(self._said)))
        self._send()

    def _send(self) -> None:
        if self._said is not None and not self._placed and self._leaders:
            after = 0 if self._logged else 1
            self._out.append(Send(self._leaders, self._said, Stream.VOTES, after))
