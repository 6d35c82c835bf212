"""A privacy scheme that owns no kind and refuses every proof: the safe place to start from.

Give it circuits and payload kinds, and let `verify` say True only for a proof that holds.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from supervm.api import Component, Context, NoConfig, Role, privacy


@attrs.frozen
class ExampleScheme:
    """A `PrivacyScheme`."""

    backend: str = "noop"
    payload_kinds: frozenset[int] = frozenset()

    def circuits(self) -> Mapping[str, privacy.CircuitInfo]:
        return {}

    async def verify(self, item: privacy.ProofItem) -> bool:
        await trio.lowlevel.checkpoint()
        raise privacy.VerifierUnavailable("this scheme has no verifier yet")

    async def verify_batch(self, items: Sequence[privacy.ProofItem]) -> Sequence[bool | privacy.PrivacyError]:
        await trio.lowlevel.checkpoint()
        if len(items) > privacy.BATCH_MAX:
            raise privacy.PrivacyError(f"{len(items)} proofs in a batch, at most {privacy.BATCH_MAX}")
        return [privacy.VerifierUnavailable("this scheme has no verifier yet") for _ in items]


@asynccontextmanager
async def open_example(ctx: Context, config: NoConfig) -> AsyncIterator[ExampleScheme]:
    """Open the scheme. It holds nothing to close."""
    yield ExampleScheme()


component = Component(role=Role.PRIVACY, name="example", open=open_example)
