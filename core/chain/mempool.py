"""The mempool: admitted transactions that no block holds yet. Pure: no I/O, no clock, no tasks.

What it keeps
    One queue a sender, by nonce. A transaction is *ready* when every nonce from the account's next to
    its own is here; beyond a gap it waits. `ahead_max` nonces a sender, counted from the account's.

No silent replacement
    Each transaction holds its locks (CONS-10: the nonce, a sponsor's nonce, owned object versions, key
    images). A second transaction for a held lock is refused as `Equivocated`, naming the first, whatever
    it pays and wherever the first is: a builder may have it already.

Fair order
    Start-time fair queueing: a sender's k-th transaction in a row stands in round k, a sender that
    comes new stands in the current round. Rounds go in order; inside a round the higher price first,
    then the earlier arrival. So nobody is starved by a sender with many transactions, and price counts
    among equals.

Eviction
    At the bound a new transaction may push out transactions that are worth less: first those that wait
    behind a gap, then the ones with the lowest effective price (the lowest price among a transaction
    and those of the same sender that must run before it), the newest first, always from the end of a
    sender's queue. What a builder may have is never evicted. If not enough is worth less, the new one is
    refused as `MempoolFull`, and nothing was evicted.

Lifetime
    Nothing here survives a restart, and nothing here was promised: `pending` isn't durable.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from sortedcontainers import SortedList

from supervm.contracts.application import Refused


@attrs.frozen(kw_only=True)
class MempoolBounds:
    """How much it holds. `stay_s_max`: seconds after which one that no builder took is dropped.

    `deferrals_max`: how often a builder may give one back before it is dropped. `retry_after_s`: what a
    client is told when it is full.
    """

    transactions_max: int = attrs.field(default=50_000, validator=attrs.validators.ge(1))
    bytes_max: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(2**18))
    ahead_max: int = attrs.field(default=64, validator=attrs.validators.in_(range(1, 1025)))
    stay_s_max: float = attrs.field(default=3600.0, validator=attrs.validators.gt(0))
    deferrals_max: int = attrs.field(default=8, validator=attrs.validators.ge(1))
    retry_after_s: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))


@attrs.frozen(kw_only=True, eq=False)
class Entry:
    """One admitted transaction, as the mempool sees it.

    `sender` is the account whose nonces order it; a transaction without an account stands alone, under
    its own digest and nonce 0. `price` is what a unit of gas pays (micro base units). `spends` bounds
    the debit of each (address, token). `locks` are opaque: equal bytes conflict. `transaction` and
    `lane` are for whoever takes it out again.
    """

    digest: bytes
    sender: bytes
    nonce: int
    price: int
    size_bytes: int
    gas: int
    locks: tuple[bytes, ...]
    spends: Mapping[tuple[bytes, bytes], int]
    expiry_epoch: int
    transaction: Any
    lane: Any = None


@attrs.frozen
class Dropped:
    """An entry that left without being in a block, and why: its status is unknown from now on."""

    entry: Entry
    reason: str


@attrs.frozen(kw_only=True)
class MempoolFigures:
    """How full it is, now. `ready` could go into a batch, `handed` may be in one."""

    transactions: int
    size_bytes: int
    ready: int
    ready_bytes: int
    handed: int
    senders: int


@attrs.define(eq=False)
class _Held:
    entry: Entry
    arrival: int
    since_s: float
    handed: bool = False
    deferrals: int = 0


@attrs.define(eq=False)
class _Queue:
    """One sender's transactions, and how they stand in the indexes (None: not in one)."""

    next_nonce: int
    held: dict[int, _Held] = attrs.Factory(dict)
    round: int = 0
    deferred: bool = False
    ready_key: tuple[int, int, int, bytes] | None = None
    evict_key: tuple[bool, int, int, bytes] | None = None
    ready: int = 0
    ready_bytes: int = 0

    def run(self) -> Iterator[_Held]:
        """Those without a gap before them, handed or not, in nonce order."""
        nonce = self.next_nonce
        while nonce in self.held:
            yield self.held[nonce]
            nonce += 1


