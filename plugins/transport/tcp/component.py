"""The declaration of `tcp`. What it needs of OpenSSL is imported when it is opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from supervm.api import Component, Context, Role
from supervm.contracts.transport import Transport
from supervm.plugins.transport.tcp.config import TcpTransportConfig


@asynccontextmanager
async def open_tcp_transport(ctx: Context, config: TcpTransportConfig) -> AsyncIterator[Transport]:
    """Listen, and be connected to the configured peers. Raises OSError where an address can't be had,
    `KeyFileError` for the identity."""
    from supervm.plugins.transport.tcp.transport import open_tcp

    async with open_tcp(ctx, config) as transport:
        yield transport


def _available() -> str:
    return "" if find_spec("OpenSSL") else "pyOpenSSL is missing; pip install pyopenssl"


TCP = Component(
    role=Role.TRANSPORT,
    name="tcp",
    open=open_tcp_transport,
    config=TcpTransportConfig,
    wants=(Role.APPLICATION,),
    available=_available,
    description="TLS 1.3 between node identities, a connection for each priority",
)
