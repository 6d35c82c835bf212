"""What a validator holds of batches, what waits to be examined, and whom it told of what."""

from collections import deque
from collections.abc import Iterable, Sequence

from supervm.plugins.consensus.bft.claims import Claim
from supervm.types.batch import Batch
from supervm.types.certificate import BatchCertificate
from supervm.types.digests import Digest

HELD_BYTES = 2**30
"""Of accepted batches that no block holds, where a machine's memory isn't known."""
HELD_BYTES_LEAST, HELD_BYTES_MOST = 256 * 2**20, 16 * 2**30
HELD_PART = 16

NOWHERE = -1
"""The index of a transaction of which only its batch is known."""


def held_bytes_of(memory_bytes: int | None) -> int:
    """How much a machine of so much memory holds of accepted batches: a sixteenth, within bounds (CONS-2)."""
    if memory_bytes is None:
        return HELD_BYTES
    return min(max(memory_bytes // HELD_PART, HELD_BYTES_LEAST), HELD_BYTES_MOST)


class HeldBatches:
    """Batches that this validator accepted or learned, and where their transactions stand in them.

    All in memory. Bounded by whoever keeps: bytes are counted by builder.
    """

    def __init__(self) -> None:
        self._batches: dict[Digest, Batch] = {}
        self._bytes: dict[bytes, int] = {}
        self._where: dict[Digest, tuple[Digest, int]] = {}
        self._alone = LoneTransactions()

    def __contains__(self, batch: Digest) -> bool:
        return batch in self._batches

    def get(self, batch: Digest) -> Batch | None:
        return self._batches.get(batch)

    def size_bytes(self, builder: bytes) -> int:
        """Bytes of transactions in the batches of a builder."""
        return self._bytes.get(builder, 0)

    def keep(self, batch: Batch) -> None:
        digest, builder = batch.digest(), batch.header.builder
        if digest not in self._batches:
            self._batches[digest] = batch
            self._bytes[builder] = self._bytes.get(builder, 0) + batch.header.size_bytes

    def accepted(self, batch: Digest, claims: Iterable[tuple[int, Claim]]) -> None:
        """Transactions stand in this batch, at these indices."""
        for index, claim in claims:
            self._where[claim.transaction] = (batch, index)
            self._alone.drop(claim.transaction)

    def learned(self, batch: Digest, claims: Iterable[tuple[int, Claim]]) -> None:
        """As `accepted`, of those that stand nowhere else."""
        for index, claim in claims:
            self._where.setdefault(claim.transaction, (batch, index))

    def learned_again(self, batch: Digest, claims: Sequence[Claim]) -> None:
        """As `learned`, from the log, which leaves out what was executed before; then it isn't known where
        in the batch the others stand."""
        held = self._batches.get(batch)
        is_whole = held is not None and len(held.transactions) == len(claims)
        self.learned(batch, ((index if is_whole else NOWHERE, each) for index, each in enumerate(claims)))

    def batch_of(self, transaction: Digest) -> Digest:
        """The batch in which a transaction stands; empty where there is none."""
        return self._where.get(transaction, (b"", 0))[0]

    def transaction(self, digest: Digest) -> bytes:
        """The bytes of a transaction in a batch that is held, or kept alone; else empty."""
        batch, index = self._where.get(digest, (b"", 0))
        held = self._batches.get(batch)
        if held is None or index == NOWHERE:
            return self._alone.get(digest)
        return held.transactions[index]

    def keep_alone(self, batch: Batch, claims: Iterable[tuple[int, Claim]], bytes_max: int) -> None:
        """These of a batch that isn't kept are locked: their bytes prove a conflict. At most so many bytes a
        builder, the newest."""
        for index, claim in claims:
            if claim.transaction not in self._where:
                data = batch.transactions[index]
                self._alone.keep(batch.header.builder, claim.transaction, data, bytes_max)

    def settled(self, batches: Iterable[Digest], transactions: Iterable[Digest]) -> None:
        """An executed block holds these."""
        for digest in batches:
            batch = self._batches.pop(digest, None)
            if batch is not None:
                self._bytes[batch.header.builder] -= batch.header.size_bytes
        for digest in transactions:
            self._where.pop(digest, None)
            self._alone.drop(digest)


class LoneTransactions:
    """Bytes of transactions whose batch isn't kept, bounded by builder: a builder's oldest go first."""

    def __init__(self) -> None:
        self._found: dict[Digest, tuple[bytes, bytes]] = {}
        self._names: dict[bytes, dict[Digest, None]] = {}
        self._bytes: dict[bytes, int] = {}

    def size_bytes(self, builder: bytes) -> int:
        return self._bytes.get(builder, 0)

    def get(self, digest: Digest) -> bytes:
        """Its bytes; empty where they aren't kept."""
        return self._found.get(digest, (b"", b""))[1]

    def keep(self, builder: bytes, digest: Digest, data: bytes, bytes_max: int) -> None:
        if digest in self._found or len(data) > bytes_max:
            return
        names = self._names.setdefault(builder, {})
        while self.size_bytes(builder) + len(data) > bytes_max:
            self.drop(next(iter(names)))
        self._found[digest] = (builder, data)
        names[digest] = None
        self._bytes[builder] = self.size_bytes(builder) + len(data)

    def drop(self, digest: Digest) -> None:
        builder, data = self._found.pop(digest, (b"", b""))
        if builder:
            del self._names[builder][digest]
            self._bytes[builder] -= len(data)


class WaitingBatches:
    """Batches to be examined: certified ones first, then builders in turn, so that who sends much waits for
    itself."""

    def __init__(self) -> None:
        self._certified: deque[Batch] = deque()
        self._offered: dict[bytes, deque[Batch]] = {}
        self._digests: dict[Digest, None] = {}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __contains__(self, batch: Digest) -> bool:
        return batch in self._digests

    def count(self, builder: bytes) -> int:
        """How many of a builder wait for an answer."""
        return len(self._offered.get(builder, ()))

    def add(self, batch: Batch, certified: bool) -> None:
        self._digests[batch.digest()] = None
        self._queue(batch, certified).append(batch)

    def put_back(self, batch: Batch, certified: bool) -> None:
        """It comes next again, among its builder's or among the certified."""
        self._digests[batch.digest()] = None
        self._queue(batch, certified).appendleft(batch)

    def take(self) -> Batch:
        batch = self._certified.popleft() if self._certified else self._next_offered()
        del self._digests[batch.digest()]
        return batch

    def _queue(self, batch: Batch, certified: bool) -> deque[Batch]:
        return self._certified if certified else self._offered.setdefault(batch.header.builder, deque())

    def _next_offered(self) -> Batch:
        builder = next(iter(self._offered))
        waiting = self._offered.pop(builder)
        batch = waiting.popleft()
        if waiting:
            self._offered[builder] = waiting
        return batch


class ToldLeaders:
    """The leaders of the current and the next view, and which certificates each was sent (CONS-23)."""

    def __init__(self) -> None:
        self.nodes: tuple[bytes, ...] = ()
        self._told: dict[bytes, dict[Digest, None]] = {}

    def now(self, nodes: tuple[bytes, ...]) -> None:
        """These lead now."""
        self.nodes = nodes
        self._told = {each: self._told.get(each, {}) for each in nodes}

    def untold(
        self, certificates: Sequence[BatchCertificate]
    ) -> list[tuple[tuple[bytes, ...], BatchCertificate]]:
        """What to send to whom; it counts as sent."""
        found = []
        for certificate in certificates:
            digest, builder = certificate.header.digest(), certificate.header.builder
            # The builder made it.
            to = tuple(each for each in self.nodes if each != builder and digest not in self._told[each])
            for each in to:
                self._told[each][digest] = None
            if to:
                found.append((to, certificate))
        return found

    def settled(self, batches: Iterable[Digest]) -> None:
        for digest in batches:
            for told in self._told.values():
                told.pop(digest, None)
