"""Bugs planted in ordering, each as a machine of its own (CONS-98). Tests only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import attrs

from supervm.plugins.consensus.bft import proposals
from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.records import Finalized
from supervm.plugins.consensus.bft.simplex import Ordering, Start
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.codec import Writer
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.plan import Plan, Trick, draw_plan


class VotesBeforeLog(Ordering):
    def _send(self, to: object, message: object, after: int = 0) -> None:
        super()._send(to, message, 0)


class FinalizesAfterNullify(Ordering):
    def _may_finalize(self, view: Any) -> bool:
        return view.finalized is None


class NullifiesAfterFinalize(Ordering):
    """While stuck it gives up the last notarised view, too."""

    def _say_again(self) -> None:
        super()._say_again()
        highest = self._views.highest
        if highest is not None and highest.number > self.final_view and highest.nullified is None:
            highest.nullified = vote = self._say_as.vote(VoteKind.NULLIFY, highest.number)
            self._say(vote, BareVote(vote))


@attrs.frozen
class BareVote:
    """A record of a vote, and nothing that it rests on."""

    RECORD: ClassVar[int] = 15
    vote: Any

    def write(self, writer: Writer) -> None:
        self.vote.write(writer)


class FinalizeLoggedAlone(Ordering):
    def _log(self, record: Any) -> int:
        return super()._log(BareVote(record.vote) if isinstance(record, Finalized) else record)

    def _replay(self, record: Any) -> None:
        if not isinstance(record, BareVote):
            super()._replay(record)
            return
        view = self._views.from_log(record.vote.view)
        if view is not None:
            view.finalized = record.vote
            view.add(record.vote)


class KeepsCertificates(Ordering):
    def _pass_on(self, certificate: Certificate) -> None:
        pass


def counts_heads(start: Start, *rest: Any) -> Ordering:
    """A quorum by count: everybody weighs one."""
    members = tuple(Validator(v.node_id, v.public_key, 1) for v in start.epoch.validators.members)
    return Ordering(
        attrs.evolve(start, epoch=attrs.evolve(start.epoch, validators=ValidatorSet(members))), *rest
    )


class IgnoresGaps(Ordering):
    """Views between the parent's and the proposal's needn't be nullified."""

    def first_not_nullified(self, first: int, last: int) -> int | None:
        return None


class ForgetsAtRestart(Ordering):
    def _replay(self, record: Any) -> None:
        pass


def _any_root(node: Any, epoch: Any, branch: Any, known: Any) -> None:
    if known.roots.get(node.block.header.root_height) is not None:
        _check_root(node, epoch, branch, known)


_check_root = proposals._check_root


def _anything(*_: object) -> None:
    return


@contextmanager
def patched(*patches: tuple[object, str, object]) -> Iterator[None]:
    with contextmanager(_patch_all)(patches):
        yield


def _patch_all(patches: tuple[tuple[object, str, object], ...]) -> Iterator[None]:
    if not patches:
        yield
        return
    with mock.patch.object(patches[0][0], patches[0][1], patches[0][2]):
        yield from _patch_all(patches[1:])


@attrs.frozen(kw_only=True)
class Planted:
    """A bug: its machine and patches, the profile and size in which seeds are tried, what must find it.

    `changes` of the plans that the seeds stand for; `seed` is the first tried, one that finds it.
    """

    machine: Callable[..., Ordering] = Ordering
    patches: tuple[tuple[object, str, object], ...] = ()
    profile: str
    count: int = 4
    seed: int = 0
    changes: dict[str, Any] = attrs.field(factory=dict)
    oracles: frozenset[str]

    def plan(self, seed: int) -> Plan:
        return attrs.evolve(draw_plan(seed, self.profile, self.count), **self.changes)


BUGS = {
    "vote before log": Planted(
        machine=VotesBeforeLog, seed=91, profile="crash", oracles=frozenset({"contradiction"})
    ),
    "finalize after nullify": Planted(
        machine=FinalizesAfterNullify, seed=8, profile="storm", oracles=frozenset({"contradiction"})
    ),
    "nullify after finalize": Planted(
        machine=NullifiesAfterFinalize, seed=3, profile="storm", oracles=frozenset({"contradiction"})
    ),
    "finalize logged without its notarisation": Planted(
        machine=FinalizeLoggedAlone, seed=8, profile="crash", oracles=frozenset({"liveness", "inclusion"})
    ),
    "certificate received but not passed on": Planted(
        machine=KeepsCertificates, seed=10, profile="byzantine", oracles=frozenset({"spread"})
    ),
    "missing check of parent notarisation": Planted(
        patches=((proposals, "_check_notarisation", _anything),),
        seed=50,
        profile="byzantine",
        oracles=frozenset({"proof"}),
    ),
    "views between not nullified": Planted(
        machine=IgnoresGaps,
        seed=8,
        profile="byzantine",
        changes={
            "weights": (1, 1, 1, 1),
            "tricks": ((1, Trick.STALE_PARENT),),
            "delay_us": (500, 400_000),
            "loss": 0.2,
            "work_us": tuple(range(0, 1_000_000, 20_000)),
        },
        oracles=frozenset({"agreement", "halt"}),
    ),
    "quorum by count": Planted(
        machine=counts_heads,
        seed=18,
        profile="byzantine",
        count=7,
        oracles=frozenset({"agreement", "proof", "halt"}),
    ),
    "vote for a root not computed": Planted(
        patches=((proposals, "_check_root", _any_root),),
        seed=11,
        profile="byzantine",
        oracles=frozenset({"root"}),
    ),
    "timestamp unchecked": Planted(
        patches=((proposals, "TIMESTAMP_AHEAD_MS", 10**15),),
        seed=13,
        profile="byzantine",
        oracles=frozenset({"time"}),
    ),
    "last block extended by another": Planted(
        patches=((Branch, "is_closed", property(lambda self: False)),),
        seed=112,
        profile="storm",
        oracles=frozenset({"epoch"}),
    ),
    "leader may order a batch before its past": Planted(
        patches=((proposals, "_check_order", _anything),),
        seed=8,
        profile="byzantine",
        oracles=frozenset({"order"}),
    ),
    "log forgotten at a restart": Planted(
        machine=ForgetsAtRestart, seed=2, profile="crash", oracles=frozenset({"contradiction"})
    ),
}
