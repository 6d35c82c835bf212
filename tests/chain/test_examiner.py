"""Examining in worker threads: a caller that goes away harms nobody, and nothing is verified twice."""

import itertools
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from supervm.chain import examine as examine_module
from supervm.chain import verifying
from supervm.chain.examine import ChainRules, Examined
from supervm.chain.verifying import CHUNK, Examiner
from supervm.contracts.application import Refused
from supervm.crypto import keys
from supervm.crypto.batch import chosen
from supervm.crypto.driver import Chosen
from supervm.crypto.packed import Verdict, Verified
from supervm.crypto.remembered import RememberedSignatures
from supervm.types.digests import plain_digest
from supervm.types.limits import Limits
from supervm.types.operations import Output, Transfer, encode_operations
from supervm.types.plain import PlainTransaction
from supervm.types.transaction import Body, Transaction, build, encode_transaction, sign

CHAIN = b"c" * 32
RULES = ChainRules(chain_id=CHAIN, epoch=1, limits=Limits())
KEY = keys.generate("ed25519", random.Random(4).randbytes)


def transfer(nonce: int) -> bytes:
    payload = encode_operations([Transfer(bytes(32), (Output(b"t" * 32, 5),))])
    body = Body(
        chain_id=CHAIN,
        sender=KEY.address,
        fee_payer=KEY.address,
        nonce=nonce,
        gas_limit=1,
        max_price=1,
        max_fee=1,
        payload=payload,
    )
    return build(body, [KEY]).data


TRANSFERS = [transfer(nonce) for nonce in range(300)]


