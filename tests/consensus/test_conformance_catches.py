"""Broken engines, each caught by the conformance suite in the test that names its promise."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.contracts.application import BatchBounds, Tip
from supervm.contracts.storage import StorageError
from supervm.plugins.consensus import solo, supervm_components
from supervm.plugins.consensus.sealing import certify, seal_batch, sequence_of, view_of
from supervm.testing.conformance.consensus import ConsensusConformance
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind


class NoChecks(solo.Solo):
    """Orders what nobody checked."""

    async def _certify(
        self, tip: Tip, transactions: tuple[bytes, ...], certified: Sequence[solo.Certified], locks: Any
    ) -> solo.Certified:
        application = self._application
        batch = seal_batch(
            self._identity,
            chain_id=application.chain_id,
            epoch=tip.height // application.epoch_blocks + 1,
            sequence=sequence_of(view_of(tip.height + 1, application.epoch_blocks), len(certified)),
            attempt=0,
            after=[certified[-1].batch.digest()] if certified else [],
            transactions=transactions,
            gas=application.measure(transactions).gas,
        )
        return solo.Certified(batch, certify(self._identity, 0, 1, batch))


class WrongParent(solo.Solo):
    """Builds every block on genesis."""

    async def _ordered_block(
        self, tip: Tip, certified: Sequence[solo.Certified]
    ) -> tuple[Block, Certificate]:
        if tip.height:
            tip = Tip(
                height=tip.height,
                digest=self._application.chain_id,
                epoch=tip.epoch,
                timestamp_ms=tip.timestamp_ms,
                root_height=tip.root_height,
                state_root=tip.state_root,
            )
        return await super()._ordered_block(tip, certified)

    def _check(self, *_: Any) -> None:
        return


class ForgedCertificate(solo.Solo):
    """Hands over a certificate that nobody signed."""

    async def _commit(self, block: Block, certificate: Certificate) -> None:
        forged = Certificate(
            VoteKind.FINALIZE,
            certificate.epoch,
            certificate.view,
            certificate.digest,
            certificate.bitmap,
            (bytes(64),),
        )
        await super()._commit(block, forged)


class CommitsTwice(solo.Solo):
    """Commits each block again."""

    async def _commit(self, block: Block, certificate: Certificate) -> None:
        await super()._commit(block, certificate)
        await super()._commit(block, certificate)


class DeafToDrain(solo.Solo):
    """Goes on when it is told to stop."""

    async def drain(self, deadline: float) -> None:
        await trio.lowlevel.checkpoint()


class LosesTheRest(solo.Solo):
    """Gives up a whole batch for one refused transaction."""

    async def _certify(
        self,
        tip: Tip,
        transactions: tuple[bytes, ...],
        certified: Sequence[solo.Certified],
        locks: dict[bytes, bytes],
    ) -> solo.Certified | None:
        one = await super()._certify(tip, transactions, certified, locks)
        return one if one is not None and len(one.batch.transactions) == len(transactions) else None


class KnowsNoBounds(solo.Solo):
    """Fills blocks without a limit."""

    def _batch_bounds(self, certified: Sequence[solo.Certified]) -> BatchBounds:
        return BatchBounds(seal_after_s=0.0)

    def _check(self, *_: Any) -> None:
        return


class GoesOnAfterAFailure(solo.Solo):
    """Takes a failed store for a hiccup."""

    async def _commit(self, block: Block, certificate: Certificate) -> None:
        try:
            await super()._commit(block, certificate)
        except StorageError:
            await self._ctx.clock.sleep(0.1)


class NeverRests(solo.Solo):
    """Makes empty blocks as fast as it can."""

    def _idle_due_s(self) -> float:
        return 0.0


class SkipsExecution(solo.Solo):
    """Commits a second block without executing it, on the strength of the first."""

    async def _commit(self, block: Block, certificate: Certificate) -> None:
        await super()._commit(block, certificate)
        header = attrs.evolve(block.header, height=block.header.height + 1, parent=block.digest())
        again = Block(header, block.body, block.batches)
        await self._application.commit(again, certificate.encode())


BROKEN: list[tuple[type[solo.Solo], str]] = [
    (NoChecks, "test_each_block_is_checked_then_executed_then_committed"),
    (WrongParent, "test_heights_rise_by_one_and_each_block_names_its_parent"),
    (ForgedCertificate, "test_work_becomes_final"),
    (CommitsTwice, "test_heights_rise_by_one_and_each_block_names_its_parent"),
    (DeafToDrain, "test_drain_finishes_the_block_in_hand_and_starts_no_other"),
    (LosesTheRest, "test_a_refused_transaction_is_left_out_and_the_rest_goes_on"),
    (KnowsNoBounds, "test_no_block_is_over_its_bounds"),
    (GoesOnAfterAFailure, "test_a_failed_store_stops_it"),
    (NeverRests, "test_an_idle_engine_rests"),
    (SkipsExecution, "test_heights_rise_by_one_and_each_block_names_its_parent"),
]


@pytest.mark.parametrize(("broken", "promise"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
async def test_the_suite_catches(
    broken: type[solo.Solo],
    promise: str,
    tmp_path: Path,
    autojump_clock: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solo, "Solo", broken)

    class Suite(ConsensusConformance):
        component = next(iter(supervm_components()))

    test: Callable[[Path, object], Any] = getattr(Suite(), promise)
    with pytest.raises((AssertionError, ExceptionGroup, pytest.fail.Exception)):
        await test(tmp_path, autojump_clock)