class Mempool:
    """See the module. Times are monotonic seconds that the caller gives."""

    def __init__(self, bounds: MempoolBounds | None = None) -> None:
        self.bounds = bounds if bounds is not None else MempoolBounds()
        self._queues: dict[bytes, _Queue] = {}
        self._by_digest: dict[bytes, _Held] = {}
        self._locks: dict[bytes, bytes] = {}
        self._spends: dict[tuple[bytes, bytes], int] = {}
        self._ready: SortedList = SortedList()
        self._evictable: SortedList = SortedList()
        self._arrivals = 0
        self._round = 0
        self._bytes = 0
        self._ready_count = 0
        self._ready_bytes = 0
        self._handed = 0
        self._deferred: set[bytes] = set()
        self._ready_since_s: float | None = None

    # What is here

    def __len__(self) -> int:
        return len(self._by_digest)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._by_digest

    def get(self, digest: bytes) -> Entry | None:
        """The entry of a digest, or None."""
        held = self._by_digest.get(digest)
        return held.entry if held is not None else None

    def since_s(self, digest: bytes) -> float | None:
        """When a transaction came, in the caller's monotonic seconds; None for one that isn't here."""
        held = self._by_digest.get(digest)
        return held.since_s if held is not None else None

    def holder(self, lock: bytes) -> bytes | None:
        """The digest that holds a lock, or None."""
        return self._locks.get(lock)

    def spending(self, address: bytes, token: bytes) -> int:
        """The most that all transactions here may debit from an account, in the token's base units."""
        return self._spends.get((address, token), 0)

    def pending_nonce(self, sender: bytes, account_nonce: int) -> int:
        """The first nonce of a sender for which there is no transaction, here or in a block."""
        queue = self._queues.get(sender)
        nonce = account_nonce
        while queue is not None and nonce in queue.held:
            nonce += 1
        return nonce

    @property
    def ready_since_s(self) -> float | None:
        """Since when there has been something to take without a break; None while there is nothing."""
        return self._ready_since_s

    def figures(self) -> MempoolFigures:
        """A snapshot of the counts."""
        return MempoolFigures(
            transactions=len(self._by_digest),
            size_bytes=self._bytes,
            ready=self._ready_count,
            ready_bytes=self._ready_bytes,
            handed=self._handed,
            senders=len(self._queues),
        )

    # In

    def add(self, entry: Entry, account_nonce: int, now_s: float) -> tuple[Dropped, ...] | Refused:
        """Hold `entry`; gives what had to leave for it, or why it is refused (and nothing changed).

        `account_nonce` is the sender's in the last executed block. An entry already here is left as it
        is. Codes: `NonceUsed`, `NonceGap`, `Equivocated`, `MempoolFull`.
        """
        if entry.digest in self._by_digest:
            return ()
        refused = self.refusal(entry.digest, entry.nonce, entry.locks, account_nonce)
        if refused is not None:
            return refused
        victims = self._victims(entry, account_nonce)
        if isinstance(victims, Refused):
            return victims
        dropped = tuple(self._drop(victim, "evicted", now_s) for victim in victims)
        queue = self._queues.get(entry.sender)
        if queue is None:
            queue = self._queues[entry.sender] = _Queue(next_nonce=account_nonce, round=self._round)
        assert queue.next_nonce <= account_nonce, "an account's nonce never falls"
        queue.next_nonce = account_nonce
        self._arrivals += 1
        held = queue.held[entry.nonce] = _Held(entry, self._arrivals, now_s)
        self._by_digest[entry.digest] = held
        self._bytes += entry.size_bytes
        for lock in entry.locks:
            self._locks[lock] = entry.digest
        for account, amount in entry.spends.items():
            self._spends[account] = self._spends.get(account, 0) + amount
        self._reindex(entry.sender, now_s)
        return dropped

    def refusal(
        self, digest: bytes, nonce: int, locks: Sequence[bytes], account_nonce: int
    ) -> Refused | None:
        """Why a transaction that isn't here can't come in, whatever it is worth; None if it could."""
        if nonce < account_nonce:
            return Refused(
                code="NonceUsed",
                field="nonce",
                value=str(nonce),
                mend=f"the account's next nonce is {account_nonce}",
                digest=digest,
            )
        if nonce >= account_nonce + self.bounds.ahead_max:
            return Refused(
                code="NonceGap",
                field="nonce",
                value=str(nonce),
                mend=f"at most {self.bounds.ahead_max} nonces from {account_nonce} on are held; "
                "send it when the ones before it are committed",
                digest=digest,
            )
        for lock in locks:
            first = self._locks.get(lock)
            if first is not None and first != digest:
                return Refused(
                    code="Equivocated",
                    field="nonce" if self._by_digest[first].entry.nonce == nonce else "inputs",
                    value="0x" + digest.hex(),
                    mend=f"0x{first.hex()} was signed for the same nonce or object version first and a "
                    "builder may have it; wait for its outcome, then use the next one",
                    digest=digest,
                    conflict=first,
                )
        return None

    def _victims(self, entry: Entry, account_nonce: int) -> list[_Held] | Refused:
        """What must leave for `entry`, the least worth first; or `MempoolFull`."""
        over_count = len(self._by_digest) + 1 - self.bounds.transactions_max
        over_bytes = self._bytes + entry.size_bytes - self.bounds.bytes_max
        victims: list[_Held] = []
        if over_count <= 0 and over_bytes <= 0:
            return victims
        worth = self._worth(entry, account_nonce)
        for runnable, price, _arrival, sender in self._evictable:
            if (runnable, price) >= worth:
                break
            if sender == entry.sender:
                continue
            for standing, held in reversed(_standing(self._queues[sender])):
                if held.handed or standing >= worth:
                    break
                victims.append(held)
                over_count -= 1
                over_bytes -= held.entry.size_bytes
                if over_count <= 0 and over_bytes <= 0:
                    return victims
        return Refused(
            code="MempoolFull",
            field="mempool",
            value=f"{len(self._by_digest)} transactions, {self._bytes} bytes",
            mend=f"send it again in {math.ceil(self.bounds.retry_after_s)} s, or offer a higher price",
            digest=entry.digest,
            retry_after_s=self.bounds.retry_after_s,
        )

    def _worth(self, entry: Entry, account_nonce: int) -> tuple[bool, int]:
        """How a new entry would stand: whether it could run, and its effective price."""
        queue = self._queues.get(entry.sender)
        price = entry.price
        for nonce in range(account_nonce, entry.nonce):
            held = queue.held.get(nonce) if queue is not None else None
            if held is None:
                return False, entry.price
            if not held.handed:
                price = min(price, held.entry.price)
        return True, price

    # Out, to a builder

    def take(
        self, *, count_max: int, bytes_seal: int, bytes_max: int, gas_max: int, now_s: float
    ) -> tuple[Entry, ...]:
        """Hand the next ready transactions to a builder, in fair order, one batch full.

        Stops at `count_max`, once `bytes_seal` is reached, or before `bytes_max` or `gas_max` would be
        passed. They stay here, with their locks, until `settle` or `give_back`.
        """
        taken: list[Entry] = []
        size = gas = 0
        while self._ready and len(taken) < count_max and size < bytes_seal:
            round_, _price, _arrival, sender = self._ready[0]
            queue = self._queues[sender]
            held = next(held for held in queue.run() if not held.handed)
            if size + held.entry.size_bytes > bytes_max or gas + held.entry.gas > gas_max:
                break
            taken.append(held.entry)
            size += held.entry.size_bytes
            gas += held.entry.gas
            held.handed = True
            self._handed += 1
            self._round = round_
            queue.round = round_ + 1
            self._reindex(sender, now_s)
        return tuple(taken)

    def give_back(self, digest: bytes, now_s: float) -> Dropped | None:
        """A builder could not place it: its sender waits for the next block (`settle`).

        After `deferrals_max` times it is dropped, and given. Unknown digests are ignored.
        """
        held = self._by_digest.get(digest)
        if held is None:
            return None
        if held.handed:
            held.handed = False
            self._handed -= 1
        held.deferrals += 1
        if held.deferrals >= self.bounds.deferrals_max:
            return self._drop(held, "deferred", now_s)
        self._queues[held.entry.sender].deferred = True
        self._deferred.add(held.entry.sender)
        self._reindex(held.entry.sender, now_s)
        return None

    def release(self, now_s: float) -> None:
        """No builder has anything any more: all of it can be taken again, and nothing is deferred."""
        for sender, queue in list(self._queues.items()):
            for held in queue.held.values():
                self._handed -= held.handed
                held.handed = False
            queue.deferred = False
            self._reindex(sender, now_s)
        self._deferred.clear()

    def drop(self, digest: bytes, reason: str, now_s: float) -> Dropped | None:
        """Take one out that can't ever be placed. Unknown digests are ignored."""
        held = self._by_digest.get(digest)
        return self._drop(held, reason, now_s) if held is not None else None

    def settle(
        self, digests: Iterable[bytes], nonces: Mapping[bytes, int], now_s: float
    ) -> tuple[Dropped, ...]:
        """A block is durable: forget its transactions, follow its senders' nonces, wake the deferred.

        `nonces` are accounts' next nonces after the block. Gives what it made useless.
        """
        dropped = []
        for digest in digests:
            held = self._by_digest.get(digest)
            if held is not None:
                self._remove(held)
        for sender, next_nonce in nonces.items():
            queue = self._queues.get(sender)
            if queue is None:
                continue
            queue.next_nonce = max(queue.next_nonce, next_nonce)
            stale = [held for nonce, held in queue.held.items() if nonce < queue.next_nonce]
            dropped += [self._drop(held, "nonce_used", now_s) for held in stale]
        for sender in self._deferred & self._queues.keys():
            self._queues[sender].deferred = False
            self._reindex(sender, now_s)
        self._deferred.clear()
        for sender in nonces:
            self._reindex(sender, now_s)
        return tuple(dropped)

    def expire(self, epoch: int, now_s: float) -> tuple[Dropped, ...]:
        """Drop what no builder has and whose epoch is past, or which waited longer than `stay_s_max`."""
        dropped = []
        for held in list(self._by_digest.values()):
            if held.handed:
                continue
            if 0 < held.entry.expiry_epoch < epoch:
                dropped.append(self._drop(held, "expired", now_s))
            elif now_s - held.since_s > self.bounds.stay_s_max:
                dropped.append(self._drop(held, "stayed_too_long", now_s))
        return tuple(dropped)

    # Bookkeeping

    def _drop(self, held: _Held, reason: str, now_s: float) -> Dropped:
        self._remove(held)
        self._reindex(held.entry.sender, now_s)
        return Dropped(held.entry, reason)

    def _remove(self, held: _Held) -> None:
        entry = held.entry
        del self._by_digest[entry.digest]
        del self._queues[entry.sender].held[entry.nonce]
        self._bytes -= entry.size_bytes
        self._handed -= held.handed
        for lock in entry.locks:
            del self._locks[lock]
        for account, amount in entry.spends.items():
            left = self._spends[account] - amount
            assert left >= 0, "spends add up"
            if left:
                self._spends[account] = left
            else:
                del self._spends[account]

    def _reindex(self, sender: bytes, now_s: float) -> None:
        """Bring a sender's places in the indexes, and the ready counts, in line with its queue."""
        queue = self._queues.get(sender)
        if queue is None:
            return
        if queue.ready_key is not None:
            self._ready.remove(queue.ready_key)
            queue.ready_key = None
        if queue.evict_key is not None:
            self._evictable.remove(queue.evict_key)
            queue.evict_key = None
        self._ready_count -= queue.ready
        self._ready_bytes -= queue.ready_bytes
        queue.ready = queue.ready_bytes = 0
        if not queue.held:
            del self._queues[sender]
        else:
            self._index(sender, queue)
        if not self._ready:
            self._ready_since_s = None
        elif self._ready_since_s is None:
            self._ready_since_s = now_s

    def _index(self, sender: bytes, queue: _Queue) -> None:
        ready = [held for held in queue.run() if not held.handed]
        if ready and not queue.deferred:
            head = ready[0]
            queue.ready_key = (max(queue.round, self._round), -head.entry.price, head.arrival, sender)
            self._ready.add(queue.ready_key)
            queue.ready = len(ready)
            queue.ready_bytes = sum(held.entry.size_bytes for held in ready)
            self._ready_count += queue.ready
            self._ready_bytes += queue.ready_bytes
        (runnable, price), last = _standing(queue)[-1]
        if not last.handed:
            queue.evict_key = (runnable, price, -last.arrival, sender)
            self._evictable.add(queue.evict_key)


def _standing(queue: _Queue) -> Sequence[tuple[tuple[bool, int], _Held]]:
    """Each of a sender's transactions with what it is worth, in nonce order; worth never rises."""
    standing = []
    price: int | None = None
    runnable = True
    expected = queue.next_nonce
    for nonce in sorted(queue.held):
        held = queue.held[nonce]
        runnable = runnable and nonce == expected
        expected += 1
        if not held.handed:
            price = held.entry.price if price is None else min(price, held.entry.price)
        standing.append(((runnable, price if price is not None else held.entry.price), held))
    return standing
