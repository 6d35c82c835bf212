"""What an answer to block sync may be, and what no honest peer gives (CONS-61). Pure.

Whatever doesn't name what was asked for is no answer: it may be one to another machine of this node.
"""

from collections.abc import Sequence

import attrs

from supervm.plugins.consensus.bft.fetching import Absent, GotBlock, Item, OldestHeld, WantBlocks
from supervm.types.batch import Batch
from supervm.types.certificate import VoteKind
from supervm.types.digests import Digest
from supervm.types.errors import InvalidInput
from supervm.types.validators import ValidatorSet


class Lied(Exception):
    """An answer that no honest peer gives."""


@attrs.frozen
class Found:
    """Linked blocks of the epoch from the height asked for on; none of them where the epoch ended before."""

    blocks: tuple[GotBlock, ...]


@attrs.frozen(kw_only=True)
class Expected:
    """What blocks must be like: of this chain and epoch, final by certificates of this set.

    `first`: the lowest height of the epoch that this node lacks; blocks from there on are of the epoch or
    of later ones.
    """

    chain_id: bytes
    epoch: int
    validators: ValidatorSet
    first: int


def judge_blocks(
    items: Sequence[Item], want: WantBlocks, expected: Expected
) -> Found | Absent | OldestHeld | None:
    """The answer to a question for blocks; None where it is none. Raises `Lied`.

    Signatures aren't looked at, and blocks after the last of the epoch aren't either: their set isn't
    known before that is executed.
    """
    first = items[0]
    if isinstance(first, Absent):
        return first if first.want == want else None
    if isinstance(first, OldestHeld):
        if first.height <= want.height:
            raise Lied(f"it holds blocks from {first.height} on, but not {want.height}")
        return first
    if not isinstance(first, GotBlock) or first.block.header.height != want.height:
        return None
    if len(items) > want.count:
        raise Lied(f"{len(items)} blocks where {want.count} were asked for")
    found: list[GotBlock] = []
    for item in items:
        if not isinstance(item, GotBlock):
            raise Lied(f"{type(item).__name__} among blocks")
        if found and found[-1].block.header.next_validators_digest != bytes(32):
            break
        if not _is_of_epoch(item, found[-1] if found else None, want.height + len(found), expected):
            break
        found.append(item)
    return Found(tuple(found))


def _is_of_epoch(item: GotBlock, before: GotBlock | None, height: int, expected: Expected) -> bool:
    """Whether a block is of the expected epoch, or of a later one. Raises `Lied`."""
    header = item.block.header
    if header.epoch != expected.epoch:
        # Only above what is missed may a later epoch have begun, and only after a last block.
        if header.epoch < expected.epoch or height == expected.first or before is not None:
            raise Lied(f"block {height} is of epoch {header.epoch}, not {expected.epoch}")
        return False
    try:
        item.block.check()
    except InvalidInput as error:
        raise Lied(f"block {height}: {error}") from error
    for name, right in (
        ("chain", header.chain_id == expected.chain_id),
        ("height", header.height == height),
        ("validator set", header.validators_digest == expected.validators.digest()),
        ("parent", before is None or header.parent == before.block.digest()),
    ):
        if not right:
            raise Lied(f"block {height} is of another {name}")
    if item.finalisation is not None:
        _check_certificate(item, expected)
    return True


def _check_certificate(item: GotBlock, expected: Expected) -> None:
    certificate, header = item.finalisation, item.block.header
    assert certificate is not None, "only a finalisation is checked"
    named = (certificate.kind, certificate.epoch, certificate.digest)
    if named != (VoteKind.FINALIZE, expected.epoch, item.block.digest()) or certificate.view < 1:
        raise Lied(f"the certificate beside block {header.height} is of something else")
    try:
        certificate.signed(expected.validators)
    except InvalidInput as error:
        raise Lied(f"the certificate of block {header.height}: {error}") from error


def judge_batches(items: Sequence[Item], asked: Sequence[Digest]) -> dict[Digest, Batch | None] | None:
    """Batches by digest, None for one that the peer says it lacks; None where it is no answer.

    A batch is one by its digest alone: its decoder has checked transactions against header.
    """
    found: dict[Digest, Batch | None] = {}
    for item in items:
        if isinstance(item, Batch):
            digest = item.digest()
        elif isinstance(item, Absent) and hasattr(item.want, "digest"):
            digest = item.want.digest
        else:
            return None
        if digest not in asked:
            return None
        found[digest] = item if isinstance(item, Batch) else None
    return found or None
