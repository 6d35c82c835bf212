"""The memory transport: the contract, and what its network can be told to do."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervm.contracts.transport import DeadlineExceeded, IdentityInUse, Unreachable
from supervm.plugins.transport import supervm_components
from supervm.plugins.transport.memory import MemoryTransportConfig
from supervm.plugins.transport.network import network
from supervm.testing.conformance.transport import ECHO, PROTOCOL, TOPIC, TransportConformance, echo
from supervm.testing.context import opened

MEMORY, _ = supervm_components()
_names = (f"test-{number}" for number in itertools.count())


class TestMemory(TransportConformance):
    component = MEMORY

    def configs(self, count: int) -> list[Any]:
        name = next(_names)
        return [MemoryTransportConfig(network=name) for _ in range(count)]

    def twins(self) -> list[Any]:
        name = next(_names)
        return [MemoryTransportConfig(network=name, node_id=each * 64) for each in "122"]


class TestMemoryWithLatency(TransportConformance):
    component = MEMORY

    def configs(self, count: int) -> list[Any]:
        name = next(_names)
        config = MemoryTransportConfig(network=name, latency_ms_min=1, latency_ms_max=5)
        return [config for _ in range(count)]

    def twins(self) -> list[Any]:
        name = next(_names)
        return [
            MemoryTransportConfig(network=name, node_id=each * 64, latency_ms_min=1, latency_ms_max=5)
            for each in "122"
        ]


@asynccontextmanager
async def two_nodes(folder: Path, config: MemoryTransportConfig) -> AsyncIterator[tuple[Any, Any]]:
    async with (
        opened(MEMORY, folder / "0", config) as one,
        opened(MEMORY, folder / "1", config, seed=1) as two,
    ):
        yield one, two


async def test_latency_is_as_set_in_both_directions(tmp_path: Path, autojump_clock: MockClock) -> None:
    config = MemoryTransportConfig(network=next(_names), latency_ms_min=40, latency_ms_max=60)
    async with (
        opened(MEMORY, tmp_path / "0", config) as one,
        opened(MEMORY, tmp_path / "1", config, seed=1) as two,
    ):
        with two.serve(ECHO, echo):
            for _ in range(20):
                before = trio.current_time()
                await one.request(two.node_id, ECHO, b"x", timeout_s=5)
                assert 0.080 <= trio.current_time() - before <= 0.120
        (peer,) = one.peers()
        assert peer.rtt_ms is not None and 80 <= peer.rtt_ms <= 120


async def test_loss_takes_its_share_and_a_seed_repeats_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def run(folder: Path) -> list[bool]:
        config = MemoryTransportConfig(network=next(_names), loss=0.3)
        async with two_nodes(folder, config) as (one, two):
            arrived = []
            with two.serve(ECHO, echo):
                for _ in range(200):
                    try:
                        await one.request(two.node_id, ECHO, b"", timeout_s=1)
                        arrived.append(True)
                    except DeadlineExceeded:
                        arrived.append(False)
            return arrived

    first, second = await run(tmp_path / "a"), await run(tmp_path / "b")
    assert first == second
    assert 0.35 < sum(first) / len(first) < 0.65  # 0.7 there and 0.7 back


async def test_a_cut_stops_everything_and_healing_lets_it_pass_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    name = next(_names)
    config = MemoryTransportConfig(network=name)
    async with (
        opened(MEMORY, tmp_path / "0", config) as one,
        opened(MEMORY, tmp_path / "1", config, seed=1) as two,
    ):
        between = network(name)
        with two.serve(ECHO, echo), two.subscribe(TOPIC) as heard:
            async with two.listen(PROTOCOL) as incoming:
                stream = await one.open_stream(two.node_id, PROTOCOL)
                await incoming.receive()
                between.cut(one.node_id, two.node_id)
                with pytest.raises(DeadlineExceeded):
                    await one.request(two.node_id, ECHO, b"", timeout_s=1)
                with pytest.raises(Unreachable):
                    await one.open_stream(two.node_id, PROTOCOL)
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(b"x")
                await one.broadcast(TOPIC, b"lost")
                between.heal()
                await one.broadcast(TOPIC, b"heard")
                assert (await heard.receive()).payload == b"heard"
                assert await one.request(two.node_id, ECHO, b"x", timeout_s=1) == b"x"


async def test_a_one_way_cut_lets_the_other_way_pass(tmp_path: Path, autojump_clock: MockClock) -> None:
    name = next(_names)
    config = MemoryTransportConfig(network=name)
    async with (
        opened(MEMORY, tmp_path / "0", config) as one,
        opened(MEMORY, tmp_path / "1", config, seed=1) as two,
    ):
        network(name).cut(one.node_id, two.node_id, both_ways=False)
        with one.subscribe(TOPIC) as hears, two.subscribe(TOPIC) as deaf:
            await one.broadcast(TOPIC, b"a")
            await two.broadcast(TOPIC, b"b")
            assert (await hears.receive()).payload == b"b"
            with pytest.raises(trio.WouldBlock):
                deaf.receive_nowait()


async def test_two_nodes_of_one_id_are_refused(tmp_path: Path) -> None:
    config = MemoryTransportConfig(network=next(_names), node_id="0x" + "11" * 32)
    async with opened(MEMORY, tmp_path / "0", config):
        with pytest.raises(BaseExceptionGroup) as refused:
            async with opened(MEMORY, tmp_path / "1", config):
                pytest.fail("two nodes of one id")
        assert refused.group_contains(IdentityInUse, match="another node_id")


@pytest.mark.parametrize(
    "options",
    [{"node_id": "0x12"}, {"node_id": "zz"}, {"loss": 1.5}, {"loss": -0.1}, {"latency_ms_min": -1}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        MemoryTransportConfig(**options)


async def test_who_leaves_while_it_is_being_told_something_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (MemoryTransportConfig(network="leaving", node_id=f"{each:064x}") for each in (1, 2))
    async with opened(MEMORY, tmp_path / "one", one) as near:
        stack = AsyncExitStack()
        far = await stack.enter_async_context(opened(MEMORY, tmp_path / "other", other))

        async def leaving() -> None:
            monkeypatch.undo()
            await stack.aclose()

        monkeypatch.setattr(trio.lowlevel, "checkpoint", leaving)
        with pytest.raises(Unreachable):
            await near.tell(far.node_id, 1, b"late")
