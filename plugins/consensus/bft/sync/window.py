"""The blocks above the tip that block sync holds: which of them are final, and what they still miss."""

import attrs

from supervm.plugins.consensus.bft.fetching import GotBlock
from supervm.types.batch import Batch
from supervm.types.block import Block
from supervm.types.certificate import Certificate
from supervm.types.digests import ZERO, Digest


class Forked(Exception):
    """Two final blocks that don't stand on one chain: more than f are hostile, or this node's store is."""


@attrs.define(eq=False)
class Slot:
    """A block of a peer. `final`: a verified finalisation of it, or of a block that it is an ancestor of.

    `missing`: batches that aren't here, with their bytes of transactions. `opinions`: the peers that were
    asked for it since it is here and nothing proves it.
    """

    block: Block
    digest: Digest
    giver: bytes
    at_us: int
    size_bytes: int
    finalisation: Certificate | None = None
    final: bool = False
    given: bool = False
    opinions: set[bytes] = attrs.field(factory=set)
    missing: dict[Digest, int] = attrs.field(factory=dict)
    batches: dict[Digest, Batch] = attrs.field(factory=dict)

    @property
    def height(self) -> int:
        return self.block.header.height

    @property
    def is_last(self) -> bool:
        """Whether its epoch ends with it."""
        return self.block.header.next_validators_digest != ZERO

    def take(self, digest: Digest, batch: Batch) -> None:
        """A batch came; it is kept if it is missing."""
        if self.missing.pop(digest, None) is not None:
            self.batches[digest] = batch
            self.size_bytes += batch.header.size_bytes


class Window:
    """Slots by height, above the tip and at most `blocks_max` above it."""

    def __init__(self, height: int, digest: Digest, blocks_max: int) -> None:
        self.height = height
        self.digest = digest
        self._blocks_max = blocks_max
        self._slots: dict[int, Slot] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, height: int) -> Slot | None:
        return self._slots.get(height)

    def slots(self) -> list[Slot]:
        """By height."""
        return [self._slots[height] for height in sorted(self._slots)]

    @property
    def size_bytes(self) -> int:
        return sum(slot.size_bytes for slot in self._slots.values())

    @property
    def limit(self) -> int:
        """The highest height that may be asked for: not past the epoch's last block, where it is known."""
        last = [slot.height for slot in self._slots.values() if slot.final and slot.is_last]
        return min([self.height + self._blocks_max, *last])

    def keep(self, got: GotBlock, giver: bytes, now_us: int) -> None:
        """Keep a block where nothing stands; its finalisation, if it has one, was verified.

        A final one takes the place of one that isn't proven.
        """
        block, digest = got.block, got.block.digest()
        height = block.header.height
        if not self.height < height <= self.height + self._blocks_max:
            return
        held = self._slots.get(height)
        if held is not None and held.digest == digest:
            held.finalisation = held.finalisation or got.finalisation
            return
        if held is None:
            headers = [certificate.header for certificate in block.body.certificates]
            self._slots[height] = Slot(
                block,
                digest,
                giver,
                now_us,
                size_bytes=len(block.encode()),
                finalisation=got.finalisation,
                missing={header.digest(): header.size_bytes for header in headers},
            )

    def prove(self) -> list[bytes]:
        """Mark what is final, from the highest finalisation of each run down. Returns who gave blocks that
        the final chain doesn't hold. Raises `Forked`."""
        liars: dict[bytes, None] = {}
        for slot in reversed(self.slots()):
            if slot.finalisation is not None:
                slot.final = True
            if not slot.final:
                continue
            parent = slot.block.header.parent
            if slot.height == self.height + 1 and parent != self.digest:
                raise Forked(f"final block {slot.height} doesn't extend this node's chain")
            below = self._slots.get(slot.height - 1)
            if below is None or below.digest == parent:
                if below is not None:
                    below.final = True
            elif below.final or below.finalisation is not None:
                raise Forked(f"final block {slot.height} doesn't extend final block {below.height}")
            else:
                liars[below.giver] = None
                del self._slots[below.height]
        return list(liars)

    def forget_unproven(self, giver: bytes) -> None:
        """A peer lied: nothing that only it vouches for stays."""
        self._slots = {
            height: slot for height, slot in self._slots.items() if slot.final or slot.giver != giver
        }

    def take(self, batch: Batch) -> None:
        """A batch that was asked for."""
        digest = batch.digest()
        for slot in self._slots.values():
            slot.take(digest, batch)

    def advance(self, height: int, digest: Digest) -> None:
        """The tip is this block now. Raises `Forked` where another is final at its height."""
        slot = self._slots.get(height)
        if slot is not None and slot.final and slot.digest != digest:
            raise Forked(f"this node committed another block {height} than the final one")
        for at in range(self.height + 1, min(height, self.height + self._blocks_max) + 1):
            self._slots.pop(at, None)
        self.height, self.digest = height, digest
