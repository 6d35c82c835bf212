"""Many signatures at once, by the fastest libraries of this machine that keep the rule (EXEC-8).

A batch goes through the C driver in one call, without a Python object a signature and without the
interpreter's lock. The driver asks, for ed25519, crypto_mb where the processor has its instructions and
libsodium for the rest; for secp256k1, libsecp256k1. What it can't do (sm2, long messages, all of it on a
node without the C library) is asked of the suite's own provider, one by one, on as many threads.

Never does an answer depend on who gave it: the rule of a suite is checked before any library is asked, each
library is tried on signatures that tell the rules apart before it is used, and one that fails is left out.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from supervm.crypto.suites import SUITE_NAMES, SignatureItem, suite_named, verify
from supervm.types.address import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Suite

if TYPE_CHECKING:
    from supervm.crypto.driver import Chosen

DRIVER_CALL_MAX = 65_536
"""Signatures in one call of the driver: bounds the copies that are made for it."""

ONE_BY_ONE = "one by one"
"""In facts: each signature is asked of the suite's own provider."""


@attrs.frozen
class BatchFacts:
    """What checks many signatures of a suite, and why."""

    batch: str
    reason: str


def verify_many(items: Iterable[SignatureItem], *, threads: int = 1) -> list[bool]:
    """Return for each item whether its signature is right, in order. Never raises for what is in one.

    Blocks for as long as that takes, so it is meant for a worker thread; `threads` share the work.
    """
    asked = items if isinstance(items, list | tuple) else list(items)
    if len(asked) < 2:
        return [verify(*item) for item in asked]
    right = [False] * len(asked)
    library = chosen()
    rest: list[int] = []
    for first in range(0, len(asked), DRIVER_CALL_MAX):
        rest += _by_driver(
            library, asked, range(first, min(first + DRIVER_CALL_MAX, len(asked))), right, threads
        )
    _one_by_one(asked, rest, right, threads)
    return right


def _by_driver(
    library: "Chosen", asked: Sequence[SignatureItem], places: range, right: list[bool], threads: int
) -> list[int]:
    """Fill in the answers of the driver; return the places of what isn't for it."""
    data: list[bytes] = []
    messages: list[bytes] = []
    rows = array("I")
    mine: list[int] = []
    rest: list[int] = []
    data_end = messages_end = 0
    for at in places:
        number, public_key, message, signature = asked[at]
        size = len(message)
        if (
            number not in library.suites
            or len(public_key) != PUBLIC_KEY_BYTES[number]
            or len(signature) != SIGNATURE_BYTES
            or size > library.message_bytes_max
            or (number == Suite.SECP256K1 and size != 32)
        ):
            rest.append(at)
            continue
        key_end = data_end + len(public_key)
        rows.extend((number, data_end, key_end, messages_end, size))
        data += (public_key, signature)
        messages.append(message)
        data_end, messages_end = key_end + SIGNATURE_BYTES, messages_end + size
        mine.append(at)
    if mine:
        assert library.driver is not None, "a suite is for the driver only where there is one"
        found = library.driver.verify(b"".join(data), b"".join(messages), rows, threads)
        for at, one in zip(mine, found, strict=True):
            right[at] = one == 1
    return rest


def _one_by_one(
    asked: Sequence[SignatureItem], places: Sequence[int], right: list[bool], threads: int
) -> None:
    def work(at: int) -> None:
        right[at] = verify(*asked[at])

    if threads == 1 or len(places) < 2:
        for at in places:
            work(at)
        return
    # Each library lets the interpreter's lock go while it computes.
    with ThreadPoolExecutor(threads, "supervm-verify") as pool:
        for _ in pool.map(work, places):
            pass


def batch_facts() -> Mapping[str, BatchFacts]:
    """What checks many signatures of each suite here, by the suite's name. Loads the libraries."""
    library = chosen()
    found = {}
    for name, number in SUITE_NAMES.items():
        batch, reason = library.facts.get(number, (ONE_BY_ONE, library.reason))
        found[name] = BatchFacts(suite_named(name).provider if batch == ONE_BY_ONE else batch, reason)
    return MappingProxyType(found)


@cache
def chosen() -> "Chosen":
    """The driver of this machine; made when it is first asked for, for it opens libraries."""
    from supervm.crypto.driver import choose

    return choose()
