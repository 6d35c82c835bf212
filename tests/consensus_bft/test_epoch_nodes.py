"""Whole nodes over several epochs: sets change, validators join, leave, die and come back (CONS-50..55)."""

from collections.abc import Iterable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from supervm.chain.application import Chain
from supervm.chain.validator_sets import sets_by_digest
from supervm.cli.verifying import Finality, ReplayRules
from supervm.client.light import UNBONDING_MS, checkpoint_at
from supervm.client.proof import check_proof
from supervm.crypto.keys import KeyPair
from supervm.execution.election import MINIMUM_COINS
from supervm.execution.footprint import nonce_lock
from supervm.execution.punishing import noted_in
from supervm.http import views
from supervm.plugins.consensus.bft.batch_events import EpochCloses
from supervm.plugins.consensus.bft.driver.closer import Closer
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.core import Core
from supervm.plugins.consensus.bft.driver.executing import Committed
from supervm.plugins.consensus.bft.driver.following import Follower
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.epochs.closing import ClosingOutput
from supervm.plugins.consensus.bft.epochs.operations import SystemOperations
from supervm.plugins.consensus.bft.events import Log, Send, Stream
from supervm.plugins.consensus.bft.messages import EpochDone, Equivocation, Message, encode
from supervm.plugins.consensus.bft.offences import Evidence, Offence
from supervm.plugins.consensus.bft.views import View
from supervm.plugins.consensus.bft.votes import ViewVote
from supervm.plugins.storage import supervm_components as stores
from supervm.storage.verify import Replay, verify_chain
from supervm.testing.context import opened
from supervm.types.block import BlockHeader
from supervm.types.certificate import VoteKind, vote_message
from supervm.types.claims import IN_FLIGHT_MAX
from supervm.types.digests import ZERO
from supervm.types.errors import ProofInvalid
from supervm.types.finality import FinalityProof
from supervm.types.operations import Output, StakeAdd, StakeLeave, Transfer
from supervm.types.state import NATIVE_TOKEN, Account, account_key
from supervm.types.wrongs import DOUBLES_KEY, RESERVE

from .network import FUNDS, PRICE, Network, key, network

QUICK = BftConfig(block_interval_min_ms=10, block_interval_max_ms=30)
STAKE = 2 * MINIMUM_COINS * 10**9
TO = b"\x07" * 32
LONG_S = 240.0


async def begun(net: Network, number: int, epoch: int) -> None:
    """Wait until a node's chain has a block of an epoch."""
    ledger = net.nodes[number].chain.ledger
    with trio.fail_after(LONG_S):
        while ledger.tip_header.epoch < epoch:
            await ledger.wait_above(ledger.tip.height)


async def headers(net: Network, number: int) -> list[BlockHeader]:
    ledger = net.nodes[number].chain.ledger
    found = [await ledger.header(height) for height in range(1, ledger.tip.height + 1)]
    assert None not in found
    return found  # type: ignore[return-value]


async def test_epochs_follow_each_other_and_transactions_go_on_through_them(tmp_path: Path) -> None:
    async with network(tmp_path, config=QUICK, epoch_blocks=12) as net:
        sent = []
        for epoch in (1, 2, 3):
            await begun(net, 0, epoch)
            each = net.transfer(0, TO, 1)
            await net.nodes[epoch].chain.submit([each.data])
            sent.append(each.digest)
        heights = [await net.committed(0, each, LONG_S) for each in sent]
        await begun(net, 0, 4)
        await net.agree(net.nodes[0].height)
        assert await net.balance(0, TO) == 3 and heights == sorted(heights)
        chain = await headers(net, 0)
        last = [each for each in chain if each.next_validators_digest != ZERO]
        assert [each.epoch for each in last] == [1, 2, 3][: len(last)] and len(last) >= 3
        assert all(each.height < 14 * each.epoch + 14 for each in last), "an epoch ends near its bound"
        for before, after in pairwise(chain):
            ended = before.next_validators_digest != ZERO
            assert after.epoch == before.epoch + ended


