"""What peers say of others is judged apart from votes, and who slanders is blamed (CONS-38, CONS-70)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio

from supervm.chain.application import Chain
from supervm.execution.footprint import nonce_lock
from supervm.plugins.consensus.bft.driver.accusing import (
    WAITING_MAX,
    Accusation,
    Accusations,
    Hands,
    Verdict,
    judge_accusation,
)
from supervm.plugins.consensus.bft.driver.receiving import Incoming
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.messages import Equivocation, Message

from .network import WAIT_S, network
from .slow_judges import SlowJudge

HOSTILE, HONEST = b"hostile", b"honest"
TO = b"\x07" * 32


def proof(number: int) -> Equivocation:
    return Equivocation(b"a", b"b", number.to_bytes(4, "big"))


LAST = proof(2**30)


@attrs.define
class Court:
    """Judges whatever it is told to be false as false, and notes what happens, in order."""

    verdict: Verdict = Verdict.DOUBTED
    badly_signed: bool = False
    useless: set[bytes] = attrs.Factory(set)
    judged: list[bytes] = attrs.Factory(list)
    blamed: list[tuple[bytes, str]] = attrs.Factory(list)
    delivered: list[tuple[bytes, Message]] = attrs.Factory(list)
    done: trio.Event = attrs.Factory(trio.Event)

    def is_of_use(self, message: Accusation) -> bool:
        assert isinstance(message, Equivocation)
        if message == LAST:
            self.done.set()
        return message != LAST and message.lock not in self.useless

    async def judge(self, messages: Sequence[Message]) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["BadSignature" if self.badly_signed else "" for _ in messages]

    def weigh(self, message: Accusation) -> Verdict:
        assert isinstance(message, Equivocation)
        self.judged.append(message.lock)
        return self.verdict

    def accusations(self) -> Accusations:
        hands = Hands(
            is_of_use=self.is_of_use,
            blame=lambda peer, code: self.blamed.append((peer, code)),
            deliver=lambda peer, message: self.delivered.append((peer, message)),
        )
        return Accusations((HOSTILE, HONEST), cast(Any, self), self.weigh, hands)


async def settle(accusations: Accusations, court: Court) -> None:
    """Until all that a peer said before is dealt with: one of its accusations is taken up after the other."""
    accusations.put(HONEST, LAST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accusations.run)
        with trio.fail_after(WAIT_S):
            await court.done.wait()
        nursery.cancel_scope.cancel()


async def test_one_that_floods_with_accusations_waits_behind_itself() -> None:
    court = Court()
    accusations = court.accusations()
    for number in range(4 * WAITING_MAX):
        accusations.put(HOSTILE, proof(number))
    assert len(accusations._waiting._shares[HOSTILE].waiting) == WAITING_MAX
    accusations.put(HONEST, proof(2**20))
    await settle(accusations, court)
    assert proof(2**20).lock in court.judged[:2] and len(court.judged) <= 4
    assert not court.blamed and not court.delivered


@pytest.mark.parametrize("verdict", list(Verdict))
async def test_only_what_is_false_by_its_bytes_is_counted_against_its_sender(verdict: Verdict) -> None:
    court = Court(verdict)
    accusations = court.accusations()
    accusations.put(HONEST, proof(1))
    await settle(accusations, court)
    assert court.blamed == ([(HONEST, "ProofInvalid")] if verdict is Verdict.FALSE else [])
    assert court.delivered == ([(HONEST, proof(1))] if verdict is Verdict.PROVEN else [])


async def test_what_is_known_by_now_is_not_looked_into() -> None:
    court = Court(Verdict.FALSE, useless={proof(1).lock})
    accusations = court.accusations()
    accusations.put(HONEST, proof(1))
    await settle(accusations, court)
    assert not court.judged and not court.blamed


async def test_nor_is_what_nobody_signed() -> None:
    court = Court(Verdict.PROVEN, badly_signed=True)
    accusations = court.accusations()
    accusations.put(HONEST, proof(1))
    await settle(accusations, court)
    assert not court.judged and not court.delivered and court.blamed == [(HONEST, "BadSignature")]


async def test_votes_do_not_wait_for_a_proof_that_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SlowJudge("it isn't looked at")
    monkeypatch.setattr(Chain, "doubts", judge)
    async with network(tmp_path, begin=False) as net:
        # Each of them is needed.
        for number in range(3):
            await net.start(number)
        twice = sorted(net.transfer(0, TO, amount, nonce=5).data for amount in (1, 2))
        life = net.nodes[0].engine.life
        assert isinstance(life, Validator)
        said = Equivocation(twice[0], twice[1], nonce_lock(net.users[0].address, 5))
        peer = net.validators[1].node_id
        life._reception.inboxes[Stream.VOTES].put(Incoming(peer, said, 1_000))
        await judge.holds_up_nothing(net)


async def test_a_proof_of_a_peer_waits_for_a_block_once_it_is_judged(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        life = net.nodes[0].engine.life
        assert isinstance(life, Validator)
        lock = nonce_lock(net.users[0].address, 5)
        twice = sorted(net.transfer(0, TO, amount, nonce=5).data for amount in (1, 2))
        said = Equivocation(twice[0], twice[1], lock)
        judge = life._ordering.epoch.judge_operations
        forged = attrs.evolve(said, second=said.second[:-1] + bytes((said.second[-1] ^ 1,)))
        stale = attrs.evolve(said, lock=nonce_lock(net.users[0].address, 6))
        assert judge_accusation(net.nodes[0].chain, judge, said) is Verdict.PROVEN
        assert judge_accusation(net.nodes[0].chain, judge, forged) is Verdict.FALSE
        assert judge_accusation(net.nodes[0].chain, judge, stale) is Verdict.FALSE
        life._reception.inboxes[Stream.VOTES].put(Incoming(net.validators[1].node_id, said, 1_000))
        ledger = net.nodes[0].chain.ledger
        with trio.fail_after(WAIT_S):
            while not life._voter.table.is_equivocator(net.users[0].address):
                await ledger.wait_above(ledger.tip.height)
