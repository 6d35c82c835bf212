"""Drivers that ask one library each, so that tests hold every library to the same answers."""

from array import array
from collections.abc import Sequence
from typing import Any

import attrs

from supervm.crypto.crypto_mb import CryptoMbMissing
from supervm.crypto.suites import SignatureItem
from supervm.hardware import fastpath
from supervm.types.address import PUBLIC_KEY_BYTES


@attrs.frozen
class TestedDriver:
    """A driver, and what it is asked with."""

    __test__ = False
    driver: Any

    def able(self, suite: int) -> bool:
        return bool(self.driver.able(suite))

    def verify_many(self, items: Sequence[SignatureItem], threads: int = 1) -> list[bool]:
        """Answers for items of the right lengths, in order."""
        rows, data, messages = array("I"), b"", b""
        for suite, key, message, signature in items:
            assert (len(key), len(signature)) == (PUBLIC_KEY_BYTES[suite], 64)
            rows.extend((suite, len(data), len(data) + len(key), len(messages), len(message)))
            data, messages = data + key + signature, messages + message
        return [one == 1 for one in self.driver.verify(data, messages, rows, threads)]

    def verify_ed25519(self, key: bytes, message: bytes, signature: bytes) -> bool:
        return self.verify_many([(1, key, message, signature)])[0]


def _drivers() -> dict[str, TestedDriver]:
    if not fastpath.NATIVE:
        return {}
    from supervm.crypto import driver

    sodium = driver.sodium_addresses()
    found = {
        "libsodium, driven": sodium,
        "libsecp256k1, driven": driver.secp256k1_addresses(),
    }
    try:
        lanes = driver.lanes_addresses()
    except CryptoMbMissing:
        lanes = {}
    if lanes:
        found["crypto_mb, driven"] = lanes
        found["crypto_mb and libsodium, driven"] = sodium | lanes
    return {name: TestedDriver(driver.make_driver(addresses)) for name, addresses in found.items()}


DRIVERS = _drivers()
