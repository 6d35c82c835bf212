"""Applying certified batches ahead of their block (CONS-20..22): the overlay, driven by the application."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import attrs
import trio

from supervm.chain.overlay import WAITING_MAX, Overlay, Turn, Waiting, keys_of
from supervm.contracts.application import FastApplied
from supervm.contracts.gas import GasPolicy
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
    """`get_state` reads the tip's state, `now` says of which height it would be."""

    def __init__(self, gas: GasPolicy, get_state: GetState, now: Callable[[], Now]) -> None:
        self.overlay = Overlay()
        self._gas = gas
        self._get_state = get_state
        self._now = now

    def forget(self) -> None:
        """An epoch ended: nothing that no block of it holds has happened, nor will it."""
        self.overlay = Overlay()

    async def apply(self, batch: Digest, transactions: Sequence[Transaction]) -> list[FastApplied]:
        """Apply a certified batch's FAST transactions, in order, as far as they can be; and what waited.

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
        effects: dict[Digest, list[tuple[int, Digest, Digest]]] = {each.batch: [] for each in asked}
        later: dict[Digest, int] = {}
        overlay = self.overlay
        for first in range(0, len(asked), CHUNK):
            for each, effect in await self._try_some(overlay, asked[first : first + CHUNK]):
                if effect is not None:
                    effects[each.batch].append((each.index, each.transaction.digest, effect))
                elif len(overlay.waiting) < WAITING_MAX:
                    overlay.waiting.append(each)
                    later[each.batch] = later.get(each.batch, 0) + 1
        return [
            FastApplied(batch=batch, effects=tuple(done), waiting=later.get(batch, 0))
            for batch, done in effects.items()
        ]

    async def _try_some(
        self, overlay: Overlay, asked: Sequence[Waiting]
    ) -> list[tuple[Waiting, Digest | None]]:
        """Those that were applied, with their effects digest, and those that wait."""
        while True:
            now = self._now()
            keys = keys_of([each.transaction for each in asked], self._gas, now.gas_state)
            state = await self._get_state(keys)
            if self.overlay is not overlay:
                # Their epoch ended meanwhile.
                return []
            # What was read is of one block, and from here on there is no checkpoint.
            if self._now().height == now.height:
                break
        found: list[tuple[Waiting, Digest | None]] = []
        for each in asked:
            view = overlay.view(
                {key: state[key] for key in keys_of([each.transaction], self._gas, now.gas_state)}
            )
            match overlay.turn(each.transaction, view):
                case Turn.NOW:
                    effect = overlay.apply(each.transaction, view, now.block, self._gas, now.gas_state)
                    found.append((each, effect.digest))
                case Turn.LATER:
                    found.append((each, None))
        return found
