"""What every transport keeps, as tests (supervm.contracts.transport).

class TestMine(TransportConformance):
    component = MINE

    def configs(self, count):
        return [MineConfig(...) for _ in range(count)]   # options of nodes that reach each other

    def twins(self):
        return [MineConfig(...), same := MineConfig(...), same]   # the last two have one identity
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from supervm.contracts.transport import (
    DeadlineExceeded,
    ErrorCode,
    IdentityInUse,
    MessageTooLarge,
    Overloaded,
    Priority,
    Refusal,
    Transport,
    TransportError,
    TransportLimits,
    Unreachable,
)
from supervm.testing.conformance.component import ComponentConformance, only_error
from supervm.testing.context import opened

ECHO, OTHER, TOPIC, PROTOCOL = 0x8001, 0x8002, "conformance", "conformance/1"
PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; a transport that keeps the contract never does."""
ANSWER_S = 60.0


async def echo(peer: bytes, payload: bytes) -> bytes:
    return payload


@pytest.mark.trio
class TransportConformance(ComponentConformance):
    """Subclass it, name `component`, and give `configs`."""

    limits: ClassVar[TransportLimits] = TransportLimits()

    def configs(self, count: int) -> list[Any]:
        """Options of `count` nodes that can reach each other."""
        raise AssertionError("give configs(count)")

    def twins(self) -> list[Any]:
        """Options of a node, and of two more that have one identity and reach it."""
        raise AssertionError("give twins()")

    @asynccontextmanager
    async def nodes(self, folder: Path, count: int = 2) -> AsyncIterator[list[Transport]]:
        """Open that many nodes; fails rather than hangs."""
        async with AsyncExitStack() as stack:
            stack.enter_context(trio.fail_after(PATIENCE_S))
            made = []
            for number, config in enumerate(self.configs(count)):
                node = opened(self.component, folder / str(number), config, seed=number)
                made.append(await stack.enter_async_context(node))
            yield made

    async def test_nodes_have_different_ids_of_32_bytes_and_see_each_other(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path, 3) as nodes:
            assert all(isinstance(node, Transport) for node in nodes)
            ids = [node.node_id for node in nodes]
            assert len(set(ids)) == 3 and {len(node_id) for node_id in ids} == {32}
            for node in nodes:
                seen = [peer.node_id for peer in node.peers()]
                assert seen == sorted(set(ids) - {node.node_id})

    async def test_a_request_is_answered_and_the_handler_knows_who_asks(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path, 3) as (one, two, three):
            asked: list[tuple[bytes, bytes]] = []

            async def handler(peer: bytes, payload: bytes) -> bytes:
                asked.append((peer, payload))
                return payload + b"!"

            with two.serve(ECHO, handler):
                assert await one.request(two.node_id, ECHO, b"a", timeout_s=ANSWER_S) == b"a!"
                assert await three.request(two.node_id, ECHO, b"", timeout_s=ANSWER_S) == b"!"
            assert asked == [(one.node_id, b"a"), (three.node_id, b"")]

    async def test_many_requests_at_once_each_get_their_own_answer(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two):
            answers: dict[int, bytes] = {}

            async def ask(number: int) -> None:
                answers[number] = await one.request(two.node_id, ECHO, b"%d" % number, timeout_s=ANSWER_S)

            with two.serve(ECHO, echo):
                async with trio.open_nursery() as nursery:
                    for number in range(self.limits.requests_max):
                        nursery.start_soon(ask, number)
            assert answers == {number: b"%d" % number for number in range(self.limits.requests_max)}

    async def test_over_the_bound_of_requests_the_asker_is_refused_at_once(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two):
            release, waiting = trio.Event(), trio.Event()
            begun = 0

            async def slow(peer: bytes, payload: bytes) -> bytes:
                nonlocal begun
                begun += 1
                if begun == self.limits.requests_max:
                    waiting.set()
                await release.wait()
                return b""

            async def ask() -> None:
                await one.request(two.node_id, ECHO, b"", timeout_s=PATIENCE_S)

            with two.serve(ECHO, slow):
                async with trio.open_nursery() as nursery:
                    for _ in range(self.limits.requests_max):
                        nursery.start_soon(ask)
                    await waiting.wait()
                    with pytest.raises(Overloaded):
                        await one.request(two.node_id, ECHO, b"", timeout_s=0.5)
                    release.set()
                with two.serve(OTHER, echo):
                    assert await one.request(two.node_id, OTHER, b"again", timeout_s=ANSWER_S) == b"again"

    async def test_a_method_nobody_serves_and_a_peer_nobody_knows_are_typed_errors(
        self, tmp_path: Path
    ) -> None:
        async with self.nodes(tmp_path) as (one, two):
            with pytest.raises(Refusal) as refused:
                await one.request(two.node_id, ECHO, b"", timeout_s=ANSWER_S)
            assert refused.value.code is ErrorCode.UNKNOWN_METHOD and refused.value.peer == two.node_id
            with pytest.raises(Unreachable):
                await one.request(bytes(32), ECHO, b"", timeout_s=ANSWER_S)
            with pytest.raises(Unreachable):
                await one.open_stream(bytes(32), PROTOCOL)

    async def test_a_handler_that_raises_answers_an_error_and_the_node_goes_on(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two):

            async def broken(peer: bytes, payload: bytes) -> bytes:
                raise KeyError("a bug with secrets in its text")

            async def refuses(peer: bytes, payload: bytes) -> bytes:
                raise Refusal(ErrorCode.RATE_LIMITED, "slowly", retry_after_ms=250)

            with two.serve(ECHO, broken), two.serve(OTHER, refuses):
                with pytest.raises(Refusal) as failed:
                    await one.request(two.node_id, ECHO, b"", timeout_s=ANSWER_S)
                assert failed.value.code is ErrorCode.REMOTE_FAILED and "secrets" not in str(failed.value)
                with pytest.raises(Refusal) as refused:
                    await one.request(two.node_id, OTHER, b"", timeout_s=ANSWER_S)
                assert refused.value.code is ErrorCode.RATE_LIMITED
                assert refused.value.text == "slowly" and refused.value.retry_after_ms == 250
            with two.serve(ECHO, echo):
                assert await one.request(two.node_id, ECHO, b"x", timeout_s=ANSWER_S) == b"x"

    async def test_no_answer_in_time_is_an_error_and_frees_the_place(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two):

            async def never(peer: bytes, payload: bytes) -> bytes:
                return await _never()

            with two.serve(ECHO, never), two.serve(OTHER, echo):
                for _ in range(3):
                    with pytest.raises(DeadlineExceeded):
                        await one.request(two.node_id, ECHO, b"", timeout_s=0.05)
                assert await one.request(two.node_id, OTHER, b"x", timeout_s=ANSWER_S) == b"x"

    async def test_payloads_up_to_their_bound_pass_and_over_it_are_refused_unsent(
        self, tmp_path: Path
    ) -> None:
        async with self.nodes(tmp_path) as (one, two):
            most = bytes(self.limits.request_bytes_max)
            calls = 0

            async def count(peer: bytes, payload: bytes) -> bytes:
                nonlocal calls
                calls += 1
                return b"%d" % len(payload)

            with two.serve(ECHO, count):
                assert await one.request(two.node_id, ECHO, most, timeout_s=ANSWER_S) == b"%d" % len(most)
                with pytest.raises(MessageTooLarge):
                    await one.request(two.node_id, ECHO, most + b"x", timeout_s=ANSWER_S)
                with pytest.raises(MessageTooLarge):
                    await one.broadcast(TOPIC, bytes(self.limits.broadcast_bytes_max + 1))
            assert calls == 1

    async def test_a_second_handler_of_a_method_is_refused_and_a_scope_ends_it(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two):
            with two.serve(ECHO, echo), pytest.raises(ValueError, match="handler"), two.serve(ECHO, echo):
                pytest.fail("two handlers of one method")
            with pytest.raises(Refusal):
                await one.request(two.node_id, ECHO, b"", timeout_s=ANSWER_S)

    async def test_what_is_told_reaches_the_handler_once_and_who_told_it_waits_for_nobody(
        self, tmp_path: Path
    ) -> None:
        async with self.nodes(tmp_path, 3) as (one, two, three):
            heard: list[tuple[bytes, bytes]] = []
            three_heard, four_heard, release = trio.Event(), trio.Event(), trio.Event()

            async def hear(peer: bytes, payload: bytes) -> bytes:
                heard.append((peer, payload))
                if len(heard) >= 3:
                    three_heard.set()
                if len(heard) >= 4:
                    four_heard.set()
                if payload == b"slow":
                    await release.wait()
                    raise RuntimeError("of no interest to who told it")
                return b"nobody reads this"

            large = b"l" * 200_000
            with two.serve(ECHO, hear):
                with trio.fail_after(PATIENCE_S):
                    await one.tell(two.node_id, ECHO, b"slow", priority=Priority.HIGH)
                    await one.tell(two.node_id, ECHO, large)
                    await three.tell(two.node_id, ECHO, b"")
                    await one.tell(two.node_id, OTHER, b"to nobody")
                    await three_heard.wait()
                    release.set()
                    await one.tell(two.node_id, ECHO, b"last")
                    await four_heard.wait()
                assert await one.request(two.node_id, ECHO, b"after", timeout_s=ANSWER_S)
            told = [
                (one.node_id, b"slow"),
                (one.node_id, large),
                (three.node_id, b""),
                (one.node_id, b"last"),
            ]
            assert sorted(heard) == sorted([*told, (one.node_id, b"after")])
            with pytest.raises(Unreachable):
                await one.tell(bytes(32), ECHO, b"")
            with pytest.raises(MessageTooLarge):
                await one.tell(two.node_id, ECHO, bytes(self.limits.request_bytes_max + 1))

    async def test_a_broadcast_reaches_every_other_node_once_and_names_its_sender(
        self, tmp_path: Path
    ) -> None:
        async with self.nodes(tmp_path, 4) as nodes, AsyncExitStack() as stack:
            channels = [stack.enter_context(node.subscribe(TOPIC)) for node in nodes]
            for number in range(5):
                await nodes[0].broadcast(TOPIC, b"%d" % number)
            await nodes[1].broadcast(TOPIC, b"last")
            for node, channel in list(zip(nodes, channels, strict=True))[1:]:
                expected = 5 if node is nodes[1] else 6
                got = [await channel.receive() for _ in range(expected)]
                from_first = sorted(message.payload for message in got if message.peer == nodes[0].node_id)
                assert from_first == [b"%d" % number for number in range(5)]
            assert (await channels[0].receive()).peer == nodes[1].node_id
            for channel in channels:
                with pytest.raises(trio.WouldBlock):
                    channel.receive_nowait()

    async def test_a_slow_subscriber_loses_the_newest_and_holds_up_nobody(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path, 3) as (one, two, three):
            with two.subscribe(TOPIC, queue_max=2) as slow, three.subscribe(TOPIC, queue_max=64) as fast:
                for number in range(10):
                    await one.broadcast(TOPIC, b"%d" % number)
                assert len([await fast.receive() for _ in range(10)]) == 10
                await trio.testing.wait_all_tasks_blocked()
                assert slow.statistics().current_buffer_used <= 2

    async def test_a_stream_carries_bytes_in_order_both_ways_and_ends(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two), two.listen(PROTOCOL) as incoming:
            near = await one.open_stream(two.node_id, PROTOCOL)
            accepted = await incoming.receive()
            assert accepted.peer == one.node_id
            data = bytes(range(256)) * 1024

            async def send() -> None:
                for start in range(0, len(data), 10_000):
                    await near.send_all(data[start : start + 10_000])
                await near.send_eof()

            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while chunk := await accepted.stream.receive_some(4096):
                    received += chunk
            assert received == data
            await accepted.stream.send_all(b"got it")
            await accepted.stream.aclose()
            assert await _read_all(near) == b"got it"
            await near.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await near.send_all(b"late")

    async def test_a_stream_that_is_not_read_slows_its_sender(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two), two.listen(PROTOCOL) as incoming:
            near = await one.open_stream(two.node_id, PROTOCOL)
            accepted = await incoming.receive()
            sent = 0
            with trio.move_on_after(1.0) as scope:
                while sent <= 16 * self.limits.send_queue_bytes_max:
                    await near.send_all(bytes(1 << 16))
                    sent += 1 << 16
            assert scope.cancelled_caught and sent <= 4 * self.limits.send_queue_bytes_max
            await accepted.stream.aclose()

    async def test_nobody_listening_and_too_many_waiting_are_typed_errors(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two):
            with pytest.raises(Refusal):
                await one.open_stream(two.node_id, PROTOCOL)
            async with two.listen(PROTOCOL):
                with pytest.raises((Refusal, Overloaded)):
                    for _ in range(self.limits.streams_max + 17):
                        await one.open_stream(two.node_id, PROTOCOL)

    async def test_a_stream_that_its_listener_never_took_breaks_when_that_one_ends(
        self, tmp_path: Path
    ) -> None:
        async with self.nodes(tmp_path) as (one, two):
            async with two.listen(PROTOCOL):
                near = await one.open_stream(two.node_id, PROTOCOL)
            with trio.fail_after(ANSWER_S):
                try:
                    assert await near.receive_some(1) == b""
                except trio.BrokenResourceError:
                    return

    async def test_what_its_caller_gives_up_at_once_costs_nothing_else(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path) as (one, two), two.listen(PROTOCOL):
            with two.serve(ECHO, echo):
                for number in range(10):
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        if number % 2:
                            await one.open_stream(two.node_id, PROTOCOL)
                        else:
                            large = bytes(self.limits.request_bytes_max // 4)
                            await one.request(
                                two.node_id, ECHO, large, timeout_s=ANSWER_S, priority=Priority.BULK
                            )
                    for priority in Priority:
                        said = b"%d" % number
                        answer = await one.request(
                            two.node_id, ECHO, said, timeout_s=ANSWER_S, priority=priority
                        )
                        assert answer == said
                assert [peer.node_id for peer in two.peers()] == [one.node_id]

    async def test_a_node_that_goes_away_ends_what_waits_for_it(self, tmp_path: Path) -> None:
        first, second = self.configs(2)
        with trio.fail_after(PATIENCE_S):
            async with opened(self.component, tmp_path / "0", first, seed=0) as one:
                entered, results = trio.Event(), list[BaseException]()

                async def never(peer: bytes, payload: bytes) -> bytes:
                    entered.set()
                    return await _never()

                async def ask(peer: bytes) -> None:
                    try:
                        await one.request(peer, ECHO, b"", timeout_s=ANSWER_S)
                    except TransportError as error:
                        results.append(error)

                async with trio.open_nursery() as nursery:
                    other = opened(self.component, tmp_path / "1", second, seed=1)
                    two = await other.__aenter__()
                    gone = two.node_id
                    with two.serve(ECHO, never):
                        nursery.start_soon(ask, gone)
                        await entered.wait()
                    await other.__aexit__(None, None, None)
                assert len(results) == 1
                with pytest.raises(TransportError):
                    await one.request(gone, ECHO, b"", timeout_s=ANSWER_S)
                assert gone not in [peer.node_id for peer in one.peers()]

    async def test_who_is_cut_off_is_nobodys_peer_and_what_it_waits_for_ends(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path, 3) as (one, two, three), one.listen(PROTOCOL) as incoming:
            stream = await two.open_stream(one.node_id, PROTOCOL)
            await incoming.receive()
            entered, gone = trio.Event(), trio.Event()
            failed: list[str] = []

            async def never(peer: bytes, payload: bytes) -> bytes:
                entered.set()
                return await _never()

            async def blames(peer: bytes, payload: bytes) -> bytes:
                if payload == b"bad":
                    assert one.cut_off(peer, "what it said") > 0
                    gone.set()
                return payload

            async def ask(said: bytes, method: int) -> None:
                with pytest.raises(Unreachable):
                    await two.request(one.node_id, method, said, timeout_s=PATIENCE_S)
                failed.append(said.decode())

            with one.serve(ECHO, blames), one.serve(OTHER, never), two.serve(ECHO, echo):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, b"waiting", OTHER)
                    await entered.wait()
                    nursery.start_soon(ask, b"bad", ECHO)
                    await gone.wait()
                    # At once, also where the one who is cut off doesn't know yet.
                    assert [peer.node_id for peer in one.peers()] == [three.node_id]
                    with pytest.raises(Unreachable):
                        await one.request(two.node_id, ECHO, b"", timeout_s=ANSWER_S)
                assert sorted(failed) == ["bad", "waiting"]
                with pytest.raises(Unreachable):
                    await two.request(one.node_id, ECHO, b"again", timeout_s=ANSWER_S)
                with pytest.raises(trio.BrokenResourceError):
                    while await stream.receive_some(1):
                        pass
                    pytest.fail("the stream ended as if nothing had happened")
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(b"x")
                assert await three.request(one.node_id, ECHO, b"x", timeout_s=ANSWER_S) == b"x"
                assert await three.request(two.node_id, ECHO, b"x", timeout_s=ANSWER_S) == b"x"
            # One ban for all that a peer does before it is gone; and whoever isn't there can be banned, too.
            first_s = one.cut_off(bytes(32), "before it comes")
            assert 0 < one.cut_off(bytes(32), "and again") <= first_s

    async def test_of_two_nodes_of_one_identity_one_is_told_and_the_other_goes_on(
        self, tmp_path: Path
    ) -> None:
        config, *twins = self.twins()
        up = [trio.Event(), trio.Event()]
        told = trio.Event()
        ended: list[BaseException] = []
        ids: list[bytes] = []

        async def live(number: int) -> None:
            try:
                async with opened(
                    self.component, tmp_path / f"twin{number}", twins[number], seed=1 + number
                ) as node:
                    with node.serve(ECHO, echo):
                        ids.append(node.node_id)
                        up[number].set()
                        await trio.sleep_forever()
            except Exception as error:
                ended.append(only_error(error))
                told.set()

        with trio.fail_after(PATIENCE_S):
            async with (
                opened(self.component, tmp_path / "0", config, seed=0) as one,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(live, 0)
                await up[0].wait()
                await _answered(one, ids[0])
                nursery.start_soon(live, 1)
                await told.wait()
                assert [type(error) for error in ended] == [IdentityInUse], ended
                await _answered(one, ids[0])
                assert len(ended) == 1 and set(ids) == {peer.node_id for peer in one.peers()}
                nursery.cancel_scope.cancel()

    async def test_a_handler_that_never_waits_may_cut_off_who_asks(self, tmp_path: Path) -> None:
        async with self.nodes(tmp_path, 3) as (one, two, three):
            heard = 0
            gone = trio.Event()

            async def blames(peer: bytes, payload: bytes) -> bytes:
                nonlocal heard
                if peer == two.node_id:
                    heard += 1
                    one.cut_off(peer, "whatever it says")
                    gone.set()
                return b""

            blames.never_waits = True  # type: ignore[attr-defined]
            with one.serve(ECHO, blames):
                with pytest.raises(Unreachable):
                    while True:
                        await two.tell(one.node_id, ECHO, b"x")
                await gone.wait()
                assert [peer.node_id for peer in one.peers()] == [three.node_id]
                assert await three.request(one.node_id, ECHO, b"", timeout_s=ANSWER_S) == b""


async def _answered(transport: Transport, peer: bytes) -> None:
    """Wait until a peer is connected and answers."""
    while True:
        try:
            assert await transport.request(peer, ECHO, b"x", timeout_s=ANSWER_S) == b"x"
        except Unreachable:
            await trio.sleep(0.01)
        else:
            return


async def _never() -> bytes:
    """An answer that doesn't come."""
    await trio.Event().wait()
    raise AssertionError("nobody sets that event")


async def _read_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = bytearray()
    while chunk := await stream.receive_some(4096):
        received += chunk
    return bytes(received)
