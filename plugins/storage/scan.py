"""A scan in bounded pages, over anything that reads a page."""

from collections.abc import AsyncIterator, Awaitable, Callable

import attrs

from supervm.contracts.storage import PAGE_BYTES_MAX, PAGE_ROWS_MAX

Row = tuple[bytes, bytes]


@attrs.frozen
class Span:
    """The rows that a page may hold: start <= key < end, the nearest `rows_max` from its own side."""

    start: bytes
    end: bytes | None
    reverse: bool = False
    rows_max: int = PAGE_ROWS_MAX

    @property
    def empty(self) -> bool:
        return self.rows_max == 0 or (self.end is not None and self.start >= self.end)

    def after(self, key: bytes) -> "Span":
        """What is left when `key` was the last row."""
        if self.reverse:
            return attrs.evolve(self, end=key)
        return attrs.evolve(self, start=key + b"\x00")


@attrs.frozen
class Page:
    """Rows in scan order; `more` where the span may hold others after them."""

    rows: list[Row]
    more: bool


class PageBuilder:
    """Takes rows until a page is full. The first row always fits, so that a scan gets on."""

    def __init__(self, span: Span) -> None:
        self._rows_max = min(span.rows_max, PAGE_ROWS_MAX)
        self._bytes_left = PAGE_BYTES_MAX
        self.rows: list[Row] = []

    def take(self, key: bytes, value: bytes) -> bool:
        """Add a row; True once the page is full."""
        self.rows.append((key, value))
        self._bytes_left -= len(key) + len(value)
        return len(self.rows) >= self._rows_max or self._bytes_left <= 0


async def scan_pages(
    span: Span, limit: int | None, read_page: Callable[[Span], Awaitable[Page]]
) -> AsyncIterator[Row]:
    """Every row of `span`, at most `limit`."""
    left = limit
    while True:
        span = attrs.evolve(span, rows_max=PAGE_ROWS_MAX if left is None else min(left, PAGE_ROWS_MAX))
        if span.empty:
            return
        page = await read_page(span)
        for row in page.rows:
            yield row
        if left is not None:
            left -= len(page.rows)
        if not page.more:
            return
        span = span.after(page.rows[-1][0])
