"""Whoever floods a node with questions keeps nobody else from an answer (CONS-39, CONS-61, CONS-92)."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from supervm.plugins.consensus.bft.driver.answering import ANSWER_BYTES, Answers
from supervm.plugins.consensus.bft.fetching import (
    Absent,
    Got,
    GotPart,
    Item,
    Want,
    WantBlocks,
    WantDigest,
    WantPart,
    What,
)

HOSTILE, HONEST, GUEST = b"hostile", b"honest", b"guest"
RANGE = (WantBlocks(1, 256),)


def batch(number: int) -> tuple[Want, ...]:
    return (WantDigest(What.BATCH, number.to_bytes(32, "big")),)


@attrs.define
class Desk:
    """Answers whose ledger isn't asked: what they look at, and whom they answer, in order."""

    item: Callable[[Want], Item] = Absent
    looked: list[Want] = attrs.Factory(list)
    answered: list[tuple[bytes, Got]] = attrs.Factory(list)

    def young(self, want: Want) -> Iterable[Item]:
        self.looked.append(want)
        return (self.item(want),)

    def answers(self) -> Answers:
        nothing = cast(Any, None)
        return Answers(nothing, nothing, self.young, lambda peer, got: self.answered.append((peer, got)))

    def order(self, peer: bytes) -> list[Want]:
        """What a peer was answered to, first to last."""
        return [cast(Absent, got.items[0]).want for each, got in self.answered if each == peer]


async def serve(answers: Answers) -> None:
    """Until nothing waits."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answers.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_guest", [False, True])
async def test_one_that_asks_for_large_ranges_without_end_keeps_nobody_waiting(is_guest: bool) -> None:
    desk = Desk()
    answers = desk.answers()
    for _ in range(2_000):
        answers.put(HOSTILE, RANGE, is_guest=is_guest)
    answers.put(HONEST, batch(1))
    await serve(answers)
    turns = [peer for peer, _ in desk.answered]
    assert HONEST in turns[:2], f"after {turns.index(HONEST) if HONEST in turns else 'all'} questions"
    assert len(turns) <= 65, "what one peer left waiting is bounded"


async def test_many_guests_together_get_one_turn_of_a_validator() -> None:
    desk = Desk()
    answers = desk.answers()
    for guest in range(64):
        for _ in range(9):
            answers.put(GUEST + bytes((guest,)), RANGE, is_guest=True)
    for number in range(4):
        answers.put(HONEST, batch(number))
    await serve(answers)
    turns = [peer for peer, _ in desk.answered]
    assert turns[:8].count(HONEST) == 4
    assert len(turns) == 64 * 3 + 4


async def test_every_guest_has_its_turn() -> None:
    desk = Desk()
    answers = desk.answers()
    for _ in range(3):
        answers.put(GUEST, RANGE, is_guest=True)
    answers.put(GUEST + b"'s friend", RANGE, is_guest=True)
    await serve(answers)
    assert [peer for peer, _ in desk.answered][:2] == [GUEST, GUEST + b"'s friend"]


async def test_what_waits_of_a_guest_that_has_gone_is_not_read_for_nobody() -> None:
    desk = Desk()
    answers = desk.answers()
    for _ in range(3):
        answers.put(GUEST, RANGE, is_guest=True)
    answers.put(GUEST + b"'s friend", RANGE, is_guest=True)
    answers.keep_guests({GUEST + b"'s friend": None})
    await serve(answers)
    assert [peer for peer, _ in desk.answered] == [GUEST + b"'s friend"]


async def test_what_consensus_waits_for_comes_before_history_and_the_newest_questions_are_kept() -> None:
    desk = Desk()
    answers = desk.answers()
    for number in range(100):
        answers.put(HONEST, (WantBlocks(number + 1, 1),))
    for number in range(3):
        answers.put(HONEST, batch(number))
    await serve(answers)
    order = desk.order(HONEST)
    assert order[:3] == [want for number in range(3) for want in batch(number)]
    assert order[3:] == [WantBlocks(number + 1, 1) for number in range(39, 100)]


async def test_an_answer_that_is_full_looks_for_nothing_more() -> None:
    """Else one question of a few bytes makes a node read hundreds of megabytes."""
    half = bytes(ANSWER_BYTES // 2)
    desk = Desk(item=lambda want: GotPart(cast(WantPart, want).digest, 0, len(half), half))
    answers = desk.answers()
    answers.put(HOSTILE, tuple(WantPart(bytes(32), offset) for offset in range(256)))
    await serve(answers)
    assert len(desk.looked) <= 2
    ((_, got),) = desk.answered
    assert len(got.items) == 1
