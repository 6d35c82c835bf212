"""Four machines with real ed25519 keys, every message as bytes and verified (CONS-38)."""

import attrs
import pytest

from supervm.contracts.application import Tip
from supervm.crypto.keys import generate
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.events import (
    ExecutedBlock,
    Final,
    Log,
    Logged,
    Now,
    Output,
    Received,
    Send,
    Work,
)
from supervm.plugins.consensus.bft.offences import Evidence, Offence
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.simplex import Ordering, Start
from supervm.plugins.consensus.bft.verifying import verify
from supervm.plugins.consensus.bft.votes import EpochDone, Proposal, ViewVote
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.errors import InvalidInput
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.world import BOUNDS, CHAIN, GENESIS, WaitingWork, genesis_facts

NOW = Now(0, 1_700_000_000_000)


class Four:
    """Four machines side by side: what one sends all get at once, and what is logged is durable at once."""

    def __init__(self) -> None:
        self.keys = [generate() for _ in range(4)]
        self.validators = ValidatorSet(
            tuple(Validator(bytes([n + 1]) * 32, key.public_key, 1) for n, key in enumerate(self.keys))
        )
        base = Tip(
            height=0,
            digest=GENESIS,
            epoch=0,
            timestamp_ms=0,
            root_height=0,
            state_root=genesis_facts().state_root,
        )
        self.epoch = Epoch(
            chain_id=CHAIN,
            number=1,
            validators=self.validators,
            base=base,
            base_finalisation=None,
            bounds=BOUNDS,
        )
        self.pools = [WaitingWork() for _ in range(4)]
        self.machines = [
            Ordering(
                Start(epoch=self.epoch, own=n, tip=base, tip_view=0, executed=(genesis_facts(),)),
                key.sign,
                pool,
            )
            for n, (key, pool) in enumerate(zip(self.keys, self.pools, strict=True))
        ]
        self.sent: list[messages.Message] = []
        self.final: list[list[Final]] = [[] for _ in range(4)]

    def work(self, done: EpochDone) -> None:
        for pool in self.pools:
            pool.done[done.validator] = messages.encode(done)
            pool.closing = True

    def run(self, steps: int) -> None:
        waiting: list[tuple[int, Output]] = []
        for number, machine in enumerate(self.machines):
            waiting += [(number, output) for output in machine.start([], NOW)]
            waiting += [(number, output) for output in machine.step(Work(), NOW)]
        for _ in range(steps):
            if not waiting:
                return
            number, output = waiting.pop(0)
            waiting += self._carry_out(number, output)

    def _carry_out(self, number: int, output: Output) -> list[tuple[int, Output]]:
        if isinstance(output, Log):
            return [(number, each) for each in self.machines[number].step(Logged(output.number), NOW)]
        if isinstance(output, Final):
            self.final[number].append(output)
            height = output.block.header.height
            facts = attrs.evolve(genesis_facts(), height=height, state_root=bytes([height]) * 32)
            return [(number, each) for each in self.machines[number].step(facts, NOW)]
        if not isinstance(output, Send):
            return []
        frame = messages.encode(output.message)
        found = []
        for other, machine in enumerate(self.machines):
            if other != number:
                message = messages.decode(frame)
                verify(message, self.epoch, machine.leader_of)
                event = Received(self.validators.members[number].node_id, message)
                found += [(other, each) for each in machine.step(event, NOW)]
        self.sent.append(output.message)
        return found


@pytest.fixture(scope="module")
def four() -> Four:
    made = Four()
    vote = ViewVote(VoteKind.NOTARIZE, 1, 1, GENESIS, 0, bytes(64))
    unsigned = EpochDone(1, 2, vote.signature)
    made.work(attrs.evolve(unsigned, signature=made.keys[2].sign(unsigned.message(CHAIN))))
    made.run(2_000)
    return made


def test_all_make_the_same_first_block_final_with_a_certificate_that_verifies(four: Four) -> None:
    first = [finals[0] for finals in four.final]
    assert len({final.block.digest() for final in first}) == 1
    certificate = first[0].certificate
    assert certificate is not None and certificate.kind == VoteKind.FINALIZE
    verify(certificate, four.epoch, four.machines[0].leader_of)


@pytest.mark.parametrize("kind", [ViewVote, Certificate, Proposal])
def test_a_message_that_is_changed_anywhere_in_what_is_signed_is_refused(four: Four, kind: type) -> None:
    message = next(each for each in four.sent if isinstance(each, kind))
    leader_of = four.machines[0].leader_of
    verify(message, four.epoch, leader_of)
    wrong = [
        attrs.evolve(message, view=message.view + 1),  # type: ignore[union-attr,call-arg]
        attrs.evolve(message, epoch=2),  # type: ignore[call-arg]
    ]
    if isinstance(message, Certificate):
        wrong += [
            attrs.evolve(message, digest=b"x" * 32),
            attrs.evolve(message, signatures=message.signatures[::-1]),
            attrs.evolve(message, bitmap=b"\x03", signatures=message.signatures[:2]),
        ]
    if isinstance(message, ViewVote):
        wrong += [
            attrs.evolve(message, validator=(message.validator + 1) % 4),
            attrs.evolve(message, validator=9),
        ]
    if isinstance(message, Proposal):
        done = EpochDone(1, 1, bytes(64))
        body = attrs.evolve(message.block.body, system_operations=(messages.encode(done),))
        wrong.append(attrs.evolve(message, block=attrs.evolve(message.block, body=body)))
    for each in wrong:
        with pytest.raises(InvalidInput):
            verify(each, four.epoch, leader_of)


def test_evidence_holds_only_with_both_signatures_of_the_validator_that_it_names(four: Four) -> None:
    def vote(digest: bytes, signer: int) -> ViewVote:
        unsigned = ViewVote(VoteKind.NOTARIZE, 1, 9, digest * 32, 2, bytes(64))
        return attrs.evolve(unsigned, signature=four.keys[signer].sign(unsigned.message(CHAIN)))

    evidence = Evidence(Offence.NOTARIZES, vote(b"a", 2), vote(b"b", 2))
    leader_of = four.machines[0].leader_of
    verify(evidence, four.epoch, leader_of)
    slander = attrs.evolve(evidence, second=vote(b"b", 3))
    for each in (slander, attrs.evolve(evidence, first=attrs.evolve(evidence.first, epoch=2))):
        with pytest.raises(InvalidInput):
            verify(each, four.epoch, leader_of)
    proposal = next(each for each in four.sent if isinstance(each, Proposal) and each.notarisation is None)
    body = attrs.evolve(proposal.block.body, system_operations=(messages.encode(slander),))
    with pytest.raises(InvalidInput):
        verify(attrs.evolve(proposal, block=attrs.evolve(proposal.block, body=body)), four.epoch, leader_of)


def test_executed_facts_of_another_root_than_a_final_header_shows_stop_the_node(four: Four) -> None:
    machine = four.machines[0]
    shown = max(final.block.header.root_height for final in four.final[0])
    wrong = ExecutedBlock(shown, b"w" * 32, bytes(32), 10_000, bytes(32))
    if shown == 0:
        machine.roots.claim(four.final[0][0].block.header)
    outputs = machine.step(wrong, NOW)
    assert any("computed here" in getattr(output, "reason", "") for output in outputs)
    assert machine.halted and machine.step(Work(), NOW) == []
