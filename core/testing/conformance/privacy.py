"""What every privacy scheme keeps, as tests (supervm.contracts.privacy). First of all: it fails closed."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from supervm.contracts.privacy import (
    BATCH_MAX,
    CIRCUIT_ID,
    PROOF_DEADLINE_S,
    PrivacyError,
    PrivacyScheme,
    ProofItem,
)
from supervm.testing.conformance.component import ComponentConformance

GARBAGE = (b"", b"\x00", b"\xff" * 32, bytes(384), bytes(range(256)) * 16)


@pytest.mark.trio
class PrivacyConformance(ComponentConformance):
    """Subclass it and name `component`. A scheme that verifies proofs also gives `good` and `bad`."""

    def good(self) -> Sequence[ProofItem]:
        """Proofs that hold."""
        return ()

    def bad(self) -> Sequence[ProofItem]:
        """Well-formed proofs that don't."""
        return ()

    @asynccontextmanager
    async def scheme(self, folder: Path) -> AsyncIterator[PrivacyScheme]:
        async with self.opened(folder) as scheme:
            assert isinstance(scheme, PrivacyScheme)
            yield scheme

    async def test_circuits_and_kinds_are_named_as_the_contract_says(self, tmp_path: Path) -> None:
        async with self.scheme(tmp_path) as scheme:
            assert scheme.backend
            assert all(CIRCUIT_ID.fullmatch(name) for name in scheme.circuits())
            assert all(0 <= kind < 1 << 16 for kind in scheme.payload_kinds)

    async def test_an_unknown_circuit_is_refused_never_true_and_never_false(self, tmp_path: Path) -> None:
        async with self.scheme(tmp_path) as scheme:
            for junk in GARBAGE:
                with pytest.raises(PrivacyError):
                    await scheme.verify(
                        ProofItem(circuit="no_such_circuit_v1", proof=junk, public_inputs=junk)
                    )

    async def test_garbage_is_never_true_and_raises_only_typed_errors(self, tmp_path: Path) -> None:
        async with self.scheme(tmp_path) as scheme:
            for circuit in [*scheme.circuits(), "no_such_circuit_v1", "", "NOT a name"]:
                for proof in GARBAGE:
                    item = ProofItem(circuit=circuit, proof=proof, public_inputs=proof)
                    with trio.fail_after(PROOF_DEADLINE_S):
                        assert await self._answer(scheme, item) is not True

    async def test_what_holds_is_true_what_does_not_is_not(self, tmp_path: Path) -> None:
        async with self.scheme(tmp_path) as scheme:
            for item in self.good():
                assert await scheme.verify(item) is True
            for item in self.bad():
                assert await self._answer(scheme, item) is not True

    async def test_a_batch_answers_each_item_in_order_and_by_itself(self, tmp_path: Path) -> None:
        async with self.scheme(tmp_path) as scheme:
            junk = ProofItem(circuit="no_such_circuit_v1", proof=b"x", public_inputs=b"")
            items = [junk, *self.good(), junk, *self.bad(), junk]
            answers = await scheme.verify_batch(items)
            assert len(answers) == len(items)
            for item, answer in zip(items, answers, strict=True):
                assert (answer is True) == (item in self.good())
                assert isinstance(answer, bool | PrivacyError)
            assert list(await scheme.verify_batch([])) == []

    async def test_a_batch_over_the_bound_is_refused_whole(self, tmp_path: Path) -> None:
        async with self.scheme(tmp_path) as scheme:
            junk = ProofItem(circuit="no_such_circuit_v1", proof=b"", public_inputs=b"")
            with pytest.raises(PrivacyError):
                await scheme.verify_batch([junk] * (BATCH_MAX + 1))

    async def test_the_bytes_of_a_proof_are_in_no_text(self, tmp_path: Path) -> None:
        item = ProofItem(circuit="no_such_circuit_v1", proof=b"secret-proof", public_inputs=b"secret-input")
        assert "secret" not in repr(item) and "secret" not in str(item)
        async with self.scheme(tmp_path) as scheme:
            with pytest.raises(PrivacyError) as refused:
                await scheme.verify(item)
            assert "secret" not in str(refused.value) and refused.value.code

    async def _answer(self, scheme: PrivacyScheme, item: ProofItem) -> bool | PrivacyError:
        try:
            return await scheme.verify(item)
        except PrivacyError as error:
            return error
