"""The event log: what happened, numbered, kept for a while, for readers that come back (OBS-44).

Ids rise by one from 1 and start again with the process; `run` tells two processes apart. The log is
bounded by events and by the receipts they carry; the oldest go first. A reader that fell behind what is
kept is told so by a `gap` event and cut off; it comes back with the gap's id and reads on.
"""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import trio

BLOCK = "block"
RECEIPTS = "receipts"
CERTIFIED = "certified"
DROPPED = "dropped"
GAP = "gap"

EVENTS_MAX = 4_096
ITEMS_MAX = 65_536
ITEMS_PER_EVENT_MAX = 256


@attrs.frozen
class Event:
    """One thing that happened. `data` is ready for JSON: text, lists, and maps of them.

    `id` resumes a stream. Of a `gap` it is the last one lost.
    """

    id: int
    kind: str
    data: Mapping[str, Any]


class EventLog:
    """See the module. `append` never blocks and never fails; readers pull at their own speed."""

    def __init__(self, events_max: int = EVENTS_MAX, items_max: int = ITEMS_MAX) -> None:
        assert events_max > 0 and items_max >= ITEMS_PER_EVENT_MAX
        self.events_max = events_max
        self._items_max = items_max
        self._kept: deque[tuple[Event, int]] = deque()
        self._items = 0
        self._last = 0
        self._dropped = 0
        self._changed = trio.Event()

    @property
    def last_id(self) -> int:
        """The id of the newest event, 0 before the first."""
        return self._last

    @property
    def oldest_id(self) -> int:
        """The id of the oldest event kept; one above the newest where none is."""
        return self._kept[0][0].id if self._kept else self._last + 1

    @property
    def dropped(self) -> int:
        """How many events are no longer kept."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._kept)

    def append(self, kind: str, data: Mapping[str, Any], items: int = 1) -> Event:
        """Add an event; `items` is how many facts it carries, for the bound. Wakes every reader."""
        assert 0 < items <= ITEMS_PER_EVENT_MAX, f"{items} items in one event"
        self._last += 1
        event = Event(self._last, kind, data)
        self._kept.append((event, items))
        self._items += items
        while len(self._kept) > self.events_max or self._items > self._items_max:
            _, left = self._kept.popleft()
            self._items -= left
            self._dropped += 1
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        return event

    async def follow(self, after: int | None = None) -> AsyncIterator[Event]:
        """Every event after id `after` (None: from now on), as they come; ends only after a `gap`.

        An id from the future belongs to another process's log: that is a gap too. Holds no place in the
        log and no buffer of its own, so a reader that stops reading costs nothing.
        """
        cursor = self._last if after is None else after
        while True:
            if cursor > self._last or cursor + 1 < self.oldest_id:
                first = 0 if cursor > self._last else cursor
                lost = self.oldest_id - 1
                yield Event(lost, GAP, {"after": str(first), "resume": str(lost)})
                return
            while cursor < self._last:
                index = cursor + 1 - self.oldest_id
                if index < 0:
                    break
                event = self._kept[index][0]
                cursor = event.id
                yield event
            else:
                await self._changed.wait()
