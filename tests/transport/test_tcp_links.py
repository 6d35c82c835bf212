"""How `tcp` makes, keeps and ends links, and what they carry besides what the contract's suite asks."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.contracts.roles import Role
from supervm.contracts.transport import Priority, Unreachable
from supervm.crypto.keyfile import KeyFileMissing
from supervm.crypto.keys import KeyPair
from supervm.plugins.transport.tcp import lane
from supervm.plugins.transport.tcp.certificates import Incarnation
from supervm.plugins.transport.tcp.component import TCP
from supervm.plugins.transport.tcp.config import TcpTransportConfig
from supervm.plugins.transport.tcp.hello import NO_CHAIN, Hello, Verdict
from supervm.plugins.transport.tcp.lane import DRAIN_GRACE_S, DRAIN_S, is_worth_waiting
from supervm.plugins.transport.tcp.transport import TcpTransport
from supervm.testing.conformance.component import only_error
from supervm.testing.conformance.consensus import identity_of
from supervm.testing.conformance.transport import ECHO, PROTOCOL, TOPIC, echo
from supervm.testing.context import opened
from supervm.types.address import Suite
from tests.transport.tcp_attacker import attacker
from tests.transport.tcp_nodes import PATIENT, Loopback, loopback
from tests.transport.test_tcp_hostile import count, until

PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; no test takes it."""
ANSWER_S = 60.0


@pytest.fixture
def nodes() -> Iterator[Loopback]:
    yield from loopback()


@asynccontextmanager
async def running(
    folder: Path, *configs: TcpTransportConfig, **context: Any
) -> AsyncIterator[list[TcpTransport]]:
    with trio.fail_after(PATIENCE_S):
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(opened(TCP, folder / str(seed), config, seed=seed, **context))
                for seed, config in enumerate(configs)
            ]


def ids(transport: TcpTransport) -> list[bytes]:
    return [peer.node_id for peer in transport.peers()]


async def test_nodes_that_all_dial_each_other_settle_on_one_link_for_each_pair(
    nodes: Loopback, tmp_path: Path
) -> None:
    configs = nodes.configs(4, all_dial=True, connect_wait_ms=0)
    async with running(tmp_path, *configs) as transports, AsyncExitStack() as stack:
        everybody = {transport.node_id for transport in transports}
        for transport in transports:
            stack.enter_context(transport.serve(ECHO, echo))
        await until(lambda: all(set(ids(each)) == everybody - {each.node_id} for each in transports))
        heard = [stack.enter_context(transport.subscribe(TOPIC)) for transport in transports]
        for one in transports:
            for other in transports:
                if one is not other:
                    assert await one.request(other.node_id, ECHO, b"x", timeout_s=ANSWER_S) == b"x"
            await one.broadcast(TOPIC, one.node_id)
        for transport, channel in zip(transports, heard, strict=True):
            got = sorted([(await channel.receive()).peer for _ in range(3)])
            assert got == sorted(everybody - {transport.node_id})
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()
        # Each pair is the same link on both sides: one of them dialed it.
        for one in transports:
            for peer, link in one._links.items():
                (other,) = [each for each in transports if each.node_id == peer]
                assert link.dialed != other._links[one.node_id].dialed


async def test_while_both_dial_the_larger_id_is_told_that_its_link_is_not_needed(
    nodes: Loopback, tmp_path: Path
) -> None:
    smaller, larger = bytes(32), b"\xff" * 32
    config, _ = nodes.victim()
    config = attrs.evolve(config, admitted=(smaller.hex(), larger.hex()))
    async with running(tmp_path, config) as (one,):
        hello = Hello(chain_id=NO_CHAIN, lane=Priority.HIGH, session=bytes(16))
        run = "127.0.0.1", Incarnation(1, b"")
        assert {one._judge(peer, hello, *run)[0] for peer in (smaller, larger)} == {Verdict.WELCOME}
        one._shaking |= {smaller, larger}
        assert one._judge(smaller, hello, *run)[0] is Verdict.WELCOME
        assert one._judge(larger, hello, *run)[0] is Verdict.DUPLICATE


