"""A store over another: what a class doesn't say otherwise is as the store below has it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from supervm.contracts.storage import Durability, KeyValueStore, Reader, StoreStats, WriteBatch, prefix_end
from supervm.kernel.component import Health


class StoreOver:
    """A `KeyValueStore` that passes each call on. `below`: the store that it is over."""

    def __init__(self, below: KeyValueStore) -> None:
        self.below = below

    @property
    def capabilities(self) -> frozenset[str]:
        return self.below.capabilities

    @property
    def gives(self) -> Mapping[Durability, Durability]:
        return self.below.gives

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        await self.below.write(batch, durability)

    async def get(self, key: bytes) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self.below.get_many(keys)

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        return self.below.scan(start, end, reverse=reverse, limit=limit)

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)

    def snapshot(self) -> AbstractAsyncContextManager[Reader]:
        return self.below.snapshot()

    async def checkpoint(self, path: Path) -> None:
        await self.below.checkpoint(path)

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        await self.below.compact(start, end)

    async def get_property(self, name: str) -> str | None:
        return await self.below.get_property(name)

    async def stats(self) -> StoreStats:
        return await self.below.stats()

    async def health(self) -> Health:
        return await self.below.health()
