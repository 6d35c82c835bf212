"""The same seed is the same run, byte for byte; and the parts that make it so."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio

from supervm.api import Context
from supervm.contracts.storage import Delete, Durability, Put, StoreFailed
from supervm.crypto import batch, suites
from supervm.crypto.ed25519 import Ed25519
from supervm.crypto.keys import KeyPair
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.simulation import turns
from supervm.plugins.consensus.simulation.disk import VirtualDisk, VirtualStore
from supervm.plugins.consensus.simulation.plan import PROFILES, Fault, draw_plan
from supervm.plugins.consensus.simulation.sharing import shared_work
from supervm.plugins.consensus.simulation.world import World, run_plan
from supervm.testing.context import component_context
from supervm.types.address import Suite


def digest_in_another_process(seed: int, profile: str, hash_seed: str) -> str:
    command = [sys.executable, "-m", "supervm", "simulate", "--seeds", str(seed), "--profile", profile]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    found: str = json.loads(done.stdout)["trace_digest"]
    return found


def test_two_processes_with_other_hashes_make_the_same_run_of_a_seed() -> None:
    assert digest_in_another_process(4, "crash", "1") == digest_in_another_process(4, "crash", "2")


def test_a_run_in_this_process_is_the_same_again_and_another_seed_is_another() -> None:
    first = run_plan(draw_plan(1, "storm", 4))
    assert run_plan(draw_plan(1, "storm", 4)) == first
    assert run_plan(draw_plan(2, "storm", 4)).digest != first.digest


def test_nodes_that_verify_and_decode_by_themselves_make_the_same_run() -> None:
    plan = draw_plan(1, "byzantine", 4)
    before = (suites._providers.copy(), batch.chosen, messages.decode)
    shared, alone = run_plan(plan, alone=False), run_plan(plan, alone=True)
    assert (suites._providers, batch.chosen, messages.decode) == before
    assert shared == alone


def test_what_is_shared_is_asked_of_the_library_once_and_a_wrong_signature_stays_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []
    real = Ed25519.verify

    def verify(self: Ed25519, key: bytes, message: bytes, signature: bytes) -> bool:
        asked.append(message)
        return real(self, key, message, signature)

    suites.suite(Suite.ED25519)
    monkeypatch.setattr(Ed25519, "verify", verify)
    key, other = KeyPair(Suite.ED25519, b"k" * 32), KeyPair(Suite.ED25519, b"o" * 32)
    right, wrong = ((1, key.public_key, b"text", each.sign(b"text")) for each in (key, other))
    with shared_work():
        for _ in range(3):
            assert batch.verify_many([right, wrong]) == [True, False]
            assert not suites.verify(*wrong)
    assert asked == [b"text", b"text"]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_plan_is_drawn_from_its_seed_alone(profile: str) -> None:
    assert draw_plan(7, profile, 7) == draw_plan(7, profile, 7)
    assert draw_plan(7, profile, 7) != draw_plan(8, profile, 7)


def test_hostile_validators_and_those_with_lost_disks_weigh_less_than_a_third() -> None:
    lost = 0
    for seed in range(200):
        for profile in ("byzantine", "crash"):
            plan = draw_plan(seed, profile, 4)
            bad = set(plan.hostile)
            for each in plan.mishaps:
                if each.fault in (Fault.DISK_LOST, Fault.DISK_DAMAGED):
                    bad |= set(each.nodes)
                    lost += 1
            assert 3 * sum(plan.weights[number] for number in bad) < sum(plan.weights)
    assert lost > 20


def test_the_turn_of_tasks_follows_the_seed() -> None:
    def order(seed: str) -> list[int]:
        came: list[int] = []

        async def task(number: int) -> None:
            for _ in range(5):
                await trio.lowlevel.checkpoint()
                came.append(number)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(task, number)

        turns.run(main, seed)
        return came

    assert order("a") == order("a")
    assert order("a") != order("b")


def test_work_of_a_thread_is_done_in_the_turn_of_its_task_and_takes_virtual_time() -> None:
    async def main() -> tuple[float, int]:
        turns.WORK.set(lambda: 1.5)
        before = trio.current_time()
        result = await trio.to_thread.run_sync(lambda: trio.lowlevel.current_task().name and 7)
        return trio.current_time() - before, result

    assert turns.run(main, "a") == (1.5, 7)


def test_sleepers_wake_at_their_moment_and_one_that_is_cancelled_holds_nobody_up() -> None:
    woke: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await turns.sleep(seconds)
        woke.append((name, trio.current_time()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, "late", 5.0)
            nursery.start_soon(sleeper, "soon", 1.0)
            nursery.start_soon(sleeper, "now", 0.0)
            with trio.move_on_after(2.0) as scope:
                await turns.sleep_until(3.0)
            assert scope.cancelled_caught
            await trio.sleep(1.0)
            woke.append(("trio", trio.current_time()))

    turns.run(main, "a")
    assert woke == [("now", 0.0), ("soon", 1.0), ("trio", 3.0), ("late", 5.0)]


def test_what_changes_the_process_is_undone_after_a_run() -> None:
    before = (trio.to_thread.run_sync, trio.from_thread.run, trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING)

    async def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        turns.run(fails, "a")
    after = (trio.to_thread.run_sync, trio.from_thread.run, trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING)
    assert after == before


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Whoever started the tests in the background may have told them not to."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_a_run_as_one_interrupt() -> None:
    async def deep() -> None:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(deep)

    with pytest.raises(KeyboardInterrupt):
        turns.run(main, "a")


async def _store(ctx: Context, disk: VirtualDisk) -> VirtualStore:
    await trio.lowlevel.checkpoint()
    return VirtualStore(ctx, disk, lambda: 0.0)


async def test_a_crash_of_the_virtual_disk_keeps_what_was_synced_and_a_first_part_of_the_rest(
    tmp_path: os.PathLike[str],
) -> None:
    kept: set[int] = set()
    async with component_context(trio.Path(tmp_path)) as ctx:  # type: ignore[arg-type]
        for seed in range(40):
            disk = VirtualDisk()
            store = await _store(ctx, disk)
            await store.write([Put(b"a", b"1"), Put(b"b", b"1")], Durability.DURABLE)
            for number in range(3):
                await store.write([Put(b"n%d" % number, b"1"), Delete(b"b")], Durability.BUFFERED)
            assert await store.get(b"n2") == b"1"
            disk.crash(random.Random(seed))
            left = [number for number in range(3) if b"n%d" % number in disk.rows]
            assert disk.rows[b"a"] == b"1"
            assert left == list(range(len(left)))
            assert (b"b" in disk.rows) == (not left)
            kept.add(len(left))
            again = await _store(ctx, disk)
            assert (await again.get(b"n0") is not None) == bool(left)
    assert kept == {0, 1, 2, 3}


async def test_a_store_of_a_crashed_node_writes_nothing_more(tmp_path: os.PathLike[str]) -> None:
    disk = VirtualDisk()
    async with component_context(trio.Path(tmp_path)) as ctx:  # type: ignore[arg-type]
        store = await _store(ctx, disk)
        store.die()
        with pytest.raises(StoreFailed):
            await store.write([Put(b"a", b"1")], Durability.DURABLE)
    assert disk.crash(random.Random(0)) == 0
    assert not disk.rows


def test_what_a_run_leaves_behind_is_gone_with_the_next() -> None:
    for seed in range(3):
        run_plan(draw_plan(seed, "calm", 4))
    assert sum(isinstance(each, World) for each in gc.get_objects()) <= 1
