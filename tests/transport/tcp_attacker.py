"""A hostile peer for the tests of `tcp`: it has an identity and TLS, and then says what it likes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import crypto

from supervm.api import Context
from supervm.contracts.transport import Priority
from supervm.crypto.keys import KeyPair
from supervm.plugins.transport.tcp.certificates import Identity, make_certificate
from supervm.plugins.transport.tcp.config import read_endpoint
from supervm.plugins.transport.tcp.dialing import Dialed, Dialer, DialFailed
from supervm.plugins.transport.tcp.hello import NO_CHAIN
from supervm.plugins.transport.tcp.tls import SecureStream, make_context
from supervm.testing.context import component_context

_SIGNED_BY_ED25519 = bytes.fromhex("300506032b6570")
_LAST_EXTENSION = {
    "a name in X.400": bytes.fromhex("3002a300"),
    "a name in EDI": bytes.fromhex("3002a500"),
    "names that are no names": bytes.fromhex("30038201ff"),
}
HOSTILE_CERTIFICATES = (*_LAST_EXTENSION, "a version from the future")
"""Well signed, with an identity that is its own; and no reader expects them."""


def identity_of(key: KeyPair) -> Identity:
    return Identity(suite=key.suite, public_key=key.public_key, sign=key.sign)


def hostile_certificate(
    case: str, identity: Identity, seed: bytes, sequence: int
) -> tuple[crypto.X509, Ed25519PrivateKey]:
    """As `make_certificate`, with one of `HOSTILE_CERTIFICATES`."""
    own, key = make_certificate(identity, seed, sequence)
    if case in _LAST_EXTENSION:
        builder = x509.CertificateBuilder(
            issuer_name=own.issuer,
            subject_name=own.subject,
            public_key=key.public_key(),
            serial_number=1,
            not_valid_before=own.not_valid_before_utc,
            not_valid_after=own.not_valid_after_utc,
        )
        builder = builder.add_extension(own.extensions[0].value, critical=True)
        name = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), _LAST_EXTENSION[case])
        encoded = builder.add_extension(name, critical=False).sign(key, None).tbs_certificate_bytes
    else:
        encoded = own.tbs_certificate_bytes.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020103"))
        assert encoded != own.tbs_certificate_bytes, "the version is where X.509 has it"
    return crypto.load_certificate(crypto.FILETYPE_ASN1, signed_again(encoded, key)), key


def signed_again(encoded: bytes, key: Ed25519PrivateKey) -> bytes:
    """A certificate in DER of what is to be signed, however odd that is."""
    body = encoded + _SIGNED_BY_ED25519 + b"\x03\x41\x00" + key.sign(encoded)
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


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