async def test_a_peer_that_comes_back_is_linked_again_and_what_waited_for_it_had_ended(
    nodes: Loopback, tmp_path: Path
) -> None:
    stays, leaves = nodes.configs(2, all_dial=True, reconnect_ms_min=10, reconnect_ms_max=100)
    async with running(tmp_path / "stays", attrs.evolve(stays, connect_wait_ms=0)) as (one,):
        for turn in range(3):
            async with running(tmp_path / f"leaves{turn}", leaves) as (two,):
                with two.serve(ECHO, echo):
                    await until(lambda peer=two.node_id: ids(one) == [peer])
                    assert await one.request(two.node_id, ECHO, b"x", timeout_s=ANSWER_S) == b"x"
                gone = two.node_id
            await until(lambda: ids(one) == [])
            with pytest.raises(Unreachable):
                await one.request(gone, ECHO, b"x", timeout_s=ANSWER_S)
        assert count(one, "transport_cut_off_total") == 0


async def test_a_host_that_cannot_even_be_asked_for_is_unreachable_and_nothing_more(
    nodes: Loopback, tmp_path: Path
) -> None:
    # The system's codec takes it, and the stricter one that looks it up doesn't.
    peer = f"{'ab' * 32}@nöd_e:9000"
    config = TcpTransportConfig(peers=(peer,), connect_wait_ms=0, reconnect_ms_min=1, reconnect_ms_max=1)
    async with running(tmp_path, config) as (one,):
        await until(lambda: count(one, "transport_dials_total", outcome="unreachable") >= 2)
        assert count(one, "transport_dials_total", outcome="failed") == 0


async def test_a_node_that_starts_before_its_peers_dials_them_until_they_are_there(
    nodes: Loopback, tmp_path: Path
) -> None:
    late, early = nodes.configs(2, deaf=1, reconnect_ms_min=10, reconnect_ms_max=50)
    early = attrs.evolve(early, connect_wait_ms=0)
    async with running(tmp_path / "early", early) as (one,):
        await until(lambda: count(one, "transport_dials_total") >= 3)
        nodes.hear()
        async with running(tmp_path / "late", late) as (two,):
            await until(lambda: ids(one) == [two.node_id] and ids(two) == [one.node_id])


@pytest.mark.parametrize(
    ("admit", "links_max", "outcome", "linked"),
    [("listed", 8, "not_admitted", 0), ("any", 8, "linked", 2), ("any", 1, "full", 1)],
)
async def test_who_is_not_listed_is_not_let_in_unless_any_may_come_and_there_is_room(
    admit: str, links_max: int, outcome: str, linked: int, nodes: Loopback, tmp_path: Path
) -> None:
    hub, address = nodes.victim(admit=admit, links_max=links_max)
    async with running(tmp_path / "hub", hub) as (victim,):
        peers = (f"{victim.node_id.hex()}@{address}",)
        first, second = (
            TcpTransportConfig(identity_file=nodes.key()[1], peers=peers, connect_wait_ms=0, **PATIENT)
            for _ in range(2)
        )
        async with running(tmp_path / "first", first) as (one,):
            # It has the only seat, where there is only one, before the second comes.
            wanted = [victim.node_id] if linked else []
            await until(lambda: count(one, "transport_dials_total") >= 1 and ids(one) == wanted)
            async with running(tmp_path / "second", second) as (two,):
                await until(lambda: count(two, "transport_dials_total", outcome=outcome) >= 1)
                await until(lambda: len(ids(victim)) == linked)


@attrs.frozen
class _Ledger:
    """What the transport asks of the application."""

    chain_id: bytes
    identity: Any


