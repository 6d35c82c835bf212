"""What the driver promises the machines, and others of this validator (CONS-60, CONS-38, CONS-41)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.contracts.roles import NodeMustStop
from supervm.contracts.storage import DeleteRange, Durability, Put
from supervm.plugins.consensus.bft.batch_records import UsedUp
from supervm.plugins.consensus.bft.batches import BatchVoter
from supervm.plugins.consensus.bft.driver import journal
from supervm.plugins.consensus.bft.driver.checking import Checker
from supervm.plugins.consensus.bft.driver.founding import LogMissing
from supervm.plugins.consensus.bft.driver.halting import Halted
from supervm.plugins.consensus.bft.driver.journal import LOCKS, ORDERING, read_records
from supervm.plugins.consensus.bft.events import Halt, Stream
from supervm.plugins.consensus.bft.holding import held_bytes_of
from supervm.plugins.consensus.bft.messages import Accept, Effects, Proposal, ViewVote, decode
from supervm.types.batch import Batch
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind

from .network import WAIT_S, Network, network


class HeldStore:
    """A store that holds back synced writes into the spaces of consensus while `open` isn't set."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.open = trio.Event()
        self.asked = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, batch: Any, durability: Durability = Durability.DURABLE) -> None:
        records = [each for each in batch if isinstance(each, Put) and each.key[1:2] == b"r"]
        if any(each.key[:1] in (LOCKS, ORDERING) for each in records):
            self.asked.set()
            await self.open.wait()
        await self._inner.write(batch, durability)


class Posted(list[object]):
    """Messages in the order in which they were posted; `voted` is set once a vote was among them."""

    def __init__(self) -> None:
        super().__init__()
        self.voted = trio.Event()


@contextmanager
def overheard(net: Network, number: int) -> Iterator[Posted]:
    """Every message that a validator posts, decoded, while the block lasts."""
    posted = Posted()
    post = net.nodes[number].engine._validator._post  # type: ignore[union-attr]
    original = post.put

    def put(peer: bytes, stream: Stream, frame: bytes, late: bool = False) -> None:
        posted.append(decode(frame))
        if isinstance(posted[-1], ViewVote):
            posted.voted.set()
        original(peer, stream, frame, late)

    hands = net.nodes[number].engine._validator._core._hands  # type: ignore[union-attr]
    hands.post = put
    yield posted
    hands.post = original


async def test_no_vote_leaves_before_its_record_is_durable(tmp_path: Path) -> None:
    async with network(tmp_path, begin=False) as net:
        held = HeldStore(net.stores[0])
        net.stores[0] = held  # type: ignore[call-overload]
        for number in range(4):
            await net.start(number)
        with overheard(net, 0) as posted:
            sent = net.transfer(0, b"\x07" * 32, 1)
            await net.nodes[1].chain.submit([sent.data])
            height = await net.committed(1, sent.digest)
            with trio.fail_after(WAIT_S):
                await held.asked.wait()
            # The others are a quorum without it: it has followed them, and has said nothing.
            await net.reached(0, height)
            votes = [each for each in posted if isinstance(each, ViewVote | Proposal | Accept | Effects)]
            assert votes == []
            held.open.set()
            later = net.transfer(0, b"\x07" * 32, 1)
            await net.nodes[1].chain.submit([later.data])
            await net.reached(0, await net.committed(1, later.digest))
            with trio.fail_after(WAIT_S):
                await posted.voted.wait()


async def test_what_a_validator_says_before_and_after_restarts_never_contradicts_itself(
    tmp_path: Path,
) -> None:
    async with network(tmp_path) as net:
        said: dict[tuple[int, int], bytes] = {}
        finalized: set[int] = set()
        nullified: set[int] = set()
        for life in range(4):
            with overheard(net, 0) as posted:
                sent = net.transfer(life, b"\x07" * 32, 1)
                await net.nodes[1].chain.submit([sent.data])
                await net.committed(0, sent.digest)
                await net.stop(0)
            for each in posted:
                if isinstance(each, ViewVote):
                    assert said.setdefault((each.kind, each.view), each.digest) == each.digest
                    if each.kind is VoteKind.FINALIZE:
                        finalized.add(each.view)
                    if each.kind is VoteKind.NULLIFY:
                        nullified.add(each.view)
            await net.start(0)
        assert not finalized & nullified
        assert said


