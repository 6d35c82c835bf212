"""Snapshots between nodes: this node's own for others, and another's for this node (CONS-62).

What a peer gives is judged here, off the event loop; what is asked of whom is the consensus engine's matter.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs
import trio

from supervm.chain.incoming import Incoming, verify_ed25519
from supervm.client.light import check_header, follow_all, from_genesis
from supervm.storage.errors import ForeignChain, SnapshotError
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import Manifest
from supervm.types.errors import InvalidInput
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver

T = TypeVar("T")

ROOM = 3
"""A snapshot is fetched where its size fits on the disk so often: as it comes, as a store, and to spare."""


@attrs.frozen
class Judgement:
    """`lied`: why no honest node offers this snapshot. `unfit`: why it isn't one for this node."""

    lied: str = ""
    unfit: str = ""


@attrs.define(eq=False)
class SnapshotExchange:
    """`own`: the folder of this node's snapshots. `incoming`: see `Incoming`. `takes`: see the contract."""

    genesis: Genesis
    node_id: bytes
    own: SnapshotFolder
    incoming: Incoming
    takes: bool = True
    whole: trio.Event = attrs.field(factory=trio.Event, init=False)
    _last: tuple[bytes, bytes] = attrs.field(default=(b"", b""), init=False)
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)

    # For others

    async def offered(self, above: int) -> bytes | None:
        """The manifest of the newest snapshot that this node made, above a height; None where it has none."""
        return await self._work(self._offered, above)

    def _offered(self, above: int) -> bytes | None:
        for one in reversed(self.own.listed()):
            if one.height <= above:
                return None
            try:
                manifest = self.own.manifest(one.name)
            except SnapshotError:
                continue  # removed since, or damaged, as its keeper tells
            if manifest.node_id == self.node_id:
                return manifest.encode()
        return None

    async def blob(self, digest: bytes) -> bytes | None:
        """A chunk or table of this node's snapshots; None where it isn't there, or is damaged."""
        if self._last[0] != digest:
            try:
                self._last = digest, await self._work(self.own.blob, digest)
            except SnapshotError:
                return None
        return self._last[1]

    # For this node

    async def judge(self, manifest: Manifest, handovers: Sequence[HandOver]) -> Judgement:
        """Whether hand-overs hold, its maker signed it, its anchor is final, and there is room for it."""
        return await self._work(self._judge, manifest, handovers)

    def _judge(self, manifest: Manifest, handovers: Sequence[HandOver]) -> Judgement:
        try:
            if manifest.chain_id != self.genesis.chain_id:
                raise ForeignChain(manifest.chain_id, self.genesis.chain_id, "snapshot")
            manifest.check_signature(verify_ed25519)
            trusted = follow_all(from_genesis(self.genesis), handovers)
            proof = FinalityProof.decode(manifest.anchor_certificate)
            check_header(trusted, manifest.anchor_header, proof)
        except (InvalidInput, SnapshotError, ForeignChain) as error:
            return Judgement(lied=f"its snapshot doesn't check: {error}")
        if ROOM * manifest.size_bytes > self.incoming.folder.free_bytes():
            return Judgement(unfit=f"its snapshot of {manifest.size_bytes} bytes doesn't fit on the disk")
        return Judgement()

    async def held(self, digests: Sequence[bytes], tables: bool) -> Mapping[bytes, bytes]:
        return await self._work(self.incoming.held, digests, tables)

    async def keep(self, blob: bytes) -> None:
        await self._work(self.incoming.keep, blob)

    async def refused(self) -> list[bytes]:
        return await self._work(self.incoming.refused)

    async def finish(self, manifest: Manifest, handovers: Sequence[HandOver]) -> None:
        """It is whole: `whole` is set, and who runs the node begins again with it."""
        await self._work(self.incoming.finish, manifest, handovers)
        self.whole.set()

    async def _work(self, call: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)
