"""Which transactions are known to be rightly signed: a bounded memory (EXEC-6).

Keyed by blake3 of *all* the transaction's bytes, signatures and all: under the digest of the body alone, a
forged signature could ride on a checked one. Only what is right is remembered, so that nobody can push it
out with rubbish; the oldest goes first.
"""

import threading
from itertools import islice

FINGERPRINT_BYTES = 32


class RememberedSignatures:
    """At most `entries_max` fingerprints. All calls may be made from any thread."""

    def __init__(self, entries_max: int) -> None:
        assert entries_max > 0
        self.entries_max = entries_max
        self._lock = threading.Lock()
        self._known: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, fingerprint: bytes) -> bool:
        return fingerprint in self._known

    def add(self, fingerprint: bytes) -> None:
        """The transaction with this fingerprint is rightly signed."""
        self.update([fingerprint])

    def update(self, fingerprints: "list[bytes]") -> None:
        """All of these are rightly signed. One that is known already is not renewed."""
        assert all(len(each) == FINGERPRINT_BYTES for each in fingerprints)
        with self._lock:
            self._known.update(dict.fromkeys(fingerprints))
            over = len(self._known) - self.entries_max
            for oldest in list(islice(self._known, max(over, 0))):
                del self._known[oldest]
