"""Examining in worker threads: a caller that goes away harms nobody, and nothing is verified twice."""

import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from supervm.chain import examine as examine_module
from supervm.chain.examine import ChainRules, Examined
from supervm.chain.verifying import CHUNK, Examiner
from supervm.contracts.application import Refused
from supervm.crypto import keys
from supervm.types.digests import plain_digest
from supervm.types.limits import Limits
from supervm.types.operations import Output, Transfer, encode_operations
from supervm.types.transaction import Body, Transaction, build

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


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The digests of all transactions whose signatures were really checked."""
    seen: list[bytes] = []
    real: Callable[[Sequence[Transaction]], list[object]] = examine_module.verify_transactions  # type: ignore[assignment]

    def noted(transactions: Sequence[Transaction]) -> list[object]:
        seen.extend(each.digest for each in transactions)
        return real(transactions)

    monkeypatch.setattr(examine_module, "verify_transactions", noted)
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
    real = examine_module.verify_transactions

    def held(transactions: Sequence[Transaction]) -> object:
        entered.set()
        assert leave.wait(30)
        return real(transactions)

    monkeypatch.setattr(examine_module, "verify_transactions", held)
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
        assert [attrs.asdict(one, recurse=False).keys() for one in stayed] == [
            {"transaction", "fingerprint"}
        ] * 5
        # What the worker had in hand was finished, and is remembered.
        assert plain_digest(TRANSFERS[0]) in examiner.checked
