"""A hostile peer for the tests of `tcp`: it has an identity and TLS, and then says what it likes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from supervm.api import Context
from supervm.contracts.transport import Priority
from supervm.crypto.keys import KeyPair
from supervm.plugins.transport.tcp.certificates import Identity
from supervm.plugins.transport.tcp.config import read_endpoint
from supervm.plugins.transport.tcp.dialing import Dialed, Dialer, DialFailed
from supervm.plugins.transport.tcp.hello import NO_CHAIN
from supervm.plugins.transport.tcp.tls import SecureStream, make_context
from supervm.testing.context import component_context


def identity_of(key: KeyPair) -> Identity:
    return Identity(suite=key.suite, public_key=key.public_key, sign=key.sign)


@attrs.define
class Attacker:
    """Links by hand. `on(lane)` is a connection that the victim has welcomed."""

    dialer: Dialer
    dialed: Dialed

    def on(self, lane: Priority) -> SecureStream:
        return self.dialed.lanes[lane][0]

    async def is_closed(self, lane: Priority = Priority.HIGH) -> bool:
        """Read until the victim has closed the connection."""
        try:
            while await self.on(lane).receive():
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return True


def dialer_of(ctx: Context, key: KeyPair, chain_id: bytes = NO_CHAIN) -> Dialer:
    tls = make_context(identity_of(key), ctx.random.randbytes(32))
    return Dialer(ctx=ctx, tls=tls, chain_id=chain_id, handshake_s=20)


@asynccontextmanager
async def attacker(folder: Path, key: KeyPair, victim: bytes, address: str) -> AsyncIterator[Attacker]:
    """A link of a hostile peer; raises `DialFailed` where it isn't let in."""
    async with component_context(folder, seed=99) as ctx:
        dialer = dialer_of(ctx, key)
        dialed: Dialed | DialFailed
        try:
            dialed = await dialer.dial(victim, read_endpoint(address), lambda: None)
        except DialFailed as error:
            dialed = error
        if isinstance(dialed, Dialed):
            try:
                yield Attacker(dialer, dialed)
            finally:
                await dialed.aclose()
    # Out of the nursery, which would wrap it.
    if isinstance(dialed, DialFailed):
        raise dialed
