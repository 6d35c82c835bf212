"""The reads of the storage contract that follow from two of them."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from supervm.contracts.storage import prefix_end
from supervm.plugins.storage.scan import Row


class Reads(ABC):
    """`get`, `scan` and `scan_prefix` (STO-1) of what has `get_many` and the rows of a range."""

    __slots__ = ()

    @abstractmethod
    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    @abstractmethod
    def _range(
        self, start: bytes, end: bytes | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[Row]: ...

    async def get(self, key: bytes) -> bytes | None:
        return (await self.get_many((key,)))[0]

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Row]:
        return self._range(start, end, reverse, limit)

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[Row]:
        return self._range(prefix, prefix_end(prefix), reverse, limit)
