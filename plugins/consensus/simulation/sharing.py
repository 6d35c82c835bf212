"""What all nodes of a run would work out alike is worked out once: signatures, and messages from their bytes.

Every node asks through the code that it ships with; only the arithmetic behind is remembered, by everything
that it depends on. A run is the same run, byte for byte, with and without. In each `ALONE_EVERY`th seed every
node does all of it by itself, as outside the simulator.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from unittest import mock

from supervm.crypto import batch, suites
from supervm.crypto.driver import Chosen
from supervm.crypto.provider import SignatureProvider
from supervm.plugins.consensus.bft import messages
from supervm.types.address import Suite

ALONE_EVERY = 8
SIGNATURES_MAX = 65_536
FRAMES_MAX = 4_096


class _Remembering:
    """A provider whose answers are remembered by key, message and signature."""

    def __init__(self, provider: SignatureProvider) -> None:
        self._provider = provider
        self.verify: Callable[[bytes, bytes, bytes], bool] = lru_cache(SIGNATURES_MAX)(provider.verify)

    def __getattr__(self, name: str) -> object:
        return getattr(self._provider, name)


@contextmanager
def shared_work() -> Iterator[None]:
    """For the length of a `with`, in the whole process."""
    provider = suites.suite(Suite.ED25519)
    one_by_one = Chosen(None, frozenset(), {}, "a simulation remembers signatures one by one")
    with ExitStack() as stack:
        for patch in (
            mock.patch.dict(suites._providers, {Suite.ED25519: _Remembering(provider)}),
            mock.patch.object(batch, "chosen", lambda: one_by_one),
            mock.patch.object(messages, "decode", lru_cache(FRAMES_MAX)(messages.decode)),
        ):
            stack.enter_context(patch)
        yield
