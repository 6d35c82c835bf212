"""A TLS 1.3 connection between two nodes, over a Trio stream. OpenSSL does all of it, through pyOpenSSL.

The standard library's `ssl` can't ask for a certificate that no authority has signed, and reads private
keys from files alone (docs/decisions/transport-security.md). No session is ever resumed, and no byte is
sent before the handshake has ended.
"""

from contextlib import suppress
from typing import Any

import attrs
import trio
from OpenSSL import SSL

from supervm.plugins.transport.tcp.certificates import (
    BadCertificate,
    Identity,
    Incarnation,
    incarnation_in,
    make_certificate,
    node_id_in,
)

PROTOCOL = b"supervm/1"
"""Negotiated by ALPN: a peer that speaks another one is refused by OpenSSL."""
RECORD_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
HANDSHAKE_BYTES_MAX = 32 * 1024
GOODBYE_S = 0.5
SILENT_BYTES_MAX = 128 * 1024
"""Bytes received in a row that hold no data of the peer's: an honest one sends one record at most."""


class Insecure(Exception):
    """The connection can't be trusted: not TLS 1.3, no identity, another identity, or tampered with."""


def make_context(identity: Identity, seed: bytes, sequence: int = 1) -> SSL.Context:
    """What all connections of a node share. `seed`: 32 secret random bytes, of its transport key.
    `sequence` as for `make_certificate`."""
    certificate, key = make_certificate(identity, seed, sequence)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    # Any certificate will do for OpenSSL: who it is of is decided in `handshake`, from the identity in it.
    demanded = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify(demanded, lambda *_: True)
    context.set_alpn_protos([PROTOCOL])
    context.set_alpn_select_callback(_choose)
    return context


def _choose(connection: SSL.Connection, offered: list[bytes]) -> Any:
    # Without a protocol the handshake goes on, and `handshake` refuses what it ends with.
    return PROTOCOL if PROTOCOL in offered else SSL.NO_OVERLAPPING_PROTOCOLS


@attrs.define(eq=False)
class SecureStream:
    """One connection. One task may receive and any may send; `bytes_in` and `bytes_out` count the wire's."""

    _stream: trio.abc.Stream
    _connection: SSL.Connection
    bytes_in: int = 0
    bytes_out: int = 0
    incarnation: Incarnation = Incarnation(0, b"")
    """The peer's, once the handshake is done."""
    _sending: trio.Lock = attrs.Factory(trio.Lock)

    @classmethod
    def over(cls, stream: trio.abc.Stream, context: SSL.Context, *, dialing: bool) -> "SecureStream":
        connection = SSL.Connection(context)
        if dialing:
            connection.set_connect_state()
        else:
            connection.set_accept_state()
        return cls(stream, connection)

    async def handshake(self) -> bytes:
        """Return the node id of the peer, proven. Raises `Insecure`, or trio.BrokenResourceError."""
        while True:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                if self.bytes_in > HANDSHAKE_BYTES_MAX:
                    raise Insecure(f"more than {HANDSHAKE_BYTES_MAX} bytes of handshake") from None
                await self._fill()
            except SSL.Error as error:
                await self._flush()
                raise Insecure(_reason(error)) from None
            else:
                break
        await self._flush()
        if self._connection.get_alpn_proto_negotiated() != PROTOCOL:
            raise Insecure("the peer speaks another protocol")
        return self._peer()

    async def send(self, data: bytes) -> None:
        """Send all of it. Cancelled, the connection is of no more use."""
        async with self._sending:
            view = memoryview(data)
            while view:
                # OpenSSL takes one record at a time, and writes to memory: it never has to wait.
                view = view[self._connection.send(view[:RECORD_BYTES]) :]
            await self._drain()

    async def receive(self) -> bytes:
        """What has come, at least a byte; empty when the peer has ended the connection by TLS.

        Raises `Insecure` for what isn't TLS, trio.BrokenResourceError for a connection that was cut.
        """
        silent = 0
        while True:
            data, ended = self._decrypted()
            if data or ended:
                return data
            if silent > SILENT_BYTES_MAX:
                raise Insecure(f"{silent} bytes without any data")
            if silent:
                # A peer may ask for new keys; OpenSSL has answered, and nobody else may be about to send.
                await self._flush()
            silent += await self._fill()

    async def aclose(self) -> None:
        """Tell the peer, if that takes no longer than `GOODBYE_S`, and close."""
        # Who has gone needs no telling.
        with (
            suppress(SSL.Error, trio.BrokenResourceError, trio.ClosedResourceError),
            trio.move_on_after(GOODBYE_S, shield=True),
        ):
            self._connection.shutdown()
            await self._flush()
        await trio.aclose_forcefully(self._stream)

    def _peer(self) -> bytes:
        """The node id in the certificate whose key TLS has proved. Raises `Insecure`."""
        try:
            certificate = self._connection.get_peer_certificate(as_cryptography=True)
        except Exception as error:
            # What OpenSSL has taken, the other reader may refuse with any error: see `node_id_in`.
            raise Insecure(f"the peer's certificate: {type(error).__name__}: {error}") from None
        if certificate is None:
            raise Insecure("the peer has no certificate")
        try:
            node_id = node_id_in(certificate)
            self.incarnation = incarnation_in(certificate)
            return node_id
        except BadCertificate as error:
            raise Insecure(f"the peer's certificate: {error}") from None

    def _decrypted(self) -> tuple[bytes, bool]:
        """All records that are complete, and whether the peer has ended the connection."""
        records: list[bytes] = []
        try:
            while True:
                records.append(self._connection.recv(RECORD_BYTES))
        except SSL.WantReadError:
            return b"".join(records), False
        except SSL.ZeroReturnError:
            return b"".join(records), True
        except SSL.Error as error:
            raise Insecure(_reason(error)) from None

    async def _fill(self) -> int:
        """Give OpenSSL what comes next from the wire; how much it was."""
        data = await self._stream.receive_some(READ_BYTES)
        if not data:
            raise trio.BrokenResourceError("the peer closed the connection without a word")
        self.bytes_in += len(data)
        # A memory buffer takes all of it.
        written = self._connection.bio_write(data)
        assert written == len(data), f"OpenSSL took {written} of {len(data)} bytes"
        return len(data)

    async def _flush(self) -> None:
        async with self._sending:
            await self._drain()

    async def _drain(self) -> None:
        """Write what OpenSSL has made. The lock is held, so records leave in order."""
        while True:
            try:
                data = self._connection.bio_read(READ_BYTES)
            except SSL.WantReadError:
                return
            self.bytes_out += len(data)
            await self._stream.send_all(data)


def _reason(error: SSL.Error) -> str:
    """OpenSSL's own words, the innermost."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(reasons[-1][-1]) if reasons else type(error).__name__
