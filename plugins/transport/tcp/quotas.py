"""What one peer or address may cost us, without I/O: rates, and handshakes that aren't done.

Times are monotonic seconds, given by the caller. Every table is bounded.
"""

from collections import OrderedDict

import attrs

ADDRESSES_MAX = 4096


@attrs.define
class Bucket:
    """A token bucket that lets anything pass and tells how long to wait for it afterwards."""

    per_s: float
    burst: float
    _level: float = attrs.field(init=False)
    _at: float | None = None

    def __attrs_post_init__(self) -> None:
        self._level = self.burst

    def take(self, count: float, now: float) -> float:
        """Take tokens; seconds until the debt is paid, 0 where there is none."""
        if self._at is not None:
            self._level = min(self.burst, self._level + (now - self._at) * self.per_s)
        self._at = now
        self._level -= count
        owed_s: float = -self._level / self.per_s
        return max(0.0, owed_s)

    def would_wait(self, now: float) -> bool:
        """Whether one more would have to wait."""
        passed = now - self._at if self._at is not None else 0.0
        return bool(self._level + passed * self.per_s < 1)


@attrs.define
class Rates:
    """How often a second each of many may do something: an address connect, a peer cause a line of log."""

    per_s: float
    burst: float
    _buckets: OrderedDict[str | bytes, Bucket] = attrs.Factory(OrderedDict)

    def allows(self, who: str | bytes, now: float) -> bool:
        """Whether it may once more, now; counts it if so."""
        bucket = self._buckets.pop(who, None) or Bucket(self.per_s, self.burst)
        self._buckets[who] = bucket
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        if bucket.would_wait(now):
            return False
        bucket.take(1, now)
        return True


@attrs.define
class LastSeen:
    """Which node has last proven itself at each address."""

    _peers: OrderedDict[str, bytes] = attrs.Factory(OrderedDict)

    def note(self, address: str, peer: bytes) -> None:
        """A node has proven itself there."""
        self._peers.pop(address, None)
        self._peers[address] = peer
        if len(self._peers) > ADDRESSES_MAX:
            self._peers.popitem(last=False)

    def at(self, address: str) -> bytes | None:
        return self._peers.get(address)


@attrs.define
class Pending:
    """Connections whose peer hasn't proven who it is yet. `add` says which one must go, when full.

    The address with the most of them loses its oldest, so an attacker with one address only hurts itself.
    """

    count_max: int
    _by_address: dict[str, OrderedDict[object, None]] = attrs.Factory(dict)
    _count: int = 0

    def add(self, address: str, connection: object) -> object | None:
        """Remember a connection; returns the one to close for it, if any."""
        self._by_address.setdefault(address, OrderedDict())[connection] = None
        self._count += 1
        if self._count <= self.count_max:
            return None
        most = max(self._by_address, key=lambda each: len(self._by_address[each]))
        oldest = next(iter(self._by_address[most]))
        self.remove(most, oldest)
        return oldest

    def remove(self, address: str, connection: object) -> None:
        """Forget a connection, if it is still remembered."""
        waiting = self._by_address.get(address)
        if waiting is not None and connection in waiting:
            del waiting[connection]
            self._count -= 1
            if not waiting:
                del self._by_address[address]

    def __len__(self) -> int:
        return self._count
