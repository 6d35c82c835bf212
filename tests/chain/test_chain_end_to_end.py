"""A whole chain in one program: real storage, gas, ledger and consensus; what clients may rely on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervm.chain import component
from supervm.chain.application import Chain
from supervm.chain.component import LedgerOptions
from supervm.chain.contests import Contests
from supervm.chain.views import Admitted
from supervm.contracts.application import Refused
from supervm.contracts.gas import price_of
from supervm.contracts.storage import DiskFull, StoreCorrupt
from supervm.crypto.votes import verify_certificate
from supervm.execution.footprint import max_spend
from supervm.plugins.consensus.solo import SoloConfig
from supervm.plugins.storage import supervm_components as stores
from supervm.storage.spaces import corrupt, state_key
from supervm.testing.context import opened
from supervm.types import smt
from supervm.types.address import Suite
from supervm.types.certificate import Certificate
from supervm.types.operations import (
    Burn,
    Mint,
    ObjectCreate,
    ObjectDelete,
    ObjectFreeze,
    ObjectMutate,
    ObjectShare,
    ObjectTransfer,
    Output,
    TokenCreate,
    Transfer,
)
from supervm.types.receipt import Status
from supervm.types.state import NATIVE_TOKEN, OwnerKind, account_key, object_id, token_id
from supervm.types.transaction import Access, Input, Lane, Transaction, build, encode_transaction

from .conftest import FUNDS, PRICE, Run, World, key, make_world

PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; no test takes it."""
FAST_BLOCKS = SoloConfig(block_interval_min_ms=0, batch_seal_ms=0, idle_blocks=False)


async def settle(chain: Chain, *transactions: Transaction, seconds: float = 60.0) -> list[Any]:
    """Submit, and wait until each has an outcome; give their receipts."""
    answers = await chain.submit([each.data for each in transactions])
    assert all(isinstance(each, Admitted) for each in answers), answers
    return await outcomes(chain, *transactions, seconds=seconds)


async def outcomes(chain: Chain, *transactions: Transaction, seconds: float = 60.0) -> list[Any]:
    receipts = []
    for each in transactions:
        view = await chain.queries.transaction(each.digest, wait_s=seconds)
        assert view.receipt is not None, f"{view.status.name} after {seconds} s"
        receipts.append(view.receipt)
    return receipts


async def balance(chain: Chain, address: bytes, token: bytes = NATIVE_TOKEN) -> int:
    return (await chain.queries.account(address)).balances.get(token, 0)


async def supply_is_conserved(chain: Chain, *addresses: bytes) -> None:
    token = await chain.queries.token(NATIVE_TOKEN)
    assert token is not None
    assert token.supply == sum([await balance(chain, address) for address in addresses])


async def test_a_transfer_is_committed_and_every_unit_is_accounted_for(world: World, run: Run) -> None:
    receiver = key(77).address
    async with run(world, engine=FAST_BLOCKS) as node:
        one = world.transfer(0, 0, receiver, 1_000)
        (receipt,) = await settle(node.chain, one)
        assert receipt.status is Status.COMMITTED
        assert receipt.lane is Lane.FAST
        assert receipt.fee == price_of(receipt.gas_used, PRICE)
        assert await balance(node.chain, receiver) == 1_000
        assert await balance(node.chain, world.users[0].address) == FUNDS - 1_000 - receipt.fee
        addresses = [receiver, *(user.address for user in world.users)]
        await supply_is_conserved(node.chain, *addresses)
        view = await node.chain.queries.account(world.users[0].address)
        assert (view.nonce, view.pending_nonce) == (1, 1)


async def test_a_view_of_a_block_shows_its_certificate_and_a_proof_leads_to_its_header(
    world: World, run: Run
) -> None:
    async with run(world, engine=FAST_BLOCKS) as node:
        one = world.transfer(0, 0, key(77).address, 5)
        await settle(node.chain, one)
        height = node.chain.ledger.tip.height
        block = await node.chain.queries.block(height)
        assert block is not None
        assert block.transactions == (one.digest,)
        assert await node.chain.queries.block(block.digest) == block
        certificate = Certificate.decode(block.certificate)
        assert certificate.digest == block.digest
        verify_certificate(certificate, world.genesis.chain_id, world.genesis.validators)
        proof = await node.chain.queries.proof(account_key(key(77).address))
        assert proof.header.height == height
        smt.verify(proof.header.state_root, proof.proof)
        assert proof.proof.value is not None
        absent = await node.chain.queries.proof(account_key(bytes(31) + b"\x09"))
        smt.verify(absent.header.state_root, absent.proof)
        assert absent.proof.value is None


