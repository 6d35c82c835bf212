"""A slow disk or a clock that is behind silences a validator, and its health says why (CONS-66)."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from supervm.chain.application import Chain
from supervm.contracts.storage import DiskFull, Durability
from supervm.kernel.component import Health, HealthState
from supervm.kernel.context import TrioClock
from supervm.plugins.consensus.bft.clock_lag import ClockLag
from supervm.plugins.consensus.bft.driver import component
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.slowness import SLOW_S
from supervm.plugins.consensus.bft.proposals import TIMESTAMP_AHEAD_MS
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.plan import SECOND, Plan
from tests.consensus_bft.sim.world import World

from .network import WAIT_S, Network, network

QUICK = BftConfig(block_interval_min_ms=10, block_interval_max_ms=30)
SLOW_MS = 30_000
NOW_MS = 1_700_000_000_000
EARLY_MS = TIMESTAMP_AHEAD_MS + 1


@attrs.define
class WrongClock:
    """A clock that is off, by as much as a test says."""

    right: TrioClock
    wall_off_ms: int = 0
    monotonic_off_s: float = 0.0

    def monotonic(self) -> float:
        return self.right.monotonic() + self.monotonic_off_s

    def wall_ms(self) -> int:
        return self.right.wall_ms() + self.wall_off_ms

    async def sleep(self, seconds: float) -> None:
        await self.right.sleep(seconds)


@attrs.define
class Gate:
    """What waits for the disk here goes on when it is opened."""

    opened: trio.Event = attrs.Factory(trio.Event)
    waits: trio.Event = attrs.Factory(trio.Event)

    async def passed(self) -> None:
        if not self.opened.is_set():
            self.waits.set()
        await self.opened.wait()


class GatedStore:
    """A store whose writes wait at a gate, once there is one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.gate: Gate | None = None
        self.is_full = False
        self.refused = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, batch: Any, durability: Durability = Durability.DURABLE) -> None:
        if self.gate is not None:
            await self.gate.passed()
        if self.is_full:
            self.refused.set()
            raise DiskFull("no space left")
        await self._inner.write(batch, durability)


async def health(net: Network) -> Health:
    return await net.nodes[0].engine.health()


async def is_stalled_until_opened(net: Network, clock: WrongClock, gate: Gate, words: str) -> None:
    with trio.fail_after(WAIT_S):
        await gate.waits.wait()
    assert (await health(net)).state is HealthState.OK
    clock.monotonic_off_s += SLOW_S + 1
    said = await health(net)
    # Not failing: three times that, and the kernel would open it again.
    assert (said.state, said.ready) == (HealthState.DEGRADED, False)
    assert "the disk is slow" in said.detail and words in said.detail
    status = net.nodes[0].engine.status()
    assert not status.producing and status.reason == said.detail
    gate.opened.set()
    await net.reached(0, net.nodes[0].height + 2)
    assert (await health(net)).state is HealthState.OK


async def test_a_disk_that_takes_long_is_named_while_nothing_can_be_voted_for(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, config=QUICK, begin=False) as net:
        store = GatedStore(net.stores[0])
        clock = WrongClock(net.clock)
        net.stores[0], net.clocks[0] = store, clock
        await net.start(0)
        await net.reached(0, 2)
        store.gate = gate = Gate()
        await is_stalled_until_opened(net, clock, gate, "nothing can be voted for")


async def test_a_full_disk_is_waited_for_and_the_component_is_not_opened_again_for_it(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, config=QUICK, begin=False) as net:
        net.stores[0] = store = GatedStore(net.stores[0])
        await net.start(0)
        await net.reached(0, 2)
        store.is_full = True
        with trio.fail_after(WAIT_S):
            await store.refused.wait()
            await trio.testing.wait_all_tasks_blocked()
        said = await health(net)
        assert (said.state, said.ready) == (HealthState.DEGRADED, False)
        assert "the disk is full" in said.detail
        store.is_full = False
        await net.reached(0, net.nodes[0].height + 2)
        assert (await health(net)).state is HealthState.OK


