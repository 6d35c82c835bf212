"""Each rule of a proposal refuses one that breaks it alone (CONS-30, 32, 42, 43, 44, 54, 55)."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.branches import node_of
from supervm.plugins.consensus.bft.proposals import Broken, Waits, judge
from supervm.plugins.consensus.bft.simplex import Ordering
from supervm.plugins.consensus.bft.votes import EpochDone, Proposal
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.errors import InvalidInput
from tests.consensus_bft.sim.plan import SECOND, Plan
from tests.consensus_bft.sim.world import World, node_id

PLAN = Plan(seed=4, weights=(1,) * 4, skews_ms=(0,) * 4, work_us=tuple(range(0, 1_500_000, 100_000)))


def with_header(proposal: Proposal, **changes: Any) -> Proposal:
    block = proposal.block
    return attrs.evolve(proposal, block=Block(attrs.evolve(block.header, **changes), block.body))


def with_body(proposal: Proposal, **changes: Any) -> Proposal:
    body = attrs.evolve(proposal.block.body, **changes)
    changed = attrs.evolve(proposal, block=Block(proposal.block.header, body))
    return with_header(changed, body_digest=body.digest(), transactions_root=body.transactions_root())


def with_justification(proposal: Proposal, **changes: Any) -> Proposal:
    certificate = attrs.evolve(Certificate.decode(proposal.block.body.justification), **changes)
    return with_body(proposal, justification=certificate.encode())


def twice(proposal: Proposal) -> Proposal:
    return with_body(proposal, certificates=proposal.block.body.certificates * 2)


def with_batch(proposal: Proposal, **changes: Any) -> Proposal:
    first = proposal.block.body.certificates[0]
    changed = attrs.evolve(first, header=attrs.evolve(first.header, **changes))
    return with_body(proposal, certificates=(changed,))


def few_accepts(proposal: Proposal) -> Proposal:
    first = proposal.block.body.certificates[0]
    few = attrs.evolve(first, bitmap=b"\x03", signatures=first.signatures[:2])
    return with_body(proposal, certificates=(few,))


def done_by(*numbers: int) -> tuple[bytes, ...]:
    return tuple(messages.encode(EpochDone(1, number, bytes(64))) for number in numbers)


def height(proposal: Proposal) -> int:
    return proposal.block.header.height


def another_than(proposal: Proposal) -> bytes:
    """Another validator than the one that proposes."""
    return next(each for each in map(node_id, range(PLAN.count)) if each != proposal.block.header.proposer)


CHANGES: dict[str, tuple[str, Callable[[Proposal], Proposal]]] = {
    "another chain": ("CONS-30", lambda p: with_header(p, chain_id=b"x" * 32)),
    "another epoch": ("CONS-42", lambda p: with_header(p, epoch=2)),
    "a height too high": ("CONS-30", lambda p: with_header(p, height=height(p) + 1)),
    "before its parent": ("CONS-30", lambda p: with_header(p, timestamp_ms=5)),
    "another set": ("CONS-54", lambda p: with_header(p, validators_digest=b"x" * 32)),
    "a next set in the middle": ("CONS-54", lambda p: with_header(p, next_validators_digest=b"x" * 32)),
    "the last block without a next set": (
        "CONS-54",
        lambda p: with_body(p, system_operations=done_by(0, 1, 2)),
    ),
    "a root too close": ("CONS-30", lambda p: with_header(p, root_height=height(p) - 1)),
    "a root that goes back": ("CONS-30", lambda p: with_header(p, root_height=0)),
    "another state root": ("CONS-43", lambda p: with_header(p, state_root=b"x" * 32)),
    "another receipts root": ("CONS-43", lambda p: with_header(p, receipts_root=b"x" * 32)),
    "another base price": ("CONS-43", lambda p: with_header(p, base_price=1)),
    "a proposer that isn't the leader": ("CONS-30", lambda p: with_header(p, proposer=another_than(p))),
    "a proposer of nowhere": ("CONS-30", lambda p: with_header(p, proposer=b"x" * 32)),
    "a parent that its certificate doesn't name": ("CONS-32", lambda p: with_header(p, parent=b"x" * 32)),
    "no certificate": ("CONS-32", lambda p: with_body(p, justification=b"")),
    "a finalisation": ("CONS-32", lambda p: with_justification(p, kind=VoteKind.FINALIZE)),
    "a notarisation of another epoch": ("CONS-32", lambda p: with_justification(p, epoch=2)),
    "a notarisation of this view": ("CONS-32", lambda p: with_justification(p, view=p.view)),
    "too few notarize": (
        "CONS-32",
        lambda p: with_justification(p, bitmap=b"\x03", signatures=(bytes(64),) * 2),
    ),
    "a batch twice": ("CONS-30", twice),
    "a batch of another epoch": ("CONS-42", lambda p: with_batch(p, epoch=2)),
    "a batch before its past": ("CONS-42", lambda p: with_batch(p, after=(b"x" * 32,))),
    "a batch of too much gas": ("CONS-30", lambda p: with_batch(p, gas=10**12)),
    "a batch that too few accepted": ("CONS-4", few_accepts),
    "epoch-done of nobody": ("CONS-51", lambda p: with_body(p, system_operations=done_by(9))),
    "an operation that is none": ("CONS-30", lambda p: with_body(p, system_operations=(b"x",))),
    "again, in the middle of an epoch": (
        "CONS-55",
        lambda p: attrs.evolve(p, notarisation=Certificate.decode(p.block.body.justification)),
    ),
}


class Probing(Ordering):
    """Judges every good proposal that holds a batch once more, changed in one thing."""

    change: Callable[[Proposal], Proposal]
    verdicts: list[str]

    def _judge(self, view: Any) -> None:
        before = view.notarized
        super()._judge(view)
        proposal = view.proposal
        if before is not None or view.notarized is None or not proposal.block.body.certificates:
            return
        if self.branch(proposal.block.header.parent).head.root_height > 0:
            self.verdicts.append(self._verdict(type(self).change(proposal)))

    def _verdict(self, proposal: Proposal) -> str:
        try:
            judge(proposal, node_of(proposal.block), self.epoch, self, self._now.wall_ms)
        except Broken as broken:
            return broken.rule
        except Waits as waits:
            return f"waits: {waits.problem}"
        except InvalidInput:
            return "CONS-30"
        return "good"


def verdicts_of(change: Callable[[Proposal], Proposal]) -> set[str]:
    machine = type("Probe", (Probing,), {"change": staticmethod(change), "verdicts": []})
    world = World(PLAN, machine)
    world.start()
    world.run(2 * SECOND)
    assert len(machine.verdicts) > 5, "proposals were judged"
    return set(machine.verdicts)


@pytest.mark.parametrize("name", CHANGES)
def test_a_proposal_that_breaks_one_rule_is_refused_for_it(name: str) -> None:
    rule, change = CHANGES[name]
    assert verdicts_of(change) == {rule}


def test_a_proposal_that_is_not_changed_is_good() -> None:
    assert verdicts_of(lambda proposal: proposal) == {"good"}


def test_a_proposal_ahead_of_the_clock_waits_for_it() -> None:
    def later(proposal: Proposal) -> Proposal:
        return with_header(proposal, timestamp_ms=proposal.block.header.timestamp_ms + 2_000)

    assert verdicts_of(later) == {"waits: the timestamp is ahead of this node's clock"}
