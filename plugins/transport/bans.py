"""Whom a node has cut off, and for how much longer. Times are monotonic seconds, given by the caller."""

from collections import OrderedDict

import attrs

BAN_S = 60.0
"""The first ban (chosen)."""
BAN_S_MAX = 3600.0
BANS_MAX = 4096
FORGIVEN_S = 86_400.0
"""After so long without another, the next ban is a first one again (chosen)."""


@attrs.define
class Bans:
    """Node ids that are not talked to for a while; twice as long each time, an hour at most."""

    first_s: float = BAN_S
    _until: OrderedDict[bytes, tuple[float, int]] = attrs.Factory(OrderedDict)

    def ban(self, node_id: bytes, now: float) -> float:
        """Ban a node; for how long, in seconds. One that is banned already stays so, for no longer."""
        remaining_s = self.remaining_s(node_id, now)
        if remaining_s:
            return remaining_s
        until, times = self._until.pop(node_id, (0.0, 0))
        if now - until > FORGIVEN_S:
            times = 0
        length_s = min(BAN_S_MAX, self.first_s * (1 << times))
        self._until[node_id] = (now + length_s, min(times + 1, 16))
        if len(self._until) > BANS_MAX:
            self._until.popitem(last=False)
        return length_s

    def remaining_s(self, node_id: bytes, now: float) -> float:
        """How much longer it is banned, 0 where it isn't."""
        until, _ = self._until.get(node_id, (0.0, 0))
        return max(0.0, until - now)

    def now_banned(self, now: float) -> list[bytes]:
        """Who is banned, those of the latest bans last."""
        return [node_id for node_id, (until, _) in self._until.items() if until > now]