async def test_the_identity_and_chain_are_the_ledgers_and_another_chain_is_refused(
    nodes: Loopback, tmp_path: Path
) -> None:
    one, two, three = (
        _Ledger(bytes((chain,)) * 32, identity_of(seed)) for seed, chain in ((1, 1), (2, 1), (3, 2))
    )
    listen, address = nodes.listening()
    hub = TcpTransportConfig(listen=(listen,), admit="any", **PATIENT)
    with trio.fail_after(PATIENCE_S):
        async with opened(TCP, tmp_path / "1", hub, requires={Role.APPLICATION: one}) as victim:
            assert victim.node_id == one.identity.node_id
            peer = f"{victim.node_id.hex()}@{address}"
            dials = TcpTransportConfig(peers=(peer,), connect_wait_ms=120_000, **PATIENT)
            async with opened(TCP, tmp_path / "2", dials, requires={Role.APPLICATION: two}, seed=2) as same:
                assert ids(victim) == [two.identity.node_id] == [same.node_id]
            dials = attrs.evolve(dials, connect_wait_ms=0)
            async with opened(
                TCP, tmp_path / "3", dials, requires={Role.APPLICATION: three}, seed=3
            ) as other:
                await until(lambda: count(other, "transport_dials_total", outcome="wrong_network") >= 1)
                assert ids(other) == []


async def test_two_nodes_that_send_each_other_all_they_can_do_not_block_one_another(
    nodes: Loopback, tmp_path: Path
) -> None:
    async with running(tmp_path, *nodes.configs(2, send_queue_bytes_max=2**18)) as (one, two):
        large = bytes(2**20)

        async def ask(asker: TcpTransport, asked: TcpTransport) -> None:
            assert await asker.request(asked.node_id, ECHO, large, timeout_s=ANSWER_S) == large

        with one.serve(ECHO, echo), two.serve(ECHO, echo):
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(ask, one, two)
                    nursery.start_soon(ask, two, one)


async def test_votes_overtake_bulk_that_nobody_reads(nodes: Loopback, tmp_path: Path) -> None:
    async with running(tmp_path, *nodes.configs(2)) as (one, two), two.listen(PROTOCOL) as incoming:
        stream = await one.open_stream(two.node_id, PROTOCOL)
        unread = await incoming.receive()
        with two.serve(ECHO, echo):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(8 * 2**20))
                for _ in range(4):
                    nursery.start_soon(_ask_bulk, one, two.node_id)
                for _ in range(50):
                    vote = await one.request(
                        two.node_id, ECHO, b"v", timeout_s=ANSWER_S, priority=Priority.HIGH
                    )
                    assert vote == b"v"
                nursery.cancel_scope.cancel()
        await unread.stream.aclose()


async def _ask_bulk(transport: TcpTransport, peer: bytes) -> None:
    while True:
        await transport.request(peer, ECHO, bytes(2**20), timeout_s=ANSWER_S, priority=Priority.BULK)


async def test_a_stream_grows_its_window_when_it_is_read_and_ends_as_it_was_sent(
    nodes: Loopback, tmp_path: Path
) -> None:
    async with running(tmp_path, *nodes.configs(2)) as (one, two), two.listen(PROTOCOL) as incoming:
        near = await one.open_stream(two.node_id, PROTOCOL)
        far = (await incoming.receive()).stream
        data = bytes(range(256)) * 2**14

        async def send() -> None:
            await near.send_all(data)
            await near.aclose()

        received = bytearray()
        widest = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while chunk := await far.receive_some():
                received += chunk
                if len(received) < len(data):  # after the last byte the sender's close takes the window back
                    widest = max(widest, far._window)
        assert received == data
        assert widest > 2**16
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(100):
                await far.send_all(bytes(2**16))
        await far.aclose()
        assert all(not link._streams for each in (one, two) for link in each._links.values())


async def test_a_link_that_breaks_breaks_its_streams_on_both_sides(nodes: Loopback, tmp_path: Path) -> None:
    async with running(tmp_path, *nodes.configs(2)) as (one, two), two.listen(PROTOCOL) as incoming:
        near = await one.open_stream(two.node_id, PROTOCOL)
        far = (await incoming.receive()).stream
        (link,) = one._links.values()
        await link.lanes[Priority.HIGH].stream._stream.aclose()
        for stream in (near, far):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"x")
            await stream.aclose()


