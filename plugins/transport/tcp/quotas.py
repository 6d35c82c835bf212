"""What one peer or address may cost us, without I/O: rates, and handshakes that aren't done.

Times are monotonic seconds, given by the caller. Every table is bounded.
"""

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

import attrs

ADDRESSES_MAX = 4096
SELDOM_S, SELDOM_S_MAX = 10.0, 3600.0
IPV4_NETWORK_BITS, IPV6_NETWORK_BITS = 24, 48
"""What one owner most likely has all of (NET-110)."""


@lru_cache(maxsize=ADDRESSES_MAX)
def network_of(address: str) -> str:
    """The /24 or /48 that an address is in. An address that isn't public (loopback, LAN) stands for itself:
    a LAN's nodes are its owner's own."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global:
        return address
    bits = IPV6_NETWORK_BITS if isinstance(ip, IPv6Address) else IPV4_NETWORK_BITS
    return str(ip_network((ip, bits), strict=False))


def is_public(address: str) -> bool:
    return network_of(address) != address


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
class Seldom:
    """Whether what happens with a peer again and again is told: at once, and then after waits that double
    from `SELDOM_S` to `SELDOM_S_MAX`. Of one that was well for longer it is told as at first."""

    _told: OrderedDict[bytes, tuple[float, float, int]] = attrs.Factory(OrderedDict)

    def tell(self, peer: bytes, now: float) -> int | None:
        """How many weren't told since the last that was; None where this one isn't."""
        at, wait_s, left_out = self._told.pop(peer, (now, 0.0, 0))
        is_told = now - at >= wait_s
        if not is_told:
            self._told[peer] = at, wait_s, left_out + 1
            return None
        is_first = not wait_s or now - at > 2 * SELDOM_S_MAX
        self._told[peer] = now, SELDOM_S if is_first else min(SELDOM_S_MAX, 2 * wait_s), 0
        if len(self._told) > ADDRESSES_MAX:
            self._told.popitem(last=False)
        return left_out


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

    The place with the most of them, an address or a network, loses its oldest: an attacker with one place
    only hurts itself.
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
