"""What is shown against a builder's transactions holds up nobody, and who lies is blamed (CONS-16)."""

from pathlib import Path

import attrs
import pytest
import trio

from supervm.chain import application as chains
from supervm.chain.doubling import Contest, judge_contest
from supervm.chain.examine import ChainRules
from supervm.crypto.keys import KeyPair
from supervm.crypto.remembered import RememberedSignatures
from supervm.plugins.consensus.bft.batch_events import Contested
from supervm.plugins.consensus.bft.driver import contesting, receiving
from supervm.plugins.consensus.bft.driver.contesting import WAITING_MAX, Contests
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.messages import Batch, Refuse, decode
from supervm.plugins.consensus.bft.votes import Refusal
from supervm.types.limits import DEFAULT_LIMITS
from supervm.types.operations import ObjectMutate, encode_operations
from supervm.types.transaction import Access, Body, Input, build

from .network import WAIT_S, key, network
from .slow_judges import SlowJudge

HOSTILE, HONEST = b"hostile", b"honest"
TO = b"\x07" * 32
CHAIN, THING = b"chain".ljust(32, b"."), b"thing".ljust(32, b".")


@attrs.define
class Court:
    """Finds whatever begins with `lie` a lie, and notes what it judged and whom it blamed, in order."""

    judged: list[bytes] = attrs.Factory(list)
    blamed: list[tuple[bytes, str]] = attrs.Factory(list)
    done: trio.Event = attrs.Factory(trio.Event)

    async def judge(self, transaction: bytes, other: bytes) -> str:
        await trio.lowlevel.checkpoint()
        if other == b"last":
            self.done.set()
        else:
            self.judged.append(other)
        return "a lie" if other.startswith(b"lie") else ""

    async def settle(self, contests: Contests) -> None:
        """Until all that the honest one showed before is judged."""
        contests.put(Contested(b"", b"last", HONEST))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(contests.run)
            with trio.fail_after(WAIT_S):
                await self.done.wait()
            nursery.cancel_scope.cancel()


def court() -> tuple[Court, Contests]:
    made = Court()
    blame = made.blamed
    return made, Contests((HOSTILE, HONEST), made.judge, lambda peer, code: blame.append((peer, code)))


async def test_one_that_shows_junk_waits_behind_itself_and_is_blamed_for_each() -> None:
    judge, contests = court()
    for number in range(4 * WAITING_MAX):
        contests.put(Contested(b"own", b"lie %d" % number, HOSTILE))
    assert len(contests._shares[HOSTILE].waiting) == WAITING_MAX
    contests.put(Contested(b"own", b"meant well", HONEST))
    await judge.settle(contests)
    assert b"meant well" in judge.judged[:2] and len(judge.judged) <= 4
    assert judge.blamed and set(judge.blamed) == {(HOSTILE, "ProofInvalid")}


async def test_what_waits_of_one_is_bounded_by_its_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contesting, "WAITING_BYTES_MAX", 100)
    judge, contests = court()
    for _ in range(3):
        contests.put(Contested(b"own", b"a" * 90, HOSTILE))
    share = contests._shares[HOSTILE]
    assert (len(share.waiting), share.size_bytes) == (1, 93)
    contests.put(Contested(b"own", b"b" * 200, HONEST))
    assert len(contests._shares[HONEST].waiting) == 1, "one always has room"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(contests.run)
        with trio.fail_after(WAIT_S):
            while len(judge.judged) < 2:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert share.size_bytes == 0


async def test_votes_do_not_wait_for_what_a_refusal_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SlowJudge(Contest())
    monkeypatch.setattr(chains, "judge_contest", judge)
    async with network(tmp_path, begin=False) as net:
        # Each of them is needed.
        for number in range(3):
            await net.start(number)
        life = net.nodes[0].engine.life
        assert isinstance(life, Validator)
        shown = Contested(
            net.transfer(0, TO, 1, nonce=0).data,
            net.transfer(0, TO, 2, nonce=0).data,
            net.validators[1].node_id,
        )
        life._core._hands.contested(shown)
        await judge.holds_up_nothing(net)


async def test_a_validator_whose_refusals_show_forgeries_is_not_heard_and_its_builder_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "FAULTS_MAX", 3)
    async with network(tmp_path, begin=False) as net:
        for number in range(3):
            await net.start(number)
        hostile, victim = net.validators[3].node_id, net.nodes[0].engine.life
        assert isinstance(victim, Validator)
        post = victim._core._hands.post

        def refused_at_once(peer: bytes, stream: Stream, frame: bytes, late: bool = False) -> None:
            message = decode(frame)
            if isinstance(message, Batch) and peer == hostile:
                own = message.transactions[0]
                forged = own[:-1] + bytes((own[-1] ^ 1,))
                shown = (Refusal(0, "LockBusy", forged),)
                victim._deliver(hostile, Refuse(1, message.digest(), 3, refusals=shown))
            post(peer, stream, frame, late)

        victim._core._hands.post = refused_at_once
        standing = victim._reception._standing[hostile]
        with trio.fail_after(WAIT_S):
            while not standing.deaf_until_s:
                sent = net.transfer(0, TO, 1)
                await net.nodes[0].chain.submit([sent.data])
                await net.committed(0, sent.digest)


def test_what_an_honest_validator_may_show_is_no_lie() -> None:
    """Whatever epoch and state it has: expired here, or naming one object whose owner the state tells."""
    user, other = key(1), key(2)

    def signed(pair: KeyPair, nonce: int, *inputs: Input, expiry: int = 0, chain: bytes = CHAIN) -> bytes:
        body = Body(
            chain_id=chain,
            sender=pair.address,
            nonce=nonce,
            gas_limit=200_000,
            max_price=1,
            max_fee=0,
            expiry_epoch=expiry,
            inputs=inputs,
            payload=encode_operations((ObjectMutate(THING, b"%d" % nonce),)),
        )
        return build(body, [pair]).data

    def judged(one: bytes, two: bytes) -> Contest:
        rules = ChainRules(chain_id=CHAIN, epoch=7, limits=DEFAULT_LIMITS, private_kinds=frozenset())
        return judge_contest(one, two, rules, RememberedSignatures(64))

    thing = Input(THING, 1, Access.WRITE)
    own = signed(user, 0, thing)
    expired, elsewhere = signed(user, 0, expiry=6), signed(user, 0, chain=b"other".ljust(32, b"."))
    assert judged(own, signed(user, 0)).names is not None
    assert judged(own, expired) == Contest(), "it was good in the epoch of who shows it"
    assert judged(own, signed(other, 4, thing)) == Contest(), "one of them may own it"
    for lie in (own, signed(user, 1), signed(other, 0), elsewhere, expired[:-1], b""):
        assert judged(own, lie).lie
        assert judged(own, lie).names is None
    broken = own[:-1] + bytes((own[-1] ^ 1,))
    assert judged(broken, signed(user, 0)) == Contest(), "the own one isn't another's lie"
