"""What hostile peers do to `tcp`, before and after they have proven who they are; and what it costs them."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from struct import pack
from typing import Any

import attrs
import pytest
import trio
from cryptography import x509
from OpenSSL import SSL
from structlog.testing import capture_logs

from supervm.contracts.transport import Priority, TransportError, Unreachable
from supervm.crypto.keys import KeyPair
from supervm.plugins.transport.tcp import accepting, certificates, link, tls, transport
from supervm.plugins.transport.tcp.component import TCP
from supervm.plugins.transport.tcp.config import TcpTransportConfig, read_endpoint
from supervm.plugins.transport.tcp.dialing import DialFailed
from supervm.plugins.transport.tcp.figures import (
    LINES_BURST,
    LINES_PER_S,
    LINK_LINES_BURST,
    LINK_LINES_PER_S,
)
from supervm.plugins.transport.tcp.frames import Kind, Message, frames_of
from supervm.plugins.transport.tcp.hello import NO_CHAIN, Hello
from supervm.plugins.transport.tcp.lane import Lane
from supervm.plugins.transport.tcp.link import Link
from supervm.plugins.transport.tcp.quotas import SELDOM_S
from supervm.plugins.transport.tcp.tls import Insecure, SecureStream, make_context
from supervm.plugins.transport.tcp.transport import TcpTransport
from supervm.testing.conformance.transport import ECHO, echo
from supervm.testing.context import component_context, opened
from supervm.types.address import Suite
from tests.transport.tcp_attacker import (
    HOSTILE_CERTIFICATES,
    Attacker,
    attacker,
    dialer_of,
    hostile_certificate,
    identity_of,
    signed_again,
)
from tests.transport.tcp_nodes import PATIENT, Loopback, loopback

PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; no test takes it."""
ANSWER_S = 60.0
MIB = 2**20


@pytest.fixture
def nodes() -> Iterator[Loopback]:
    yield from loopback()


@asynccontextmanager
async def running(folder: Path, config: TcpTransportConfig, seed: int = 0) -> AsyncIterator[TcpTransport]:
    with trio.fail_after(PATIENCE_S):
        async with opened(TCP, folder, config, seed=seed) as transport:
            yield transport


