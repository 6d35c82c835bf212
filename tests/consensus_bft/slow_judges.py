"""A judge that takes very long, in a thread: votes must not wait for it."""

import threading
from typing import Generic, TypeVar

import trio

from .network import WAIT_S, Network

T = TypeVar("T")
TO = b"\x07" * 32


class SlowJudge(Generic[T]):
    """Judges with `verdict` whatever it is given, once blocks have gone on meanwhile."""

    def __init__(self, verdict: T) -> None:
        self._verdict = verdict
        self._begun, self._enough = threading.Event(), threading.Event()

    def __call__(self, *given: object) -> T:
        assert threading.current_thread() is not threading.main_thread(), "it runs where votes are taken"
        self._begun.set()
        assert self._enough.wait(WAIT_S)
        return self._verdict

    async def holds_up_nothing(self, net: Network) -> None:
        """While it judges, a transfer is committed."""
        try:
            assert await trio.to_thread.run_sync(self._begun.wait, WAIT_S, abandon_on_cancel=True)
            sent = net.transfer(1, TO, 1)
            await net.nodes[0].chain.submit([sent.data])
            await net.committed(0, sent.digest)
        finally:
            self._enough.set()
