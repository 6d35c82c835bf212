"""A validator that the others went on without finds out by itself; one without a quorum goes on voting
(CONS-34, 54, 61, 65)."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervm.api import HealthState
from supervm.plugins.consensus.bft.driver import bearings, validator
from supervm.plugins.consensus.bft.driver.bearings import ASKED_AT_ONCE, BELIEVE_S, UNHEARD_S, Bearings
from supervm.plugins.consensus.bft.driver.component import Bft, BftConfig
from supervm.plugins.consensus.bft.driver.following import Follower
from supervm.plugins.consensus.bft.driver.receiving import Incoming
from supervm.plugins.consensus.bft.driver.sources import Hints
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.fetching import Absent, Get, Got, GotBlock, OldestHeld, WantBlocks
from supervm.testing.context import component_context
from supervm.types.certificate import VoteKind
from supervm.types.operations import StakeLeave
from tests.consensus_bft.chains import certify, set_of, true_chain
from tests.consensus_bft.sim.world import node_id

from .lives import Lives
from .network import Network, network
from .test_after_snapshots import until
from .test_catching_up import AT_REST
from .test_epoch_nodes import LONG_S, QUICK, begun

TO = b"\x07" * 32
AT_WORK = BftConfig(block_interval_min_ms=10, block_interval_max_ms=200)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validator asks after a second in which it heard no quorum. One that asks too early loses nothing."""
    monkeypatch.setattr(bearings, "UNHEARD_S", 1.0)
    monkeypatch.setattr(validator, "ASK_S", 0.2)


async def go_on(net: Network, epoch: int) -> None:
    """Let the others come to an epoch, and rest there: who catches up isn't kept waiting by hand-overs."""
    await begun(net, 0, epoch)
    net.config = AT_REST
    for number in (0, 1, 2):
        await net.stop(number)
        await net.start(number)
    await net.reached(0, max(net.nodes[number].height for number in (0, 1, 2)), LONG_S)


async def said(engine: Bft, reason: str) -> None:
    """Wait until a node gives a reason why it makes nothing final."""
    await until(lambda: reason in engine.status().reason)


@pytest.mark.usefixtures("soon")
async def test_who_left_the_set_while_it_was_off_comes_to_the_others_height_and_says_that_it_has_no_vote(
    tmp_path: Path,
) -> None:
    async with network(tmp_path, config=QUICK, epoch_blocks=12) as net:
        await net.reached(3, 2)
        await net.stop(3)
        leaves = net.signed(net.validators[3], 0, StakeLeave())
        await net.nodes[0].chain.submit([leaves.data])
        height = await net.committed(0, leaves.digest, LONG_S)
        ledger = net.nodes[0].chain.ledger
        header = await ledger.header(height)
        assert header is not None
        await go_on(net, header.epoch + 3)
        assert net.nodes[0].chain.validators(header.epoch + 3).number_of(net.validators[3].node_id) is None

        node = await net.start(3)
        assert isinstance(node.engine.life, Validator), "by its own chain it has a vote"
        await begun(net, 3, header.epoch + 3)
        await net.reached(3, ledger.tip.height, LONG_S)
        await said(node.engine, "none of the epoch's 3 validators")
        assert isinstance(node.engine.life, Follower) and not node.engine.status().producing
        await net.agree(ledger.tip.height)


@pytest.mark.usefixtures("soon")
async def test_who_leaves_the_set_and_is_on_but_hears_none_of_the_last_votes_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_of_use = Validator._is_of_use
    async with network(tmp_path, config=QUICK, epoch_blocks=12) as net:
        leaver = net.validators[3]

        def cut_off(life: Validator, incoming: Incoming) -> bool:
            is_heard = life._core._own != leaver.node_id or isinstance(incoming.message, Get | Got)
            return is_heard and is_of_use(life, incoming)

        monkeypatch.setattr(Validator, "_is_of_use", cut_off)
        leaves = net.signed(leaver, 0, StakeLeave())
        await net.nodes[0].chain.submit([leaves.data])
        height = await net.committed(0, leaves.digest, LONG_S)
        header = await net.nodes[0].chain.ledger.header(height)
        assert header is not None
        await go_on(net, header.epoch + 3)
        await begun(net, 3, header.epoch + 3)
        await said(net.nodes[3].engine, "none of the epoch's 3 validators")
        await net.agree(net.nodes[3].height)