async def test_a_validator_joins_by_a_stake_another_leaves_and_the_sets_hand_over(tmp_path: Path) -> None:
    async with network(tmp_path, config=QUICK, epoch_blocks=12, followers=1) as net:
        await net.start(4)
        assert isinstance(net.nodes[4].engine.life, Follower)
        joins = net.signed(net.validators[4], 0, StakeAdd(STAKE))
        leaves = net.signed(net.validators[3], 0, StakeLeave())
        await net.nodes[0].chain.submit([joins.data, leaves.data])
        said = max([await net.committed(0, each.digest, LONG_S) for each in (joins, leaves)])
        epoch = net.nodes[0].chain.ledger.tip_header.epoch + 2
        await begun(net, 0, epoch)
        # A node knows the sets of a few epochs, and goes on while others catch up.
        changed = net.nodes[0].chain.validators(epoch)
        for number in (3, 4):
            await begun(net, number, epoch)
        weights = {each.node_id: each.weight for each in changed.members}
        ids = [each.node_id for each in net.validators]
        assert weights == {ids[0]: 1, ids[1]: 1, ids[2]: 1, ids[4]: 2}
        with trio.fail_after(LONG_S):
            while not isinstance(net.nodes[4].engine.life, Validator):
                await net.nodes[4].chain.ledger.wait_above(net.nodes[4].height)
            while not isinstance(net.nodes[3].engine.life, Follower):
                await net.nodes[3].chain.ledger.wait_above(net.nodes[3].height)
        assert net.nodes[4].engine.status().producing and not net.nodes[3].engine.status().producing
        # Without its heaviest member, which is the one that joined, the new set has no quorum.
        sent = net.transfer(0, TO, 1)
        await net.nodes[4].chain.submit([sent.data])
        height = await net.committed(3, sent.digest, LONG_S)
        await net.agree(height)
        chain = await headers(net, 0)
        last = [each for each in chain if each.next_validators_digest != ZERO]
        new = changed.digest()
        handed = next(each for each in last if each.next_validators_digest == new)
        assert handed.root_height >= said
        assert all((each.validators_digest == new) == (each.height > handed.height) for each in chain)
        await a_light_client_follows(net, 2)
        assert await the_chain_verifies(net, 2, tmp_path) > handed.height


async def test_who_signs_two_things_pays_and_a_validator_loses_its_place(tmp_path: Path) -> None:
    async with network(tmp_path, config=QUICK, epoch_blocks=12) as net:
        joins = net.signed(net.validators[3], 0, StakeAdd(STAKE))
        await net.nodes[0].chain.submit([joins.data])
        await net.agree(await net.committed(0, joins.digest, LONG_S))
        life = net.nodes[0].engine.life
        assert isinstance(life, Validator)
        # What one of them did, and what a user did, as one node comes to know of it.
        said = [notarize(net, 3, life.epoch, name) for name in (b"one", b"two")]
        life._core.accuse(Evidence(Offence.NOTARIZES, *said))
        twice = sorted(net.transfer(0, TO, amount, nonce=5).data for amount in (1, 2))
        lock = nonce_lock(net.users[0].address, 5)
        life._core.received(net.validators[1].node_id, Equivocation(twice[0], twice[1], lock))
        ids = [each.node_id for each in net.validators]
        chain = net.nodes[1].chain
        with trio.fail_after(LONG_S):
            while chain.validators(chain.epoch).number_of(ids[3]) is not None:
                await chain.ledger.wait_above(chain.ledger.tip.height)
        for number in (0, 2, 3):
            await begun(net, number, chain.ledger.tip_header.epoch)
        await net.agree(chain.ledger.tip.height)
        assert await net.balance(1, RESERVE) == STAKE // 20
        assert await net.balance(1, net.users[0].address) == FUNDS - 1_000_000 * PRICE // 1_000_000
        await the_chain_verifies(net, 2, tmp_path)


