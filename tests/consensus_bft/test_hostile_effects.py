"""A validator that makes effects up, or passes others' on under another batch, costs nobody FAST finality
(CONS-20, CONS-21)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.driver.following import Follower
from supervm.plugins.consensus.bft.driver.posting import METHODS, PRIORITIES, pack
from supervm.plugins.consensus.bft.driver.proving import EffectsProofs
from supervm.plugins.consensus.bft.driver.receiving import Incoming
from supervm.plugins.consensus.bft.effects_messages import Effect, Effects
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.transport import supervm_components as transports
from supervm.plugins.transport.memory import MemoryTransportConfig
from supervm.testing.context import opened
from supervm.types.batch import BATCH_TRANSACTIONS_MAX
from supervm.types.digests import plain_digest
from supervm.types.receipt import Status
from supervm.types.transaction import Transaction

from .network import Network, network
from .test_four_nodes import NothingWaits

HOSTILE = 3
TO = b"\x07" * 32
PATIENCE_S = 60.0


@attrs.define
class Hostile:
    """The fourth validator: it has its key, and a transport, and runs no node. The other three are a quorum
    together. No leader places anything."""

    net: Network
    transport: Any

    async def tell(self, victim: int, said: list[Effects]) -> None:
        """Send effects, one a parcel; return when the victim has taken them from its inbox."""
        validator = self.net.nodes[victim].engine._validator
        assert validator is not None
        own, peer = self.net.validators[HOSTILE].node_id, self.net.validators[victim].node_id
        original, left, taken = validator._is_of_use, [len(said)], trio.Event()

        def is_of_use(incoming: Any) -> bool:
            left[0] -= incoming.peer == own
            if not left[0]:
                taken.set()
            return original(incoming)

        validator._is_of_use = is_of_use  # type: ignore[method-assign]
        for each in said:
            stream = Stream.DISSEMINATION
            payload = pack([messages.encode(each)])
            await self.transport.request(
                peer, METHODS[stream], payload, timeout_s=PATIENCE_S, priority=PRIORITIES[stream]
            )
        with trio.fail_after(PATIENCE_S):
            await taken.wait()
        validator._is_of_use = original  # type: ignore[method-assign]

    def made_up(self, count: int) -> list[Effects]:
        """Its own, of batches and transactions that don't exist."""
        found = []
        for batch in range(count):
            effects = tuple(
                Effect(at, plain_digest(b"%d %d" % (batch, at)), b"e" * 32)
                for at in range(BATCH_TRANSACTIONS_MAX)
            )
            said = Effects(1, plain_digest(b"%d" % batch), HOSTILE, effects, bytes(64))
            signature = self.net.validators[HOSTILE].sign(said.message(self.net.genesis.chain_id))
            found.append(attrs.evolve(said, signature=signature))
        return found


@asynccontextmanager
async def hostile_network(folder: Path) -> AsyncIterator[Hostile]:
    async with network(folder, begin=False) as net:
        for number in range(HOSTILE):
            await net.start(number)
            ordering = net.nodes[number].engine._validator._ordering  # type: ignore[union-attr]
            ordering._leading = attrs.evolve(ordering._leading, pool=NothingWaits())
        memory = next(each for each in transports() if each.name == "memory")
        config = MemoryTransportConfig(network=net.name, node_id=net.validators[HOSTILE].node_id.hex())
        async with opened(memory, folder / "hostile", config) as transport:
            yield Hostile(net, transport)


async def certified(net: Network, number: int, sent: Transaction) -> None:
    """Wait until a node says that effects are final."""
    with trio.fail_after(PATIENCE_S):
        while True:
            view = await net.nodes[number].chain.queries.transaction(sent.digest, wait_s=1.0)
            if view.status is Status.CERTIFIED:
                return


@attrs.define
class Held:
    """Effects that a validator would have posted, kept back; `some` is set by the first."""

    frames: list[tuple[Any, ...]]
    effects: list[Effects]
    some: trio.Event
    post: Callable[..., None]

    def release(self) -> None:
        for each in self.frames:
            self.post(*each)


def hold_effects(net: Network, number: int) -> Held:
    """Keep back what a validator says of effects from now on."""
    hands = net.nodes[number].engine._validator._core._hands  # type: ignore[union-attr]
    held = Held([], [], trio.Event(), hands.post)

    def post(*given: Any) -> None:
        message = messages.decode(given[2])
        if isinstance(message, Effects):
            held.frames.append(given)
            held.effects.append(message)
            held.some.set()
        else:
            held.post(*given)

    hands.post = post
    return held


async def test_a_hundred_thousand_effects_of_nothing_leave_the_others_final(tmp_path: Path) -> None:
    async with hostile_network(tmp_path) as hostile:
        net = hostile.net
        await hostile.tell(0, hostile.made_up(25))
        sent = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([sent.data])
        await certified(net, 0, sent)


async def test_true_effects_sent_again_under_another_batch_silence_nobody(tmp_path: Path) -> None:
    async with hostile_network(tmp_path) as hostile:
        net = hostile.net
        held = hold_effects(net, 1)
        with trio.fail_after(PATIENCE_S):
            older = net.transfer(0, TO, 1)
            await net.nodes[0].chain.submit([older.data])
            await held.some.wait()
            before = held.effects[0]
            held.some = trio.Event()
            sent = net.transfer(1, TO, 1)
            await net.nodes[0].chain.submit([sent.data])
            await held.some.wait()
        victim = held.effects[-1].batch
        assert victim != before.batch
        await hostile.tell(0, [attrs.evolve(before, batch=victim)] * 64)
        held.release()
        await certified(net, 0, sent)


async def test_effects_count_from_who_signed_them_only(tmp_path: Path) -> None:
    """Neither pushed nor in an answer: no honest validator passes on another's."""
    async with hostile_network(tmp_path) as hostile:
        net = hostile.net
        held = hold_effects(net, 1)
        sent = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([sent.data])
        with trio.fail_after(PATIENCE_S):
            await held.some.wait()
        validator = net.nodes[0].engine._validator
        assert validator is not None
        heard: list[Effects] = []
        original = EffectsProofs.add

        def add(message: Effects) -> None:
            heard.append(message)
            original(validator._proofs, message)

        validator._proofs.add = add  # type: ignore[method-assign]
        true = held.effects[0]
        await hostile.tell(0, [true])
        validator._deliver(net.validators[HOSTILE].node_id, messages.Got((true,)))
        assert true not in heard
        validator._deliver(net.validators[1].node_id, messages.Got((true,)))
        assert true in heard
        await certified(net, 0, sent)


async def test_a_node_that_follows_takes_effects_from_their_signer_only(tmp_path: Path) -> None:
    async with network(tmp_path, followers=1) as net:
        await net.start(4)
        follower = net.nodes[4].engine.life
        assert isinstance(follower, Follower)
        put, heard = trio.open_memory_channel[Effects](2)
        follower._proofs.add = put.send_nowait  # type: ignore[method-assign]
        said = Effects(1, b"b" * 32, 1, (Effect(0, b"\x01" * 32, b"e" * 32),), bytes(64))
        said = attrs.evolve(said, signature=net.validators[1].sign(said.message(net.genesis.chain_id)))
        relabelled = attrs.evolve(said, batch=b"c" * 32)
        for number, each in ((HOSTILE, relabelled), (1, said)):
            got = messages.Got((each,))
            follower._on(Incoming(net.validators[number].node_id, got, 0))
        with trio.fail_after(PATIENCE_S):
            assert await heard.receive() == said