def count(transport: TcpTransport, family: str, **labels: str) -> float:
    """What a counter has counted."""
    records = transport.ctx.metrics.families[family].records  # type: ignore[attr-defined]
    return sum(value for _, value, given in records if labels.items() <= given.items())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks and sockets bring about; `running` ends it if it never comes."""
    while True:
        if condition():
            return
        await trio.sleep(0.01)


async def closed_by_peer(stream: trio.abc.ReceiveStream) -> bool:
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(4096):
            pass
    return True


async def connect(address: str, source: str = "127.0.0.2") -> trio.SocketStream:
    """A TCP connection from another address of this machine."""
    endpoint = read_endpoint(address)
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect((endpoint.host, endpoint.port))
    return trio.SocketStream(sock)


def raw(
    kind: int, id: int = 0, payload: bytes = b"", *, length: int | None = None, version: int = 1
) -> bytes:
    """A frame, with a length of choice."""
    size = 17 + len(payload) if length is None else length
    return pack("<IBBQHIB", size, version, kind, id, 0, 0, 0) + payload


def frames(message: Message) -> bytes:
    return b"".join(frames_of(message))


def key_of(number: int) -> KeyPair:
    return KeyPair(Suite.ED25519, bytes((number,)) * 32)


MALLORY = key_of(66)
FLOODS = [
    Message(Kind.PING, 1),
    Message(Kind.ONE_WAY, 0, b"\x01t" + bytes(30)),
    Message(Kind.TELL, 0, b"x", 7),
    Message(Kind.CANCEL, 2),
    Message(Kind.RESPONSE, 1),
]


class TestBeforeItIsKnown:
    async def test_handshakes_that_stop_halfway_make_room_and_hold_up_nobody(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        honest = key_of(1)
        # None of them times out here: the next test is of that.
        config, address = nodes.victim(
            honest, handshake_ms_max=600_000, handshakes_max=12, arrivals_burst=1_000, arrivals_per_s=1_000
        )
        async with running(tmp_path / "0", config) as victim, trio.open_nursery() as nursery:
            half = [await connect(address) for _ in range(40)]
            for number, stream in enumerate(half):
                # A record that promises a ClientHello, and none of it, or a little.
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[: 5 + number % 7])
            async with attacker(tmp_path / "h", honest, victim.node_id, address):
                await until(lambda: [peer.node_id for peer in victim.peers()] == [honest.node_id])
            await until(lambda: count(victim, "transport_handshakes_total", outcome="evicted") >= 40 - 12)
            closed: list[trio.SocketStream] = []

            async def wait_closed(stream: trio.SocketStream) -> None:
                await closed_by_peer(stream)
                closed.append(stream)

            for stream in half:
                nursery.start_soon(wait_closed, stream)
            await until(lambda: len(closed) >= 40 - 12)
            nursery.cancel_scope.cancel()

    async def test_a_handshake_is_closed_in_time_and_a_byte_now_and_then_buys_none(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        config, address = nodes.victim(handshake_ms_max=300)
        async with running(tmp_path / "0", config) as victim:
            stream = await connect(address)
            sent = 0
            with contextlib.suppress(trio.BrokenResourceError):
                for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500):
                    await stream.send_all(bytes((byte,)))
                    sent += 1
                    await trio.sleep(0.01)
            assert sent < 500
            await until(lambda: count(victim, "transport_handshakes_total", outcome="timeout") == 1)

    @pytest.mark.parametrize(
        "garbage",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(5000),
            b"\x16\x03\x01\xff\xff" + bytes(70_000),
            b"\x15\x03\x03\x00\x02\x02\x28",
        ],
        ids=["http", "zeros", "a record too long", "an alert"],
    )
    async def test_what_is_not_tls_ends_the_connection(
        self, garbage: bytes, nodes: Loopback, tmp_path: Path
    ) -> None:
        config, address = nodes.victim()
        async with running(tmp_path / "0", config) as victim:
            stream = await connect(address)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(garbage)
            assert await closed_by_peer(stream)
            await until(lambda: count(victim, "transport_handshakes_total", outcome="insecure") == 1)

    async def test_older_tls_and_a_peer_without_a_certificate_are_refused(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        config, address = nodes.victim(handshake_ms_max=20_000)
        async with running(tmp_path / "0", config) as victim:
            for version, alpn in (
                (ssl.TLSVersion.TLSv1_2, ["supervm/1"]),
                (ssl.TLSVersion.TLSv1_3, ["supervm/1"]),
                (ssl.TLSVersion.TLSv1_3, ["h2"]),
            ):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                context.minimum_version = context.maximum_version = version
                context.set_alpn_protocols(alpn)
                stream = trio.SSLStream(await connect(address), context)
                with pytest.raises(trio.BrokenResourceError):
                    await stream.do_handshake()
                    # TLS 1.3 tells a client that it was refused when it next reads.
                    await stream.receive_some(1)
            await until(lambda: count(victim, "transport_handshakes_total", outcome="insecure") == 3)

    @pytest.mark.parametrize(
        "case", ["nobody", "another's identity", "another's binding", "a damaged binding"]
    )
    async def test_an_identity_that_is_not_its_own_is_refused(
        self, case: str, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        honest = key_of(1)
        config, address = nodes.victim(honest, MALLORY)
        real = certificates.make_certificate

        def forged(identity: Any, seed: bytes, sequence: int) -> Any:
            own, key = real(identity, seed)
            theirs, _ = real(identity_of(honest), bytes(32))
            builder = x509.CertificateBuilder(
                issuer_name=own.issuer,
                subject_name=own.subject,
                public_key=key.public_key(),
                serial_number=1,
                not_valid_before=own.not_valid_before_utc,
                not_valid_after=own.not_valid_after_utc,
            )
            binding = {
                "another's identity": lambda value: value[:6] + honest.public_key + value[38:],
                "another's binding": lambda value: theirs.extensions[0].value.value,
                "a damaged binding": lambda value: value[:-1],
            }.get(case)
            if binding is not None:
                extension = x509.UnrecognizedExtension(
                    certificates.BINDING, binding(own.extensions[0].value.value)
                )
                builder = builder.add_extension(extension, critical=True)
            return builder.sign(key, None), key

        async with running(tmp_path / "0", config) as victim, component_context(tmp_path / "m") as ctx:
            with monkeypatch.context() as patched:
                patched.setattr(tls, "make_certificate", forged)
                dialer = dialer_of(ctx, MALLORY)
            with pytest.raises(DialFailed):
                await dialer.dial(victim.node_id, read_endpoint(address), lambda: None)
            await until(lambda: count(victim, "transport_handshakes_total", outcome="insecure") >= 1)
            assert victim.peers() == ()

    @pytest.mark.parametrize("case", HOSTILE_CERTIFICATES)
    @pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509 objects")
    async def test_a_certificate_that_no_reader_expects_is_refused_where_it_dials(
        self, case: str, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, address = nodes.victim(MALLORY)
        async with running(tmp_path / "0", config) as victim, component_context(tmp_path / "m") as ctx:
            with monkeypatch.context() as patched:
                patched.setattr(tls, "make_certificate", partial(hostile_certificate, case))
                dialer = dialer_of(ctx, MALLORY)
            with pytest.raises(DialFailed):
                await dialer.dial(victim.node_id, read_endpoint(address), lambda: None)
            await until(lambda: count(victim, "transport_handshakes_total") >= 1)
            assert count(victim, "transport_handshakes_total", outcome="insecure") >= 1
            assert count(victim, "transport_handshakes_total", outcome="failed") == 0

    @pytest.mark.parametrize("case", HOSTILE_CERTIFICATES)
    @pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509 objects")
    async def test_a_certificate_that_no_reader_expects_costs_who_dials_it_no_other_link(
        self, case: str, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        honest, hostile, node = nodes.configs(3, connect_wait_ms=0)
        async with running(tmp_path / "0", honest) as friend, AsyncExitStack() as stack:
            with monkeypatch.context() as patched:
                patched.setattr(tls, "make_certificate", partial(hostile_certificate, case))
                alone = attrs.evolve(hostile, peers=())
                await stack.enter_async_context(running(tmp_path / "1", alone, 1))
            with friend.serve(ECHO, echo):
                async with running(tmp_path / "2", node, 2) as victim:
                    await until(lambda: count(victim, "transport_dials_total", outcome="insecure") >= 2)
                    await until(lambda: [peer.node_id for peer in victim.peers()] == [friend.node_id])
                    assert await victim.request(friend.node_id, ECHO, b"x", timeout_s=ANSWER_S) == b"x"

    def test_a_certificate_that_cannot_be_read_is_a_bad_one_whatever_the_reader_raises(self) -> None:
        own, key = certificates.make_certificate(identity_of(MALLORY), bytes(32))
        ed25519, unknown = bytes.fromhex("06032b6570032100"), bytes.fromhex("06032b657f032100")
        encoded = signed_again(own.tbs_certificate_bytes.replace(ed25519, unknown), key)
        with pytest.raises(certificates.BadCertificate, match="UnsupportedAlgorithm"):
            certificates.node_id_in(x509.load_der_x509_certificate(encoded))

    async def test_a_bug_that_a_dialed_peer_finds_costs_no_other_link(
        self, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        friend_config, other_config, node = nodes.configs(3, connect_wait_ms=0)
        real = SecureStream.handshake
        async with (
            running(tmp_path / "0", friend_config) as friend,
            running(tmp_path / "1", attrs.evolve(other_config, peers=()), 1) as other,
        ):

            async def broken(stream: SecureStream) -> bytes:
                found = await real(stream)
                if found == other.node_id:
                    raise RuntimeError("a bug")
                return found

            monkeypatch.setattr(SecureStream, "handshake", broken)
            with capture_logs() as lines:
                async with running(tmp_path / "2", node, 2) as victim:
                    await until(lambda: count(victim, "transport_dials_total", outcome="failed") >= 2)
                    await until(lambda: [peer.node_id for peer in victim.peers()] == [friend.node_id])
        (told,) = [line for line in lines if line["event"] == "dial_failed"]
        assert told["log_level"] == "error" and isinstance(told["exc_info"], RuntimeError)

    async def test_a_bug_that_peers_find_fills_no_log(
        self, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, address = nodes.victim(arrivals_burst=1_000)

        async def broken(stream: SecureStream) -> bytes:
            raise RuntimeError("a bug")

        monkeypatch.setattr(SecureStream, "handshake", broken)
        with capture_logs() as lines:
            started = trio.current_time()
            async with running(tmp_path / "0", config) as victim:
                for _ in range(100):
                    assert await closed_by_peer(await connect(address))
                await until(lambda: count(victim, "transport_handshakes_total", outcome="failed") == 100)
            allowed = LINES_BURST + LINES_PER_S * (trio.current_time() - started)
        told = [line for line in lines if line["log_level"] in ("error", "warning")]
        assert "error" in {line["log_level"] for line in told}
        assert len(told) <= allowed + 1

    async def test_who_answers_for_another_is_told_nothing_and_never_linked(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        other, address = nodes.victim()
        expected = key_of(1).node_id
        config = TcpTransportConfig(peers=(f"{expected.hex()}@{address}",), connect_wait_ms=0, **PATIENT)
        async with running(tmp_path / "0", other) as impostor, running(tmp_path / "1", config, 1) as node:
            await until(lambda: count(node, "transport_dials_total", outcome="wrong_identity") >= 1)
            assert node.peers() == () == impostor.peers()
            with pytest.raises(Unreachable):
                await node.request(expected, ECHO, b"", timeout_s=1)
            await until(lambda: count(impostor, "transport_handshakes_total") >= 1)
            # It never got as far as a hello.
            assert count(impostor, "transport_handshakes_total", outcome="not_admitted") == 0

    async def test_a_recorded_handshake_is_worth_nothing_when_it_is_replayed(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        honest = key_of(1)
        config, address = nodes.victim(honest)
        recorded: list[bytes] = []
        async with running(tmp_path / "0", config) as victim, trio.open_nursery() as nursery:

            async def eavesdrop(near: trio.SocketStream) -> None:
                far = await connect(address)
                kept = bytearray()

                async def carry(source: trio.SocketStream, target: trio.SocketStream, note: bool) -> None:
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        async for data in source:
                            if note:
                                kept.extend(data)
                            await target.send_all(data)
                        await target.send_eof()

                async with trio.open_nursery() as both:
                    both.start_soon(carry, near, far, True)
                    both.start_soon(carry, far, near, False)
                recorded.append(bytes(kept))

            serve = partial(trio.serve_tcp, host="127.0.0.1")
            (listener,) = await nursery.start(serve, eavesdrop, 0)
            tapped = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            async with attacker(tmp_path / "h", honest, victim.node_id, tapped):
                await until(lambda: len(victim.peers()) == 1)
            await until(lambda: len(recorded) == 3 and victim.peers() == ())
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(PATIENCE_S):
                linked = count(victim, "transport_handshakes_total", outcome="linked")
                assert linked == 1 and all(len(each) > 500 for each in recorded)
                for each in recorded:
                    stream = await connect(address)
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.send_all(each)
                    assert await closed_by_peer(stream)
                await until(lambda: count(victim, "transport_handshakes_total", outcome="insecure") == 3)
                assert count(victim, "transport_handshakes_total", outcome="linked") == linked
                assert victim.peers() == ()

    async def test_a_storm_of_connections_is_refused_by_address_and_others_get_in(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        honest = key_of(1)
        config, address = nodes.victim(honest, arrivals_per_s=0.1, arrivals_burst=5, handshakes_max=8)
        async with running(tmp_path / "0", config) as victim, trio.open_nursery() as nursery:

            async def storm() -> None:
                for _ in range(100):
                    with contextlib.suppress(OSError):
                        await (await connect(address)).aclose()

            for _ in range(3):
                nursery.start_soon(storm)
            async with attacker(tmp_path / "h", honest, victim.node_id, address):
                assert [peer.node_id for peer in victim.peers()] == [honest.node_id]
            # Its rate lets in five, and one more in ten seconds.
            await until(lambda: count(victim, "transport_handshakes_total", outcome="rate") >= 280)

    async def test_an_address_of_a_configured_peer_has_a_larger_rate_and_not_an_endless_one(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        rate = {"arrivals_per_s": 0.01, "arrivals_burst": 5}
        config, address = nodes.victim(**rate)
        known = f"{key_of(1).node_id.hex()}@127.0.0.2:1"
        config = attrs.evolve(config, peers=(known,))
        async with running(tmp_path / "0", config) as victim:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    await (await connect(address)).aclose()
            await until(lambda: count(victim, "transport_handshakes_total") == 200)
            refused = count(victim, "transport_handshakes_total", outcome="rate")
            # Ten times 5 at once, and in the minutes that this may take a few more.
            assert 100 < refused <= 150

    async def test_a_storm_from_all_over_a_network_is_refused_and_others_get_in(
        self, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one_network(monkeypatch, "127.0.7.")
        rate = {"network_arrivals_per_s": 0.01, "network_arrivals_burst": 5}
        config, address = nodes.victim(**rate)
        async with running(tmp_path / "0", config) as victim:
            for number in range(100):
                with contextlib.suppress(OSError):
                    await (await connect(address, f"127.0.7.{1 + number}")).aclose()
            await until(lambda: count(victim, "transport_handshakes_total") == 100)
            # In the minutes that this may take it lets a few more in.
            assert count(victim, "transport_handshakes_total", outcome="rate") >= 90
            assert await closed_by_peer(await _hung_up(address, "127.0.0.5"))
            await until(lambda: count(victim, "transport_handshakes_total", outcome="lost") >= 6)

    async def test_one_network_has_few_links_and_who_is_listed_has_one_besides(
        self, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one_network(monkeypatch, "127.0.0.")
        friend = key_of(1)
        config, address = nodes.victim(friend, admit="any", network_arrivals_burst=1_000)
        async with running(tmp_path / "0", config) as victim, AsyncExitStack() as stack:
            for number in range(4):
                key = key_of(70 + number)
                await stack.enter_async_context(
                    attacker(tmp_path / f"m{number}", key, victim.node_id, address)
                )
            with pytest.raises(DialFailed) as refused:
                async with attacker(tmp_path / "m", MALLORY, victim.node_id, address):
                    pytest.fail("a fifth of one network")
            assert refused.value.outcome == "full"
            # One of them that comes again takes its own place, and who is listed needs none.
            for number, key in enumerate((key_of(73), friend)):
                await stack.enter_async_context(
                    attacker(tmp_path / f"n{number}", key, victim.node_id, address)
                )
            await until(lambda: len(victim.peers()) == 5)

    async def test_where_a_configured_peer_is_seen_is_remembered_once_for_each(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        friend, dead = key_of(1), "127.0.0.9:1"
        config, address = nodes.victim()
        config = attrs.evolve(config, peers=(f"{friend.node_id.hex()}@{dead}",))
        async with running(tmp_path / "0", config) as victim:
            for number in range(3):
                async with attacker(tmp_path / f"h{number}", friend, victim.node_id, address):
                    await until(lambda: [peer.node_id for peer in victim.peers()] == [friend.node_id])
                await until(lambda: victim.peers() == ())
            assert victim._is_known("127.0.0.9") and victim._is_known("127.0.0.1")
            victim._seen_at[friend.node_id] = "127.0.0.3"
            assert victim._is_known("127.0.0.3") and not victim._is_known("127.0.0.1")


def one_network(monkeypatch: pytest.MonkeyPatch, beginning: str) -> None:
    """Let addresses of this machine that begin so be of one public network."""

    def network_of(address: str) -> str:
        return "8.8.8.0/24" if address.startswith(beginning) else address

    for module in (accepting, transport):
        monkeypatch.setattr(module, "network_of", network_of)
        monkeypatch.setattr(module, "is_public", lambda address: network_of(address) != address)


@asynccontextmanager
async def beside_an_honest_peer(
    nodes: Loopback, folder: Path, **options: Any
) -> AsyncIterator[tuple[TcpTransport, TcpTransport, str]]:
    """A victim that admits Mallory, with an honest peer linked, and the victim's address."""
    honest_key, honest_file = nodes.key()
    config, address = nodes.victim(honest_key, MALLORY, **options)
    async with running(folder / "victim", config) as victim:
        dials = TcpTransportConfig(
            identity_file=honest_file,
            peers=(f"{victim.node_id.hex()}@{address}",),
            connect_wait_ms=120_000,
            **PATIENT,
        )
        async with running(folder / "honest", dials, 1) as honest:
            assert [peer.node_id for peer in honest.peers()] == [victim.node_id]
            yield victim, honest, address