async def test_a_proof_in_a_final_block_marks_its_signer_at_every_validator(tmp_path: Path) -> None:
    async with network(tmp_path, config=QUICK) as net:
        nodes = [net.nodes[number] for number in range(4)]
        lives = [each.engine.life for each in nodes]
        twice = sorted(net.transfer(0, TO, amount, nonce=5).data for amount in (1, 2))
        signer, other = (each.address for each in net.users[:2])
        proof = Equivocation(twice[0], twice[1], nonce_lock(signer, 5))
        assert isinstance(lives[0], Validator)
        lives[0]._core.received(net.validators[1].node_id, proof)
        for life, node in zip(lives, nodes, strict=True):
            assert isinstance(life, Validator)
            with trio.fail_after(LONG_S):
                while not life._voter.table.is_equivocator(signer):
                    await node.chain.ledger.wait_above(node.height)
            assert not life._voter.table.is_equivocator(other)


async def test_proofs_that_cost_nothing_are_placed_by_no_honest_leader_and_a_hostile_one_gains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, config=QUICK) as net:
        nodes = [net.nodes[number] for number in range(4)]
        lives = [each.engine.life for each in nodes]
        chain = nodes[0].chain
        far, real = (twice(net, net.users[0], nonce) for nonce in (IN_FLIGHT_MAX, 5))
        nobodys = [twice(net, key(1_000 + each), 0) for each in range(40)]
        for life in lives:
            assert isinstance(life, Validator)
            for proof in (far, *nobodys):
                life._core.received(net.validators[1].node_id, proof)
        first = chain.ledger.tip.height
        await net.reached(0, first + 8)
        assert not await operations_of(chain, first)
        hostile = lives[3]
        assert isinstance(hostile, Validator)
        held = [encode(each) for each in (far, *nobodys)]
        monkeypatch.setattr(hostile._closer.operations.proofs, "pick", lambda branch, left: held)
        hostile._core.received(net.validators[1].node_id, real)
        assert isinstance(lives[0], Validator)
        lives[0]._core.received(net.validators[1].node_id, real)
        with trio.fail_after(LONG_S):
            while not {encode(real), *held} <= set(await operations_of(chain, first)):
                await chain.ledger.wait_above(chain.ledger.tip.height)
            for life, node in zip(lives, nodes, strict=True):
                assert isinstance(life, Validator)
                while not life._voter.table.is_equivocator(net.users[0].address):
                    await node.chain.ledger.wait_above(node.height)
                assert list(life._voter.table._equivocated) == [net.users[0].address]
        assert noted_in((await chain._state([DOUBLES_KEY]))[DOUBLES_KEY]) == {real.lock}


async def test_leaders_are_told_of_what_a_validator_saw_where_it_costs_its_signer_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, config=QUICK) as net:
        first, *others = (net.nodes[number].engine.life for number in range(4))
        assert isinstance(first, Validator)
        proofs = first._closer.operations.proofs
        monkeypatch.setattr(proofs, "pick", lambda branch, left: [])
        heard: list[Message] = []
        for life in others:
            assert isinstance(life, Validator)
            received = life._core.received
            monkeypatch.setattr(
                life._core,
                "received",
                lambda peer, message, received=received: (heard.append(message), received(peer, message)),
            )
        free, real = twice(net, key(1_000), 0), twice(net, net.users[0], 5)
        for proof in (free, real):
            first._core.begin([Send((), proof, Stream.VOTES)])
        chain = net.nodes[0].chain
        with trio.fail_after(LONG_S):
            while real.lock not in noted_in((await chain._state([DOUBLES_KEY]))[DOUBLES_KEY]):
                await chain.ledger.wait_above(chain.ledger.tip.height)
        told = [each for each in heard if isinstance(each, Equivocation)]
        assert set(told) == {real} and len(told) <= 2
        assert proofs.holds(free)


def twice(net: Network, who: KeyPair, nonce: int) -> Equivocation:
    """What proves that somebody signed twice for a nonce."""
    said = [Transfer(NATIVE_TOKEN, (Output(TO, amount),)) for amount in (1, 2)]
    lower, higher = sorted(net.signed(who, nonce, each).data for each in said)
    return Equivocation(lower, higher, nonce_lock(who.address, nonce))


