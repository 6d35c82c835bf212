"""How long a client waits for each answer of a database: a connection that is silent for longer is cut.

A server that hangs, or a network that swallows packets, says nothing at all, and whoever waits for it waits
for good. A thread looks at the calls under way; one that is late has its socket shut down under it. So it
fails at once, as if the server had closed the connection.
"""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import attrs

LOOK_S_MAX = 1.0


@attrs.define(eq=False)
class _Call:
    """A call under way on the socket `fileno`, since `began_s`."""

    fileno: int
    began_s: float
    cut: bool = False


class Deadlines:
    """Cuts calls that take longer than `seconds`, until `end`. Safe for many threads."""

    def __init__(self, seconds: float) -> None:
        self.cut = 0
        self._seconds = seconds
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="storage-deadlines", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self, fileno: int) -> Iterator[None]:
        """A call on this socket, which stays open for as long as the block takes."""
        call = _Call(fileno, time.monotonic())
        with self._lock:
            self._calls.add(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard(call)

    def hurry(self, seconds: float) -> None:
        """From now on wait no longer than this, for calls under way too."""
        with self._lock:
            self._seconds = min(self._seconds, seconds)

    def end(self) -> None:
        """Cut nothing any more."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(min(LOOK_S_MAX, self._seconds / 4)):
            now_s = time.monotonic()
            with self._lock:
                for call in self._calls:
                    if not call.cut and now_s - call.began_s > self._seconds:
                        call.cut = _shut_down(call.fileno)
                        self.cut += call.cut


def _shut_down(fileno: int) -> bool:
    """End a socket for whoever waits on it, and closes it; False where that has to be tried again."""
    try:
        with closing(socket.socket(fileno=os.dup(fileno))) as other:
            other.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        # One that is not connected any more tells that by itself; of files there may be too many open.
        return error.errno == errno.ENOTCONN
    return True


def patient_connection(connection: type[Any], deadlines: Deadlines) -> type[Any]:
    """A class of `psycopg` connections whose every wait for the server has a deadline."""

    class Patient(connection):  # type: ignore[misc]
        def wait(self, *given: Any, **named: Any) -> Any:
            with deadlines.waiting(self.fileno()):
                return super().wait(*given, **named)

    return Patient
