"""Batches that left a validator's memory, read again from its log: for a peer, a block, a certificate.

A record that is damaged, or isn't that of the batch, counts as not there: then the batch is asked for like
any that was never here.
"""

from collections.abc import Callable

import trio

from supervm.api import Context
from supervm.contracts.storage import KeyValueStore, StoreCorrupt
from supervm.plugins.consensus.bft.batch_records import HeldBatch
from supervm.plugins.consensus.bft.driver.journal import LOCKS, Disk, cause_of, record_key
from supervm.plugins.consensus.bft.records import decode_record
from supervm.storage.spaces import unseal
from supervm.types.batch import Batch
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError

Peers = tuple[bytes, ...]


class LoggedBatches:
    """The batches of a voter's log in one epoch. `row`: where one is. `wanted`: whether one still is.

    `came` gets what was found; `missed` what wasn't, with those who should have it.
    """

    def __init__(
        self,
        ctx: Context,
        store: KeyValueStore,
        disk: Disk,
        epoch: int,
        *,
        row: Callable[[Digest], int | None],
        wanted: Callable[[Digest], bool],
        came: Callable[[Batch], None],
        missed: Callable[[Digest, Peers], None],
    ) -> None:
        self._ctx = ctx
        self._store = store
        self._disk = disk
        self._epoch = epoch
        self._row = row
        self._wanted = wanted
        self._came = came
        self._missed = missed
        self._asked: dict[Digest, Peers] = {}
        self._wake = trio.Event()

    def find(self, batch: Digest, peers: Peers) -> None:
        """Look for a batch, some time. Bounded by those who ask: a batch is looked for once."""
        if self._row(batch) is None:
            self._missed(batch, peers)
            return
        self._asked[batch] = peers
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            while self._asked:
                digest = next(iter(self._asked))
                await self._find(digest, self._asked[digest])
                del self._asked[digest]
            self._wake = trio.Event()

    async def _find(self, digest: Digest, peers: Peers) -> None:
        # What was let go a moment ago may still wait for the disk.
        await self._disk.written()
        if not self._wanted(digest):
            return
        batch = await self.get(digest)
        if batch is None:
            self._missed(digest, peers)
        else:
            self._came(batch)

    async def get(self, digest: Digest) -> Batch | None:
        """A batch as its record has it; None where there is none, or it is damaged."""
        row = self._row(digest)
        if row is None:
            return None
        key = record_key(LOCKS, self._epoch, row)
        try:
            stored = await self._store.get(key)
            record = None if stored is None else decode_record(unseal(key, stored))
        except (StoreCorrupt, DecodeError) as error:
            self._ctx.log.error("batch_damaged", batch=digest.hex(), row=row, cause=cause_of(error))
            return None
        if not isinstance(record, HeldBatch) or record.batch.digest() != digest:
            return None
        return record.batch
