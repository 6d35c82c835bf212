"""What a leader may place: the certificates that wait, oldest first, within the bounds of a block (CONS-23).

Builders take turns, so that one with much to order delays the others by no more than itself (CONS-2).
"""

from collections.abc import Callable, Iterable

from supervm.contracts.application import BlockBounds
from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.leading import Content
from supervm.types.certificate import BatchCertificate
from supervm.types.digests import Digest

BODY_BYTES_MAX = 2 * 2**20
"""Certificates of a block, so that it fits one request with room to spare."""


class WaitingCertificates:
    """A `leading.Pool`. `duties`: what must get into a block, oldest first, a past before its future. `work`:
    those of them, by their digests, for which a block is made."""

    def __init__(
        self,
        duties: Callable[[], Iterable[BatchCertificate]],
        bounds: BlockBounds,
        work: Callable[[], Iterable[Digest]] | None = None,
    ) -> None:
        self._duties = duties
        self._bounds = bounds
        self._work = work or (lambda: (each.header.digest() for each in duties()))

    def waits(self, branch: Branch, batches: bool) -> bool:
        return batches and any(digest not in branch for digest in self._work())

    def pick(self, branch: Branch, batches: bool) -> Content:
        if not batches:
            return Content()
        queues: dict[bytes, list[tuple[Digest, BatchCertificate]]] = {}
        for each in self._duties():
            digest = each.header.digest()
            if digest not in branch:
                queues.setdefault(each.header.builder, []).append((digest, each))
        placed: dict[Digest, BatchCertificate] = {}
        room = _Room(self._bounds)
        moved = True
        while moved:
            moved = False
            for queue in queues.values():
                at = next((at for at, (_, each) in enumerate(queue) if _fits(each, branch, placed)), None)
                if at is not None and room.take(queue[at][1]):
                    digest, certificate = queue.pop(at)
                    placed[digest] = certificate
                    moved = True
        return Content((), tuple(placed.values()))


def _fits(certificate: BatchCertificate, branch: Branch, placed: dict[Digest, BatchCertificate]) -> bool:
    """Whether its past stands before it."""
    return all(each in placed or each in branch for each in certificate.header.after)


class _Room:
    """What a block has left of its bounds."""

    def __init__(self, bounds: BlockBounds) -> None:
        self._gas = bounds.gas_max
        self._bytes = bounds.bytes_max
        self._count = bounds.transactions_max
        self._batches = bounds.batches_max
        self._body = BODY_BYTES_MAX

    def take(self, certificate: BatchCertificate) -> bool:
        """Whether it has room; then it is used."""
        header, size_bytes = certificate.header, len(certificate.encode())
        left = (
            self._gas - header.gas,
            self._bytes - header.size_bytes,
            self._count - header.count,
            self._batches - 1,
            self._body - size_bytes,
        )
        if min(left) < 0:
            return False
        self._gas, self._bytes, self._count, self._batches, self._body = left
        return True
