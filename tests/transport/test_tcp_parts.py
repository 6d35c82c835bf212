"""The parts of `tcp` that do no I/O: frames, the queue, quotas, hellos, options."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from struct import pack
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from supervm.contracts.transport import LIMITS, ErrorCode, Priority
from supervm.plugins.transport.bans import BAN_S_MAX, BANS_MAX, FORGIVEN_S, Bans
from supervm.plugins.transport.tcp.config import TcpTransportConfig, read_endpoint
from supervm.plugins.transport.tcp.dialing import Backoff
from supervm.plugins.transport.tcp.frames import (
    PIECE_BYTES_MAX,
    FrameReader,
    Kind,
    Malformed,
    Message,
    broadcast_payload,
    error_payload,
    frames_of,
    read_broadcast,
    read_error,
)
from supervm.plugins.transport.tcp.hello import (
    HELLO_BYTES,
    WELCOME_BYTES,
    Hello,
    Verdict,
    Welcome,
    read_hello,
    read_welcome,
)
from supervm.plugins.transport.tcp.lane import Lane, quota_of
from supervm.plugins.transport.tcp.outgoing import LATE_MAX, SHORT_BYTES_MAX, URGENT_MAX, Outgoing
from supervm.plugins.transport.tcp.quotas import (
    ADDRESSES_MAX,
    Bucket,
    Pending,
    Rates,
    Seldom,
    is_public,
    network_of,
)
from supervm.testing.context import component_context

IDS = st.integers(0, 2**64 - 1)
SIZES = st.one_of(
    st.integers(0, 300), st.sampled_from((0, 1, 2)).map(lambda more: PIECE_BYTES_MAX * (1 + more) - 1 + more)
)
MESSAGES = st.one_of(
    st.builds(
        lambda id, size, method, deadline_ms: Message(Kind.REQUEST, id, bytes(size), method, deadline_ms),
        IDS,
        SIZES,
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(lambda id, size: Message(Kind.RESPONSE, id, b"x" * size), IDS, SIZES),
    st.builds(
        lambda size, method: Message(Kind.TELL, 0, bytes(size), method), SIZES, st.integers(0, 2**16 - 1)
    ),
    st.builds(lambda size: Message(Kind.ONE_WAY, 0, b"\x01t" + bytes(size)), SIZES),
    st.builds(lambda id, size: Message(Kind.DATA, id, bytes(size)), IDS, st.integers(1, PIECE_BYTES_MAX)),
    st.builds(
        lambda kind, id: Message(kind, id),
        st.sampled_from((Kind.PING, Kind.PONG, Kind.END, Kind.RESET)),
        IDS,
    ),
)


LONG, OPEN = (Kind.REQUEST, 3 * PIECE_BYTES_MAX), (Kind.OPEN, 8)
SHORT = (Kind.TELL, SHORT_BYTES_MAX)
TAKE, GIVE_UP_OLDEST, GIVE_UP_NEWEST = ("take", 0), ("abandon", 0), ("abandon", -1)
STEPS: tuple[tuple[Kind | str, int], ...] = (
    LONG,
    OPEN,
    SHORT,
    (Kind.REQUEST, 0),
    (Kind.RESPONSE, 2 * PIECE_BYTES_MAX),
    TAKE,
    TAKE,
    GIVE_UP_OLDEST,
    GIVE_UP_NEWEST,
)
"""What is done to a queue: (kind, bytes of payload) is put, or what is named."""
ENDINGS = {Kind.REQUEST: Kind.CANCEL, Kind.OPEN: Kind.RESET}
"""What may be abandoned, and what tells the peer."""


def in_cuts(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


class TestFrames:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(0, 10**6), max_size=8))
    def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(
        self, messages: list[Message], cuts: list[int]
    ) -> None:
        data = b"".join(frame for message in messages for frame in frames_of(message))
        reader = FrameReader()
        assert [message for part in in_cuts(data, cuts) for message in reader.feed(part)] == messages

    @settings(deadline=None)
    @given(st.binary(max_size=400))
    def test_arbitrary_bytes_are_messages_or_malformed_and_nothing_else(self, data: bytes) -> None:
        reader = FrameReader()
        try:
            messages = list(reader.feed(data))
        except Malformed:
            return
        # One encoding for each: what was read is what would be written.
        again = b"".join(frame for message in messages for frame in frames_of(message))
        assert data.startswith(again)

    @settings(deadline=None)
    @given(MESSAGES, st.integers(0, 10**6), st.integers(1, 255))
    def test_a_changed_byte_of_a_header_is_noticed_or_gives_another_message(
        self, message: Message, place: int, change: int
    ) -> None:
        data = bytearray(b"".join(frames_of(message)))
        data[place % 21] ^= change
        reader = FrameReader()
        with suppress(Malformed):
            assert list(reader.feed(bytes(data))) != [message]

    def test_a_message_in_pieces_is_bounded_by_its_kind_before_it_is_held(self) -> None:
        most = Message(Kind.REQUEST, 1, bytes(LIMITS.request_bytes_max))
        frames = list(frames_of(most))
        assert list(FrameReader().feed(b"".join(frames))) == [most]
        first = bytearray(frames[0])
        first[21:25] = (LIMITS.request_bytes_max + 1).to_bytes(4, "little")
        with pytest.raises(Malformed, match="4194305"):
            list(FrameReader().feed(bytes(first)))

    def test_pieces_out_of_place_are_malformed(self) -> None:
        large = list(frames_of(Message(Kind.REQUEST, 1, bytes(3 * PIECE_BYTES_MAX))))
        other = list(frames_of(Message(Kind.REQUEST, 2, bytes(3 * PIECE_BYTES_MAX))))
        for wrong in (
            [large[0], large[0]],
            [large[0], other[0]],
            [large[0], other[1]],
            [large[1]],
            [large[0], large[2]],
            [large[0], pack("<IBBQHIB", 18, 1, Kind.CHUNK, 1, 0, 0, 1) + b"x"],
        ):
            with pytest.raises(Malformed):
                list(FrameReader().feed(b"".join(wrong)))

    def test_a_cancelled_message_in_pieces_is_forgotten_and_others_may_come_between(self) -> None:
        large = list(frames_of(Message(Kind.REQUEST, 1, bytes(2 * PIECE_BYTES_MAX))))
        ping, cancel = (next(frames_of(Message(kind, 1))) for kind in (Kind.PING, Kind.CANCEL))
        reader = FrameReader()
        got = list(reader.feed(large[0] + ping + cancel + ping + b"".join(large)))
        assert [message.kind for message in got] == [Kind.PING, Kind.PING, Kind.REQUEST]

    @settings(deadline=None)
    @given(st.sampled_from(ErrorCode), st.text(max_size=300), st.integers(0, 2**32 - 1))
    def test_errors_come_out_as_they_went_in_cut_at_256_bytes(
        self, code: ErrorCode, text: str, retry_after_ms: int
    ) -> None:
        payload = error_payload(code, text, retry_after_ms)
        back, words, wait_ms = read_error(payload)
        assert (back, wait_ms) == (code, retry_after_ms)
        assert text.startswith(words) and len(words.encode()) <= 256
        assert words == text or len(words.encode()) > 252

    @settings(deadline=None)
    @given(st.text(max_size=60), st.binary(max_size=300))
    def test_broadcasts_come_out_as_they_went_in(self, topic: str, payload: bytes) -> None:
        assert read_broadcast(broadcast_payload(topic, payload)) == (topic, payload)


class TestTheQueue:
    async def test_long_messages_do_not_hold_up_short_ones_nor_short_ones_long_ones(self) -> None:
        out = Outgoing(2**23)
        await out.put(Message(Kind.RESPONSE, 1, bytes(2**20)))
        for number in range(2_000):
            await out.put(Message(Kind.RESPONSE, 100 + number, bytes(1_000)))
        reader, order = FrameReader(), []
        while data := out.take():
            order += [message.id for message in reader.feed(data)]
        place = order.index(1)
        assert order[:place] + order[place + 1 :] == list(range(100, 2_100))
        assert 900 < place < 1_100  # 16 pieces, each after 64 KiB of short ones

    async def test_urgent_messages_go_first_and_too_many_answers_are_the_peers_fault(self) -> None:
        out = Outgoing(2**20)
        await out.put(Message(Kind.RESPONSE, 1, b"x"))
        for number in range(URGENT_MAX):
            out.put_answer(Message(Kind.PONG, number))
        with pytest.raises(Malformed):
            out.put_answer(Message(Kind.PONG, 0))
        first = next(FrameReader().feed(out.take()))
        assert first.kind is Kind.PONG

    async def test_who_finds_no_room_waits_in_order_and_cancelling_gives_up_the_place(self) -> None:
        out, entered = Outgoing(10_000), list[int]()

        async def put(id: int, size: int) -> None:
            await out.put(Message(Kind.RESPONSE, id, bytes(size)))
            entered.append(id)

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                for id, size in ((1, 9_000), (2, 9_000)):
                    nursery.start_soon(put, id, size)
                    await trio.testing.wait_all_tasks_blocked()
                async with trio.open_nursery() as given_up:
                    given_up.start_soon(put, 3, 20_000)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(put, 4, 10)
                    await trio.testing.wait_all_tasks_blocked()
                    assert entered == [1]
                    assert not out.put_nowait(Message(Kind.RESPONSE, 5))
                    scope.cancel()
            reader, order = FrameReader(), []
            while len(order) < 3:
                order += [message.id for message in reader.feed(out.take())]
                await trio.testing.wait_all_tasks_blocked()
        assert order == sorted(entered) == [1, 2, 4]
        assert out.bytes_waiting == 0

    async def test_who_is_cancelled_while_it_waits_for_room_has_queued_nothing(self) -> None:
        out, reader = Outgoing(1_000), FrameReader()
        await out.put(Message(Kind.RESPONSE, 1, bytes(900)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.put, Message(Kind.RESPONSE, 2, bytes(900)))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            # There is room before it runs again.
            assert [message.id for message in reader.feed(out.take())] == [1]
        assert not out and out.bytes_waiting == 0

    async def test_what_is_late_leaves_with_the_next_message_or_when_it_has_waited(self) -> None:
        out, reader = Outgoing(2**20), FrameReader()
        assert out.put_late(Message(Kind.RESPONSE, 1))
        assert not out and out.has_late and not out.take()
        await out.put(Message(Kind.REQUEST, 2, b"x"))
        assert [each.id for each in reader.feed(out.take())] == [2, 1]
        assert out.put_late(Message(Kind.RESPONSE, 3))
        out.hurry()
        assert [each.id for each in reader.feed(out.take())] == [3]
        assert not out.has_late and out.bytes_waiting == 0

    async def test_only_so_many_wait_for_company(self) -> None:
        out = Outgoing(2**20)
        taken = [out.put_late(Message(Kind.RESPONSE, id)) for id in range(LATE_MAX + 1)]
        assert taken == [True] * LATE_MAX + [False]
        out.close()
        out.hurry()
        assert not out.put_late(Message(Kind.RESPONSE, 99))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from(STEPS), min_size=10, max_size=60))
    @example([LONG, TAKE, SHORT, TAKE, GIVE_UP_OLDEST, LONG, TAKE])
    @example([LONG, LONG, *[SHORT] * 9, TAKE, TAKE, GIVE_UP_OLDEST, TAKE, TAKE])
    @example([SHORT, TAKE, OPEN, GIVE_UP_NEWEST, TAKE])
    @example([SHORT, OPEN, TAKE, GIVE_UP_NEWEST, TAKE])
    def test_the_peer_reads_whatever_is_put_abandoned_and_taken_as_an_honest_node_s(
        self, steps: list[tuple[Kind | str, int]]
    ) -> None:
        out, reader, got = Outgoing(2**26), FrameReader(), list[Message]()
        waiting, abandoned = list[Message](), list[Message]()
        for number, (what, value) in enumerate([*steps, *[("take", 0)] * 500]):
            if isinstance(what, Kind):
                message = Message(what, 0 if what is Kind.TELL else 2 + 2 * number, bytes(value))
                assert out.put_nowait(message)
                waiting.append(message)
            elif what == "take":
                got += reader.feed(out.take())
            elif asked := [each for each in waiting if each.kind in ENDINGS]:
                given_up = asked[value]
                waiting.remove(given_up)
                abandoned.append(given_up)
                out.abandon(given_up)
        assert not out and out.bytes_waiting == 0 and not out.wake.is_set()
        said = [message for message in got if message.kind not in ENDINGS.values()]
        assert all(message in said for message in waiting) and len(said) <= len(waiting) + len(abandoned)
        opened = [message.id for message in said if message.kind is Kind.OPEN]
        assert opened == sorted(opened)
        for message in abandoned:
            # The peer hears of it, and then that it isn't wanted, or nothing at all.
            ending = Message(ENDINGS[message.kind], message.id)
            heard = [each for each in got if each.id == message.id]
            assert heard in ([], [message, ending]), heard

    async def test_an_abandoned_request_is_never_sent_or_taken_back(self) -> None:
        out, reader = Outgoing(2**23), FrameReader()
        unsent, begun = Message(Kind.REQUEST, 2, b"x"), Message(Kind.REQUEST, 4, bytes(2**20))
        await out.put(unsent)
        out.abandon(unsent)
        assert not out.wake.is_set() and not out.take()
        await out.put(begun)
        assert list(reader.feed(out.take())) == []
        out.abandon(begun)
        await out.put(Message(Kind.PING, 7))
        left = []
        while data := out.take():
            left += [message.kind for message in reader.feed(data)]
        assert left == [Kind.PING] and out.bytes_waiting == 0

    async def test_closing_wakes_who_waits(self) -> None:
        out = Outgoing(10)
        await out.put(Message(Kind.RESPONSE, 1, bytes(10)))

        async def refused() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await out.put(Message(Kind.RESPONSE, 2, bytes(10)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused)
            await trio.testing.wait_all_tasks_blocked()
            out.close()
        assert not out.put_nowait(Message(Kind.RESPONSE, 3))


class TestQuotas:
    @settings(deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500)), max_size=50))
    def test_a_bucket_lets_no_more_through_than_its_burst_and_rate(
        self, steps: list[tuple[float, int]]
    ) -> None:
        bucket, now, taken = Bucket(100, 200), 0.0, 0
        for passed_s, number in steps:
            now += passed_s
            wait_s = bucket.take(number, now)
            taken += number
            now += wait_s
            assert taken <= 200 + 100 * now + 1e-6

    @pytest.mark.parametrize(
        ("priority", "what", "bytes_per_s", "parcel_bytes"),
        [
            (
                Priority.HIGH,
                "votes and proposals with a certificate for each of 100 batches, 4 a second",
                2,
                0.5,
            ),
            (Priority.NORMAL, "3,500 transactions of 250 bytes a second, all by one builder", 1, 0.5),
            (Priority.NORMAL, "ten times that", 9, 4),
            (Priority.BULK, "500 blocks of 100 KiB a second, for one that catches up", 49, 4),
            (Priority.BULK, "chunks of a snapshot, as fast as two cores have carried them", 69, 1),
        ],
        ids=lambda given: given if isinstance(given, str) else None,
    )
    def test_honest_load_is_never_read_more_slowly(
        self, priority: Priority, what: str, bytes_per_s: float, parcel_bytes: float
    ) -> None:
        """Rates and sizes in MiB."""
        quota = quota_of(TcpTransportConfig(), priority, known=True)
        bucket, now = Bucket(quota.bytes_per_s, quota.bytes_burst), 0.0
        for _ in range(int(600 * bytes_per_s / parcel_bytes)):
            assert bucket.take(parcel_bytes * 2**20, now) == 0, f"{what} waits after {now} s"
            now += parcel_bytes / bytes_per_s

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("priority", list(Priority))
    def test_a_peer_that_sends_all_it_can_is_read_at_its_share(self, priority: Priority, known: bool) -> None:
        config = TcpTransportConfig()
        quota = quota_of(config, priority, known=known)
        bucket, now, read = Bucket(quota.bytes_per_s, quota.bytes_burst), 0.0, 0
        while now < 60:
            read += 2**16
            now += 2**16 / (300 * 2**20) + bucket.take(2**16, now)
        assert 0.99 <= read / (quota.bytes_burst + 60 * quota.bytes_per_s) <= 1.01
        # The share of a processor that opening its records costs, at some 300 MiB a second of a core.
        assert quota.bytes_per_s <= 300 * 2**20 / 4

    @pytest.mark.parametrize("known", [True, False])
    def test_the_three_connections_of_a_peer_share_what_it_may_send(self, known: bool) -> None:
        config = TcpTransportConfig()
        quotas = [quota_of(config, priority, known=known) for priority in Priority]
        allowed = config.peer_bytes_per_s if known else config.stranger_bytes_per_s
        assert sum(quota.bytes_per_s for quota in quotas) == pytest.approx(allowed)
        assert all(quota.bytes_burst >= 2 * LIMITS.request_bytes_max for quota in quotas)

    async def test_a_connection_over_its_quota_is_not_read_for_a_while_and_loses_nothing(
        self, tmp_path: Path, autojump_clock: MockClock
    ) -> None:
        said = b"".join(frames_of(Message(Kind.TELL, 0, bytes(60_000), 7)))

        class Firehose:
            """A connection on which the next message is always there."""

            bytes_in = 0

            async def receive(self) -> bytes:
                await trio.lowlevel.checkpoint()
                self.bytes_in += len(said)
                return said

        heard = 0

        def hear(lane: Lane, message: Message) -> None:
            nonlocal heard
            heard += 1

        async with component_context(tmp_path) as ctx:
            stream: Any = Firehose()
            quota = quota_of(TcpTransportConfig(), Priority.HIGH, known=True)
            lane = Lane(
                priority=Priority.HIGH,
                stream=stream,
                out=Outgoing(2**20),
                quota=quota,
                ctx=ctx,
                stall_s=10,
                moved=lambda direction, size: None,
            )
            with trio.move_on_after(20):
                await lane.read(hear)
        # Time passes only where the connection isn't read.
        assert stream.bytes_in == pytest.approx(quota.bytes_burst + 20 * quota.bytes_per_s, rel=0.01)
        assert heard in (stream.bytes_in // len(said), stream.bytes_in // len(said) - 1)

    def test_bans_double_to_an_hour_and_the_table_is_bounded(self) -> None:
        bans = Bans(60)
        lengths = [bans.ban(b"a", now) for now in range(0, 100_000, 10_000)]
        assert lengths[:4] == [60, 120, 240, 480] and lengths[-1] == BAN_S_MAX
        assert bans.remaining_s(b"a", 90_001) == BAN_S_MAX - 1 and bans.remaining_s(b"b", 0) == 0
        for number in range(BANS_MAX):
            bans.ban(number.to_bytes(4, "big"), 0)
        assert bans.remaining_s(b"a", 90_001) == 0 and len(bans._until) == BANS_MAX

    def test_a_ban_is_no_longer_for_a_second_reason_and_is_forgiven_after_a_good_while(self) -> None:
        bans = Bans(60)
        assert bans.ban(b"a", 0) == 60 and bans.ban(b"a", 20) == 40
        assert bans.ban(b"a", 60) == 120 and bans.now_banned(61) == [b"a"] and bans.now_banned(180) == []
        assert bans.ban(b"a", 180 + FORGIVEN_S) == 240
        assert bans.ban(b"a", 420 + 2 * FORGIVEN_S + 1) == 60

    def test_each_address_has_its_own_rate_of_arrivals(self) -> None:
        arrivals = Rates(10, 5)
        assert sum(arrivals.allows("a", 0.0) for _ in range(100)) == 5
        assert arrivals.allows("b", 0.0)
        assert sum(arrivals.allows("a", 1 + turn / 100) for turn in range(100)) in range(14, 16)

    @pytest.mark.parametrize(
        ("address", "network"),
        [
            ("8.8.8.8", "8.8.8.0/24"),
            ("::ffff:8.8.8.9", "8.8.8.0/24"),
            ("2600:1901:0:1::2", "2600:1901::/48"),
            ("2600:1901:0:ffff::2%eth0", "2600:1901::/48"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("10.1.2.3", "10.1.2.3"),
            ("192.168.1.7", "192.168.1.7"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("a host's name", "a host's name"),
        ],
    )
    def test_public_addresses_count_by_their_network_and_others_for_themselves(
        self, address: str, network: str
    ) -> None:
        assert network_of(address) == network and is_public(address) == (network != address)

    def test_what_happens_again_and_again_is_told_ever_more_seldom(self) -> None:
        seldom = Seldom()
        told = [(now, left_out) for now in range(400) if (left_out := seldom.tell(b"a", now)) is not None]
        assert told == [(0, 0), (10, 9), (30, 19), (70, 39), (150, 79), (310, 159)]
        assert seldom.tell(b"b", 400.0) == 0
        for number in range(ADDRESSES_MAX):
            seldom.tell(number.to_bytes(4, "big"), 400.0)
        assert len(seldom._told) == ADDRESSES_MAX

    def test_the_address_with_most_newcomers_loses_its_oldest(self) -> None:
        pending = Pending(4)
        assert [pending.add("attacker", number) for number in range(4)] == [None] * 4
        assert pending.add("honest", "h") == 0
        assert pending.add("attacker", 4) == 1
        pending.remove("honest", "h")
        pending.remove("honest", "h")
        assert len(pending) == 3

    def test_backoff_doubles_to_its_bound_with_jitter(self) -> None:
        class Ctx:
            class random:
                uniform = staticmethod(lambda low, high: high)

        ctx: Any = Ctx()
        backoff = Backoff(ctx, 1, 10)
        assert [backoff.next_s() for _ in range(6)] == [1.2, 2.4, 4.8, 9.6, 12, 12]
        assert backoff.next_s(at_least_s=100) == 100
        backoff.reset()
        assert backoff.next_s() == 1.2


class TestHello:
    def test_both_are_of_one_length_and_read_as_written(self) -> None:
        hello = Hello(chain_id=b"c" * 32, lane=Priority.BULK, session=b"s" * 16)
        welcome = Welcome(chain_id=b"c" * 32, verdict=Verdict.BANNED, retry_after_ms=7)
        assert len(hello.encode()) == HELLO_BYTES and read_hello(hello.encode()) == hello
        assert len(welcome.encode()) == WELCOME_BYTES and read_welcome(welcome.encode()) == welcome

    @settings(deadline=None)
    @given(st.binary(max_size=80))
    def test_anything_else_is_malformed(self, data: bytes) -> None:
        for read in (read_hello, read_welcome):
            with suppress(Malformed):
                assert read(data).encode() == data


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"listen": ("nowhere",)},
            {"listen": ("::1:9000",)},
            {"listen": ("host:99999",)},
            {"listen": ("fd:x",)},
            {"peers": ("127.0.0.1:9000",)},
            {"peers": ("12@127.0.0.1:9000",)},
            {"peers": (f"{'ab' * 32}@127.0.0.1:0",)},
            {"peers": (f"{'ab' * 32}@a..b:9000",)},
            {"peers": (f"{'ab' * 32}@{'x' * 64}.org:9000",)},
            {"listen": (f"{'ä' * 64}:9000",)},
            {"admitted": ("xyz",)},
            {"admit": "some"},
            {"links_max": 0},
            {"flood_s": 0},
        ],
    )
    def test_what_is_out_of_range_is_refused_by_name(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            TcpTransportConfig(**options)

    @pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64])
    def test_a_host_that_nobody_can_look_up_is_refused_with_its_mend(self, host: str) -> None:
        with pytest.raises(ValueError, match="1 to 63") as refused:
            read_endpoint(f"{host}:9000")
        assert repr(f"{host}:9000") in str(refused.value)

    @pytest.mark.parametrize("host", ["node_1", "a.b.", "10.0.0.1", "knöten.example", "x" * 63])
    def test_hosts_that_may_be_found_are_taken(self, host: str) -> None:
        assert read_endpoint(f"{host}:9000").host == host

    def test_peers_of_several_addresses_are_one(self) -> None:
        node_id = "ab" * 32
        config = TcpTransportConfig(peers=(f"{node_id}@h:1", f"0x{node_id}@[::1]:2"))
        assert config.endpoints() == {
            bytes.fromhex(node_id): (read_endpoint("h:1"), read_endpoint("[::1]:2"))
        }
        assert str(read_endpoint("[::1]:2")) == "[::1]:2"
