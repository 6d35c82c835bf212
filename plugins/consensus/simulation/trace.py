"""What happened, in order, as bytes: two runs are the same run if the digests of their traces are equal."""

from typing import TextIO

import blake3
import trio


class Trace:
    """Notes what happens at which moment of the virtual clock. With `out`, writes the lines there too."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._hash = blake3.blake3()
        self._out = out
        self.events = 0

    def note(self, what: str, *facts: object) -> None:
        line = f"{trio.current_time():.9f} {what} {' '.join(map(str, facts))}\n"
        self._hash.update(line.encode())
        self.events += 1
        if self._out is not None:
            self._out.write(line)

    def digest(self) -> str:
        return self._hash.hexdigest()


def brief(data: bytes) -> str:
    """Bytes in a line of the trace: the beginning of their digest."""
    return blake3.blake3(data).hexdigest(16)
