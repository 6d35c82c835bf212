"""Examining transactions in worker threads, many at a time, whoever sent them.

Requests put chunks into one bounded channel; each worker takes what is there, up to `GROUP_MAX`
transactions, and examines it in one thread call. So one large request spreads over the workers, and many
small ones share a call. What takes less time than a thread takes to begin with it is examined at once.
"""

from collections.abc import Callable, Sequence

import attrs
import trio

from supervm.chain.examine import ChainRules, Examined, examine, examine_few
from supervm.contracts.application import Refused
from supervm.crypto.remembered import RememberedSignatures

CHUNK = 64
GROUP_MAX = 256
CHUNKS_MAX = 1_024


@attrs.define(eq=False)
class _Chunk:
    items: Sequence[bytes]
    judged: list[Examined | Refused] = attrs.Factory(list)
    error: BaseException | None = None
    done: trio.Event = attrs.Factory(trio.Event)


class Examiner:
    """A pool of workers. `rules` gives what to examine against, at the moment a worker starts on it."""

    def __init__(self, rules: Callable[[], ChainRules], threads: int, remembered: int) -> None:
        assert threads > 0
        self.threads = threads
        self._rules = rules
        self.checked = RememberedSignatures(remembered)
        self._limiter = trio.CapacityLimiter(threads)
        self._send, self._receive = trio.open_memory_channel[_Chunk](CHUNKS_MAX)

    async def run_worker(self) -> None:
        """Work until cancelled; start `threads` of these."""
        async for first in self._receive:
            group, size = [first], len(first.items)
            while size < GROUP_MAX:
                try:
                    group.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
                size += len(group[-1].items)
            await self._work(group)

    async def _work(self, group: Sequence[_Chunk]) -> None:
        items = [data for chunk in group for data in chunk.items]
        try:
            judged = await trio.to_thread.run_sync(
                examine, items, self._rules(), self.checked, limiter=self._limiter
            )
        except Exception as error:
            # Our own bug: whoever waits for one of these raises it.
            for chunk in group:
                chunk.error = error
                chunk.done.set()
            return
        at = 0
        for chunk in group:
            chunk.judged = judged[at : at + len(chunk.items)]
            at += len(chunk.items)
            chunk.done.set()

    async def examine(self, items: Sequence[bytes]) -> list[Examined | Refused]:
        """Judge each item, in order: a few quick ones at once, all others by the workers. Waits while the
        channel is full; may be cancelled."""
        few = examine_few(items, self._rules(), self.checked)
        if few is not None:
            await trio.lowlevel.checkpoint()
            return few
        chunks = [_Chunk(items[first : first + CHUNK]) for first in range(0, len(items), CHUNK)]
        for chunk in chunks:
            await self._send.send(chunk)
        judged: list[Examined | Refused] = []
        for chunk in chunks:
            await chunk.done.wait()
            if chunk.error is not None:
                raise chunk.error
            judged += chunk.judged
        return judged
