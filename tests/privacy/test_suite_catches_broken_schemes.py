"""The conformance suite is worth something: above all, a scheme that answers yes in doubt is caught."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from supervm.api import Component, Context, NoConfig, Role
from supervm.contracts.privacy import CircuitInfo, PrivacyError, ProofItem, VerifierUnavailable
from supervm.plugins.privacy.none import RefuseAll
from supervm.testing.conformance.component import only_error
from supervm.testing.conformance.privacy import PrivacyConformance


class SaysYes(RefuseAll):
    """An open door: true when it doesn't know."""

    async def verify(self, item: ProofItem) -> bool:
        return True


class SaysNo(RefuseAll):
    """Answers false where only an error is honest: a caller may take it for a checked proof."""

    async def verify(self, item: ProofItem) -> bool:
        return False


class RaisesItsBugs(RefuseAll):
    async def verify(self, item: ProofItem) -> bool:
        raise IndexError(item.proof[1000])


class LosesItems(RefuseAll):
    async def verify_batch(self, items: Sequence[ProofItem]) -> Sequence[bool | PrivacyError]:
        return [VerifierUnavailable("none") for _ in set(items)]


class TakesAnyBatch(RefuseAll):
    async def verify_batch(self, items: Sequence[ProofItem]) -> Sequence[bool | PrivacyError]:
        return [VerifierUnavailable("none") for _ in items]


class QuotesProofs(RefuseAll):
    async def verify(self, item: ProofItem) -> bool:
        raise VerifierUnavailable(f"no verifier for {item.proof!r}")


@attrs.frozen
class NamesBadly(RefuseAll):
    def circuits(self) -> Mapping[str, CircuitInfo]:
        return {"Ring": CircuitInfo(public_inputs=1)}


CASES = [
    (SaysYes, "test_an_unknown_circuit_is_refused_never_true_and_never_false"),
    (SaysYes, "test_garbage_is_never_true_and_raises_only_typed_errors"),
    (SaysNo, "test_an_unknown_circuit_is_refused_never_true_and_never_false"),
    (RaisesItsBugs, "test_garbage_is_never_true_and_raises_only_typed_errors"),
    (LosesItems, "test_a_batch_answers_each_item_in_order_and_by_itself"),
    (TakesAnyBatch, "test_a_batch_over_the_bound_is_refused_whole"),
    (QuotesProofs, "test_the_bytes_of_a_proof_are_in_no_text"),
    (NamesBadly, "test_circuits_and_kinds_are_named_as_the_contract_says"),
]


def suite(kind: type[RefuseAll]) -> PrivacyConformance:
    @asynccontextmanager
    async def open_it(ctx: Context, config: NoConfig) -> AsyncIterator[RefuseAll]:
        yield kind()

    class Suite(PrivacyConformance):
        component = Component(role=Role.PRIVACY, name="broken", open=open_it)

    return Suite()


@pytest.mark.parametrize(("kind", "test"), CASES, ids=lambda case: getattr(case, "__name__", ""))
async def test_a_broken_scheme_fails_the_test_that_names_its_fault(
    kind: type[RefuseAll], test: str, tmp_path: Path
) -> None:
    with pytest.raises(BaseException) as raised:
        await getattr(suite(kind), test)(tmp_path)
    assert isinstance(only_error(raised.value), AssertionError | pytest.fail.Exception | IndexError)


@pytest.mark.parametrize("test", sorted({test for _, test in CASES}))
async def test_the_scheme_they_were_made_from_passes_that_test(test: str, tmp_path: Path) -> None:
    await getattr(suite(RefuseAll), test)(tmp_path)