async def test_draining_lets_nobody_else_in_and_sends_what_waits(nodes: Loopback, tmp_path: Path) -> None:
    async with running(tmp_path, *nodes.configs(2)) as (one, two):
        with two.subscribe(TOPIC) as heard:
            await one.broadcast(TOPIC, bytes(2**20), priority=Priority.BULK)
            await one.drain(trio.current_time() + ANSWER_S)
            assert len((await heard.receive()).payload) == 2**20
        assert ids(one) == [two.node_id]
        third = TcpTransportConfig(
            peers=(f"{one.node_id.hex()}@{one.addresses[0]}",), connect_wait_ms=0, handshake_ms_max=300
        )
        async with running(tmp_path / "third", third) as (late,):
            await until(lambda: count(late, "transport_dials_total") >= 1)
            assert ids(late) == []


@asynccontextmanager
async def one_that_nobody_reads(nodes: Loopback, folder: Path) -> AsyncIterator[TcpTransport]:
    """A node whose only peer reads nothing, with more waiting for it than the system's buffers take."""
    deaf = KeyPair(Suite.ED25519, b"d" * 32)
    config, address = nodes.victim(deaf, stall_ms_max=600_000, silence_ms_max=600_000)
    async with (
        running(folder, config) as (one,),
        attacker(folder / "deaf", deaf, one.node_id, address),
    ):
        for _ in range(100):
            await one.broadcast(TOPIC, bytes(2**20), priority=Priority.BULK)
            await trio.testing.wait_all_tasks_blocked()
        assert count(one, "transport_broadcasts_dropped_total") > 0, "the peer's queue isn't full"
        yield one


async def test_draining_waits_for_no_peer_that_does_not_read(nodes: Loopback, tmp_path: Path) -> None:
    async with one_that_nobody_reads(nodes, tmp_path) as one:
        await one.drain(trio.current_time() + 10 * PATIENCE_S)
        assert one._links[ids(one)[0]].lanes[Priority.BULK].out, "it has taken all that waited"


async def test_draining_ends_at_its_deadline(
    nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "DRAIN_GRACE_S", 10 * PATIENCE_S)
    async with one_that_nobody_reads(nodes, tmp_path) as one:
        await one.drain(trio.current_time() + 0.1)
        assert one._links[ids(one)[0]].lanes[Priority.BULK].out, "it has taken all that waited"


def test_a_queue_that_empties_too_slowly_is_not_waited_for() -> None:
    whole, still = DRAIN_GRACE_S, DRAIN_GRACE_S + DRAIN_S
    assert is_worth_waiting(held=1000, left=1000, passed_s=whole)
    assert not is_worth_waiting(held=1000, left=1000, passed_s=whole + DRAIN_S / 100)
    assert is_worth_waiting(held=1000, left=500, passed_s=whole + DRAIN_S / 2)
    assert not is_worth_waiting(held=1000, left=501, passed_s=whole + DRAIN_S / 2)
    assert is_worth_waiting(held=0, left=0, passed_s=whole + DRAIN_S / 2)
    assert not is_worth_waiting(held=0, left=0, passed_s=still)


async def test_round_trips_are_measured_and_a_peer_is_told_of_once(nodes: Loopback, tmp_path: Path) -> None:
    published: list[tuple[str, dict[str, Any]]] = []
    configs = nodes.configs(2)
    async with (
        running(tmp_path / "0", configs[0], published=published) as (one,),
        running(tmp_path / "1", configs[1]) as (two,),
    ):
        await until(lambda: one.peers()[0].rtt_ms is not None)
        assert 0 < (one.peers()[0].rtt_ms or 0) < 10_000
        assert [(kind, facts["peer"].node_id) for kind, facts in published] == [("peer_seen", two.node_id)]


async def test_an_identity_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseException) as raised:
        async with opened(TCP, tmp_path, TcpTransportConfig(identity_file=str(tmp_path / "none.json"))):
            pytest.fail("opened without an identity")
    assert isinstance(only_error(raised.value), KeyFileMissing)
