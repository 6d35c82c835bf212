"""How the epoch of a validator closes: the machine, the operations that wait for a block, and its log."""

from collections.abc import Callable, Iterable, Sequence

from supervm.contracts.storage import KeyValueStore
from supervm.plugins.consensus.bft.batch_events import EpochCloses
from supervm.plugins.consensus.bft.driver.journal import CLOSING, Disk, Journal, read_records
from supervm.plugins.consensus.bft.epochs.closing import (
    Closing,
    ClosingEvent,
    ClosingFacts,
    ClosingOutput,
    ClosingState,
    EffectsStopped,
)
from supervm.plugins.consensus.bft.epochs.ending import Ending
from supervm.plugins.consensus.bft.epochs.evidence import EvidenceBook
from supervm.plugins.consensus.bft.epochs.operations import Both, SystemOperations
from supervm.plugins.consensus.bft.events import Final, InView, Log, Logged, Now, Send
from supervm.plugins.consensus.bft.leading import Pool
from supervm.plugins.consensus.bft.messages import EndEpoch, EpochDone, Equivocation, Evidence, encode
from supervm.plugins.consensus.bft.records import DidEpoch
from supervm.types.digests import Digest
from supervm.types.validators import ValidatorSet


class Closer:
    """Joins `Closing` and `SystemOperations` to the disk. `take` and `step` give what is to be carried out:
    `EpochCloses` for whoever votes on batches and builds them, and sends that may leave now."""

    def __init__(
        self,
        facts: ClosingFacts,
        validators: ValidatorSet,
        sign: Callable[[bytes], bytes],
        duties: Callable[[], Iterable[Digest]],
        disk: Disk,
        durable: Callable[[int], None],
        judge: Callable[[Sequence[bytes]], str],
    ) -> None:
        self.machine = Closing(facts, sign, duties)
        self.operations = SystemOperations(facts.epoch, validators)
        self.book = EvidenceBook(validators)
        self._judge = judge
        self.ending: Ending | None = None
        if facts.own is not None:
            self.ending = Ending(facts.chain_id, facts.epoch, validators, facts.own, sign)
        self._journal = Journal(disk, CLOSING, facts.epoch, durable)
        self._held: list[Send] = []
        self._durable = 0

    def pool(self, certificates: Pool) -> Pool:
        """What a leader places: operations beside certificates."""
        return Both(self.operations, certificates)

    def take(self, message: EpochDone | EndEpoch | Equivocation, own: bool = False) -> bool:
        """A verified operation; whether it is new, and may stand in a block. `own`: a client's proof of what
        this validator saw itself."""
        if self.operations.holds(message):
            return False
        if isinstance(message, EndEpoch):
            return self.ending is not None and self.ending.take(message) and self.take_own()
        if isinstance(message, Equivocation):
            # A lock on an object shows only in the state that it is one: true, and no proof for others.
            return not self._judge([encode(message)]) and self.operations.proofs.add(message, own)
        return self.operations.add(message)

    def take_own(self) -> bool:
        """The own signature may complete what others signed; whether it is new that it may be placed."""
        ending = self.ending
        if ending is None or not ending.is_complete or ending.gathered is None:
            return False
        return self.operations.add(ending.gathered)

    def accuse(self, evidence: Evidence) -> list[Send]:
        """Evidence whose signatures are right: it waits for a block, and goes to all, once. Nothing, where it
        proves nothing or is known. What finds no room among the operations waits for it in the book."""
        if self.book.knows(evidence) or self._judge([encode(evidence)]):
            return []
        self.operations.add(evidence)
        return self.book.take(evidence)

    def step(self, event: ClosingEvent, now: Now) -> list[EpochCloses | Send]:
        """Take an event."""
        if isinstance(event, Final):
            self.operations.placed(event.block)
            for evidence in self.book.known.values():
                self.operations.add(evidence)
        reminders: list[Send] = []
        if isinstance(event, InView) and self.ending is not None and not self.operations.ends:
            reminders = self.ending.remind(dict.fromkeys((event.leader, event.next_leader)))
        return [*reminders, *self._carry(self.machine.step(event, now))]

    def end(self) -> list[Send]:
        """This validator's operator wants the epoch to end."""
        return [] if self.ending is None else self.ending.ask()

    def durable(self, number: int, now: Now) -> list[EpochCloses | Send]:
        """The machine's records up to this number are on disk."""
        self._durable = number
        held, self._held = self._held, []
        return [*held, *self._carry(self.machine.step(Logged(number), now))]

    def start(self, state: ClosingState, record: DidEpoch | None) -> list[EpochCloses | Send]:
        """Begin, or begin again from the log."""
        self._durable = 0 if record is None else 1
        return self._carry(self.machine.start(state, record))

    def stopped(self, now: Now) -> list[EpochCloses | Send]:
        """No effects are signed any more."""
        return self._carry(self.machine.step(EffectsStopped(), now))

    def _carry(self, outputs: Iterable[ClosingOutput]) -> list[EpochCloses | Send]:
        found: list[EpochCloses | Send] = []
        for output in outputs:
            match output:
                case Log(number, record):
                    self._journal.append(number, record)
                case Send(after=after) if after > self._durable:
                    self._held = [output]
                case EpochCloses():
                    self.operations.closing = True
                    found.append(output)
                case _:
                    found.append(output)
        return found


async def read_done(store: KeyValueStore, epoch: int) -> DidEpoch | None:
    """This validator's epoch-done, if it said it. Raises `StoreCorrupt`, `DecodeError`."""
    records = [record for _, record in await read_records(store, CLOSING, epoch)]
    return next((each for each in records if isinstance(each, DidEpoch)), None)
