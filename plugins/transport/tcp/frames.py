"""Frames of NET-4, without I/O: messages to bytes, and whatever a peer sends to messages or `Malformed`.

    u32 length || u8 version = 1 || u8 kind || u64 id || u16 method || u32 deadline_ms || u8 flags || payload

`length` counts all after itself. A frame holds at most 64 KiB of payload. A longer request, response or
broadcast is cut: its first frame has the flag `MORE` and `u32 total` before its payload, `CHUNK` frames of
the same id follow, and the last of them has no `MORE`. Only one message is on its way in pieces on a
connection, so what a peer can make us hold is one message; whole frames may come between its pieces. A
`CANCEL` of its id ends it early. One encoding for each frame: fields that a kind doesn't use are 0.

| kind | id | method | deadline | payload |
|---|---|---|---|---|
| 0 REQUEST | asker's | yes | ms that remain | the request |
| 1 RESPONSE | the request's, the stream's | | | the reply, empty for a stream |
| 2 ERROR | the request's, the stream's | | | u16 code, u32 retry_after_ms, text |
| 3 ONE_WAY | 0 | | | topic, then the broadcast |
| 4 CHUNK | the message's | | | a piece |
| 5 CANCEL | the request's | | | |
| 6 PING, 7 PONG | sender's, the ping's | | | |
| 8 OPEN | the new stream's | | | protocol |
| 9 DATA, 11 END, 12 RESET | the stream's | | | bytes for DATA |
| 13 TELL | 0 | yes | | what wants no answer |
| 10 WINDOW | the stream's | | | u32, bytes more that may be sent |
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

import attrs

from supervm.contracts.transport import LIMITS, ErrorCode

VERSION = 1
PIECE_BYTES_MAX = 64 * 1024
MORE = 1
TOPIC_BYTES_MAX = 255
PROTOCOL_BYTES_MAX = 255

_HEADER = Struct("<IBBQHIB")
_AFTER_LENGTH = _HEADER.size - 4
_U32 = Struct("<I")
_ERROR = Struct("<HII")


class Kind(IntEnum):
    """What a frame is. 0 to 5 as NET-4; the rest are this transport's."""

    REQUEST = 0
    RESPONSE = 1
    ERROR = 2
    ONE_WAY = 3
    CHUNK = 4
    CANCEL = 5
    PING = 6
    PONG = 7
    OPEN = 8
    DATA = 9
    WINDOW = 10
    END = 11
    RESET = 12
    TELL = 13


_TOTAL_MAX = {
    Kind.REQUEST: LIMITS.request_bytes_max,
    Kind.RESPONSE: LIMITS.request_bytes_max,
    Kind.TELL: LIMITS.request_bytes_max,
    Kind.ONE_WAY: 1 + TOPIC_BYTES_MAX + LIMITS.broadcast_bytes_max,
}
"""Kinds that may be cut, and how long they may be in all."""

_PAYLOAD_MAX = {
    **dict.fromkeys(Kind, 0),
    **dict.fromkeys((*_TOTAL_MAX, Kind.CHUNK, Kind.DATA), PIECE_BYTES_MAX),
    Kind.ERROR: _ERROR.size + LIMITS.error_text_bytes_max,
    Kind.OPEN: PROTOCOL_BYTES_MAX,
    Kind.WINDOW: _U32.size,
}
_WITH_METHOD = frozenset({Kind.REQUEST, Kind.TELL})
FRAME_BYTES_MAX = _AFTER_LENGTH + _U32.size + PIECE_BYTES_MAX
"""The largest `length`."""


class Malformed(Exception):
    """The peer sent what no honest node sends; the message says what."""


class Message(NamedTuple):
    """A frame, or a message put together again from its pieces."""

    kind: Kind
    id: int = 0
    payload: bytes = b""
    method: int = 0
    deadline_ms: int = 0


def frames_of(message: Message) -> Iterator[bytes]:
    """The frames of a message, one at a time."""
    payload = message.payload
    if len(payload) <= PIECE_BYTES_MAX:
        yield _frame(message, 0, payload)
        return
    assert len(payload) <= _TOTAL_MAX[message.kind], "checked before it was queued"
    view = memoryview(payload)
    first = _U32.pack(len(payload)) + view[:PIECE_BYTES_MAX]
    yield _frame(message, MORE, first)
    for start in range(PIECE_BYTES_MAX, len(payload), PIECE_BYTES_MAX):
        piece = bytes(view[start : start + PIECE_BYTES_MAX])
        more = MORE if start + len(piece) < len(payload) else 0
        yield _frame(Message(Kind.CHUNK, message.id), more, piece)


def _frame(message: Message, flags: int, payload: bytes) -> bytes:
    kind, id, _, method, deadline_ms = message
    length = _AFTER_LENGTH + len(payload)
    return _HEADER.pack(length, VERSION, kind, id, method, deadline_ms, flags) + payload


