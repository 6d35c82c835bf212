"""Who sends what no honest validator sends is not only unheard: its link ends, and it is named (CONS-38)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from supervm.contracts.transport import Priority, Refusal
from supervm.plugins.consensus.bft.driver import receiving
from supervm.plugins.consensus.bft.driver.posting import METHODS, pack
from supervm.plugins.consensus.bft.driver.receiving import FAULTS_MAX, Reception
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.messages import encode
from supervm.plugins.consensus.bft.votes import ViewVote
from supervm.plugins.transport import supervm_components
from supervm.plugins.transport.memory import MemoryTransportConfig
from supervm.plugins.transport.tcp.dialing import DialFailed
from supervm.plugins.transport.tcp.frames import Kind, Message
from supervm.testing.context import component_context, opened
from supervm.types.certificate import VoteKind
from tests.transport.tcp_attacker import attacker
from tests.transport.tcp_nodes import Loopback, loopback
from tests.transport.test_tcp_hostile import (
    ANSWER_S,
    MALLORY,
    beside_an_honest_peer,
    count,
    frames,
    until,
)

VOTES = METHODS[Stream.VOTES]
VOTE = encode(ViewVote(VoteKind.NULLIFY, 1, 1, bytes(32), 0, b"s" * 64))
GARBAGE = pack([b"\xffgarbage"])


@pytest.fixture
def nodes() -> Iterator[Loopback]:
    yield from loopback()


async def test_garbage_in_good_frames_ends_the_link_that_it_comes_by(nodes: Loopback, tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with (
            beside_an_honest_peer(nodes, tmp_path, ban_s=600.0) as (victim, honest, address),
            component_context(tmp_path / "ctx") as ctx,
        ):
            reception = Reception(ctx, (honest.node_id, MALLORY.node_id))
            with reception.serving([victim]):
                async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                    said = frames(Message(Kind.TELL, 0, GARBAGE, VOTES)) * FAULTS_MAX
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        while MALLORY.node_id in [peer.node_id for peer in victim.peers()]:
                            await mallory.on(Priority.HIGH).send(said)
                    assert await mallory.is_closed()
                with pytest.raises(DialFailed) as banned:
                    async with attacker(tmp_path / "n", MALLORY, victim.node_id, address):
                        pytest.fail("let in again at once")
                assert banned.value.outcome == "banned" and banned.value.retry_after_s > 500
                await honest.tell(victim.node_id, VOTES, pack([VOTE]), priority=Priority.HIGH)
                with trio.fail_after(ANSWER_S):
                    (heard,) = await reception.inboxes[Stream.VOTES].take(9, 9_999)
                assert heard.peer == honest.node_id
            assert count(victim, "transport_cut_off_total", kind="blamed") == 1
            assert MALLORY.node_id.hex()[:16] in (await victim.health()).detail
    (told,) = [line for line in lines if line["event"] == "peer_cut_off"]
    assert told["peer"] == MALLORY.node_id.hex() and "DecodeError" not in told["cause"]
    assert str(FAULTS_MAX) in told["cause"] and told["kind"] == "blamed"


async def test_who_was_cut_off_gets_back_when_its_time_is_over(nodes: Loopback, tmp_path: Path) -> None:
    async with beside_an_honest_peer(nodes, tmp_path, ban_s=0.3) as (victim, honest, _):
        victim.cut_off(honest.node_id, "by mistake")
        await until(lambda: victim.peers() == () == honest.peers())
        await until(lambda: [peer.node_id for peer in victim.peers()] == [honest.node_id])


async def test_few_bad_messages_now_and_then_make_nobody_deaf(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One in a minute may come of a fault that isn't the sender's will; a thousand of them, too."""
    peer = b"\x01" * 32
    async with component_context(tmp_path) as ctx:
        reception = Reception(ctx, (peer,))
        votes = reception._handler(Stream.VOTES)
        for _ in range(2 * FAULTS_MAX):
            with pytest.raises(Refusal, match="BAD_REQUEST"):
                await votes(peer, GARBAGE)
            await trio.sleep(receiving.FAULT_HEALS_S)
        await votes(peer, pack([VOTE]))


@pytest.mark.parametrize("lies", [False, True])
async def test_who_is_blamed_too_often_or_lies_is_cut_off_for_longer_each_time(
    lies: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    memory = next(each for each in supervm_components() if each.name == "memory")
    config = MemoryTransportConfig(network=f"cutting-off-{lies}")
    async with (
        opened(memory, tmp_path / "0", config) as one,
        opened(memory, tmp_path / "1", config, seed=1) as two,
        component_context(tmp_path / "ctx") as ctx,
    ):
        reception = Reception(ctx, (two.node_id,))
        with reception.serving([one]):
            for away_s in (60, 120, 240):
                if lies:
                    reception.silence(two.node_id, "not what a quorum signed")
                for number in range(0 if lies else FAULTS_MAX):
                    assert [peer.node_id for peer in one.peers()] == [two.node_id], number
                    reception.blame(two.node_id, "BadSignature")
                await trio.sleep(away_s - 1)
                assert one.peers() == () == two.peers()
                await trio.sleep(2)
                assert len(one.peers()) == 1 == len(two.peers())
