"""The certified batches of an epoch, as a graph by `after`: which are held, known, ordered, executed.

A certificate is *held* once those of its past are, or stand in final blocks: it may go into a block then.
It is *known* once its transactions are here and those of its past are, or are executed: an accept may rest
on it then, and it is applied. Certificates come and become known in any order; each change passes on to
those that waited for it.
"""

from collections.abc import Iterable, Sequence

import attrs

from supervm.types.certificate import BatchCertificate
from supervm.types.digests import Digest, plain_digest


class CheckedCertificates:
    """Certificates whose signatures were verified, by blake3 of all their bytes; at most so many.

    By the batch's digest alone, a forged certificate could ride on a checked one.
    """

    def __init__(self, count_max: int = 100_000) -> None:
        self._max = count_max
        self._checked: dict[bytes, None] = {}

    def add(self, certificate: BatchCertificate) -> None:
        """This one was verified."""
        self._checked[self._key(certificate)] = None
        if len(self._checked) > self._max:
            del self._checked[next(iter(self._checked))]

    def __contains__(self, certificate: BatchCertificate) -> bool:
        return self._key(certificate) in self._checked

    def _key(self, certificate: BatchCertificate) -> bytes:
        return plain_digest(certificate.encode())


@attrs.define
class _Entry:
    certificate: BatchCertificate
    examined: bool = False
    held: bool = False
    known: bool = False


@attrs.frozen
class Progress:
    """What a change made held, and known, each in an order in which a past comes first."""

    held: tuple[Digest, ...] = ()
    known: tuple[Digest, ...] = ()


class Certificates:
    """Certificates that no executed block holds, in the order in which they came."""

    def __init__(self) -> None:
        self._entries: dict[Digest, _Entry] = {}
        self._unordered: dict[Digest, None] = {}
        self._waiters: dict[Digest, list[Digest]] = {}
        self._ordered: dict[Digest, None] = {}
        self._executed: dict[Digest, None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, batch: Digest) -> bool:
        return batch in self._entries

    def get(self, batch: Digest) -> BatchCertificate | None:
        """The certificate of a batch that isn't executed yet."""
        found = self._entries.get(batch)
        return None if found is None else found.certificate

    def is_settled(self, batch: Digest) -> bool:
        """Whether an executed block holds it: nothing more need be known of it."""
        return batch in self._executed

    def is_ordered(self, batch: Digest) -> bool:
        """Whether a final block holds it."""
        return batch in self._ordered

    def is_held(self, batch: Digest) -> bool:
        entry = self._entries.get(batch)
        return batch in self._ordered or (entry is not None and entry.held)

    def is_known(self, batch: Digest) -> bool:
        entry = self._entries.get(batch)
        return batch in self._executed or (entry is not None and entry.known)

    def wants_content(self, batch: Digest) -> bool:
        """Whether the transactions of a certified batch aren't examined yet."""
        entry = self._entries.get(batch)
        return entry is not None and not entry.examined

    def unordered(self) -> list[BatchCertificate]:
        """Held certificates that no final block holds, oldest first, a past before what rests on it."""
        return [self._entries[each].certificate for each in self._unordered]

    @property
    def unordered_count(self) -> int:
        """How many these are."""
        return len(self._unordered)

    def all(self) -> list[BatchCertificate]:
        """Every certificate that no executed block holds, in the order in which they came."""
        return [each.certificate for each in self._entries.values()]

    def past(self, after: Iterable[Digest]) -> tuple[list[Digest], list[Digest]]:
        """The not executed batches of a past, oldest first, and those in it that are missed.

        Missed are those without a certificate here, or without their transactions.
        """
        found: dict[Digest, None] = {}
        missing: dict[Digest, None] = {}
        todo = [(each, False) for each in sorted(after, reverse=True)]
        seen: set[Digest] = set()
        while todo:
            batch, done = todo.pop()
            if done:
                found[batch] = None
                continue
            if batch in seen or batch in self._executed:
                continue
            seen.add(batch)
            entry = self._entries.get(batch)
            if entry is None or not entry.examined:
                missing[batch] = None
            if entry is not None:
                todo.append((batch, True))
                todo += [(each, False) for each in reversed(entry.certificate.header.after)]
        return list(found), list(missing)

    def add(self, certificate: BatchCertificate) -> Progress:
        """Keep a certificate that was verified. One that is there stays as it came first."""
        batch = certificate.header.digest()
        if batch in self._entries or batch in self._executed:
            return Progress()
        self._entries[batch] = _Entry(certificate)
        for each in certificate.header.after:
            if each not in self._executed:
                self._waiters.setdefault(each, []).append(batch)
        return self._spread([batch])

    def examined(self, batch: Digest) -> Progress:
        """The transactions of a certified batch are here and were examined."""
        self._entries[batch].examined = True
        return self._spread([batch])

    def ordered(self, batches: Sequence[Digest]) -> Progress:
        """A final block holds these."""
        for each in batches:
            self._ordered[each] = None
            self._unordered.pop(each, None)
        return self._spread([waiter for each in batches for waiter in self._waiters.get(each, ())])

    def executed(self, batches: Sequence[Digest]) -> Progress:
        """An executed block holds these: their entries go."""
        waiters: list[Digest] = []
        for each in batches:
            self._ordered[each] = self._executed[each] = None
            self._entries.pop(each, None)
            self._unordered.pop(each, None)
            waiters += self._waiters.pop(each, [])
        return self._spread(waiters)

    def _spread(self, batches: Iterable[Digest]) -> Progress:
        held: list[Digest] = []
        known: list[Digest] = []
        todo = list(batches)
        while todo:
            batch = todo.pop(0)
            entry = self._entries.get(batch)
            if entry is None:
                continue
            after = entry.certificate.header.after
            changed = False
            if not entry.held and all(self.is_held(each) for each in after):
                entry.held = changed = True
                if batch not in self._ordered:
                    self._unordered[batch] = None
                held.append(batch)
            if not entry.known and entry.examined and all(self.is_known(each) for each in after):
                entry.known = changed = True
                known.append(batch)
            if changed:
                todo += self._waiters.get(batch, ())
        return Progress(tuple(held), tuple(known))