class TestAfterItIsKnown:
    @pytest.mark.parametrize(
        "said",
        [
            raw(Kind.PING, length=2**31),
            raw(Kind.PING, length=3),
            raw(Kind.PING, version=2),
            raw(200),
            raw(Kind.PING, 1, b"x"),
            raw(Kind.CHUNK, 1, b"x"),
            raw(Kind.RESPONSE, 99, b"x"),
            raw(Kind.DATA, 4, b"x"),
            raw(Kind.ERROR, 99, b"x"),
            raw(Kind.ONE_WAY, 0, b"\xffabc"),
            raw(Kind.ONE_WAY, 0, b"\x01\xff"),
            raw(Kind.OPEN, 0, b"p"),
            raw(Kind.TELL, 1, b"x"),
            bytes(100),
        ],
        ids=[
            "oversized",
            "undersized",
            "version",
            "kind",
            "payload",
            "stray piece",
            "answer to nothing",
            "data of no stream",
            "cut error",
            "cut topic",
            "topic not UTF-8",
            "stream on votes",
            "numbered telling",
            "zeros",
        ],
    )
    async def test_what_no_honest_peer_sends_ends_its_link_bans_it_and_names_it(
        self, said: bytes, nodes: Loopback, tmp_path: Path
    ) -> None:
        async with beside_an_honest_peer(nodes, tmp_path) as (victim, honest, address):
            with victim.serve(ECHO, echo):
                async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                    await mallory.on(Priority.HIGH).send(said)
                    assert await mallory.is_closed()
                await until(lambda: MALLORY.node_id not in [peer.node_id for peer in victim.peers()])
                await until(lambda: count(victim, "transport_cut_off_total", kind="malformed") == 1)
                with pytest.raises(DialFailed) as banned:
                    async with attacker(tmp_path / "n", MALLORY, victim.node_id, address):
                        pytest.fail("let in again at once")
                assert banned.value.outcome == "banned" and banned.value.retry_after_s > 50
                assert await honest.request(victim.node_id, ECHO, b"x", timeout_s=ANSWER_S) == b"x"

    async def test_the_address_of_a_banned_peer_costs_little_more_tls_until_another_proves_itself_there(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        async with beside_an_honest_peer(nodes, tmp_path) as (victim, _, address):
            async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                await mallory.on(Priority.HIGH).send(raw(200))
                assert await mallory.is_closed()
            await until(lambda: MALLORY.node_id not in [peer.node_id for peer in victim.peers()])
            for _ in range(40):
                await closed_by_peer(await _hung_up(address))
            await until(lambda: count(victim, "transport_handshakes_total", outcome="banned") >= 30)
            # From elsewhere all is as before.
            assert await closed_by_peer(await _hung_up(address, "127.0.0.5"))
            await until(lambda: count(victim, "transport_handshakes_total", outcome="lost") >= 1)

    async def test_a_peer_that_comes_and_goes_fills_no_log(self, nodes: Loopback, tmp_path: Path) -> None:
        config, address = nodes.victim(MALLORY, arrivals_burst=10_000)
        with capture_logs() as lines:
            async with running(tmp_path / "0", config) as victim:
                started = trio.current_time()
                for number in range(40):
                    async with attacker(tmp_path / f"m{number}", MALLORY, victim.node_id, address):
                        await until(lambda: len(victim.peers()) == 1)
                    await until(lambda: victim.peers() == ())
                allowed = LINK_LINES_BURST + LINK_LINES_PER_S * (trio.current_time() - started)
                await until(lambda: count(victim, "transport_links_ended_total") == 40)
        told = [line for line in lines if line["event"] in ("peer_connected", "peer_disconnected")]
        assert 2 <= len(told) <= allowed + 1

    async def test_a_bug_that_a_peer_finds_in_each_of_its_links_is_traced_once_and_then_seldom(
        self, nodes: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(link: Link, lane: Lane, message: Message) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setitem(link._RECEIVERS, Kind.ONE_WAY, broken)
        config, address = nodes.victim(MALLORY, arrivals_burst=10_000)
        with capture_logs() as lines:
            async with running(tmp_path / "0", config) as victim:
                started = trio.current_time()
                for number in range(30):
                    async with attacker(tmp_path / f"m{number}", MALLORY, victim.node_id, address) as mallory:
                        await mallory.on(Priority.HIGH).send(frames(Message(Kind.ONE_WAY, 0, b"\x01tx")))
                        assert await mallory.is_closed()
                await until(lambda: count(victim, "transport_links_ended_total", kind="failed") == 30)
                passed_s = trio.current_time() - started
        told = [line for line in lines if line["event"] == "link_failed"]
        assert isinstance(told[0]["exc_info"], RuntimeError) and told[0]["log_level"] == "error"
        assert 1 <= len(told) <= 1 + passed_s / SELDOM_S

    async def test_tampering_on_the_wire_ends_the_link(self, nodes: Loopback, tmp_path: Path) -> None:
        async with beside_an_honest_peer(nodes, tmp_path) as (victim, _, address):
            async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                secured = mallory.on(Priority.NORMAL)
                # A whole record that nobody with the keys has made.
                await secured._stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
                assert await mallory.is_closed(Priority.NORMAL)
            await until(lambda: count(victim, "transport_cut_off_total", kind="insecure") == 1)

    @pytest.mark.parametrize("message", FLOODS, ids=lambda message: message.kind.name)
    async def test_a_flood_costs_no_memory_and_others_go_on(
        self, message: Message, nodes: Loopback, tmp_path: Path
    ) -> None:
        # It is not cut off before the honest peer has had its answers: how soon it is, is the next test's.
        options = {"flood_s": 600.0, "peer_frames_per_s": 2_000.0}
        async with beside_an_honest_peer(nodes, tmp_path, **options) as (victim, honest, address):
            before = _resident_bytes()
            async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                with victim.serve(ECHO, echo):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_flood, mallory, message)
                        # Nor because it doesn't read what it is answered.
                        nursery.start_soon(mallory.is_closed)
                        for _ in range(20):
                            await honest.request(victim.node_id, ECHO, bytes(100), timeout_s=ANSWER_S)
                        assert MALLORY.node_id in [peer.node_id for peer in victim.peers()]
                        nursery.cancel_scope.cancel()
            assert _resident_bytes() - before < 48 * MIB

    @pytest.mark.parametrize("message", FLOODS, ids=lambda message: message.kind.name)
    async def test_a_flood_is_cut_off_and_others_stay(
        self, message: Message, nodes: Loopback, tmp_path: Path
    ) -> None:
        options = {"flood_s": 0.5, "peer_frames_per_s": 2_000.0}
        async with beside_an_honest_peer(nodes, tmp_path, **options) as (victim, honest, address):
            before = _resident_bytes()
            async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                with victim.serve(ECHO, echo):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_flood, mallory, message)
                        await until(lambda: MALLORY.node_id not in [peer.node_id for peer in victim.peers()])
                        nursery.cancel_scope.cancel()
                    await honest.request(victim.node_id, ECHO, bytes(100), timeout_s=ANSWER_S)
            # It is nobody's peer a moment sooner than it is counted.
            await until(lambda: count(victim, "transport_cut_off_total") == 1)
            assert _resident_bytes() - before < 48 * MIB

    async def test_more_bytes_than_allowed_are_read_slowly_and_not_punished(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        async with beside_an_honest_peer(nodes, tmp_path, peer_bytes_per_s=4.0 * MIB) as (victim, honest, _):
            with victim.serve(ECHO, _nothing):
                started = trio.current_time()
                for _ in range(4):
                    await honest.request(victim.node_id, ECHO, bytes(3 * MIB), timeout_s=ANSWER_S)
                # 12 MiB: 8 at once, the rest at one a second.
                assert trio.current_time() - started > 1.5
            assert len(victim.peers()) == 1 and count(victim, "transport_cut_off_total") == 0

    async def test_little_is_kept_for_a_peer_that_does_not_read(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        options = {"stall_ms_max": 600_000, "silence_ms_max": 600_000}
        config, address = nodes.victim(MALLORY, **options)
        async with (
            running(tmp_path / "0", config) as victim,
            attacker(tmp_path / "m", MALLORY, victim.node_id, address),
        ):
            before = _resident_bytes()
            for _ in range(200):
                await victim.broadcast("t", bytes(MIB), priority=Priority.BULK)
            assert MALLORY.node_id in [peer.node_id for peer in victim.peers()]
            assert count(victim, "transport_broadcasts_dropped_total") >= 1
            assert _resident_bytes() - before < 48 * MIB

    async def test_a_peer_that_does_not_read_is_let_go(self, nodes: Loopback, tmp_path: Path) -> None:
        options = {"stall_ms_max": 500, "silence_ms_max": 600_000}
        config, address = nodes.victim(MALLORY, **options)
        async with running(tmp_path / "0", config) as victim:
            async with attacker(tmp_path / "m", MALLORY, victim.node_id, address):
                while MALLORY.node_id in [peer.node_id for peer in victim.peers()]:
                    await victim.broadcast("t", bytes(MIB), priority=Priority.BULK)
                    await trio.sleep(0.002)
            await until(lambda: count(victim, "transport_links_ended_total", kind="stalled") == 1)

    async def test_a_peer_that_falls_silent_is_noticed(self, nodes: Loopback, tmp_path: Path) -> None:
        options = {"ping_ms": 50, "silence_ms_max": 300}
        config, address = nodes.victim(MALLORY, **options)
        async with running(tmp_path / "0", config) as victim:
            async with attacker(tmp_path / "m", MALLORY, victim.node_id, address):
                await until(lambda: count(victim, "transport_links_ended_total", kind="silent") == 1)
            assert victim.peers() == ()

    async def test_requests_that_are_cancelled_leave_a_bounded_number_of_handlers(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        running_now, most = 0, 0
        release = trio.Event()

        async def stubborn(peer: bytes, payload: bytes) -> bytes:
            nonlocal running_now, most
            if peer != MALLORY.node_id:
                return b""
            running_now += 1
            most = max(most, running_now)
            try:
                with trio.CancelScope(shield=True):
                    await release.wait()
            finally:
                running_now -= 1
            return b""

        async with beside_an_honest_peer(nodes, tmp_path) as (victim, honest, address):
            with victim.serve(ECHO, stubborn):
                async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                    said = b"".join(
                        frames(Message(Kind.REQUEST, 2 * number, b"", ECHO, 600_000))
                        + frames(Message(Kind.CANCEL, 2 * number))
                        for number in range(500)
                    )
                    await mallory.on(Priority.NORMAL).send(said)
                    try:
                        await until(lambda: most >= 64)
                        assert await honest.request(victim.node_id, ECHO, b"", timeout_s=ANSWER_S) == b""
                    finally:
                        release.set()
            assert most <= 128

    async def test_stream_bytes_that_were_not_granted_end_the_link(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        async with beside_an_honest_peer(nodes, tmp_path) as (victim, _, address), victim.listen("p"):
            async with attacker(tmp_path / "m", MALLORY, victim.node_id, address) as mallory:
                bulk = mallory.on(Priority.BULK)
                await bulk.send(frames(Message(Kind.OPEN, 0, b"p")))
                await bulk.send(frames(Message(Kind.DATA, 0, bytes(2**16))))
                await bulk.send(frames(Message(Kind.DATA, 0, b"x")))
                assert await mallory.is_closed(Priority.BULK)
            await until(lambda: count(victim, "transport_cut_off_total", kind="malformed") == 1)

    async def test_a_peer_that_speaks_before_it_is_welcomed_is_not_let_in(
        self, nodes: Loopback, tmp_path: Path
    ) -> None:
        config, address = nodes.victim(MALLORY)
        async with running(tmp_path / "0", config) as victim:
            context = make_context(identity_of(MALLORY), bytes(32))
            stream = SecureStream.over(await connect(address), context, dialing=True)
            assert await stream.handshake() == victim.node_id
            hello = Hello(chain_id=NO_CHAIN, lane=Priority.HIGH, session=bytes(16)).encode()
            await stream.send(hello + raw(Kind.PING, 1))
            with pytest.raises((trio.BrokenResourceError, Insecure)):
                assert await stream.receive() == b""
                raise trio.BrokenResourceError("ended by TLS")
            await until(lambda: count(victim, "transport_handshakes_total", outcome="malformed") == 1)


async def _hung_up(address: str, source: str = "127.0.0.1") -> trio.SocketStream:
    """A connection that ends before it has begun TLS."""
    stream = await connect(address, source)
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_eof()
    return stream


async def _flood(mallory: Attacker, message: Message) -> None:
    """Send as much of it as goes, until the connection ends."""
    burst = frames(message) * 2_000
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await mallory.on(Priority.HIGH).send(burst)


async def _nothing(peer: bytes, payload: bytes) -> bytes:
    return b""


def _resident_bytes() -> int:
    """Memory of this process; 0 where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def test_errors_that_the_tests_rely_on_are_what_they_seem() -> None:
    assert issubclass(Unreachable, TransportError) and issubclass(SSL.WantReadError, SSL.Error)
