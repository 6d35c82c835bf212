"""Blocks above the last final one, as the branches that they make."""

from collections.abc import Iterable

import attrs

from supervm.contracts.application import Tip
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.votes import EpochDone
from supervm.types.block import Block
from supervm.types.digests import ZERO, Digest
from supervm.types.errors import DecodeError
from supervm.types.validators import ValidatorSet

OPERATION_KINDS = range(messages.EPOCH_DONE, messages.EQUIVOCATION + 1)
"""A system operation is the frame of an epoch-done, end-epoch, evidence or equivocation (CONS-30)."""


@attrs.frozen(eq=False)
class Node:
    """A block with what is asked of it often. `done`: numbers whose epoch-done it holds."""

    digest: Digest
    block: Block
    batches: frozenset[Digest]
    done: frozenset[int]

    @property
    def height(self) -> int:
        return self.block.header.height

    @property
    def parent(self) -> Digest:
        return self.block.header.parent

    @property
    def is_last(self) -> bool:
        """Whether its epoch ends with it, as its header says."""
        return self.block.header.next_validators_digest != ZERO


def node_of(block: Block, digest: Digest | None = None) -> Node:
    """The node of a block. Raises `DecodeError` where a system operation is none, or a batch stands twice."""
    certificates = block.body.certificates
    batches = frozenset(each.header.digest() for each in certificates)
    if len(batches) != len(certificates):
        raise DecodeError("NonCanonical", "body.certificates", len(certificates), "a batch at most once")
    done = done_in(block.body.system_operations)
    return Node(block.digest() if digest is None else digest, block, batches, done)


def done_in(operations: Iterable[bytes]) -> frozenset[int]:
    """Numbers of validators whose epoch-done is among these. Raises `DecodeError`."""
    read = [_read_operation(data) for data in operations]
    return frozenset(each.validator for each in read if isinstance(each, EpochDone))


def _read_operation(data: bytes) -> messages.Message:
    if not data or data[0] not in OPERATION_KINDS:
        raise DecodeError("UnknownFormat", "body.system_operation", data, "a frame of kind 14 to 17")
    return messages.decode(data)


def tip_of(node: Node) -> Tip:
    header = node.block.header
    return Tip(
        height=header.height,
        digest=node.digest,
        epoch=header.epoch,
        timestamp_ms=header.timestamp_ms,
        root_height=header.root_height,
        state_root=header.state_root,
    )


class ForksFinal(Exception):
    """A block doesn't descend from the last final one."""


class Unlinked(Exception):
    """An ancestor isn't here. `digest`: the highest that is missing."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        super().__init__(digest.hex())


class Branches:
    """The last final block, and blocks above it that a vote or a certificate named.

    `ordered`, `done`, `operations`: batches, epoch-done numbers and system operations in this epoch's
    final blocks, so bounded by what an epoch holds. Proofs of clients aren't kept: anybody makes them.
    """

    def __init__(self, tip: Tip, ordered: frozenset[Digest], done: frozenset[int]) -> None:
        self.tip = tip
        self.ordered = set(ordered)
        self.done = set(done)
        self.operations: set[bytes] = set()
        self.tip_is_last = False
        self._nodes: dict[Digest, Node] = {}

    def get(self, digest: Digest) -> Node | None:
        return self._nodes.get(digest)

    def add(self, node: Node) -> None:
        if node.height > self.tip.height:
            self._nodes.setdefault(node.digest, node)

    def path(self, digest: Digest) -> list[Node]:
        """The blocks above the last final one down from this, the highest first; empty for that one.

        Raises `Unlinked` where one is missing, `ForksFinal` where they don't lead to the final chain.
        """
        path: list[Node] = []
        while digest != self.tip.digest:
            node = self._nodes.get(digest)
            if node is None:
                raise Unlinked(digest)
            if node.height <= self.tip.height + 1 and node.parent != self.tip.digest:
                raise ForksFinal(node.digest.hex())
            path.append(node)
            digest = node.parent
        return path

    def branch(self, digest: Digest) -> "Branch":
        """The branch that ends with this block; raises as `path`."""
        path = self.path(digest)
        return Branch(self, tuple(path), tip_of(path[0]) if path else self.tip)

    def finalise(self, digest: Digest) -> list[Node]:
        """Make a block the last final one. Returns the newly final blocks, lowest first; raises as `path`."""
        path = self.path(digest)
        for node in reversed(path):
            self.ordered |= node.batches
            self.done |= node.done
            held = node.block.body.system_operations
            self.operations.update(each for each in held if each[0] != messages.EQUIVOCATION)
        if path:
            self.tip = tip_of(path[0])
            self.tip_is_last = path[0].is_last
            lowest = self.tip.height
            self._nodes = {key: node for key, node in self._nodes.items() if node.height > lowest}
        return path[::-1]

    def __len__(self) -> int:
        return len(self._nodes)


class Branch:
    """A block with its ancestors in this epoch: what a proposal on top of it must not repeat."""

    def __init__(self, branches: Branches, path: tuple[Node, ...], head: Tip) -> None:
        self._branches = branches
        self.path = path
        self.head = head

    def __contains__(self, batch: object) -> bool:
        """Whether a batch is ordered on it, by digest."""
        return batch in self._branches.ordered or any(batch in node.batches for node in self.path)

    def holds_operation(self, operation: bytes) -> bool:
        """Whether it or a final block of this epoch holds an operation that is no client's proof."""
        return operation in self._branches.operations or self.places(operation)

    def places(self, operation: bytes) -> bool:
        """Whether a block of it above the last final one holds an operation."""
        return any(operation in node.block.body.system_operations for node in self.path)

    @property
    def holds_content(self) -> bool:
        """Whether a block of it above the last final one isn't empty."""
        return any(n.batches or n.block.body.system_operations for n in self.path)

    def done(self) -> set[int]:
        """Numbers of validators whose epoch-done it holds."""
        found = set(self._branches.done)
        for node in self.path:
            found |= node.done
        return found

    @property
    def is_closed(self) -> bool:
        """Whether it ends with the epoch's last block."""
        return self.path[0].is_last if self.path else self._branches.tip_is_last


def closes(branch: Branch, done: frozenset[int], validators: ValidatorSet) -> bool:
    """Whether a block with these epoch-dones on this branch is the epoch's last (CONS-51)."""
    numbers = branch.done() | done
    return validators.is_quorum(sum(validators.members[number].weight for number in numbers))
