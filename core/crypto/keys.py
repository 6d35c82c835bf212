"""A secret key with what follows from it."""

import os

import attrs

from supervm.crypto.provider import RandomBytes
from supervm.crypto.suites import suite as provider_of
from supervm.crypto.suites import suite_named
from supervm.types.address import Address, address_of, node_id_of


@attrs.frozen(repr=False)
class KeyPair:
    """A key of a suite. The secret is in no representation, so that it reaches no log."""

    suite: int
    secret: bytes
    public_key: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # Frozen: attrs' own way to set what is derived. Raises InvalidInput for a bad secret.
        object.__setattr__(self, "public_key", provider_of(self.suite).public_key(self.secret))

    def __repr__(self) -> str:
        return f"KeyPair(suite={self.suite}, public_key=0x{self.public_key.hex()})"

    @property
    def suite_name(self) -> str:
        return provider_of(self.suite).name

    @property
    def address(self) -> Address:
        """The account address of this key."""
        return address_of(self.suite, self.public_key)

    @property
    def node_id(self) -> bytes:
        """The node id, where this is a node's identity key (NET-10)."""
        return node_id_of(self.suite, self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over a 32-byte digest (ed25519 and sm2 take any message)."""
        return provider_of(self.suite).sign(self.secret, message)

    def verify(self, message: bytes, signature: bytes) -> bool:
        return provider_of(self.suite).verify(self.public_key, message, signature)


def generate(suite_name: str = "ed25519", random_bytes: RandomBytes = os.urandom) -> KeyPair:
    """Return a new key of a suite by name; raises `InvalidInput` for an unknown one."""
    provider = suite_named(suite_name)
    return KeyPair(provider.suite, provider.generate(random_bytes))
