"""Nodes of the transport `tcp` on loopback, for its tests: keys, ports that the system picks, options."""

from collections.abc import Iterator
from pathlib import Path
from socket import create_server, socket
from tempfile import TemporaryDirectory
from typing import Any

import attrs

from supervm.crypto.keyfile import write_key_file
from supervm.crypto.keys import KeyPair
from supervm.plugins.transport.tcp.config import TcpTransportConfig
from supervm.types.address import Suite

PATIENT: dict[str, Any] = {
    "handshake_ms_max": 60_000,
    "silence_ms_max": 120_000,
    "stranger_silence_ms_max": 120_000,
    "stall_ms_max": 120_000,
}
"""Bounds that no machine is too slow for: a link ends where a test says so."""


@attrs.define
class Loopback:
    """Makes the options of nodes that reach each other. Each listens on a socket that is open already, so
    that its port is known and nobody else's."""

    folder: Path
    sockets: list[socket] = attrs.Factory(list)
    made: int = 0

    def key(self) -> tuple[KeyPair, str]:
        """A new identity, and the file it is in."""
        self.made += 1
        key = KeyPair(Suite.ED25519, self.made.to_bytes(4, "big") * 8)
        path = self.folder / f"{self.made}.json"
        write_key_file(path, key, None)
        return key, str(path)

    def listening(self, host: str = "127.0.0.1", *, deaf: bool = False) -> tuple[str, str]:
        """A new listening socket as (option `listen`, address to dial); a deaf one refuses until `hear`."""
        if deaf:
            opened = socket()
            opened.bind((host, 0))
        else:
            opened = create_server((host, 0), backlog=128)
        self.sockets.append(opened)
        return f"fd:{opened.fileno()}", f"{host}:{opened.getsockname()[1]}"

    def hear(self) -> None:
        """Let those that were deaf listen."""
        for each in self.sockets:
            each.listen(128)

    def configs(
        self, count: int, *, all_dial: bool = False, deaf: int = 0, **options: Any
    ) -> list[TcpTransportConfig]:
        """Nodes that know each other; each dials those before it, or all others. The first `deaf` of them
        refuse connections until `hear`."""
        keys = [self.key() for _ in range(count)]
        places = [self.listening(deaf=number < deaf) for number in range(count)]
        ids = [key.node_id.hex() for key, _ in keys]
        dialed = [f"{ids[each]}@{places[each][1]}" for each in range(count)]
        # Long enough that a slow machine has connected them before a test goes on.
        given = {**PATIENT, "connect_wait_ms": 120_000, **options}
        return [
            TcpTransportConfig(
                listen=(places[number][0],),
                identity_file=keys[number][1],
                peers=tuple(dialed if all_dial else dialed[:number]),
                admitted=tuple(ids),
                **given,
            )
            for number in range(count)
        ]

    def victim(self, *admitted: KeyPair, **options: Any) -> tuple[TcpTransportConfig, str]:
        """The options of one node that dials nobody, and where it listens."""
        listen, address = self.listening()
        known = tuple(key.node_id.hex() for key in admitted)
        given = {**PATIENT, "connect_wait_ms": 0, **options}
        config = TcpTransportConfig(listen=(listen,), identity_file=self.key()[1], admitted=known, **given)
        return config, address

    def twins(self, **options: Any) -> list[TcpTransportConfig]:
        """A node that dials nobody, and twice the options of one that dials it: two of one identity."""
        (one, own_file), (twin, twin_file) = self.key(), self.key()
        listen, address = self.listening()
        given = {**PATIENT, "connect_wait_ms": 0, **options}
        admitted = (twin.node_id.hex(),)
        dialed = TcpTransportConfig(listen=(listen,), identity_file=own_file, admitted=admitted, **given)
        dials = TcpTransportConfig(
            identity_file=twin_file,
            peers=(f"{one.node_id.hex()}@{address}",),
            reconnect_ms_min=10,
            reconnect_ms_max=100,
            **given,
        )
        return [dialed, dials, dials]

    def close(self) -> None:
        for opened in self.sockets:
            opened.close()


def loopback() -> Iterator[Loopback]:
    """The body of a fixture."""
    with TemporaryDirectory() as folder:
        made = Loopback(Path(folder))
        try:
            yield made
        finally:
            made.close()