async def operations_of(chain: Chain, above: int) -> list[bytes]:
    """The system operations of committed blocks above a height."""
    found: list[bytes] = []
    for height in range(above + 1, chain.ledger.tip.height + 1):
        block = await chain.block(height)
        assert block is not None
        found += block.body.system_operations
    return found


def notarize(net: Network, number: int, epoch: int, block: bytes) -> ViewVote:
    pair = net.validators[number]
    at = net.nodes[0].chain.validators(epoch).number_of(pair.node_id)
    assert at is not None
    name = block.ljust(32, b".")
    message = vote_message(net.genesis.chain_id, epoch, VoteKind.NOTARIZE, 7, name)
    return ViewVote(VoteKind.NOTARIZE, epoch, 7, name, at, pair.sign(message))


async def test_an_epoch_ends_early_when_the_operators_of_a_quorum_ask(tmp_path: Path) -> None:
    async with network(tmp_path, config=QUICK) as net:
        for number in (0, 1):
            wish = net.nodes[number].engine.end_epoch()
            assert wish is not None and wish.asked and not wish.closing
        ledger = net.nodes[0].chain.ledger
        with trio.fail_after(LONG_S):
            while (known := net.nodes[0].engine.wish()) is not None and known.weight < 2:
                await ledger.wait_above(ledger.tip.height)
        await net.reached(0, net.nodes[0].height + 8, LONG_S)
        known = net.nodes[0].engine.wish()
        assert known is not None and (known.weight, known.weight_of, known.closing) == (2, 4, False)
        assert net.nodes[2].chain.epoch_ender is net.nodes[2].engine
        net.nodes[2].engine.end_epoch()
        await begun(net, 3, 2)
        await net.agree(net.nodes[3].height)
        assert net.nodes[3].height < 200, "it ended long before its length"


async def a_light_client_follows(net: Network, number: int) -> None:
    """From genesis through the hand-overs that a node serves, to a proof of an account (CONS-72, CONS-74)."""
    queries = net.nodes[number].chain.queries
    view = await queries.proof(account_key(TO))
    answer = views.proof("account", view)
    handovers = await queries.handovers(1, 64)
    before = handovers[: view.header.epoch - 1]
    given: dict[str, Any] = {"genesis": net.genesis, "now_ms": net.genesis.created_ms + 1}
    proven = check_proof(answer, account_key(TO), handovers=before, **given)
    assert proven.value is not None and Account.decode(proven.value).balance == 1
    for wrong in (before[:-1], before[1:], ()):
        with pytest.raises(ProofInvalid):
            check_proof(answer, account_key(TO), handovers=wrong, **given)
    first = before[0]
    checkpoint = checkpoint_at(net.genesis, before[:1], first.header, FinalityProof(first.finalisation))
    given["now_ms"] = net.genesis.created_ms + UNBONDING_MS + 1
    assert checkpoint.timestamp_ms > net.genesis.created_ms
    with pytest.raises(ProofInvalid, match="unbonding"):
        check_proof(answer, account_key(TO), handovers=before, **given)
    again = check_proof(answer, account_key(TO), checkpoint=checkpoint, handovers=before[1:], **given)
    assert again.value == proven.value and "checkpoint" in again.trust


async def the_chain_verifies(net: Network, number: int, folder: Path) -> int:
    """As `supervm verify` does: each certificate by its epoch's set, each set by the state that elects it.

    The height up to which it went.
    """
    chain = net.nodes[number].chain
    memory = next(each for each in stores() if each.name == "memory")
    async with opened(memory, folder / "scratch") as scratch:
        # Just before the tip is looked at: the node goes on, and through epochs.
        known = await sets_by_digest(net.stores[number])
        rules = ReplayRules(net.genesis, chain.gas, chain.gas.initial_state())
        replay = Replay(
            touched=rules.touched,
            execute=rules.execute,
            check_certificate=Finality(net.genesis, known).check,
        )
        async with aclosing(verify_chain(chain.ledger, scratch, net.genesis, chain.gas, replay)) as steps:
            async for step in steps:
                height = step.height
    judge = Finality(net.genesis, {})
    with pytest.raises(ProofInvalid, match="no such set"):
        for at in range(1, height + 1):
            header = await chain.ledger.header(at)
            certificate = await chain.ledger.certificate(at)
            assert header is not None and certificate is not None
            judge.check(header, certificate)
    handed = await chain.queries.handovers(1, 1)
    after = handed[0].header.height + 1
    await net.reached(number, after, LONG_S)
    following, certificate = await chain.ledger.header(after), await chain.ledger.certificate(after)
    assert following is not None and certificate is not None
    with pytest.raises(ProofInvalid, match="another epoch or set"):
        Finality(net.genesis, known).check(following, certificate)
    return height


