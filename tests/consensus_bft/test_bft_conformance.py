"""`bft` keeps the consensus contract, as a network of one validator; broken ones are caught (CONS-80, 82)."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.contracts.application import ExecutedFacts
from supervm.contracts.roles import Role
from supervm.contracts.storage import StorageError
from supervm.plugins.consensus.bft.component import BFT
from supervm.plugins.consensus.bft.driver import waiting
from supervm.plugins.consensus.bft.driver.component import Bft, BftConfig
from supervm.plugins.consensus.bft.driver.executing import Executor
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.events import Final
from supervm.plugins.consensus.bft.leading import Content
from supervm.plugins.consensus.bft.roots import Roots
from supervm.plugins.storage.memory import MemoryConfig, MemoryStore
from supervm.testing.conformance.consensus import ConsensusConformance, RecordingApplication
from supervm.testing.context import component_context
from supervm.types.batch import Batch
from supervm.types.claims import Claim, Examined, Facts
from supervm.types.digests import plain_digest
from supervm.types.finality import FinalityProof

Patch = pytest.MonkeyPatch


class WithStore(ConsensusConformance):
    """Each application has a store that outlives the engine, as a disk does."""

    component = BFT
    may_repeat = True

    @asynccontextmanager
    async def given(self, application: RecordingApplication, folder: Path) -> AsyncIterator[dict[str, Any]]:
        store = getattr(application, "store", None)
        if store is None:
            async with component_context(folder / "store", Role.STORAGE, "memory") as ctx:
                # Nobody closes it: it has no tasks and nothing on disk.
                store = application.store = MemoryStore(ctx, MemoryConfig())  # type: ignore[attr-defined]
        yield {Role.STORAGE: store, Role.TRANSPORT: ()}


class TestBft(WithStore):
    pass


class Unasked:
    """The application, but for what is asked of it about a batch."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __getattr__(self, name: str) -> Any:
        return getattr(self._application, name)

    async def examine(self, transactions: Sequence[bytes], past: Sequence[Batch]) -> Examined:
        await trio.lowlevel.checkpoint()
        claims = tuple(Claim(plain_digest(each), ()) for each in transactions)
        facts = Facts(self._application.tip().height, {}, {})
        return Examined(facts, claims, {}, self._application.measure(transactions).gas)


def no_checks(patch: Patch) -> None:
    """Accepts what nobody checked."""
    restore = Validator.restore

    async def unasked(self: Validator, *given: Any) -> None:
        self._application = Unasked(self._application)  # type: ignore[assignment]
        await restore(self, *given)

    patch.setattr(Validator, "restore", unasked)


def forged_certificate(patch: Patch) -> None:
    """Hands over a proof that nobody signed."""
    prove = Executor._proof

    def forge(self: Executor, final: Final) -> FinalityProof:
        found = prove(self, final)
        return attrs.evolve(found, finalisation=attrs.evolve(found.finalisation, signatures=(bytes(64),)))

    patch.setattr(Executor, "_proof", forge)


def commits_twice(patch: Patch) -> None:
    """Commits each block again."""
    commit = Executor._commit

    async def twice(self: Executor, final: Final, facts: ExecutedFacts) -> None:
        await commit(self, final, facts)
        await commit(self, final, facts)

    patch.setattr(Executor, "_commit", twice)


def skips_execution(patch: Patch) -> None:
    """Commits a second block without executing it, on the strength of the first."""
    commit = Executor._commit

    async def more(self: Executor, final: Final, facts: ExecutedFacts) -> None:
        await commit(self, final, facts)
        header = final.block.header
        above = attrs.evolve(header, height=header.height + 1, parent=header.digest())
        certificate = await self._application.certificate(header.height)
        await self._application.commit(attrs.evolve(final.block, header=above), certificate)

    patch.setattr(Executor, "_commit", more)


def deaf_to_drain(patch: Patch) -> None:
    """Goes on when it is told to stop."""

    async def drain(self: Bft, deadline: float) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Bft, "drain", drain)


def knows_no_bounds(patch: Patch) -> None:
    """Fills blocks without a limit."""
    patch.setattr(Rests, "config", BftConfig(block_interval_min_ms=500, batch_seal_ms=1))
    patch.setattr(waiting._Room, "take", lambda self, certificate: True)


def goes_on_after_a_failure(patch: Patch) -> None:
    """Takes a failed store for a hiccup."""
    commit = Executor._commit

    async def shrug(self: Executor, final: Final, facts: ExecutedFacts) -> None:
        while True:
            with suppress(StorageError):
                await commit(self, final, facts)
                return
            await self._ctx.clock.sleep(0.1)

    patch.setattr(Executor, "_commit", shrug)


def never_rests(patch: Patch) -> None:
    """Makes empty blocks many times a second."""
    patch.setattr(Rests, "config", BftConfig(block_interval_max_ms=350))


def shows_old_receipts(patch: Patch) -> None:
    """A header shows the receipts of no block."""
    patch.setattr(Roots, "receipts_root", lambda self, above, upto: bytes(32))


def orders_again(patch: Patch) -> None:
    """Places certificates that stand in earlier blocks."""
    pick = waiting.WaitingCertificates.pick
    placed: list[Any] = []

    def again(self: waiting.WaitingCertificates, branch: Any, batches: bool) -> Content:
        found = pick(self, branch, batches)
        placed.extend(found.certificates)
        return attrs.evolve(found, certificates=(*placed[:1], *found.certificates)) if batches else found

    patch.setattr(waiting.WaitingCertificates, "pick", again)


class Rests(WithStore):
    """What broken ones are put into."""


BROKEN: list[tuple[Callable[[Patch], None], str]] = [
    (no_checks, "test_each_block_is_checked_then_executed_then_committed"),
    (forged_certificate, "test_work_becomes_final"),
    (commits_twice, "test_heights_rise_by_one_and_each_block_names_its_parent"),
    (skips_execution, "test_heights_rise_by_one_and_each_block_names_its_parent"),
    (deaf_to_drain, "test_drain_finishes_the_block_in_hand_and_starts_no_other"),
    (knows_no_bounds, "test_no_block_is_over_its_bounds"),
    (goes_on_after_a_failure, "test_a_failed_store_stops_it"),
    (never_rests, "test_an_idle_engine_rests"),
    (shows_old_receipts, "test_heights_rise_by_one_and_each_block_names_its_parent"),
    (orders_again, "test_every_transaction_is_committed_once"),
]


@pytest.mark.parametrize(("broken", "promise"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
async def test_the_suite_catches(
    broken: Callable[[Patch], None],
    promise: str,
    tmp_path: Path,
    autojump_clock: object,
    monkeypatch: Patch,
) -> None:
    broken(monkeypatch)
    test: Callable[[Path, object], Any] = getattr(Rests(), promise)
    with pytest.raises((AssertionError, ExceptionGroup, pytest.fail.Exception)):
        await test(tmp_path, autojump_clock)
