"""Privacy `none`: the contract. It knows nothing and refuses everything (PRIV-1)."""

from pathlib import Path

import pytest

from supervm.contracts.privacy import ProofItem, VerifierUnavailable
from supervm.plugins.privacy import supervm_components
from supervm.testing.conformance.privacy import PrivacyConformance
from supervm.testing.context import opened

(NONE,) = supervm_components()


class TestNone(PrivacyConformance):
    component = NONE


async def test_every_proof_is_refused_because_nobody_can_tell(tmp_path: Path) -> None:
    async with opened(NONE, tmp_path) as scheme:
        assert scheme.payload_kinds == frozenset() and scheme.circuits() == {}
        with pytest.raises(VerifierUnavailable):
            await scheme.verify(ProofItem(circuit="ring_v1", proof=b"x", public_inputs=b""))
