"""The first message of each side on a connection, after TLS has proven who they are (NET-13).

The dialer says which chain it is on, which of its connections this is, and the session that its three
connections share; the other side answers with its chain and whether they may go on. Both are of one fixed
length, so a connection that isn't welcome has cost 66 bytes. Nothing here needs a signature: it is inside
the channel.

Lengths of time: u32 milliseconds.
"""

from enum import IntEnum

import attrs

from supervm.contracts.transport import Priority
from supervm.plugins.transport.tcp.frames import Malformed
from supervm.types.codec import Reader, Writer
from supervm.types.errors import InvalidInput

VERSION = 1
SESSION_BYTES = 16
HELLO_BYTES = 1 + 32 + 1 + SESSION_BYTES
WELCOME_BYTES = 1 + 32 + 1 + 4
NO_CHAIN = bytes(32)
"""The chain of a node that keeps none; it only talks to its like."""


class Verdict(IntEnum):
    """What the side that was dialed says."""

    WELCOME = 0
    DUPLICATE = 1
    WRONG_NETWORK = 2
    NOT_ADMITTED = 3
    FULL = 4
    BANNED = 5
    LEAVING = 6
    IN_USE = 7
    """A later run of the dialer's identity has a link (NET-15)."""


@attrs.frozen(kw_only=True)
class Hello:
    """What the dialer says. `session` is 16 random bytes, the same on all its connections to this peer."""

    chain_id: bytes
    lane: Priority
    session: bytes

    def encode(self) -> bytes:
        writer = Writer().u8(VERSION).bytes32(self.chain_id).u8(self.lane)
        return writer.fixed(self.session, SESSION_BYTES).done()


@attrs.frozen(kw_only=True)
class Welcome:
    """What the other side answers. `retry_after_ms`: when it is worth another try, 0 for as usual."""

    chain_id: bytes
    verdict: Verdict
    retry_after_ms: int = 0

    def encode(self) -> bytes:
        return Writer().u8(VERSION).bytes32(self.chain_id).u8(self.verdict).u32(self.retry_after_ms).done()


def read_hello(data: bytes) -> Hello:
    """Raises `Malformed`."""
    try:
        reader = Reader(data)
        reader.format_byte("hello", VERSION)
        chain_id = reader.bytes32("hello.chain_id")
        lane = Priority(reader.u8("hello.lane", max(Priority)))
        hello = Hello(chain_id=chain_id, lane=lane, session=reader.fixed(SESSION_BYTES, "hello.session"))
        reader.finish("hello")
    except InvalidInput as error:
        raise Malformed(str(error)) from None
    return hello


def read_welcome(data: bytes) -> Welcome:
    """Raises `Malformed`."""
    try:
        reader = Reader(data)
        reader.format_byte("welcome", VERSION)
        chain_id = reader.bytes32("welcome.chain_id")
        verdict = Verdict(reader.u8("welcome.verdict", max(Verdict)))
        welcome = Welcome(chain_id=chain_id, verdict=verdict, retry_after_ms=reader.u32("welcome.retry"))
        reader.finish("welcome")
    except InvalidInput as error:
        raise Malformed(str(error)) from None
    return welcome
