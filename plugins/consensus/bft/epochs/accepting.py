"""Who accepted two batches with different transactions on one lock (CONS-70, 1).

Accepts go to builders, so one node seldom sees two of them. It sees its own batches' and, in certificates,
others'. They are looked at only for transactions that are proven to contradict each other: while no client
signs twice, nothing is looked at or kept.
"""

from collections.abc import Iterable, Mapping

import attrs

from supervm.plugins.consensus.bft.messages import Batch, Equivocation, Evidence, Offence
from supervm.plugins.consensus.bft.offences import AcceptedTransaction
from supervm.plugins.consensus.bft.votes import Accept
from supervm.types import merkle
from supervm.types.batch import BatchHeader
from supervm.types.digests import Digest

PAIRS_MAX = 256
BATCHES_MAX = 512
"""Of each the oldest go."""

Signed = Mapping[int, bytes]
"""Signatures of accepts by validator."""


@attrs.frozen
class _Seen:
    """A batch with one of the transactions, and who accepted it."""

    header: BatchHeader
    transactions: tuple[bytes, ...]
    accepts: dict[int, bytes]


class AcceptWatch:
    """Of one epoch. Takes verified accepts."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._rivals: dict[bytes, dict[bytes, None]] = {}
        self._seen: dict[Digest, _Seen] = {}

    @property
    def watches(self) -> bool:
        """Whether any transaction contradicts another."""
        return bool(self._rivals)

    def doubled(self, proof: Equivocation, known: Iterable[tuple[Batch, Signed]]) -> list[Evidence]:
        """Two transactions contradict each other; `known` are batches with the accepts that are here."""
        for one, other in ((proof.first, proof.second), (proof.second, proof.first)):
            self._rivals.setdefault(one, {})[other] = None
            while len(self._rivals) > 2 * PAIRS_MAX:
                del self._rivals[next(iter(self._rivals))]
        return [found for batch, accepts in known for found in self.accepted(batch, accepts)]

    def accepted(self, batch: Batch, accepts: Signed) -> list[Evidence]:
        """These accepts of a batch; what they prove together with others."""
        if self._rivals.keys().isdisjoint(batch.transactions):
            return []
        digest = batch.digest()
        seen = self._seen.setdefault(digest, _Seen(batch.header, batch.transactions, {}))
        new = [number for number in accepts if number not in seen.accepts]
        seen.accepts.update(accepts)
        while len(self._seen) > BATCHES_MAX:
            del self._seen[next(iter(self._seen))]
        return [evidence for number in new for evidence in self._against(number, seen)]

    def _against(self, number: int, seen: _Seen) -> list[Evidence]:
        for data in seen.transactions:
            for rival in self._rivals.get(data, ()):
                for other in self._seen.values():
                    if number in other.accepts and other is not seen and rival in other.transactions:
                        first = self._statement(number, seen, data)
                        return [Evidence(Offence.ACCEPTS, first, self._statement(number, other, rival))]
        return []

    def _statement(self, number: int, seen: _Seen, data: bytes) -> AcceptedTransaction:
        index = seen.transactions.index(data)
        accept = Accept(self._epoch, seen.header.digest(), number, seen.accepts[number])
        path = merkle.path(seen.transactions, index)
        return AcceptedTransaction(accept, seen.header, data, index, tuple(path))
