"""Getting damaged rows of the ledger back while the node runs (STO-43).

A read that meets damage sets its row aside. Here it is told by name, written down, mended from what the
ledger itself knows, or brought by the consensus engine from a node that has it: what it brings is judged.
Work that needs the row waits for it a while; all other work goes on. So much damage that the disk must be
failing ends the component.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
import trio

from supervm.contracts.storage import PASSING, DiskFull, StoreFailed
from supervm.kernel.component import Context
from supervm.storage.aside import Damage
from supervm.storage.errors import Pruned, RowDamaged
from supervm.storage.ledger import Ledger
from supervm.storage.mending import OF_PEERS, Mender, Prove
from supervm.storage.spaces import STATE

T = TypeVar("T")

HOUR_S = 3_600.0
HOURLY_MAX = 100
"""Rows found damaged in an hour: more, and the disk is not to be trusted (STO-43)."""
AGAIN_S, AGAIN_S_MAX = 5.0, 3_600.0
"""What can't be mended from here is tried again after so long, and then after twice as long each time."""
PATIENCE_S = 60.0
LOOK_S = 0.1
TRIES = 4
ALONE = (
    "no other node is asked for them. Stop the node, check its disk, and restore a snapshot: "
    "supervm snapshot restore --replace"
)


@attrs.define
class Mending:
    """The task, and what the chain and its engine ask of it."""

    ctx: Context
    ledger: Ledger
    _fetching: int = attrs.field(default=0, init=False)
    _mender: Mender = attrs.field(init=False)
    _known: dict[bytes, int] = attrs.field(factory=dict, init=False)  # row to how often it was tried
    _due_s: dict[bytes, float] = attrs.field(factory=dict, init=False)
    _found_s: deque[float] = attrs.field(factory=deque, init=False)
    _trying: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _damaged: Any = attrs.field(init=False)
    _mended: Any = attrs.field(init=False)
    _aside: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        metrics = self.ctx.metrics
        self._mender = Mender(self.ledger)
        self._damaged = metrics.counter(
            "supervm_storage_rows_damaged_total", "Rows of the ledger found damaged and set aside"
        )
        self._mended = metrics.counter(
            "supervm_storage_rows_mended_total", "Damaged rows that are good again, by where from", ("by",)
        )
        self._aside = metrics.gauge(
            "supervm_storage_rows_aside", "Damaged rows that are set aside and not served"
        )
        for by in ("self", "peer"):
            self._mended.inc(0, by=by)

    @property
    def reason(self) -> str:
        """What is lacking and what is done about it; empty if nothing is."""
        rows = self.ledger.aside.rows
        if not rows:
            return ""
        do = "other nodes are asked for them" if self._fetching else ALONE
        return f"{len(rows)} damaged rows are set aside, {rows[0].why}; {do}"

    async def run(self) -> None:
        """Mend what is found, until cancelled. Raises `StoreFailed` where it is too much."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._try_again)
            while True:
                while fresh := [row for row in self.ledger.aside.rows if row.key not in self._known]:
                    for row in fresh:
                        self._tell(row)
                    await self._safely(self.ledger.note_aside)
                    for row in fresh:
                        await self._try(row.key)
                self._aside.set(len(self.ledger.aside))
                await self.ledger.aside.changed()
                for key in [key for key in self._known if key not in self.ledger.aside]:
                    del self._known[key], self._due_s[key]

    def _tell(self, row: Damage) -> None:
        now_s = self.ctx.clock.monotonic()
        self._known[row.key], self._due_s[row.key] = 0, now_s
        self._damaged.inc()
        self.ctx.log.error("row_damaged", row=row.why, peers_asked=bool(self._fetching))
        self._found_s.append(now_s)
        while self._found_s and self._found_s[0] < now_s - HOUR_S:
            self._found_s.popleft()
        if len(self._found_s) > HOURLY_MAX:
            raise StoreFailed(
                f"more than {HOURLY_MAX} rows were found damaged within an hour",
                row.why,
                "Stop using this disk. Restore a snapshot on another one: supervm snapshot restore.",
            )

    async def _try_again(self) -> None:
        while True:
            await self.ctx.clock.sleep(AGAIN_S)
            now_s = self.ctx.clock.monotonic()
            for key in [key for key, due_s in self._due_s.items() if due_s <= now_s]:
                if key in self.ledger.aside:
                    await self._try(key)

    async def _try(self, key: bytes) -> None:
        """Mend a row from here, if that can be."""
        async with self._trying:
            if await self._safely(lambda: self._mender.at_hand(key)):
                self._back(key, "self")
        if key in self._known:
            self._known[key] += 1
            wait_s = min(AGAIN_S_MAX, AGAIN_S * 2 ** min(self._known[key], 20))
            self._due_s[key] = self.ctx.clock.monotonic() + wait_s

    async def _safely(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """What the work gives; None where the store can't do it for now."""
        try:
            return await work()
        except (*PASSING, DiskFull, Pruned) as error:
            self.ctx.log.warning("row_not_mended", cause=str(error))
            return None

    def _back(self, key: bytes, by: str) -> None:
        self._mended.inc(by=by)
        self._aside.set(len(self.ledger.aside))
        self.ctx.log.info("row_mended", key=key.hex(), by=by)

    # For whatever needs a row that may be damaged

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, waiting for rows that it needs and that come back. Raises `RowDamaged` where one doesn't."""
        for _ in range(TRIES):
            try:
                return await work()
            except RowDamaged as error:
                if not await self._wait(error.key):
                    raise
        return await work()

    async def _wait(self, key: bytes) -> bool:
        """Wait until a row is served again; False where nothing brings it, or not soon."""
        until_s = self.ctx.clock.monotonic() + PATIENCE_S
        if key not in self.ledger.aside:
            return False
        self.ctx.log.warning("waits_for_row", key=key.hex(), seconds=PATIENCE_S)
        while key in self.ledger.aside:
            hopeless = self._known.get(key, 0) > 0 and not (self._fetching and key[:1] in OF_PEERS)
            if hopeless or self.ctx.clock.monotonic() >= until_s:
                return False
            await self.ctx.clock.sleep(LOOK_S)
        return True

    def noticed(self, error: RowDamaged) -> bool:
        """Set a row aside that somebody found damaged; False where it is none that could be."""
        self.ledger.aside.notice(error)
        return error.key in self.ledger.aside

    # For the consensus engine

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Other nodes are asked for what is lacking, for the length of a `with`."""
        self._fetching += 1
        try:
            yield
        finally:
            self._fetching -= 1

    async def row(self, key: bytes, height: int) -> bytes | None:
        """A row for another node that is at this height; None where there is none here that is good, or it is
        no one's business."""
        if key[:1] not in OF_PEERS:
            return None
        try:
            if key[:1] == STATE:
                return await self.ledger.state_at(key[1:], height)
            return await self.ledger.row(key)
        except RowDamaged:
            return None

    async def lacking(self) -> tuple[bytes, ...]:
        """Wait until rows are damaged that other nodes may have; their keys."""
        while True:
            found: dict[bytes, None] = {}
            for row in self.ledger.aside.rows:
                found.update(dict.fromkeys(await self._mender.wanted(row.key)))
            if found:
                return tuple(found)
            await self.ledger.aside.changed()

    async def mend(self, key: bytes, value: bytes, prove: Prove) -> bool:
        """A row as a peer gave it: whether it was right, and is served again."""
        if not await self._safely(lambda: self._mender.given(key, value, prove)):
            return False
        self._back(key, "peer")
        return True
