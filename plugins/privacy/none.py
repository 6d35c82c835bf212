"""A privacy scheme that knows nothing and so refuses everything (PRIV-1, PRIV-15)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs

from supervm.api import Context, NoConfig
from supervm.contracts.privacy import BATCH_MAX, CircuitInfo, PrivacyError, ProofItem, VerifierUnavailable


@attrs.frozen
class RefuseAll:
    """Owns no payload kind and verifies no proof."""

    backend: str = "noop"
    payload_kinds: frozenset[int] = frozenset()

    def circuits(self) -> Mapping[str, CircuitInfo]:
        return {}

    async def verify(self, item: ProofItem) -> bool:
        raise VerifierUnavailable("this node has no verifier for private transactions")

    async def verify_batch(self, items: Sequence[ProofItem]) -> Sequence[bool | PrivacyError]:
        if len(items) > BATCH_MAX:
            raise PrivacyError(f"{len(items)} proofs in a batch, at most {BATCH_MAX}")
        return [VerifierUnavailable("this node has no verifier for private transactions") for _ in items]


@asynccontextmanager
async def open_none(ctx: Context, config: NoConfig) -> AsyncIterator[RefuseAll]:
    yield RefuseAll()
