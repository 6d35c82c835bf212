"""The options of the transport `tcp`, checked before anything is opened."""

from typing import Any

import attrs
from attrs.validators import ge, gt, in_

from supervm.contracts.transport import LIMITS

NODE_ID_BYTES = 32
PORT_MAX = 65535


@attrs.frozen
class Endpoint:
    """A host, by name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_endpoint(text: str) -> Endpoint:
    """`HOST:PORT` or `[IPV6]:PORT`. Raises ValueError that names the mend."""
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not separator or not host or (":" in host) != bracketed:
        raise ValueError(f"{text!r} isn't HOST:PORT, for IPv6 [ADDRESS]:PORT")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"{text!r}: each part of the host's name must have 1 to 63 letters") from None
    if not (port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise ValueError(f"{text!r}: the port must be 0 to {PORT_MAX}")
    return Endpoint(host, int(port))


def read_node_id(text: str) -> bytes:
    """64 hex digits. Raises ValueError."""
    try:
        node_id = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        node_id = b""
    if len(node_id) != NODE_ID_BYTES:
        raise ValueError(f"{text!r} isn't a node id of 64 hex digits")
    return node_id


def read_peer(text: str) -> tuple[bytes, Endpoint]:
    """`NODEID@HOST:PORT`. Raises ValueError."""
    node_id, separator, address = text.partition("@")
    if not separator:
        raise ValueError(f"{text!r} isn't NODEID@HOST:PORT")
    endpoint = read_endpoint(address)
    if not endpoint.port:
        raise ValueError(f"{text!r}: a peer's port can't be 0")
    return read_node_id(node_id), endpoint


def read_listen(text: str) -> Endpoint | int:
    """`HOST:PORT`, or the file descriptor of `fd:N`. Raises ValueError."""
    kind, _, number = text.partition(":")
    if kind == "fd":
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"{text!r} isn't fd:NUMBER, a listening socket that was inherited")
        return int(number)
    return read_endpoint(text)


def _each(read: Any) -> Any:
    def check(instance: object, attribute: "attrs.Attribute[Any]", value: tuple[str, ...]) -> None:
        for item in value:
            try:
                read(item)
            except ValueError as error:
                raise ValueError(f"{attribute.name}: {error}") from None

    return check


@attrs.frozen(kw_only=True)
class TcpTransportConfig:
    """TLS 1.3 between node identities, over TCP. Times in milliseconds unless a name says seconds.

    `listen`: where peers reach this node, `HOST:PORT` (port 0: the system picks one) or `fd:N`, a listening
    socket that was inherited. `peers`: whom it dials, `NODEID@HOST:PORT`, a node with several addresses
    several times. `admit`: who else may connect, `listed` (nobody but `peers` and `admitted`) or `any` node
    of the chain. `identity_file`: a plain key file; empty: the node's identity, or, for a component that is
    opened alone, one that it makes in its folder.

    `links_max`: peers at once; the configured ones always have room. `handshakes_max`: connections that
    haven't proven who they are. `arrivals_per_s`, `arrivals_burst`: new connections of one address;
    addresses of configured peers may have ten times as many. `network_links_max`, `network_arrivals_per_s`,
    `network_arrivals_burst`: links of peers that aren't listed, and new connections, of one IPv4 /24 or IPv6
    /48; not for loopback, private networks and addresses of configured peers.

    `peer_*` bounds what a configured peer may send, `stranger_*` what any other may. Frames are of each of
    its three connections; more of them for `flood_s` seconds without a pause end the link. Bytes are of the
    peer: a twelfth is for votes, a quarter for dissemination and the rest for bulk; more are read later.
    `ban_s`: how long who misbehaved isn't talked to, at first; it doubles each time, to an hour.
    """

    listen: tuple[str, ...] = attrs.field(default=("127.0.0.1:0",), validator=_each(read_listen))
    peers: tuple[str, ...] = attrs.field(default=(), validator=_each(read_peer))
    admit: str = attrs.field(default="listed", validator=in_(("listed", "any")))
    admitted: tuple[str, ...] = attrs.field(default=(), validator=_each(read_node_id))
    identity_file: str = ""
    links_max: int = attrs.field(default=512, validator=ge(1))
    handshakes_max: int = attrs.field(default=96, validator=ge(3))
    handshake_ms_max: int = attrs.field(default=5_000, validator=ge(10))
    arrivals_per_s: float = attrs.field(default=20.0, validator=gt(0))
    arrivals_burst: float = attrs.field(default=60.0, validator=ge(3))
    network_links_max: int = attrs.field(default=4, validator=ge(1))
    network_arrivals_per_s: float = attrs.field(default=3.0, validator=gt(0))
    network_arrivals_burst: float = attrs.field(default=60.0, validator=ge(3))
    connect_wait_ms: int = attrs.field(default=1_000, validator=ge(0))
    reconnect_ms_min: int = attrs.field(default=250, validator=ge(1))
    reconnect_ms_max: int = attrs.field(default=10_000, validator=ge(1))
    ping_ms: int = attrs.field(default=1_000, validator=ge(10))
    silence_ms_max: int = attrs.field(default=5_000, validator=ge(30))
    stranger_ping_ms: int = attrs.field(default=30_000, validator=ge(10))
    stranger_silence_ms_max: int = attrs.field(default=65_000, validator=ge(30))
    send_queue_bytes_max: int = attrs.field(default=LIMITS.send_queue_bytes_max, validator=ge(2**16))
    stall_ms_max: int = attrs.field(default=10_000, validator=ge(10))
    peer_frames_per_s: float = attrs.field(default=20_000.0, validator=gt(0))
    peer_bytes_per_s: float = attrs.field(default=108 * 2.0**20, validator=gt(0))
    stranger_frames_per_s: float = attrs.field(default=200.0, validator=gt(0))
    stranger_bytes_per_s: float = attrs.field(default=8 * 2.0**20, validator=gt(0))
    flood_s: float = attrs.field(default=10.0, validator=gt(0))
    ban_s: float = attrs.field(default=60.0, validator=ge(0))

    def endpoints(self) -> dict[bytes, tuple[Endpoint, ...]]:
        """Whom to dial, by node id, in the order given."""
        found: dict[bytes, tuple[Endpoint, ...]] = {}
        for text in self.peers:
            node_id, endpoint = read_peer(text)
            found[node_id] = (*found.get(node_id, ()), endpoint)
        return found
