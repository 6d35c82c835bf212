"""Whichever node a client asks about a FAST transaction, it gives the same answer and a proof (CONS-21)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from supervm.crypto.batch import verify_many
from supervm.http import views
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.driver.proving import EffectsProofs, claims_of_certificate
from supervm.plugins.consensus.bft.effects_messages import EffectsCertificate
from supervm.plugins.consensus.bft.fetching import Item, WantDigest, What
from supervm.types import merkle
from supervm.types.address import Suite
from supervm.types.errors import ProofInvalid
from supervm.types.receipt import Status
from supervm.types.transaction import Transaction
from supervm.types.validators import ValidatorSet

from .network import Network, network
from .test_four_nodes import NothingWaits

TO = b"\x07" * 32
WAIT_S = 30.0


@asynccontextmanager
async def without_blocks(folder: Path) -> AsyncIterator[Network]:
    """Four validators whose leaders place nothing, and a node that follows."""
    async with network(folder, followers=1) as net:
        await net.start(4)
        for number in range(4):
            ordering = net.nodes[number].engine._validator._ordering  # type: ignore[union-attr]
            ordering._leading = attrs.evolve(ordering._leading, pool=NothingWaits())
        yield net


async def certificate_of(net: Network, number: int, sent: Transaction) -> EffectsCertificate:
    """What a node shows for a transaction, asked until it is certified."""
    queries = net.nodes[number].chain.queries
    with trio.fail_after(240):
        view = await queries.transaction(sent.digest, wait_s=WAIT_S)
        while view.status is not Status.CERTIFIED:
            assert view.status in (Status.UNKNOWN, Status.PENDING, Status.APPLIED)
            view = await queries.transaction(sent.digest, wait_s=WAIT_S)
    shown = views.transaction(view)
    assert shown["lane"] == "FAST"
    found = messages.decode(bytes.fromhex(shown["effects_certificate"][2:]))
    assert isinstance(found, EffectsCertificate)
    return found


def holds(found: EffectsCertificate, chain_id: bytes, validators: ValidatorSet) -> bool:
    claims = claims_of_certificate(found, chain_id, validators)
    return all(verify_many([(int(Suite.ED25519), key, text, signed) for key, text, signed in claims]))


async def test_every_node_says_that_a_fast_transaction_is_final_and_proves_it(tmp_path: Path) -> None:
    async with without_blocks(tmp_path) as net:
        sent = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([sent.data])
        found = [await certificate_of(net, number, sent) for number in range(5)]
        assert {each.transaction for each in found} == {sent.digest}
        assert len({each.effects for each in found}) == 1
        validators, chain_id = net.genesis.validators, net.genesis.chain_id
        assert all(holds(each, chain_id, validators) for each in found)
        assert not holds(found[4], bytes(32), validators)
        fewer = attrs.evolve(found[4].shares[0], bitmap=b"\x03", signatures=found[4].shares[0].signatures[:2])
        with pytest.raises(ProofInvalid, match="weigh too little"):
            holds(attrs.evolve(found[4], shares=(fewer,)), chain_id, validators)
        assert await net.nodes[4].chain.ledger.transaction(sent.digest) is None


async def test_signatures_that_nobody_made_convince_no_node(tmp_path: Path) -> None:
    async with without_blocks(tmp_path) as net:
        sent = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([sent.data])
        true = await certificate_of(net, 0, sent)
        effects = b"\x13" * 32
        root = merkle.root([sent.digest + effects])
        forged = attrs.evolve(true, effects=effects, shares=(attrs.evolve(true.shares[0], root=root),))
        asked = 0

        def lie(item: Item) -> Item | None:
            nonlocal asked
            asked += 1
            return item

        for number in range(3):
            life = net.nodes[number].engine.life
            life._proofs.answer = lambda digest: lie(forged)  # type: ignore[method-assign]
        # The fourth validator tells the truth, which is no quorum; it answers with its own signature.
        own = net.nodes[3].engine.life._proofs  # type: ignore[union-attr]
        own.held = lambda digest: None  # type: ignore[method-assign]
        view = await net.nodes[4].chain.queries.transaction(sent.digest)
        with trio.fail_after(60):
            while asked < 3:
                view = await net.nodes[4].chain.queries.transaction(sent.digest)
        view = await net.nodes[4].chain.queries.transaction(sent.digest)
        assert view.status is Status.UNKNOWN and view.effects_certificate is None


async def test_what_a_block_holds_is_committed_and_its_signatures_are_forgotten(tmp_path: Path) -> None:
    async with network(tmp_path, followers=1) as net:
        await net.start(4)
        sent = net.transfer(0, TO, 1)
        await net.nodes[0].chain.submit([sent.data])
        await net.committed(0, sent.digest)
        after = net.transfer(1, TO, 1)
        await net.nodes[0].chain.submit([after.data])
        for number in range(5):
            # Blocks are told one after the other: all that became of the first is done.
            await net.committed(number, after.digest)
            view = await net.nodes[number].chain.queries.transaction(sent.digest)
            assert view.status is Status.COMMITTED and view.effects_certificate is None
            proofs = net.nodes[number].engine.life._proofs
            assert isinstance(proofs, EffectsProofs)
            assert proofs._own.get(sent.digest) is None and proofs._given.get(sent.digest) is None


def test_effects_of_a_transaction_are_asked_for_by_its_digest() -> None:
    question = messages.Get((WantDigest(What.EFFECTS, b"\x01" * 32),))
    assert messages.decode(messages.encode(question)) == question
