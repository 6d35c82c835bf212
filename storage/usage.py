"""What the rows of a store are for, and what they take: counted by reading them, a little at a time."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import attrs

from supervm.contracts.storage import Reader
from supervm.storage.pace import Pace
from supervm.storage.spaces import (
    BODIES,
    CERTIFICATES,
    HEADERS,
    HISTORY,
    INDEX,
    LEDGER_END,
    META,
    RECEIPTS,
    STALE,
    STATE,
    TREE,
)

ROWS_AT_ONCE = 1_000

COMPONENTS = "components"
OLD_TREES = "old_trees"
_SPACES = (
    (META, "metadata"),
    (STATE, "state"),
    (HISTORY, "history"),
    (TREE, "tree"),
    (STALE, "stale_index"),
    (HEADERS, "headers"),
    (BODIES, "transactions"),
    (RECEIPTS, "receipts"),
    (CERTIFICATES, "certificates"),
    (INDEX, "index"),
    (LEDGER_END, COMPONENTS),
)
PURPOSES = (*(name for _, name in _SPACES), OLD_TREES)


@attrs.frozen
class Part:
    """Rows of one purpose, and the bytes of their keys and values, before the backend packs them."""

    rows: int = 0
    size_bytes: int = 0


async def survey(store: Reader, pace: Pace) -> dict[str, Part]:
    """What every purpose takes, by name. Reads the whole store, in many short views: blocks go on.

    `old_trees` are pages that the tip's tree doesn't need: as many as the stale index has, at the mean size
    of a page. `tree` is the rest.
    """
    found = {}
    ends = [start for start, _ in _SPACES[1:]]
    for (start, name), end in zip(_SPACES, [*ends, None], strict=True):
        found[name] = await _part(store, start, end, pace)
    tree, stale = found["tree"], found["stale_index"].rows
    pages = min(stale, tree.rows)
    old = Part(pages, tree.size_bytes * pages // tree.rows if tree.rows else 0)
    found["tree"] = Part(tree.rows - old.rows, tree.size_bytes - old.size_bytes)
    return {**found, OLD_TREES: old}


async def _part(store: Reader, start: bytes, end: bytes | None, pace: Pace) -> Part:
    rows = size_bytes = 0
    while True:
        last = b""
        with pace.working():
            scan = cast(
                "AsyncGenerator[tuple[bytes, bytes], None]", store.scan(start, end, limit=ROWS_AT_ONCE)
            )
            async with aclosing(scan) as page:
                async for last, value in page:
                    rows += 1
                    size_bytes += len(last) + len(value)
        if not last:
            return Part(rows, size_bytes)
        await pace.rest()
        start = last + b"\x00"