async def test_the_same_bytes_again_are_known_before_and_after_the_block(world: World, run: Run) -> None:
    one = world.transfer(0, 0, key(77).address, 5)
    async with run(world, engine=None) as node:
        first, second = (await node.chain.submit([one.data]))[0], (await node.chain.submit([one.data]))[0]
        assert isinstance(first, Admitted)
        assert isinstance(second, Admitted)
        assert (first.duplicate, second.duplicate) == (False, True)
        assert second.status is Status.PENDING
        assert len(node.chain.mempool) == 1
    async with run(world, engine=FAST_BLOCKS) as node:
        await settle(node.chain, one)
        (again,) = await node.chain.submit([one.data])
        assert isinstance(again, Admitted)
        assert (again.duplicate, again.status) == (True, Status.COMMITTED)
        assert len(node.chain.mempool) == 0


async def test_a_replay_under_another_body_is_refused_with_the_next_nonce(world: World, run: Run) -> None:
    async with run(world, engine=FAST_BLOCKS) as node:
        await settle(node.chain, world.transfer(0, 0, key(77).address, 5))
        (answer,) = await node.chain.submit([world.transfer(0, 0, key(77).address, 6).data])
        assert isinstance(answer, Refused)
        assert (answer.code, answer.value) == ("NonceUsed", "0")


async def test_a_second_transaction_for_a_nonce_is_refused_and_the_first_is_named(
    world: World, run: Run
) -> None:
    async with run(world, engine=None) as node:
        first, second = (world.transfer(0, 0, key(77).address, amount) for amount in (5, 6))
        await node.chain.submit([first.data])
        (answer,) = await node.chain.submit([second.data])
        assert isinstance(answer, Refused)
        assert (answer.code, answer.conflict) == ("Equivocated", first.digest)
        assert answer.other == first.data


