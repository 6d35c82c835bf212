"""What a validator holds of batches, what waits to be examined, and whom it told of what."""

from collections import deque
from collections.abc import Iterable, Sequence

import attrs

from supervm.plugins.consensus.bft.claims import Claim
from supervm.types.batch import Batch, BatchHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.digests import Digest

HELD_BYTES = 2**30
"""Of batches that no block holds, in memory, where a machine's memory isn't known."""
HELD_BYTES_LEAST, HELD_BYTES_MOST = 256 * 2**20, 16 * 2**30
HELD_PART = 16

DISK_BYTES = 16 * 2**30
"""Of batches that no block holds, on disk (CONS-2)."""
BATCH_INDEX_BYTES = LOCK_INDEX_BYTES = 2048
"""What about stays in memory of a batch that left it, and of each of its transactions that is locked."""
INDEX_TIMES = 4
"""How much that may be, beside what is held in memory."""

NOWHERE = -1
"""The index of a transaction of which only its batch is known."""


def held_bytes_of(memory_bytes: int | None) -> int:
    """How much of these batches a machine of so much memory keeps there: a sixteenth, within bounds."""
    if memory_bytes is None:
        return HELD_BYTES
    return min(max(memory_bytes // HELD_PART, HELD_BYTES_LEAST), HELD_BYTES_MOST)


@attrs.define(eq=False)
class _Share:
    """A builder's batches. `size_bytes`: of all; `index_bytes`: what stays in memory of those that left it;
    `memory_bytes`: of those in memory, and of certified ones that have their room there; `certified_bytes`:
    of these. `loose`: those in memory that nobody certified, oldest first."""

    size_bytes: int = 0
    index_bytes: int = 0
    memory_bytes: int = 0
    certified_bytes: int = 0
    loose: dict[Digest, None] = attrs.Factory(dict)


@attrs.define(eq=False)
class _Entry:
    share: _Share
    size_bytes: int
    index_bytes: int = 0
    certified: bool = False


class HeldBatches:
    """Batches that this validator accepted or learned, and where their transactions stand in them.

    Certified ones are in memory. Of the others the oldest may be let go: then only their log has them.
    Bounded by whoever keeps: all is counted by builder.
    """

    def __init__(self) -> None:
        self._batches: dict[Digest, Batch] = {}
        self._entries: dict[Digest, _Entry] = {}
        self._shares: dict[bytes, _Share] = {}
        self._where: dict[Digest, tuple[Digest, int]] = {}
        self._alone = LoneTransactions()

    def __contains__(self, batch: Digest) -> bool:
        """Whether it is in memory."""
        return batch in self._batches

    def get(self, batch: Digest) -> Batch | None:
        """A batch that is in memory."""
        return self._batches.get(batch)

    def size_bytes(self, builder: bytes) -> int:
        """Bytes of transactions in the batches of a builder that are held, in memory or on disk."""
        return self._share(builder).size_bytes

    def index_bytes(self, builder: bytes) -> int:
        """What stays in memory of those that left it, about."""
        return self._share(builder).index_bytes

    def memory_bytes(self, builder: bytes) -> int:
        """Bytes of transactions in those that are in memory, or have their room there."""
        return self._share(builder).memory_bytes

    def certified_bytes(self, builder: bytes) -> int:
        """Bytes of transactions in those of them that are certified."""
        return self._share(builder).certified_bytes

    def keep(self, batch: Batch) -> None:
        """A batch is in memory from now on, and in the log."""
        digest, header = batch.digest(), batch.header
        if digest in self._batches:
            return
        entry = self._entry(digest, header)
        self._batches[digest] = batch
        if not entry.certified:
            entry.share.memory_bytes += entry.size_bytes
            entry.share.loose[digest] = None

    def certify(self, digest: Digest, header: BatchHeader, bytes_max: int) -> bool:
        """A batch is certified: it stays in memory, or has its room there until it comes.

        False where it isn't here, and the builder's certified ones leave it no room in so many bytes.
        """
        found = self._entries.get(digest)
        if found is not None and found.certified:
            return True
        certified_bytes = self.certified_bytes(header.builder) + header.size_bytes
        if digest not in self._batches and certified_bytes > bytes_max:
            return False
        entry = self._entry(digest, header)
        entry.certified = True
        self._index(entry, 0)
        entry.share.certified_bytes += entry.size_bytes
        if digest in self._batches:
            del entry.share.loose[digest]
        else:
            entry.share.memory_bytes += entry.size_bytes
        return True

    def let_go(self, builder: bytes, bytes_max: int) -> list[Batch]:
        """The oldest that nobody certified leave memory until so many bytes are left there."""
        share = self._share(builder)
        gone: list[Batch] = []
        while share.memory_bytes > bytes_max and share.loose:
            digest = next(iter(share.loose))
            del share.loose[digest]
            share.memory_bytes -= self._entries[digest].size_bytes
            gone.append(self._batches.pop(digest))
        return gone

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

    def count_locks(self, batch: Digest, locked: int) -> None:
        """So many transactions of a batch that isn't in memory still hold locks."""
        entry = self._entries.get(batch)
        if entry is not None and not entry.certified:
            self._index(entry, BATCH_INDEX_BYTES + locked * LOCK_INDEX_BYTES)

    def gone(self, batch: Digest, claims: Iterable[Claim]) -> None:
        """A batch left memory, and with it these claims."""
        for claim in claims:
            if self.batch_of(claim.transaction) == batch:
                del self._where[claim.transaction]

    def batch_of(self, transaction: Digest) -> Digest:
        """The batch in which a transaction stands; empty where there is none."""
        return self._where.get(transaction, (b"", 0))[0]

    def transaction(self, digest: Digest) -> bytes:
        """The bytes of a transaction in a batch that is in memory, or kept alone; else empty."""
        batch, index = self._where.get(digest, (b"", 0))
        held = self._batches.get(batch)
        if held is None or index == NOWHERE:
            return self._alone.get(digest)
        return held.transactions[index]

    def keep_alone(self, batch: Batch, claims: Iterable[tuple[int, Claim]], bytes_max: int) -> None:
        """These of a batch that isn't in memory are locked: their bytes prove a conflict. At most so many
        bytes a builder, the newest."""
        for index, claim in claims:
            if claim.transaction not in self._where:
                data = batch.transactions[index]
                self._alone.keep(batch.header.builder, claim.transaction, data, bytes_max)

    def settled(self, batches: Iterable[Digest], transactions: Iterable[Digest]) -> None:
        """An executed block holds these."""
        for digest in batches:
            entry = self._entries.pop(digest, None)
            if entry is not None:
                self._remove(digest, entry)
        for digest in transactions:
            self._where.pop(digest, None)
            self._alone.drop(digest)

    def _remove(self, digest: Digest, entry: _Entry) -> None:
        share, size_bytes = entry.share, entry.size_bytes
        is_here = self._batches.pop(digest, None) is not None
        share.loose.pop(digest, None)
        share.size_bytes -= size_bytes
        self._index(entry, 0)
        if entry.certified:
            share.certified_bytes -= size_bytes
        if entry.certified or is_here:
            share.memory_bytes -= size_bytes

    def _index(self, entry: _Entry, index_bytes: int) -> None:
        entry.share.index_bytes += index_bytes - entry.index_bytes
        entry.index_bytes = index_bytes

    def _entry(self, digest: Digest, header: BatchHeader) -> _Entry:
        """Of a batch; it is counted once."""
        entry = self._entries.get(digest)
        if entry is None:
            share = self._shares.setdefault(header.builder, _Share())
            entry = self._entries[digest] = _Entry(share, header.size_bytes)
            share.size_bytes += header.size_bytes
        return entry

    def _share(self, builder: bytes) -> _Share:
        """To read of."""
        return self._shares.get(builder) or _Share()


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
