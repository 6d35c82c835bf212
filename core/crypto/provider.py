"""What a signature suite offers, whichever library does the arithmetic."""

from collections.abc import Callable
from typing import Protocol

RandomBytes = Callable[[int], bytes]
"""A cryptographic source: returns that many bytes. `os.urandom` outside of tests."""

GENERATE_TRIES_MAX = 256
"""A fair source fails a single try with less than one half; so many failures mean a broken source."""


class UnfitLibrary(Exception):
    """The library follows another rule than the chain's; a node with it could leave the consensus."""


class SignatureProvider(Protocol):
    """One suite. Keys and signatures are bytes of fixed length, in one canonical form each.

    Transactions sign their 32-byte digest. ed25519 and sm2 take a message of any length, secp256k1
    exactly 32 bytes (it signs the message as the hash).
    """

    @property
    def suite(self) -> int:
        """The suite's number in transactions."""
        ...

    @property
    def name(self) -> str:
        """The suite's name in configuration and on the command line."""
        ...

    @property
    def provider(self) -> str:
        """The library behind it."""
        ...

    @property
    def secret_key_bytes(self) -> int: ...

    @property
    def public_key_bytes(self) -> int: ...

    def generate(self, random_bytes: RandomBytes) -> bytes:
        """Return a new secret key, drawn by rejection where not every string is one."""
        ...

    def public_key(self, secret: bytes) -> bytes:
        """Return the public key; raises `InvalidInput` for what is no secret key of the suite."""
        ...

    def sign(self, secret: bytes, message: bytes) -> bytes:
        """Return the 64-byte signature; raises `InvalidInput` for what is no secret key of the suite."""
        ...

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is right and canonical. Any bytes at all are answered, never raised on."""
        ...