@pytest.mark.parametrize("step", ["judge_log", "begin_validator"])
async def test_between_two_epochs_a_full_disk_is_waited_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real, refused, is_full = getattr(component, step), trio.Event(), [False]

    async def if_room(*given: Any) -> Any:
        if is_full[0]:
            refused.set()
            raise DiskFull("no space left")
        return await real(*given)

    monkeypatch.setattr(component, step, if_room)
    async with network(tmp_path, validators=1, config=QUICK, epoch_blocks=12) as net:
        is_full[0] = True
        with trio.fail_after(WAIT_S):
            await refused.wait()
            await trio.testing.wait_all_tasks_blocked()
        said = await health(net)
        assert (said.state, said.ready) == (HealthState.DEGRADED, False)
        assert "no epoch can be begun" in said.detail
        is_full[0] = False
        await net.reached(0, net.nodes[0].height + 2)
        assert (await health(net)).state is HealthState.OK


async def test_a_block_that_is_written_for_long_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, commit = Gate(), Chain.commit

    async def slow(chain: Chain, *args: Any, **named: Any) -> None:
        if chain.ledger.tip.height >= 2:
            await gate.passed()
        await commit(chain, *args, **named)

    monkeypatch.setattr(Chain, "commit", slow)
    async with network(tmp_path, validators=1, config=QUICK, begin=False) as net:
        net.clocks[0] = clock = WrongClock(net.clock)
        await net.start(0)
        await is_stalled_until_opened(net, clock, gate, "no block can be written")


async def test_a_validator_whose_clock_is_behind_says_so_until_it_is_set_right(tmp_path: Path) -> None:
    async with network(tmp_path, config=QUICK, begin=False) as net:
        net.clocks[0] = clock = WrongClock(net.clock, wall_off_ms=-SLOW_MS)
        for number in range(4):
            await net.start(number)
        ledger = net.nodes[1].chain.ledger
        with trio.fail_after(WAIT_S):
            while "this clock is" not in (said := await health(net)).detail:
                await ledger.wait_above(ledger.tip.height)
        assert said.state is HealthState.DEGRADED and "behind the proposals of others" in said.detail
        for number in (1, 2, 3):
            assert (await net.nodes[number].engine.health()).state is HealthState.OK
        clock.wall_off_ms = 0
        with trio.fail_after(WAIT_S):
            while (await health(net)).state is not HealthState.OK:
                await ledger.wait_above(ledger.tip.height)


@pytest.mark.parametrize(("skew_ms", "is_told"), [(-SLOW_MS, True), (-200, False), (SLOW_MS, False)])
def test_only_whose_clock_is_slow_finds_its_clock_behind(skew_ms: int, is_told: bool) -> None:
    plan = Plan(
        seed=5,
        weights=(1,) * 4,
        skews_ms=(skew_ms, 0, 0, 0),
        delay_us=(1_000, 20_000),
        sync_us=(100, 2_000),
        execute_us=(100, 100),
        heal_us=60 * SECOND,
    )
    world = World(plan)
    world.start()
    world.run(60 * SECOND)
    found = [each.ordering.clock_lag.behind_ms for each in world.nodes]
    assert bool(found[0]) is is_told and not any(found[1:])
    if is_told:
        assert SLOW_MS - 1_000 < found[0] <= SLOW_MS


def lag_of(*weights: int) -> ClockLag:
    members = (Validator(bytes([n]) * 32, bytes([n]) * 32, each) for n, each in enumerate(weights, 1))
    return ClockLag(ValidatorSet(tuple(members)))


def test_leaders_of_a_third_of_the_weight_may_all_lie_about_the_time() -> None:
    lag = lag_of(*(1,) * 6)
    for _ in range(3):
        for leader in (1, 2):
            lag.proposed(leader, NOW_MS + EARLY_MS, NOW_MS)
    assert lag.behind_ms == 0, "two of six, however often"
    lag.proposed(3, NOW_MS + 9_000, NOW_MS)
    assert lag.behind_ms == EARLY_MS, "at least so much"


def test_a_proposal_that_need_not_wait_clears_what_was_found_before() -> None:
    lag = lag_of(1, 1, 1, 1)
    for leader in (1, 2):
        lag.proposed(leader, NOW_MS + EARLY_MS, NOW_MS)
    assert (lag.behind_ms, lag.ahead_ms) == (EARLY_MS, EARLY_MS)
    lag.proposed(3, NOW_MS + TIMESTAMP_AHEAD_MS, NOW_MS)
    assert (lag.behind_ms, lag.ahead_ms) == (0, TIMESTAMP_AHEAD_MS)
    lag.proposed(1, NOW_MS + EARLY_MS, NOW_MS)
    assert lag.behind_ms == 0
