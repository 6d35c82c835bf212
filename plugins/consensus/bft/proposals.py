"""What a voter asks of a proposal before it says notarize (CONS-30, 32, 42, 43, 44, 55). Pure.

A proposal is good, breaks a rule for good (`Broken`), or can't be judged yet (`Waits`). Nothing here looks
at transactions, balances or proofs, and nothing verifies a signature: the driver has.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import attrs

from supervm.contracts.application import BlockBounds, Tip
from supervm.plugins.consensus.bft.branches import Branch, Node, closes
from supervm.plugins.consensus.bft.fetching import VIEWS_MAX, Want, WantViews
from supervm.plugins.consensus.bft.roots import Roots, next_step, takes_batches
from supervm.plugins.consensus.bft.views import is_of_quorum
from supervm.plugins.consensus.bft.votes import Proposal
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.digests import ZERO, Digest
from supervm.types.errors import InvalidInput
from supervm.types.validators import ValidatorSet

TIMESTAMP_AHEAD_MS = 500


class Broken(Exception):
    """The proposal breaks a rule: no honest validator votes for it."""

    def __init__(self, rule: str, problem: str) -> None:
        self.rule = rule
        self.problem = problem
        super().__init__(f"{rule}: {problem}")


class Waits(Exception):
    """Something isn't here yet: what to ask for (None: it comes by itself), and why."""

    def __init__(self, problem: str, want: Want | None = None) -> None:
        self.problem = problem
        self.want = want
        super().__init__(problem)


@attrs.frozen(kw_only=True, slots=False)
class Epoch:
    """What doesn't change within an epoch. `base`: the last block of the one before, or genesis.

    `base_finalisation` is None for genesis. `judge_operations` says why system operations aren't valid by
    their own bytes and the epoch's set, or nothing.
    """

    chain_id: bytes
    number: int
    validators: ValidatorSet
    base: Tip
    base_finalisation: Certificate | None
    bounds: BlockBounds
    judge_operations: Callable[[Sequence[bytes]], str] = lambda operations: ""

    @cached_property
    def validators_digest(self) -> Digest:
        return self.validators.digest()


class Knowledge(Protocol):
    """What the judging machine knows."""

    def branch(self, digest: Digest) -> Branch:
        """The branch that ends with this block. Raises `Waits`, `Broken`."""

    def first_not_nullified(self, first: int, last: int) -> int | None:
        """The lowest of these views for which no nullification is held."""

    def leader_of(self, view: int) -> int:
        """The number of the validator that leads this view of the epoch."""

    @property
    def roots(self) -> Roots:
        """What this node executed."""

    @property
    def final_height(self) -> int:
        """Height of the last final block."""

    @property
    def final_view(self) -> int:
        """The view in which it was notarised."""


def justified_view(proposal: Proposal, epoch: Epoch) -> int:
    """The view of the certificate by which a proposal proves its parent; raises `Broken`.

    View 0 is the last block of the epoch before, by its finalisation (genesis: nothing). A block that is
    proposed again has its own notarisation for parent (CONS-55).
    """
    header = proposal.block.header
    certificate = proposal.notarisation
    if certificate is not None:
        if header.next_validators_digest == ZERO:
            raise Broken("CONS-55", "only an epoch's last block is proposed again")
        _check_notarisation(certificate, proposal.block.digest(), proposal.view, epoch)
        return certificate.view
    justification = proposal.block.body.justification
    if header.parent == epoch.base.digest:
        _check_base(justification, epoch)
        return 0
    try:
        certificate = Certificate.decode(justification)
    except InvalidInput as error:
        raise Broken("CONS-32", f"the parent isn't proven: {error}") from error
    _check_notarisation(certificate, header.parent, proposal.view, epoch)
    return certificate.view


def _check_notarisation(certificate: Certificate, digest: Digest, below: int, epoch: Epoch) -> None:
    for name, right in (
        ("kind", certificate.kind == VoteKind.NOTARIZE),
        ("epoch", certificate.epoch == epoch.number),
        ("digest", certificate.digest == digest),
        ("view", 1 <= certificate.view < below),
        ("quorum", is_of_quorum(certificate, epoch.validators)),
    ):
        if not right:
            raise Broken("CONS-32", f"the parent's notarisation is of another {name}")


def _check_base(justification: bytes, epoch: Epoch) -> None:
    if epoch.base_finalisation is None:
        if justification:
            raise Broken("CONS-30", "genesis has no certificate")
        return
    try:
        certificate = Certificate.decode(justification)
    except InvalidInput as error:
        raise Broken("CONS-32", f"the parent isn't proven: {error}") from error
    if (certificate.kind, certificate.epoch, certificate.digest) != (
        VoteKind.FINALIZE,
        epoch.base.epoch,
        epoch.base.digest,
    ):
        raise Broken("CONS-32", "not the finalisation of the last epoch's last block")


