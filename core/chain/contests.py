"""Transactions that another one, signed by the same account, stands against: for who asks (CONS-16)."""

from supervm.types.digests import Digest

CONTESTS_BYTES_MAX = 16 * 2**20
"""Of transactions that are kept for that; beyond it the oldest go."""


class Contests:
    """Pairs of signed transactions by the digest of either. They may be long, so their bytes are bounded."""

    def __init__(self, bytes_max: int = CONTESTS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._others: dict[Digest, tuple[bytes, bytes]] = {}

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._others

    def put(self, first: tuple[Digest, bytes], second: tuple[Digest, bytes]) -> None:
        """These two are proven to hold one lock. The first pair of a digest stays."""
        for (digest, data), (_, other) in ((first, second), (second, first)):
            if digest not in self._others:
                self._others[digest] = (data, other)
                self._bytes += len(data) + len(other)
        while self._bytes > self._bytes_max:
            data, other = self._others.pop(next(iter(self._others)))
            self._bytes -= len(data) + len(other)

    def get(self, digest: Digest) -> tuple[bytes, bytes] | None:
        """A transaction's own bytes, and those of the other."""
        return self._others.get(digest)