async def test_who_asks_for_a_contested_transaction_is_shown_both(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        first, second, apart = (world.transfer(0, nonce, key(77).address, 5 + nonce) for nonce in (0, 0, 1))
        second = world.transfer(0, 0, key(77).address, 9)
        await node.chain.submit([first.data])
        forged = second.data[:-1] + bytes([second.data[-1] ^ 1])
        for other in (apart.data, forged, first.data, b"rubbish"):
            assert await node.chain.contested(first.data, other), "no honest validator shows this"
            assert (await node.chain.queries.transaction(first.digest)).equivocation is None
        assert await node.chain.contested(first.data, second.data) == ""
        shown = await node.chain.queries.transaction(first.digest)
        assert (shown.status, shown.equivocation) == (Status.PENDING, (first.data, second.data))
        loser = await node.chain.queries.transaction(second.digest)
        assert (loser.status, loser.equivocation) == (Status.UNKNOWN, (second.data, first.data))


def test_contested_transactions_are_kept_within_a_bound() -> None:
    kept = Contests(bytes_max=1_000)
    for at in range(20):
        names = bytes([at, 1]), bytes([at, 2])
        kept.put((names[0], b"a" * 100), (names[1], b"b" * 100))
    assert bytes([0, 1]) not in kept and kept.get(bytes([19, 2])) == (b"b" * 100, b"a" * 100)
    assert sum(bytes([at, 1]) in kept for at in range(20)) <= 3


async def test_transactions_behind_a_gap_wait_and_then_run_in_order(world: World, run: Run) -> None:
    async with run(world, engine=FAST_BLOCKS) as node:
        late = [world.transfer(0, nonce, key(77).address, 1) for nonce in (3, 1, 2)]
        answers = await node.chain.submit([each.data for each in late])
        assert all(isinstance(each, Admitted) for each in answers)
        await trio.sleep(0.2)
        assert node.chain.ledger.tip.height == 0
        view = await node.chain.queries.transaction(late[0].digest)
        assert view.status is Status.PENDING
        receipts = await settle(node.chain, world.transfer(0, 0, key(77).address, 1), *late)
        assert [receipt.status for receipt in receipts] == [Status.COMMITTED] * 4
        assert await balance(node.chain, key(77).address) == 4


async def test_every_kind_of_bad_transaction_gets_its_code_and_a_mend(world: World, run: Run) -> None:
    other = make_world(validator=998)
    good = world.transfer(0, 0, key(77).address, 5)
    stolen = world.transfer(1, 0, key(77).address, 5)
    forged = encode_transaction(good.body_bytes, stolen.authorizations)
    wrong_signature = bytearray(good.data)
    wrong_signature[-1] ^= 1
    unknown = bytearray(good.data)
    unknown[0] = 2
    cases = {
        "Truncated": good.data[:-1],
        "TrailingBytes": good.data + b"\x00",
        "UnknownFormat": bytes(unknown),
        "TooLarge": good.data + bytes(300_000),
        "WrongChain": other.transfer(0, 0, key(77).address, 5).data,
        "WrongSigner": forged,
        "BadSignature": bytes(wrong_signature),
        "NonceGap": world.transfer(0, 64, key(77).address, 5).data,
        "InsufficientFunds": world.transfer(0, 0, key(77).address, FUNDS).data,
        "PriceTooLow": world.transfer(0, 0, key(77).address, 5, max_price=PRICE - 1).data,
        "GasLimitTooLow": world.transfer(0, 0, key(77).address, 5, gas_limit=1_000).data,
        "PayloadUnknown": world.transfer(0, 0, key(77).address, 5, payload_kind=9, payload=b"").data,
        "LaneMismatch": world.transfer(0, 0, key(77).address, 5, lane=Lane.PRIVATE).data,
        "ObjectMissing": world.transfer(
            0, 0, key(77).address, 5, inputs=(Input(b"\x05" * 32, 1, Access.READ),)
        ).data,
        "NotFastEligible": world.transaction(
            0, 0, ObjectCreate(1, OwnerKind.SHARED, bytes(32), b""), lane=Lane.FAST
        ).data,
    }
    async with run(world, engine=None) as node:
        answers = await node.chain.submit(list(cases.values()))
        for code, answer in zip(cases, answers, strict=True):
            assert isinstance(answer, Refused), code
            assert answer.code == code
            assert answer.field
            assert answer.mend
        assert len(node.chain.mempool) == 0
        assert isinstance((await node.chain.submit([good.data]))[0], Admitted)
        assert node.metric("supervm_transactions_total", status="refused") == len(cases)


async def test_a_forged_signature_never_rides_on_a_checked_one(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        good = world.transfer(0, 0, key(77).address, 5)
        (answer,) = await node.chain.submit([good.data])
        assert isinstance(answer, Admitted)
        (answer,) = await node.chain.submit([good.data[:-1] + bytes([good.data[-1] ^ 1])])
        assert isinstance(answer, Refused)
        assert (answer.code, answer.digest) == ("BadSignature", good.digest)


@pytest.mark.parametrize("suite", list(Suite))
async def test_every_signature_suite_pays_its_way(suite: Suite, world: World, run: Run) -> None:
    owner = key(4_242, suite)
    async with run(world, engine=FAST_BLOCKS) as node:
        await settle(node.chain, world.transfer(0, 0, owner.address, 10**12))
        body = attrs.evolve(
            world.body(0, 0, [Transfer(NATIVE_TOKEN, (Output(key(77).address, 5),))]),
            sender=owner.address,
            fee_payer=owner.address,
        )
        (receipt,) = await settle(node.chain, build(body, [owner]))
        assert receipt.status is Status.COMMITTED
        assert await balance(node.chain, key(77).address) == 5


async def test_what_waits_binds_funds_so_that_nobody_is_admitted_to_overspend(world: World, run: Run) -> None:
    async with run(world, engine=None) as node:
        half = FUNDS // 2
        one, two = (world.transfer(0, nonce, key(77).address, half) for nonce in (0, 1))
        answers = await node.chain.submit([one.data, two.data])
        assert isinstance(answers[0], Admitted)
        assert isinstance(answers[1], Refused)
        assert answers[1].code == "InsufficientFunds"
        assert node.chain.mempool.spending(world.users[0].address, NATIVE_TOKEN) == sum(
            max_spend(one).values()
        )


async def test_an_expired_transaction_is_refused_and_one_that_expires_waiting_is_dropped(run: Run) -> None:
    world = make_world(epoch_blocks=2)
    async with run(world, engine=FAST_BLOCKS) as node:
        waiting = world.transfer(1, 1, key(77).address, 1, expiry_epoch=1)
        await node.chain.submit([waiting.data])
        for nonce in range(2):
            await settle(node.chain, world.transfer(0, nonce, key(77).address, 1))
        assert node.chain.epoch == 2
        (answer,) = await node.chain.submit([world.transfer(2, 0, key(77).address, 1, expiry_epoch=1).data])
        assert isinstance(answer, Refused)
        assert answer.code == "Expired"
        node.chain.sweep()
        view = await node.chain.queries.transaction(waiting.digest)
        assert view.status is Status.UNKNOWN
        assert node.metric("supervm_mempool_dropped_total", reason="expired") == 1


async def test_an_object_lives_through_blocks_until_it_is_deleted(world: World, run: Run) -> None:
    alice, bob = world.users[0].address, world.users[1].address
    async with run(world, engine=FAST_BLOCKS) as node:
        make = world.transaction(0, 0, ObjectCreate(7, OwnerKind.OWNED, alice, b"one"))
        (receipt,) = await settle(node.chain, make)
        name = object_id(make.digest, 0)
        assert [each.id for each in receipt.created] == [name]

        def using(user: int, nonce: int, version: int, access: Access, operation: Any) -> Transaction:
            return world.transaction(user, nonce, operation, inputs=(Input(name, version, access),))

        steps = [
            using(0, 1, 1, Access.WRITE, ObjectMutate(name, b"two")),
            using(0, 2, 2, Access.TRANSFER, ObjectTransfer(name, bob)),
        ]
        for step in steps:
            (receipt,) = await settle(node.chain, step)
            assert (receipt.status, receipt.lane) == (Status.COMMITTED, Lane.FAST)
        found = await node.chain.queries.object(name)
        assert found is not None
        assert (found.version, found.owner, found.data) == (3, bob, b"two")
        (answer,) = await node.chain.submit([using(0, 3, 3, Access.WRITE, ObjectMutate(name, b"x")).data])
        assert isinstance(answer, Refused)
        assert answer.code == "OwnershipMismatch"
        (answer,) = await node.chain.submit([using(1, 0, 2, Access.WRITE, ObjectMutate(name, b"x")).data])
        assert isinstance(answer, Refused)
        assert answer.code == "VersionMismatch"
        (receipt,) = await settle(node.chain, using(1, 0, 3, Access.DELETE, ObjectDelete(name)))
        assert receipt.status is Status.COMMITTED
        found = await node.chain.queries.object(name)
        assert found is not None
        assert found.deleted


async def test_shared_and_frozen_objects_are_ordered_and_read_only(world: World, run: Run) -> None:
    alice = world.users[0].address
    async with run(world, engine=FAST_BLOCKS) as node:
        make = world.transaction(
            0,
            0,
            ObjectCreate(1, OwnerKind.OWNED, alice, b"a"),
            ObjectCreate(1, OwnerKind.OWNED, alice, b"b"),
        )
        await settle(node.chain, make)
        shared, frozen = (object_id(make.digest, index) for index in (0, 1))
        inputs = tuple(
            sorted(
                (Input(shared, 1, Access.SHARE), Input(frozen, 1, Access.FREEZE)), key=lambda each: each.id
            )
        )
        (receipt,) = await settle(
            node.chain,
            world.transaction(0, 1, ObjectShare(shared), ObjectFreeze(frozen), inputs=inputs),
        )
        assert receipt.status is Status.COMMITTED
        after = await node.chain.queries.object(shared)
        assert after is not None
        version = after.initial_version
        writes = [
            world.transaction(
                user,
                0,
                ObjectMutate(shared, f"by {user}".encode()),
                inputs=(Input(shared, version, Access.WRITE),),
            )
            for user in (1, 2)
        ]
        receipts = await settle(node.chain, *writes)
        assert [each.lane for each in receipts] == [Lane.ORDERED] * 2
        assert [each.status for each in receipts] == [Status.COMMITTED] * 2
        (answer,) = await node.chain.submit(
            [
                world.transaction(
                    1, 1, ObjectMutate(frozen, b"x"), inputs=(Input(frozen, 2, Access.WRITE),)
                ).data
            ]
        )
        assert isinstance(answer, Refused)
        assert answer.code == "ImmutableObject"


async def test_two_transactions_in_one_block_use_an_object_one_after_the_other(
    world: World, run: Run
) -> None:
    alice = world.users[0].address
    slow = SoloConfig(block_interval_min_ms=0, batch_seal_ms=50, idle_blocks=False)
    async with run(world, engine=slow) as node:
        make = world.transaction(0, 0, ObjectCreate(7, OwnerKind.OWNED, alice, b"0"))
        await settle(node.chain, make)
        name = object_id(make.digest, 0)
        chained = [
            world.transaction(
                0, version, ObjectMutate(name, b"%d" % version), inputs=(Input(name, version, Access.WRITE),)
            )
            for version in (1, 2, 3)
        ]
        receipts = await settle(node.chain, *chained)
        assert [each.status for each in receipts] == [Status.COMMITTED] * 3
        found = await node.chain.queries.object(name)
        assert found is not None
        assert (found.version, found.data) == (4, b"3")


async def test_tokens_are_made_moved_minted_and_burned(world: World, run: Run) -> None:
    alice, bob = world.users[0].address, world.users[1].address
    async with run(world, engine=FAST_BLOCKS) as node:
        make = world.transaction(0, 0, TokenCreate(b"GOLD", 2, 1_000, False))
        await settle(node.chain, make)
        gold = token_id(make.digest, 0)
        receipts = await settle(
            node.chain,
            world.transaction(0, 1, Transfer(gold, (Output(bob, 300),))),
            world.transaction(0, 2, Mint(gold, bob, 50)),
            world.transaction(0, 3, Burn(gold, 100)),
        )
        assert [each.status for each in receipts] == [Status.COMMITTED] * 3
        assert await balance(node.chain, alice, gold) == 600
        assert await balance(node.chain, bob, gold) == 350
        token = await node.chain.queries.token(gold)
        assert token is not None
        assert token.supply == 950
        (answer,) = await node.chain.submit([world.transaction(1, 0, Burn(gold, 351)).data])
        assert isinstance(answer, Refused)
        assert answer.code == "InsufficientFunds"


async def test_the_same_blocks_give_the_same_root_on_every_backend(world: World, run: Run) -> None:
    tips = {}
    one_by_one = [world.transfer(user, 0, key(50 + user).address, 10 + user) for user in range(4)]
    for storage in ("memory", "sqlite", "rocksdb", "lmdb"):
        async with run(world, storage=storage, engine=FAST_BLOCKS) as node:
            for each in one_by_one:
                await settle(node.chain, each)
            tips[storage] = (node.chain.ledger.tip.height, node.chain.ledger.tip.state_root)
    assert len(set(tips.values())) == 1, tips
    assert tips["memory"][0] == 4


async def test_a_closed_chain_opened_again_goes_on_from_its_tip(world: World, run: Run) -> None:
    async with run(world, storage="sqlite", engine=FAST_BLOCKS) as node:
        await settle(node.chain, world.transfer(0, 0, key(77).address, 5))
        tip = node.chain.ledger.tip
    async with run(world, storage="sqlite", engine=FAST_BLOCKS) as node:
        assert node.chain.ledger.tip == tip
        (receipt,) = await settle(node.chain, world.transfer(0, 1, key(77).address, 5))
        assert receipt.height == tip.height + 1
        assert await balance(node.chain, key(77).address) == 10


async def test_cancelled_at_any_moment_nothing_acknowledged_is_lost_and_nothing_runs_twice(
    world: World, run: Run
) -> None:
    work = [world.transfer(user, nonce, key(77).address, 1) for nonce in range(12) for user in range(4)]
    acknowledged: set[bytes] = set()
    memory = next(each for each in stores() if each.name == "memory")
    async with opened(memory, Path()) as store:
        for round_ in range(12):
            with trio.move_on_after(0.01 + 0.007 * round_):
                async with run(world, store=store, engine=FAST_BLOCKS) as node:
                    await node.chain.submit([each.data for each in work])
                    async for event in node.chain.events.follow(0):
                        if event.kind == "receipts":
                            acknowledged.update(
                                bytes.fromhex(each["digest"][2:]) for each in event.data["receipts"]
                            )
        async with run(world, store=store, engine=FAST_BLOCKS) as node:
            for digest in acknowledged:
                assert (await node.chain.queries.transaction(digest)).status is Status.COMMITTED
            await node.chain.submit([each.data for each in work])
            receipts = await outcomes(node.chain, *work)
            assert {receipt.status for receipt in receipts} == {Status.COMMITTED}
            assert await balance(node.chain, key(77).address) == len(work)
            await supply_is_conserved(node.chain, key(77).address, *(user.address for user in world.users))


async def test_a_node_that_is_not_the_validator_reads_and_refuses_and_says_why(
    world: World, run: Run
) -> None:
    follower = make_world(validator=997).identity
    async with run(world, identity=follower) as node:
        (answer,) = await node.chain.submit([world.transfer(0, 0, key(77).address, 5).data])
        assert isinstance(answer, Refused)
        assert answer.code == "NotProducing"
        assert world.identity.node_id.hex() in answer.mend
        assert node.engine is not None
        assert not node.engine.status().producing
        assert (await node.chain.queries.status()).height == 0
        await trio.sleep(0.1)
        assert node.chain.ledger.tip.height == 0


async def test_a_full_mempool_says_when_to_come_back(world: World, run: Run) -> None:
    options = LedgerOptions(admission_threads=1, mempool_transactions_max=2)
    async with run(world, engine=None, options=options) as node:
        answers = await node.chain.submit(
            [world.transfer(user, 0, key(77).address, 1).data for user in range(3)]
        )
        assert [isinstance(each, Admitted) for each in answers] == [True, True, False]
        full = answers[2]
        assert isinstance(full, Refused)
        assert (full.code, full.retry_after_s) == ("MempoolFull", 1.0)


async def test_too_much_at_once_is_refused_as_busy(world: World, run: Run) -> None:
    options = LedgerOptions(admission_threads=1, admission_inflight_max=2)
    async with run(world, engine=None, options=options) as node:
        answers = await node.chain.submit(
            [world.transfer(user, 0, key(77).address, 1).data for user in range(3)]
        )
        assert [each.code for each in answers if isinstance(each, Refused)] == ["Busy"] * 3
        answers = await node.chain.submit([world.transfer(0, 0, key(77).address, 1).data])
        assert isinstance(answers[0], Admitted)


async def test_events_tell_each_block_and_receipt_in_order_and_resume(world: World, run: Run) -> None:
    async with run(world, engine=FAST_BLOCKS) as node:
        work = [world.transfer(user, 0, key(77).address, 1) for user in range(3)]
        for each in work:
            await settle(node.chain, each)
        seen = []
        async for event in node.chain.events.follow(0):
            seen.append(event)
            if event.id == node.chain.events.last_id:
                break
        assert [event.id for event in seen] == list(range(1, len(seen) + 1))
        assert [event.data["height"] for event in seen if event.kind == "block"] == ["1", "2", "3"]
        digests = [
            each["digest"] for event in seen if event.kind == "receipts" for each in event.data["receipts"]
        ]
        assert digests == ["0x" + each.digest.hex() for each in work]
        assert [kind for kind, _ in node.published].count("block_committed") == 3
        assert [kind for kind, _ in node.published].count("transaction_seen") == 3


async def test_counters_add_up_to_what_was_submitted(world: World, run: Run) -> None:
    async with run(world, engine=FAST_BLOCKS) as node:
        good = [world.transfer(user, 0, key(77).address, 1) for user in range(3)]
        await settle(node.chain, *good)
        await node.chain.submit(
            [good[0].data[:-1], good[0].data, world.transfer(0, 5, key(7).address, 1).data]
        )
        node.chain.sweep()
        metric = node.metric
        outcomes_ = [
            metric("supervm_transactions_total", status=status)
            for status in ("refused", "committed", "failed", "void")
        ]
        assert metric("supervm_transactions_submitted_total") == (
            sum(outcomes_)
            + metric("supervm_transactions_pending")
            + metric("supervm_transactions_duplicate_total")
        )
        lanes = [metric(f"vm_routing_{lane}_total") for lane in ("fast", "consensus", "privacy")]
        assert sum(lanes) == metric("vm_routing_total") == 4
        assert metric("vm_routing_fast_ratio") == 1.0


async def test_a_full_disk_stops_blocks_until_there_is_room_and_loses_nothing(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run(world, engine=FAST_BLOCKS) as node:
        store = node.chain.ledger._store
        write, full, tried = store.write, True, trio.Event()

        async def failing(*arguments: Any) -> None:
            if full:
                tried.set()
                raise DiskFull("no space for the batch", "test", "free some")
            await write(*arguments)

        monkeypatch.setattr(node.chain.ledger, "_store", Wrapped(store, failing))
        one = world.transfer(0, 0, key(77).address, 5)
        await node.chain.submit([one.data])
        assert node.engine is not None
        await tried.wait()
        await wait_all_tasks_blocked()
        assert "disk is full" in node.engine.status().reason
        assert node.chain.ledger.tip.height == 0
        full = False
        (receipt,) = await outcomes(node.chain, one, seconds=60)
        assert receipt.status is Status.COMMITTED
        assert node.engine.status().producing


class Wrapped:
    """A store with another `write`."""

    def __init__(self, store: Any, write: Callable[..., Any]) -> None:
        self._store = store
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_chain_without_work_makes_an_empty_block_after_the_longest_interval(
    world: World, run: Run
) -> None:
    quick = SoloConfig(block_interval_min_ms=0, block_interval_max_ms=100)
    async with run(world, engine=quick) as node:
        with trio.fail_after(PATIENCE_S):
            async for event in node.chain.events.follow(0):
                if event.data["height"] == "3":
                    break
        blocks = await node.chain.queries.blocks(1, 10)
        assert [block.header.height for block in blocks[:3]] == [1, 2, 3]
        assert all(block.transactions == () for block in blocks)


async def test_a_block_of_a_thousand_transfers_is_committed_whole(run: Run, capsys: Any) -> None:
    world = make_world(250)
    async with run(world, engine=None) as node:
        work = [
            world.transfer(user, nonce, key(10_000 + user).address, 1)
            for nonce in range(4)
            for user in range(250)
        ]
        began = trio.current_time()
        answers = await node.chain.submit([each.data for each in work])
        admitted_s = trio.current_time() - began
        assert all(isinstance(each, Admitted) for each in answers)
    began = trio.current_time()
    async with run(world, engine=FAST_BLOCKS) as node:
        await node.chain.submit([each.data for each in work])
        receipts = await outcomes(node.chain, *work)
        seconds = trio.current_time() - began
        assert {receipt.status for receipt in receipts} == {Status.COMMITTED}
    with capsys.disabled():
        print(f"\n1,000 transfers: admitted in {admitted_s:.2f} s, admitted and final in {seconds:.2f} s")


async def test_a_damaged_row_that_the_check_meets_does_not_stop_the_chain(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = trio.Event()

    async def damaged(ledger: Any, first: int) -> int:
        met.set()
        raise corrupt(state_key(account_key(key(77).address)), "planted")

    monkeypatch.setattr(component, "SPOT_CHECK_S", 0.01)
    monkeypatch.setattr(component, "verify_slice", damaged)
    options = LedgerOptions(admission_threads=1, spot_check_blocks=1)
    async with run(world, engine=FAST_BLOCKS, options=options) as node:
        aside = node.chain.ledger.aside
        await settle(node.chain, world.transfer(0, 0, key(78).address, 5))
        with trio.fail_after(60):
            await met.wait()
            while len(aside):  # what it named is no row at all, so it is good again at once
                await aside.changed()
        await settle(node.chain, world.transfer(0, 1, key(78).address, 5))


async def test_state_that_differs_from_its_tree_stops_the_chain(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    async def damaged(ledger: Any, first: int) -> int:
        looked.append(ledger.tip.height)
        raise StoreCorrupt("state entries don't make their root", first)

    monkeypatch.setattr(component, "SPOT_CHECK_S", 0.01)
    monkeypatch.setattr(component, "verify_slice", damaged)
    options = LedgerOptions(admission_threads=1, spot_check_blocks=2)
    with pytest.RaisesGroup(StoreCorrupt, flatten_subgroups=True, allow_unwrapped=True):
        async with run(world, engine=FAST_BLOCKS, options=options) as node:
            await settle(node.chain, world.transfer(0, 0, key(77).address, 5))
            await trio.sleep(0.05)
            assert looked == [], "it looks after every second block"
            await settle(node.chain, world.transfer(0, 1, key(77).address, 5))
            with trio.fail_after(PATIENCE_S):
                await trio.sleep_forever()
    assert looked == [2]