@pytest.mark.usefixtures("soon")
async def test_without_a_quorum_validators_say_so_and_go_on_voting_until_one_is_back(tmp_path: Path) -> None:
    async with network(tmp_path, config=AT_WORK) as net:
        await net.reached(0, 3)
        for number in (2, 3):
            await net.stop(number)
        for number in (0, 1):
            engine = net.nodes[number].engine
            await said(engine, "no votes of a quorum")
            health = await engine.health()
            assert not engine.status().producing and health.state is HealthState.DEGRADED
        await net.agree(max(net.nodes[number].height for number in (0, 1)))
        lives = [net.nodes[number].engine.life for number in (0, 1)]
        turns = [life._bearings._turn for life in lives if isinstance(life, Validator)]
        await until(lambda: all(life._bearings._turn > 20 + max(turns) for life in lives))  # type: ignore[union-attr]
        assert lives == [net.nodes[number].engine.life for number in (0, 1)], (
            "they asked, and never ceased to vote"
        )
        sent = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([sent.data])
        height = net.nodes[0].height
        await net.start(2)
        assert await net.committed(2, sent.digest) > height
        await net.agree(height + 1)
        await until(lambda: all(net.nodes[number].engine.status().producing for number in (0, 1, 2)))


@pytest.mark.usefixtures("soon")
async def test_a_validator_without_its_set_learns_from_a_node_that_is_none_that_it_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = Lives(monkeypatch)
    async with network(tmp_path, validators=2, followers=1, weights=(100, 1), config=AT_REST) as net:
        first = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([first.data])
        await net.committed(1, first.digest)
        await net.stop(1)
        await net.start(2)
        sent = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([sent.data])
        height = await net.committed(2, sent.digest)
        await net.stop(0)
        await net.start(1)
        await net.reached(1, height)
        await lives.wait_for(net.nodes[1].engine, Follower, Validator)
        await net.agree(height)


MEMBERS = tuple(node_id(n) for n in range(4))
GUESTS = tuple(node_id(n) for n in range(10, 30))
REST_S = 5.0


async def test_a_validator_is_lost_when_neither_blocks_nor_votes_of_a_quorum_come(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        heavy, light = set_of({0: 1, 1: 1, 2: 1, 3: 1}), set_of({0: 7, 1: 1, 2: 1, 3: 1})
        hearing = Bearings(ctx, 1, heavy, MEMBERS[0], REST_S, Hints())
        alone = Bearings(ctx, 1, light, MEMBERS[0], REST_S, Hints())
        for each in (hearing, alone):
            each.now(MEMBERS[1:], GUESTS)
        await trio.sleep(UNHEARD_S - 1)
        assert not hearing.choose() and not hearing.lost
        await trio.sleep(2)
        asked = [hearing.choose() for _ in range(6)]
        assert all(len(each) == ASKED_AT_ONCE for each in asked)
        assert asked[0][:3] == MEMBERS[1:] and {*MEMBERS[1:], *GUESTS} == {
            one for each in asked for one in each
        }
        assert not hearing.lost, "a network without work may rest"
        await trio.sleep(REST_S)
        assert "no votes of a quorum of epoch 1" in hearing.lost and not alone.lost and not alone.choose()
        hearing.heard(MEMBERS[1])
        assert hearing.lost, "two of four are no quorum"
        hearing.heard(MEMBERS[2])
        assert not hearing.lost and not hearing.choose()
        await trio.sleep(UNHEARD_S + REST_S + 1)
        assert hearing.lost
        hearing.moved()
        assert not hearing.lost and not hearing.choose()


async def test_only_a_proof_from_who_was_asked_shows_that_others_are_ahead_and_a_word_seldom(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    truth, hints = true_chain(0), Hints()
    epoch_set = truth.sets[1]
    own, giver = epoch_set.members[0].node_id, GUESTS[0]
    height = next(at for at in range(2, 12) if at in truth.finalisations)
    proven = GotBlock(truth.block(height), truth.finalisations[height])
    other = certify(VoteKind.FINALIZE, 1, 5, b"another".ljust(32, b"."), epoch_set, [0, 1, 2, 3])
    async with component_context(tmp_path) as ctx:
        bearings_ = Bearings(ctx, 1, epoch_set, own, REST_S, hints)
        bearings_.now((), (giver,))
        assert not bearings_.shows_more(giver, (proven,), height - 1), "it wasn't asked"
        await trio.sleep(UNHEARD_S + 1)
        assert bearings_.choose() == (giver,)
        nothing = (Absent(WantBlocks(height, 32)), OldestHeld(height), GotBlock(truth.block(height - 1)))
        assert not bearings_.shows_more(giver, nothing, height - 1)
        assert not bearings_.shows_more(giver, (proven,), height) and not hints.ahead
        assert bearings_.shows_more(giver, (proven,), height - 1) and hints.ahead == (giver,)
        for word in (OldestHeld(height + 1), GotBlock(truth.block(height), other)):
            hints.ahead = ()
            assert bearings_.shows_more(giver, (word,), height - 1) and hints.ahead == (giver,)
            assert not bearings_.shows_more(giver, (word,), height - 1)
            assert bearings_.shows_more(giver, (word, proven), height - 1)
            await trio.sleep(BELIEVE_S)
            bearings_.choose()
