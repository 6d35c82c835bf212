"""Applying certified batches ahead of their block (CONS-20..22): the overlay, driven by the application."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

import attrs
import trio

from supervm.chain.overlay import WAITING_MAX, Overlay, Waiting, apply_in_c, keys_of
from supervm.contracts.application import FastApplied
from supervm.contracts.gas import GasPolicy
from supervm.execution.ahead import NativeAhead, Outcome, Turn
from supervm.execution.block import BlockInput
from supervm.types.digests import Digest
from supervm.types.plain import lane_asked
from supervm.types.transaction import Lane, Transaction

CHUNK = 32
"""Transactions that are applied without a checkpoint: a few milliseconds."""

GetState = Callable[[Collection[bytes]], Awaitable[Mapping[bytes, bytes | None]]]


@attrs.frozen(kw_only=True)
class Now:
    """What transactions are applied on: the tip's height, and constants of its epoch."""

    height: int
    gas_state: bytes
    block: BlockInput


class FastLane:
    """`get_state` reads the tip's state, `now` says of which height it would be. `ahead`: C that applies what
    it can as the specification does."""

    def __init__(
        self,
        gas: GasPolicy,
        get_state: GetState,
        now: Callable[[], Now],
        ahead: NativeAhead | None = None,
    ) -> None:
        self.overlay = Overlay()
        self._gas = gas
        self._get_state = get_state
        self._now = now
        self._ahead = ahead

    def forget(self) -> None:
        """An epoch ended: nothing that no block of it holds has happened, nor will it."""
        self.overlay = Overlay()

    async def apply(self, batch: Digest, transactions: Sequence[Transaction]) -> list[FastApplied]:
        """Apply a certified batch's FAST transactions, in order, as far as they can be; and what waited.
        One that another batch had, too, is applied once and told for both.

        A batch that can't be applied whole leaves its rest waiting, up to `WAITING_MAX` of all batches.
        """
        asked = [
            Waiting(batch, at, each)
            for at, each in enumerate(transactions)
            if lane_asked(each) not in (Lane.ORDERED, Lane.PRIVATE)
        ]
        if not asked:
            await trio.lowlevel.checkpoint()
            return [FastApplied(batch=batch, effects=(), waiting=0)]
        found = await self._try(asked)
        if any(each.effects for each in found):
            found += await self.resume()
        return found

    async def resume(self) -> list[FastApplied]:
        """Apply what waited and can go on, until nothing more can."""
        found: list[FastApplied] = []
        while self.overlay.waiting:
            waiting, self.overlay.waiting = self.overlay.waiting, []
            more = await self._try(waiting)
            found += [each for each in more if each.effects]
            if not any(each.effects for each in more):
                break
        return found

    async def _try(self, asked: Sequence[Waiting]) -> list[FastApplied]:
        effects: dict[Digest, dict[Digest, tuple[int, Digest, Digest]]] = {each.batch: {} for each in asked}
        later: dict[Digest, int] = {}
        overlay = self.overlay
        for some in _chunks(asked):
            for each, effect in await self._try_some(overlay, some):
                if effect is not None:
                    name = each.transaction.digest
                    effects[each.batch].setdefault(name, (each.index, name, effect))
                elif len(overlay.waiting) < WAITING_MAX:
                    overlay.waiting.append(each)
                    later[each.batch] = later.get(each.batch, 0) + 1
        return [
            FastApplied(batch=batch, effects=tuple(done.values()), waiting=later.get(batch, 0))
            for batch, done in effects.items()
        ]

    async def _try_some(
        self, overlay: Overlay, asked: Sequence[Waiting]
    ) -> list[tuple[Waiting, Digest | None]]:
        """Those that were applied, with their effects digest, and those that wait.

        What was applied for another batch has happened for this one, too, whose builder waits for it.
        """
        known = [
            (each, effect.digest)
            for each in asked
            if (effect := overlay.get(each.transaction.digest)) is not None
        ]
        asked = [each for each in asked if overlay.get(each.transaction.digest) is None]
        transactions = [each.transaction for each in asked]
        found = await self._by_c(overlay, transactions)
        if found is None:
            found = await self._by_specification(overlay, transactions)
        return known + [
            (each, None if effect is None else effect.digest)
            for each, (turn, effect) in zip(asked, found, strict=True)
            if turn is not Turn.BY_BLOCK
        ]

    async def _by_c(self, overlay: Overlay, transactions: Sequence[Transaction]) -> Sequence[Outcome] | None:
        """What came of them, all at once in C; None where the specification must say."""
        while self._ahead is not None:
            now = self._now()
            with self._ahead.open(transactions, now.block, now.gas_state) as run:
                if run is None:
                    break
                state = await self._get_state(run.keys)
                if self.overlay is not overlay:
                    return _nothing(transactions)
                # What was read is of one block, and from here on there is no checkpoint.
                if self._now().height == now.height:
                    return apply_in_c(overlay, run, state)
        return None

    async def _by_specification(
        self, overlay: Overlay, transactions: Sequence[Transaction]
    ) -> Sequence[Outcome]:
        while True:
            now = self._now()
            state = await self._get_state(keys_of(transactions, self._gas, now.gas_state))
            if self.overlay is not overlay:
                return _nothing(transactions)
            if self._now().height == now.height:
                return [self._apply_one(overlay, each, state, now) for each in transactions]

    def _apply_one(
        self, overlay: Overlay, transaction: Transaction, state: Mapping[bytes, bytes | None], now: Now
    ) -> Outcome:
        keys = keys_of([transaction], self._gas, now.gas_state)
        view = overlay.view({key: state[key] for key in keys})
        turn = overlay.turn(transaction, view)
        if turn is not Turn.NOW:
            return turn, None
        return turn, overlay.apply(transaction, view, now.block, self._gas, now.gas_state)


def _chunks(asked: Sequence[Waiting]) -> Iterator[list[Waiting]]:
    """These in order, `CHUNK` at once and none twice in a chunk, which C doesn't take."""
    some: dict[Digest, Waiting] = {}
    for each in asked:
        if len(some) == CHUNK or each.transaction.digest in some:
            yield list(some.values())
            some = {}
        some[each.transaction.digest] = each
    if some:
        yield list(some.values())


def _nothing(transactions: Sequence[Transaction]) -> list[Outcome]:
    """Their epoch ended meanwhile."""
    return [(Turn.BY_BLOCK, None)] * len(transactions)