@attrs.define
class FrameReader:
    """Turns received bytes into messages. Holds at most one frame and one message in pieces."""

    frames: int = 0
    _buffer: bytearray = attrs.Factory(bytearray)
    _begun: Message | None = None
    _total: int = 0
    _pieces: bytearray = attrs.Factory(bytearray)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Messages that `data` completes. Raises `Malformed`; then the reader is of no more use."""
        buffer = self._buffer
        buffer += data
        start, held = 0, len(buffer)
        while held - start >= _HEADER.size:
            length, version, kind, id, method, deadline_ms, flags = _HEADER.unpack_from(buffer, start)
            # Before its body is waited for.
            if not _AFTER_LENGTH <= length <= FRAME_BYTES_MAX:
                raise Malformed(
                    f"a frame of {length} bytes, {_AFTER_LENGTH} to {FRAME_BYTES_MAX} are allowed"
                )
            if version != VERSION:
                raise Malformed(f"frame version {version}")
            end = start + 4 + length
            if end > held:
                break
            payload = bytes(buffer[start + _HEADER.size : end])
            start = end
            self.frames += 1
            if whole := self._whole(kind, id, method, deadline_ms, flags, payload):
                yield whole
        del buffer[:start]

    def _whole(
        self, number: int, id: int, method: int, deadline_ms: int, flags: int, payload: bytes
    ) -> Message | None:
        """Check one frame; the message that it is or completes, if any."""
        if number not in _PAYLOAD_MAX:
            raise Malformed(f"frame of unknown kind {number}")
        kind = Kind(number)
        message = Message(kind, id, payload, method, deadline_ms)
        cut = bool(flags & MORE)
        if flags & ~MORE or (cut and kind not in _TOTAL_MAX and kind is not Kind.CHUNK):
            raise Malformed(f"{kind.name} with flags {flags:#04x}")
        if (method and kind not in _WITH_METHOD) or (deadline_ms and kind is not Kind.REQUEST):
            raise Malformed(f"{kind.name} with a method or deadline")
        first_piece = cut and kind is not Kind.CHUNK
        if len(payload) > _PAYLOAD_MAX[kind] + (_U32.size if first_piece else 0):
            raise Malformed(f"{kind.name} with {len(payload)} bytes, at most {_PAYLOAD_MAX[kind]}")
        if first_piece:
            self._begin(message)
            return None
        if kind is Kind.CHUNK:
            return self._continue(message, cut)
        if kind is Kind.CANCEL and self._begun and self._begun.kind is Kind.REQUEST and self._begun.id == id:
            self._begun = None
            self._pieces = bytearray()
            return None
        return message

    def _begin(self, first: Message) -> None:
        if self._begun is not None:
            raise Malformed("a second message in pieces before the first is whole")
        if len(first.payload) != _U32.size + PIECE_BYTES_MAX:
            raise Malformed("a first piece that isn't full")
        (self._total,) = _U32.unpack_from(first.payload)
        if not PIECE_BYTES_MAX < self._total <= _TOTAL_MAX[first.kind]:
            raise Malformed(f"{first.kind.name} of {self._total} bytes, at most {_TOTAL_MAX[first.kind]}")
        self._begun = first
        self._pieces = bytearray(first.payload[_U32.size :])

    def _continue(self, piece: Message, more: bool) -> Message | None:
        begun = self._begun
        if begun is None or begun.id != piece.id:
            raise Malformed("a piece of no message")
        # Exactly as long as it must be, so that what is held grows only with what is received.
        if len(piece.payload) != min(PIECE_BYTES_MAX, self._total - len(self._pieces)):
            raise Malformed("a piece of the wrong length")
        self._pieces += piece.payload
        if more != (len(self._pieces) < self._total):
            raise Malformed("a message longer or shorter than it said")
        if more:
            return None
        whole = begun._replace(payload=bytes(self._pieces))
        self._begun = None
        self._pieces = bytearray()
        return whole


def error_payload(code: ErrorCode, text: str, retry_after_ms: int = 0) -> bytes:
    """NET-7: u16 code, u32 retry_after_ms, text as a byte string, cut at 256 bytes."""
    encoded = text.encode()[: LIMITS.error_text_bytes_max]
    encoded = encoded.decode(errors="ignore").encode()
    return _ERROR.pack(code, min(retry_after_ms, 2**32 - 1), len(encoded)) + encoded


def read_error(payload: bytes) -> tuple[ErrorCode, str, int]:
    """(code, text, retry_after_ms). Raises `Malformed`."""
    if len(payload) < _ERROR.size:
        raise Malformed("an error reply that is cut short")
    code, retry_after_ms, size = _ERROR.unpack_from(payload)
    if size != len(payload) - _ERROR.size:
        raise Malformed("an error reply of the wrong length")
    try:
        return ErrorCode(code), payload[_ERROR.size :].decode(), retry_after_ms
    except ValueError:
        raise Malformed("an error reply with an unknown code or broken text") from None


def broadcast_payload(topic: str, payload: bytes) -> bytes:
    """u8 length of the topic, topic, payload. Raises ValueError for a topic over 255 bytes."""
    name = topic.encode()
    if len(name) > TOPIC_BYTES_MAX:
        raise ValueError(f"topic of {len(name)} bytes, at most {TOPIC_BYTES_MAX}")
    return bytes((len(name),)) + name + payload


def read_broadcast(payload: bytes) -> tuple[str, bytes]:
    """(topic, payload). Raises `Malformed`."""
    if not payload or len(payload) < 1 + payload[0]:
        raise Malformed("a broadcast without its topic")
    end = 1 + payload[0]
    body = payload[end:]
    if len(body) > LIMITS.broadcast_bytes_max:
        raise Malformed(f"a broadcast of {len(body)} bytes, at most {LIMITS.broadcast_bytes_max}")
    return _text(payload[1:end], "topic"), body


def read_protocol(payload: bytes) -> str:
    """The protocol that a stream is opened for. Raises `Malformed`."""
    return _text(payload, "protocol")


def window_payload(count: int) -> bytes:
    return _U32.pack(count)


def read_window(payload: bytes) -> int:
    """Raises `Malformed`."""
    if len(payload) != _U32.size:
        raise Malformed("a window of the wrong length")
    (count,) = _U32.unpack(payload)
    return int(count)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed(f"a {what} that isn't UTF-8") from None
