"""Which node is at the other end of a TLS connection: its identity key vouches for the key that TLS proves.

A node makes a fresh ed25519 key when it opens, and a self-signed certificate for it that carries, in one
critical extension, `u8 version = 1 || u8 suite || identity key || signature`. The signature is the identity
key's over `digest("supervm/transport/v1", suite, identity key, transport key)`; the certificate's own
signature is the transport key's, over all of it, so neither can claim the other (NET-12). TLS then proves
that whoever is at the other end holds the transport key, now. This is how libp2p binds peer ids to TLS.

The serial number says when the node opened: of two that are one node, it tells which one is the later.
Names, dates and chains in the certificate mean nothing: a node is its key.
"""

from collections.abc import Callable
from datetime import datetime

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from supervm.crypto.suites import suite as provider_of
from supervm.types.address import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Suite, node_id_of
from supervm.types.codec import Reader, Writer
from supervm.types.digests import digest
from supervm.types.errors import InvalidInput

BINDING = ObjectIdentifier("2.25.304918340711987236011935838171894537216")
"""Drawn at random in the arc of UUIDs, which needs no registration (ITU-T X.667)."""
DOMAIN = b"supervm/transport/v1"
CERTIFICATE_BYTES_MAX = 2048


class BadCertificate(Exception):
    """The peer's certificate doesn't prove a node identity; the message says why."""


@attrs.frozen(kw_only=True)
class Identity:
    """Who a node is: suite, key, and the use of its private key (32-byte digest to 64-byte signature)."""

    suite: int
    public_key: bytes
    sign: Callable[[bytes], bytes] = attrs.field(repr=False, eq=False)

    @property
    def node_id(self) -> bytes:
        return node_id_of(self.suite, self.public_key)


@attrs.frozen(order=True)
class Incarnation:
    """Which of a node's runs is at the other end: the later has the greater one (NET-15)."""

    sequence: int
    transport_key: bytes


def make_certificate(
    identity: Identity, seed: bytes, sequence: int = 1
) -> tuple[x509.Certificate, Ed25519PrivateKey]:
    """A certificate that binds a new transport key, made from 32 secret random bytes, to an identity.

    `sequence`, from 1 on, is greater the later a node has opened.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed)
    signature = identity.sign(_message(identity.suite, identity.public_key, key.public_key()))
    binding = Writer().u8(1).u8(identity.suite).byte_string(identity.public_key).raw(signature).done()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "supervm")])
    unsigned = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=sequence,
        not_valid_before=datetime(2000, 1, 1),
        not_valid_after=datetime(9999, 12, 31),
    ).add_extension(x509.UnrecognizedExtension(BINDING, binding), critical=True)
    return unsigned.sign(key, None), key


def node_id_in(certificate: x509.Certificate) -> bytes:
    """The node id that a certificate proves, given that TLS has proved its key. Raises `BadCertificate`."""
    try:
        if len(certificate.public_bytes(Encoding.DER)) > CERTIFICATE_BYTES_MAX:
            raise BadCertificate(f"it is longer than {CERTIFICATE_BYTES_MAX} bytes")
        key = certificate.public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise BadCertificate("its key isn't ed25519")
        key.verify(certificate.signature, certificate.tbs_certificate_bytes)
        binding = certificate.extensions.get_extension_for_oid(BINDING).value
        assert isinstance(binding, x509.UnrecognizedExtension), "cryptography doesn't know our extension"
        suite, public_key, signature = _read(binding.value)
        if not provider_of(suite).verify(public_key, _message(suite, public_key, key), signature):
            raise BadCertificate("the identity key didn't sign the transport key")
        return node_id_of(suite, public_key)
    except x509.ExtensionNotFound:
        raise BadCertificate("it names no identity") from None
    except InvalidSignature:
        raise BadCertificate("it isn't signed by its own key") from None
    except InvalidInput as error:
        raise BadCertificate(f"it can't be read: {error}") from None
    except BadCertificate:
        raise
    except Exception as error:
        # These are a stranger's bytes, and X.509 is large: its reader has kinds of errors that no list of
        # ours would be sure to name, some of them plain `Exception`. Whatever it is, it proves nothing.
        raise BadCertificate(f"it can't be read: {type(error).__name__}: {error}") from None


def incarnation_in(certificate: x509.Certificate) -> Incarnation:
    """Of a certificate that proves a node id. Raises `BadCertificate`."""
    try:
        key = certificate.public_key()
        assert isinstance(key, Ed25519PublicKey), "it has proved a node id"
        return Incarnation(certificate.serial_number, key.public_bytes_raw())
    except Exception as error:
        raise BadCertificate(f"it can't be read: {type(error).__name__}: {error}") from None


def _read(binding: bytes) -> tuple[int, bytes, bytes]:
    """Suite, identity key and signature. Raises `InvalidInput`."""
    reader = Reader(binding)
    reader.format_byte("binding")
    suite = reader.u8("binding.suite", max(Suite))
    public_key = reader.byte_string("binding.identity_key", max(PUBLIC_KEY_BYTES.values()))
    signature = reader.fixed(SIGNATURE_BYTES, "binding.signature")
    reader.finish("binding")
    return suite, public_key, signature


def _message(suite: int, public_key: bytes, transport_key: Ed25519PublicKey) -> bytes:
    return digest(DOMAIN, bytes((suite,)), public_key, transport_key.public_bytes_raw())