async def test_a_validator_that_must_halt_ends_with_the_cause_and_says_that_the_node_must_stop(
    tmp_path: Path,
) -> None:
    async with network(tmp_path, validators=1) as net:
        core = net.nodes[0].engine._validator._core  # type: ignore[union-attr]
        with pytest.raises(Halted, match="two final blocks") as caught:
            core.begin_ordering([Halt("two final blocks")])
        assert isinstance(caught.value, NodeMustStop)
        assert net.nodes[0].engine.status().producing is False
        assert "two final blocks" in net.nodes[0].engine.status().reason


async def test_a_validator_whose_log_is_gone_doesnt_vote_again(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        sent = net.transfer(0, b"\x07" * 32, 1)
        await net.nodes[0].chain.submit([sent.data])
        await net.committed(0, sent.digest)
        await net.stop(0)
        for space in (LOCKS, ORDERING):
            gone = DeleteRange(space, bytes((space[0] + 1,)))
            await net.stores[0].write([gone])
        with pytest.RaisesGroup(LogMissing, flatten_subgroups=True, allow_unwrapped=True):
            await net.start(0)


async def test_the_log_doesnt_grow_with_the_chain(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        sizes = []
        for _ in range(3):
            for _ in range(4):
                sent = net.transfer(0, b"\x07" * 32, 1)
                await net.nodes[0].chain.submit([sent.data])
                await net.committed(0, sent.digest)
            await net.stop(0)
            store = net.stores[0]
            found = await read_records(store, ORDERING, 1) + await read_records(store, LOCKS, 1)
            sizes.append(sum(not isinstance(record, UsedUp) for _, record in found))
            whole = [each for _, each in found if isinstance(each, UsedUp) and each.transactions]
            assert len(whole) <= 4
            await net.start(0)
            await net.reached(0, net.nodes[1].height)
        # What is of the last views and of batches on their way; each block brings some ten records.
        assert max(sizes) < 60, sizes


async def test_a_validator_rebuilds_from_one_record_after_the_other_and_holds_what_its_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path) as net:
        for _ in range(3):
            sent = net.transfer(0, b"\x07" * 32, 1)
            await net.nodes[0].chain.submit([sent.data])
            await net.committed(0, sent.digest)
        await net.stop(0)
        told: list[str] = []
        decode_record, recall = journal.decode_record, BatchVoter.recall

        def decoded(data: bytes) -> Any:
            told.append("read")
            return decode_record(data)

        def recalled(self: BatchVoter, record: Any) -> None:
            told.append("recalled")
            recall(self, record)

        monkeypatch.setattr(journal, "decode_record", decoded)
        monkeypatch.setattr(BatchVoter, "recall", recalled)
        await net.start(0)
        count = told.count("recalled")
        assert count >= 3
        at = told.index("recalled") - 1
        assert told[at : at + 2 * count] == ["read", "recalled"] * count
        validator = net.nodes[0].engine._validator
        assert validator is not None
        # What is known of the machine here is nothing.
        assert validator._voter._bounds.held_bytes_max == held_bytes_of(None)


async def test_one_wrong_signature_anywhere_in_a_message_keeps_it_from_the_machines(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        validator = net.nodes[0].engine._validator
        assert validator is not None
        wanted = {Batch, BatchCertificate, Certificate, ViewVote}
        with overheard(net, 0) as posted:
            # Whether this node is the one that gathers the votes of a view is a matter of luck.
            for _ in range(50):
                sent = net.transfer(0, b"\x07" * 32, 1)
                await net.nodes[0].chain.submit([sent.data])
                await net.committed(0, sent.digest)
                if wanted <= set(map(type, posted)):
                    break
        signed = (Accept, Batch, BatchCertificate, Certificate, ViewVote)
        found = {type(each): each for each in posted if isinstance(each, signed)}
        proposals = [each for each in posted if isinstance(each, Proposal)]
        for message in [*found.values(), *proposals[:1]]:
            checker = _fresh(validator._checker)
            assert await checker.judge([message]) == [""]
            for broken in _broken(message):
                assert await checker.judge([broken]) == ["BadSignature"], type(message).__name__
        assert wanted <= set(found)


def _fresh(checker: Checker) -> Checker:
    return Checker(checker._epoch, checker._leader_of, checker._builders, checker._base_validators)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def _broken(message: Any) -> Iterator[Any]:
    if hasattr(message, "signature"):
        yield attrs.evolve(message, signature=flipped(message.signature))
    if hasattr(message, "signatures"):
        first, *others = message.signatures
        yield attrs.evolve(message, signatures=(flipped(first), *others))
        yield attrs.evolve(message, signatures=(*others, first))