class Crashes:
    """Cancels one node in the middle of what it does, once, where the epoch is as asked for."""

    def __init__(self, net: Network, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._net, self._number = net, number
        self._node_id = net.validators[number].node_id
        self._phase = ""
        carry, final, closing = Core._carry_closing, Validator._committed, Closer._carry

        def carried(core: Core, outputs: Iterable[EpochCloses | Send]) -> None:
            said = list(outputs)
            for each in said:
                if core._own == self._node_id and isinstance(each, EpochCloses):
                    self._come("effects stop" if each.last_effects else "closing begins")
                if core._own == self._node_id and isinstance(each, Send):
                    self._come("epoch-done is sent")
            carry(core, said)

        def committed(validator: Validator, block: Committed) -> None:
            last = block.final.block.header.next_validators_digest != ZERO
            if last and validator._core._own == self._node_id:
                self._come("the last block is committed")
            final(validator, block)

        def logged(closer: Closer, outputs: Iterable[ClosingOutput]) -> list[EpochCloses | Send]:
            said = list(outputs)
            own = net.genesis.validators.number_of(self._node_id)
            if any(isinstance(each, Log) and each.record.vote.validator == own for each in said):  # type: ignore[attr-defined]
                self._come("epoch-done is logged")
            return closing(closer, said)

        monkeypatch.setattr(Core, "_carry_closing", carried)
        monkeypatch.setattr(Validator, "_committed", committed)
        monkeypatch.setattr(Closer, "_carry", logged)

    def _come(self, phase: str) -> None:
        if phase == self._phase:
            self._phase = ""
            self._net.nodes[self._number].scope.cancel()

    async def crash(self, phase: str) -> None:
        """Wait until the node is dead in this phase; begin it again."""
        self._phase = phase
        with trio.fail_after(LONG_S):
            await self._net.nodes[self._number].gone.wait()
        await self._net.start(self._number)


PHASES = (
    "closing begins",
    "effects stop",
    "epoch-done is logged",
    "epoch-done is sent",
    "the last block is committed",
)


async def test_a_validator_that_dies_in_any_phase_of_a_closing_epoch_comes_back_and_says_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, config=QUICK, epoch_blocks=10) as net:
        crashes = Crashes(net, 3, monkeypatch)
        dones: dict[tuple[int, int], set[bytes]] = {}
        add = SystemOperations.add

        def added(operations: SystemOperations, message: Message) -> bool:
            if isinstance(message, EpochDone):
                dones.setdefault((message.epoch, message.validator), set()).add(message.signature)
            return add(operations, message)

        contradicted: list[object] = []
        judge = View.contradiction

        def judged(view: View, vote: ViewVote) -> object:
            found = judge(view, vote)
            if found is not None:
                contradicted.append(found)
            return found

        monkeypatch.setattr(SystemOperations, "add", added)
        monkeypatch.setattr(View, "contradiction", judged)
        for phase in PHASES:
            await crashes.crash(phase)
            sent = net.transfer(0, TO, 1)
            await net.nodes[1].chain.submit([sent.data])
            height = await net.committed(3, sent.digest, LONG_S)
            await net.agree(height)
        assert net.nodes[0].chain.ledger.tip_header.epoch >= 3
        assert await net.balance(3, TO) == len(PHASES)
        assert dones and all(len(signatures) == 1 for signatures in dones.values())
        assert not contradicted
