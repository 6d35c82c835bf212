"""The API's options (`[api]`), its bounds, and what of them is refused (OBS-30, OBS-36)."""

import ipaddress

import attrs
from attrs import validators

TOKEN_CHARACTERS_MIN = 16


class ListenError(Exception):
    """The API can't listen as it was told. `value` is what was asked, `mend` what to do."""

    def __init__(self, problem: str, value: str, mend: str) -> None:
        self.problem = problem
        self.value = value
        self.mend = mend
        super().__init__(f"{problem}: {value} ({mend})")


class PortInUse(ListenError):
    """Somebody else listens there. A node never moves to another port by itself (OBS-32)."""


def _token(_instance: object, _attribute: object, value: str) -> None:
    if value and (len(value) < TOKEN_CHARACTERS_MIN or not value.isascii() or not value.isprintable()):
        raise ValueError(f"token: at least {TOKEN_CHARACTERS_MIN} printable ASCII characters")


def _listen(_instance: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if value or attribute.name == "listen":
        parse_listen(value)


@attrs.frozen(kw_only=True)
class HttpConfig:
    """Bounds are per listener; at each one the API refuses and says when to come back.

    `listen` and `metrics_listen` are HOST:PORT, port 0 for any free one; an empty `metrics_listen` opens
    none. A host that is not loopback needs a `token` (sent as `Authorization: Bearer`) or
    `insecure_listen`. `bodies_bytes_max` is for all request bodies held at a time.
    """

    listen: str = attrs.field(default="127.0.0.1:8645", validator=_listen)
    metrics_listen: str = attrs.field(default="", validator=_listen)
    token: str = attrs.field(default="", repr=False, validator=_token)
    insecure_listen: bool = False
    connections_max: int = attrs.field(default=512, validator=validators.ge(1))
    requests_max: int = attrs.field(default=256, validator=validators.ge(1))
    scrapes_max: int = attrs.field(default=4, validator=validators.ge(1))
    event_readers_max: int = attrs.field(default=64, validator=validators.ge(1))
    waits_max: int = attrs.field(default=128, validator=validators.ge(1))
    body_bytes_max: int = attrs.field(default=8 * 2**20, validator=validators.ge(1024))
    bodies_bytes_max: int = attrs.field(default=64 * 2**20, validator=validators.ge(1024))
    transactions_max: int = attrs.field(default=4096, validator=validators.ge(1))
    request_timeout_s: float = attrs.field(default=30.0, validator=validators.gt(0))
    send_timeout_s: float = attrs.field(default=10.0, validator=validators.gt(0))
    idle_timeout_s: float = attrs.field(default=15.0, validator=validators.gt(0))
    wait_max_s: float = attrs.field(default=60.0, validator=validators.gt(0))
    keepalive_s: float = attrs.field(default=15.0, validator=validators.gt(0))


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT as host and port; an IPv6 host stands in brackets. Raises `ListenError`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ListenError("not an address to listen on", text, "HOST:PORT, such as 127.0.0.1:8645")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host. Names other than `localhost` count as public."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(config: HttpConfig) -> None:
    """Refuse to serve strangers unless the operator set a token or said that he means it (OBS-36)."""
    for text in filter(None, (config.listen, config.metrics_listen)):
        host, _ = parse_listen(text)
        if not is_loopback(host) and not config.token and not config.insecure_listen:
            mend = "set api.token, or api.insecure_listen = true if the network is trusted"
            raise ListenError("the API would be open to other machines", text, mend)