def forged(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


@asynccontextmanager
async def examining(threads: int = 2, remembered: int = 1_000) -> AsyncIterator[Examiner]:
    examiner = Examiner(lambda: RULES, threads, remembered)
    async with trio.open_nursery() as nursery:
        for _ in range(threads):
            nursery.start_soon(examiner.run_worker)
        yield examiner
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["packed", "decoded"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Plain transfers as C judges them, and as they are judged where it can't."""
    if request.param == "decoded":
        monkeypatch.setattr(examine_module, "chosen", lambda: Chosen(None, frozenset(), {}, "a test"))
    elif chosen().driver is None:
        pytest.skip("the C library isn't built")
    return str(request.param)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The digests of all whose signatures were really checked: once by C, and again what C found wrong."""
    seen: list[bytes] = []
    real: Callable[[Sequence[Transaction]], list[object]] = examine_module.verify_transactions  # type: ignore[assignment]
    real_packed = examine_module.verify_packed

    def noted(transactions: Sequence[Transaction]) -> list[object]:
        seen.extend(each.digest for each in transactions)
        return real(transactions)

    def noted_packed(data: bytes, offsets: Sequence[int], **others: Any) -> Verified:
        items = [data[start:end] for start, end in itertools.pairwise(offsets)]
        known = [plain_digest(each) in others["remembered"] for each in items]
        found = real_packed(data, offsets, **others)
        for each, is_known, verdict in zip(items, known, found.verdicts, strict=True):
            if not is_known and verdict == Verdict.SIGNED:
                seen.append(Transaction.decode(each).digest)
        return found

    monkeypatch.setattr(examine_module, "verify_transactions", noted)
    monkeypatch.setattr(examine_module, "verify_packed", noted_packed)
    return seen


@pytest.mark.parametrize("threads", [1, 2, 4])
async def test_many_are_judged_in_order_by_any_number_of_workers(threads: int) -> None:
    items = [forged(data) if at % 7 == 3 else data for at, data in enumerate(TRANSFERS)]
    async with examining(threads) as examiner:
        judged = await examiner.examine(items)
        assert await examiner.examine([]) == []
    for at, one in enumerate(judged):
        if at % 7 == 3:
            assert isinstance(one, Refused) and one.code == "BadSignature"
        else:
            assert isinstance(one, Examined) and one.transaction.data == items[at]


async def test_what_was_found_signed_is_not_verified_again_and_what_was_not_is(verified: list[bytes]) -> None:
    good, bad = TRANSFERS[0], forged(TRANSFERS[1])
    async with examining() as examiner:
        for _ in range(3):
            first, second = await examiner.examine([good, bad])
            assert isinstance(first, Examined) and isinstance(second, Refused)
        assert plain_digest(good) in examiner.checked
        assert plain_digest(bad) not in examiner.checked
    digests = [Transaction.decode(data).digest for data in (good, bad)]
    assert [verified.count(digest) for digest in digests] == [1, 3]


async def test_a_forged_signature_does_not_ride_on_a_remembered_body() -> None:
    async with examining() as examiner:
        (good,) = await examiner.examine([TRANSFERS[0]])
        (bad,) = await examiner.examine([forged(TRANSFERS[0])])
    assert isinstance(good, Examined)
    assert isinstance(bad, Refused) and bad.digest == good.transaction.digest


async def test_the_memory_keeps_to_its_bound(verified: list[bytes]) -> None:
    async with examining(remembered=10) as examiner:
        await examiner.examine(TRANSFERS[:100])
        assert len(examiner.checked) == 10
        # The ten last of them need no second look; the first was forgotten and needs one.
        before = len(verified)
        await examiner.examine(TRANSFERS[:1])
        assert len(verified) == before + 1


async def test_a_caller_that_goes_away_leaves_the_workers_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, leave = threading.Event(), threading.Event()
    real = verifying.examine

    def held(*given: Any) -> object:
        entered.set()
        assert leave.wait(120)
        return real(*given)

    monkeypatch.setattr(verifying, "examine", held)
    async with examining(threads=1) as examiner:
        gone = trio.CancelScope()

        async def goes_away() -> None:
            with gone:
                await examiner.examine(TRANSFERS[: 3 * CHUNK])
                pytest.fail("it was cancelled")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(goes_away)
            await trio.to_thread.run_sync(entered.wait)
            gone.cancel()
        leave.set()
        stayed = await examiner.examine(TRANSFERS[-5:])
        assert [isinstance(one, Examined) for one in stayed] == [True] * 5
        # What the worker had in hand was finished, and is remembered.
        assert plain_digest(TRANSFERS[0]) in examiner.checked


def test_what_is_against_a_plain_transfer_is_said_as_of_any_other(path: str) -> None:
    good = TRANSFERS[0]
    plain = Transaction.decode(good)
    other = keys.generate("ed25519", random.Random(5).randbytes)
    sealed = encode_transaction(plain.body_bytes, [sign(plain.body_bytes, other)])
    abroad = build(attrs.evolve(plain.body, chain_id=b"d" * 32), [KEY]).data
    late = build(attrs.evolve(plain.body, expiry_epoch=1), [KEY]).data
    rules = attrs.evolve(RULES, epoch=2)
    items = [good, sealed, forged(good), abroad, late, good[:-1], good]
    found = examine_module.examine(items, rules, RememberedSignatures(100))
    codes = [one.code if isinstance(one, Refused) else "" for one in found]
    assert codes == ["", "WrongSigner", "BadSignature", "WrongChain", "Expired", "Truncated", ""]
    for one in (found[0], found[-1]):
        assert isinstance(one, Examined) and one.transaction == plain
        assert one.transaction.digest == plain.digest and one.transaction.body == plain.body
    assert isinstance(found[2], Refused) and found[2].digest == plain.digest
    assert (path == "packed") == isinstance(found[0].transaction, PlainTransaction)


def test_a_few_are_judged_as_they_would_be_with_others() -> None:
    items = [TRANSFERS[0], forged(TRANSFERS[1]), TRANSFERS[2][:-1], TRANSFERS[3]]
    few = examine_module.examine_few(items, RULES, RememberedSignatures(100))
    assert few is not None
    assert few == examine_module.examine(items, RULES, RememberedSignatures(100))


def test_what_takes_long_is_left_to_a_thread() -> None:
    """Many, large ones, many signatures, and those of suites that take milliseconds."""
    slow = keys.generate("sm2", random.Random(6).randbytes)
    body = Transaction.decode(TRANSFERS[0]).body
    by_slow = build(attrs.evolve(body, sender=slow.address, fee_payer=slow.address), [slow]).data
    sponsor = keys.generate("ed25519", random.Random(7).randbytes)
    sponsored = attrs.evolve(body, fee_payer=sponsor.address)
    by_two = [build(attrs.evolve(sponsored, nonce=nonce), [KEY, sponsor]).data for nonce in range(3)]
    for items in (TRANSFERS[:5], [by_slow], [bytes(5_000)], by_two):
        remembered = RememberedSignatures(100)
        assert examine_module.examine_few(items, RULES, remembered) is None
        assert len(remembered) == 0
    assert examine_module.examine_few(by_two[:2], RULES, remembered) is not None


async def test_a_few_are_judged_by_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async with examining() as examiner:
        monkeypatch.setattr(verifying, "examine", None)
        judged = await examiner.examine(TRANSFERS[:4])
        assert [isinstance(one, Examined) for one in judged] == [True] * 4