def judge(proposal: Proposal, node: Node, epoch: Epoch, known: Knowledge, wall_ms: int) -> None:
    """Return if this validator may notarize; else raise `Broken` or `Waits`."""
    parent_view = justified_view(proposal, epoch)
    gap = known.first_not_nullified(parent_view + 1, proposal.view - 1)
    if gap is not None:
        last = min(proposal.view - 1, gap + VIEWS_MAX - 1)
        raise Waits(f"view {gap} isn't nullified", WantViews(epoch.number, gap, last))
    if proposal.notarisation is not None:
        return
    branch = known.branch(node.parent)
    if branch.is_closed:
        raise Broken("CONS-55", "the parent is the epoch's last block")
    _check_header(node, proposal.view, epoch, branch, known)
    _check_body(node, epoch, branch)
    _check_root(node, epoch, branch, known)
    if node.block.header.timestamp_ms > wall_ms + TIMESTAMP_AHEAD_MS:
        raise Waits("the timestamp is ahead of this node's clock")


def _check_header(node: Node, view: int, epoch: Epoch, branch: Branch, known: Knowledge) -> None:
    """Of a block that is first proposed in this view: its leader is its proposer."""
    header, parent = node.block.header, branch.head
    leader = epoch.validators.members[known.leader_of(view)].node_id
    for rule, problem, right in (
        ("CONS-30", "another chain", header.chain_id == epoch.chain_id),
        ("CONS-42", "another epoch", header.epoch == epoch.number),
        ("CONS-30", "the height doesn't follow the parent's", header.height == parent.height + 1),
        ("CONS-30", "before the parent's time", header.timestamp_ms >= parent.timestamp_ms),
        ("CONS-54", "another validator set", header.validators_digest == epoch.validators_digest),
        ("CONS-30", "the root height goes back", header.root_height >= parent.root_height),
        (
            "CONS-30",
            "the root height is too close",
            header.root_height <= known.roots.highest_allowed(header.height),
        ),
        ("CONS-30", "the root height leaps", header.root_height <= next_step(parent.root_height)),
        ("CONS-30", "the proposer isn't the view's leader", header.proposer == leader),
    ):
        if not right:
            raise Broken(rule, problem)


def _check_body(node: Node, epoch: Epoch, branch: Branch) -> None:
    header, body = node.block.header, node.block.body
    if body.certificates and not takes_batches(header.height, header.root_height):
        raise Broken("CONS-44", "batches, though execution is far behind")
    headers = [certificate.header for certificate in body.certificates]
    bounds = epoch.bounds
    for name, found, most in (
        ("gas", sum(each.gas for each in headers), bounds.gas_max),
        ("bytes", sum(each.size_bytes for each in headers), bounds.bytes_max),
        ("transactions", sum(each.count for each in headers), bounds.transactions_max),
        ("batches", len(headers), bounds.batches_max),
        ("operation bytes", sum(map(len, body.system_operations)), bounds.operations_bytes_max),
    ):
        if found > most:
            raise Broken("CONS-30", f"more {name} than {most}")
    _check_order(node, epoch, branch)
    count = len(epoch.validators.members)
    if any(number >= count for number in node.done):
        raise Broken("CONS-51", "epoch-done of nobody in the set")
    problem = epoch.judge_operations(body.system_operations)
    if problem:
        raise Broken("CONS-30", problem)
    if closes(branch, node.done, epoch.validators) != node.is_last:
        raise Broken("CONS-54", "a next set is named by the epoch's last block, and by no other")


def _check_order(node: Node, epoch: Epoch, branch: Branch) -> None:
    """Every batch once on a branch, of this epoch, certified, after its past (CONS-42)."""
    seen: set[Digest] = set()
    for certificate in node.block.body.certificates:
        header = certificate.header
        digest = header.digest()
        if digest in branch:
            raise Broken("CONS-42", "a batch stands twice on the branch")
        if header.epoch != epoch.number or header.chain_id != epoch.chain_id:
            raise Broken("CONS-42", "a batch of another epoch or chain")
        if not all(before in seen or before in branch for before in header.after):
            raise Broken("CONS-42", "a batch stands before one of its past")
        try:
            certificate.signed(epoch.validators)
        except InvalidInput as error:
            raise Broken("CONS-4", str(error)) from error
        seen.add(digest)


def _check_root(node: Node, epoch: Epoch, branch: Branch, known: Knowledge) -> None:
    header = node.block.header
    own = known.roots.get(header.root_height)
    if own is None:
        want = None
        if header.root_height > known.final_height:
            first = known.final_view + 1
            want = WantViews(epoch.number, first, first + VIEWS_MAX - 1)
        raise Waits("the block at the root height isn't executed here", want)
    for problem, right in (
        ("another state root", header.state_root == own.state_root),
        (
            "another receipts root",
            header.receipts_root == known.roots.receipts_root(branch.head.root_height, own.height),
        ),
        ("another base price", header.base_price == own.base_price),
        ("another next set", header.next_validators_digest in (ZERO, own.next_validators)),
    ):
        if not right:
            raise Broken("CONS-43", problem)
