"""Moving a node's whole store to another backend (STO-21), with the node stopped and the source only read.

Every row is copied as it lies, in key order, but for the metadata, which comes last: until the batch with the
commit marker is durable the target holds no ledger. Each batch carries the key that it ends with, so a
migration that broke goes on behind it; where the source has moved on meanwhile, it begins again. Before the
last batch the two stores are compared row by row.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import attrs
from blake3 import blake3

from supervm.contracts.storage import (
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    Reader,
)
from supervm.storage.errors import MigrationFailed, NotEmpty
from supervm.storage.loading import Progress
from supervm.storage.records import first_key, sealed
from supervm.storage.spaces import (
    CHAIN_KEY,
    COMMIT_KEY,
    META,
    MIGRATE_KEY,
    SCHEMA_KEY,
    STATE,
    corrupt,
    describe,
    unseal,
)

ROWS_MAX = 10_000
BYTES_MAX = 8 * 2**20
META_ROWS_MAX = 10_000
FORMAT = 1

Rows = list[tuple[bytes, bytes]]


@attrs.frozen
class Migrated:
    """Rows that the target has, all equal to the source's, and how many an earlier run had copied."""

    rows: int
    found_copied: int


async def migrate(source: KeyValueStore, target: KeyValueStore, progress: Progress | None = None) -> Migrated:
    """Make `target` the same rows as `source`: a ledger that was opened, and that nobody writes to.

    Called again after anything that stopped it, it goes on. `progress` counts rows copied, of an estimate,
    then rows compared. Raises `NotEmpty` for a target that holds anything but an unfinished migration,
    `MigrationFailed` where a row differs afterwards, `StoreCorrupt` for a source that lacks what a ledger
    has, and what the stores raise. The source is never written.
    """
    metadata = await _metadata(source)
    origin = blake3(b"".join(put.key + put.value for put in metadata)).digest()
    after, found = await _begin(source, target, origin)
    copied = await _copy(source, target, origin, after, found, progress)
    try:
        await _compare(source, target, progress)
    except MigrationFailed:
        if not found:
            raise
        # The source may have changed without a new block since the earlier run: copy all of it.
        found = 0
        await _forget(source, target, origin)
        copied = await _copy(source, target, origin, b"", 0, progress)
        await _compare(source, target, progress)
    await target.write([*metadata, Delete(MIGRATE_KEY)], Durability.DURABLE)
    return Migrated(copied + len(metadata), found)


async def _copy(
    source: KeyValueStore,
    target: KeyValueStore,
    origin: bytes,
    after: bytes,
    copied: int,
    progress: Progress | None,
) -> int:
    """Copy what lies behind the key `after`, metadata excepted; rows copied in all."""
    total = (await source.stats()).keys_estimate
    while rows := await _page(source, after + b"\x00" if after else STATE):
        copied += len(rows)
        after = rows[-1][0]
        done = sealed(MIGRATE_KEY, _encode(origin, copied, after))
        await target.write([*(Put(key, value) for key, value in rows), done], Durability.BUFFERED)
        if progress is not None:
            progress(copied, max(total, copied))
    return copied


async def _begin(source: KeyValueStore, target: KeyValueStore, origin: bytes) -> tuple[bytes, int]:
    """(last key copied, rows copied) of an earlier run, or (b"", 0)."""
    stored = await target.get(MIGRATE_KEY)
    if stored is None:
        found = await first_key(target, b"", None)
        if found is not None:
            raise NotEmpty(
                "the store to migrate to is not empty",
                describe(found),
                "Rename or remove its folder, or choose another backend.",
            )
    else:
        before, copied, after = _decode(unseal(MIGRATE_KEY, stored))
        if before == origin:
            return after, copied
    await _forget(source, target, origin)
    return b"", 0


async def _forget(source: KeyValueStore, target: KeyValueStore, origin: bytes) -> None:
    """Begin: nothing but the marks of a migration of this source."""
    first: list[Operation] = [DeleteRange(STATE, None), sealed(MIGRATE_KEY, _encode(origin, 0, b""))]
    for key in (SCHEMA_KEY, CHAIN_KEY):
        value = await source.get(key)
        if value is None:
            raise corrupt(key, "it is missing")
        first.append(Put(key, value))
    await target.write(first, Durability.DURABLE)


def begun_mark() -> Put:
    """What a target has as long as it holds no ledger yet; of no source, so that `migrate` begins anew."""
    return sealed(MIGRATE_KEY, _encode(bytes(32), 0, b""))


async def _page(reader: Reader, start: bytes) -> Rows:
    """Rows from a key up, in key order: at most 10,000, or about 8 MiB."""
    rows: Rows = []
    size_bytes = 0
    scan = cast("AsyncGenerator[tuple[bytes, bytes], None]", reader.scan(start, limit=ROWS_MAX))
    async with aclosing(scan) as found:
        async for row in found:
            rows.append(row)
            size_bytes += len(row[0]) + len(row[1])
            if size_bytes >= BYTES_MAX:
                break
    return rows


async def _metadata(source: KeyValueStore) -> list[Put]:
    rows = [Put(*row) async for row in source.scan(META, STATE, limit=META_ROWS_MAX + 1)]
    assert len(rows) <= META_ROWS_MAX, "metadata is one batch"
    if all(put.key != COMMIT_KEY for put in rows):
        raise corrupt(COMMIT_KEY, "it is missing")
    return rows


async def _compare(source: KeyValueStore, target: KeyValueStore, progress: Progress | None) -> None:
    """Raises `MigrationFailed` at the first row that isn't the same in both, beyond the metadata."""
    start, compared = STATE, 0
    while True:
        ours, theirs = await _page(source, start), await _page(target, start)
        if ours != theirs:
            raise _differ(dict(ours), dict(theirs))
        if not ours:
            return
        compared += len(ours)
        start = ours[-1][0] + b"\x00"
        if progress is not None:
            progress(compared, compared)


def _differ(ours: dict[bytes, bytes], theirs: dict[bytes, bytes]) -> MigrationFailed:
    key = min(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    what = "missing" if key not in theirs else "there only" if key not in ours else "another"
    return MigrationFailed(
        f"a row of the new store is {what}",
        describe(key),
        "The old store is as it was, and in use. Check the new one's disk; remove its folder and try again.",
    )


def _encode(origin: bytes, copied: int, after: bytes) -> bytes:
    """u8 format 1 || 32 bytes of the source || u64 rows copied || the last key."""
    return bytes((FORMAT,)) + origin + copied.to_bytes(8, "little") + after


def _decode(data: bytes) -> tuple[bytes, int, bytes]:
    if len(data) < 41 or data[0] != FORMAT:
        raise corrupt(MIGRATE_KEY, f"not a migration's progress of format {FORMAT}")
    return data[1:33], int.from_bytes(data[33:41], "little"), data[41:]
