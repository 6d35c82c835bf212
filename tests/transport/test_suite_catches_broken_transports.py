"""The conformance suite is worth something: each broken transport fails the test that names its fault."""

import inspect
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from supervm.api import Component, Context, Role
from supervm.contracts.transport import (
    Broadcast,
    ErrorCode,
    Priority,
    Refusal,
    TransportError,
    TransportLimits,
    Unreachable,
)
from supervm.plugins.transport.memory import MemoryTransport, MemoryTransportConfig
from supervm.plugins.transport.network import network
from supervm.testing.conformance.transport import TransportConformance
from tests.faults.backends import leaves

_names = (f"broken-{number}" for number in itertools.count())


class LiesAboutTheSender(MemoryTransport):
    async def answer(self, peer: bytes, method: int, payload: bytes) -> bytes | Refusal:
        return await super().answer(bytes(32), method, payload)


class TellsItself(MemoryTransport):
    async def broadcast(self, topic: str, payload: bytes, *, priority: Priority = Priority.NORMAL) -> None:
        await super().broadcast(topic, payload, priority=priority)
        self.receive(Broadcast(peer=self.node_id, payload=payload), topic, 0)


class TellsTwice(MemoryTransport):
    def receive(self, message: Broadcast, topic: str, delay_s: float) -> None:
        super().receive(message, topic, delay_s)
        super().receive(message, topic, delay_s)


class SaysItAgain(MemoryTransport):
    def hear(self, peer: bytes, method: int, payload: bytes, delay_s: float) -> None:
        super().hear(peer, method, payload, delay_s)
        super().hear(peer, method, payload, delay_s)


class SendsAnySize(MemoryTransport):
    @staticmethod
    def _check_size(payload: bytes, most: int, peer: bytes) -> None:
        return


class LeaksSecrets(MemoryTransport):
    async def answer(self, peer: bytes, method: int, payload: bytes) -> bytes | Refusal:
        handler = self._served._handlers.get(method)
        try:
            return await handler(peer, payload) if handler else await super().answer(peer, method, payload)
        except Refusal as refusal:
            return refusal
        except Exception as error:
            return Refusal(ErrorCode.REMOTE_FAILED, str(error), peer=self.node_id)


class NeverRefusesOverload(MemoryTransport):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.limits = TransportLimits(requests_max=10**6)


class KnowsStrangers(MemoryTransport):
    def _target(self, peer: bytes) -> MemoryTransport:
        return self.network.nodes.get(peer, self)


class CutsOffWhoGivesUp(MemoryTransport):
    gave_up = False

    async def open_stream(self, peer: bytes, protocol: str) -> trio.abc.HalfCloseableStream:
        try:
            return await super().open_stream(peer, protocol)
        except trio.Cancelled:
            self.gave_up = True
            raise

    def _target(self, peer: bytes) -> MemoryTransport:
        if self.gave_up:
            raise Unreachable("banned", peer)
        return super()._target(peer)


class CutsNobodyOff(MemoryTransport):
    def cut_off(self, peer: bytes, reason: str) -> float:
        return 60.0


class LetsWaitWhoIsCutOff(MemoryTransport):
    def _end_with(self, peer: bytes) -> None:
        return


class BansLongerForEachReason(MemoryTransport):
    banned_s = 60.0

    def cut_off(self, peer: bytes, reason: str) -> float:
        super().cut_off(peer, reason)
        self.banned_s *= 2
        return self.banned_s


class UnboundedQueues(MemoryTransport):
    def subscribe(self, topic: str, *, queue_max: int = 256) -> Any:
        return super().subscribe(topic, queue_max=10_000)


CASES = [
    (LiesAboutTheSender, "test_a_request_is_answered_and_the_handler_knows_who_asks"),
    (TellsItself, "test_a_broadcast_reaches_every_other_node_once_and_names_its_sender"),
    (TellsTwice, "test_a_broadcast_reaches_every_other_node_once_and_names_its_sender"),
    (SaysItAgain, "test_what_is_told_reaches_the_handler_once_and_who_told_it_waits_for_nobody"),
    (SendsAnySize, "test_payloads_up_to_their_bound_pass_and_over_it_are_refused_unsent"),
    (LeaksSecrets, "test_a_handler_that_raises_answers_an_error_and_the_node_goes_on"),
    (NeverRefusesOverload, "test_over_the_bound_of_requests_the_asker_is_refused_at_once"),
    (KnowsStrangers, "test_a_method_nobody_serves_and_a_peer_nobody_knows_are_typed_errors"),
    (CutsOffWhoGivesUp, "test_what_its_caller_gives_up_at_once_costs_nothing_else"),
    (CutsNobodyOff, "test_who_is_cut_off_is_nobodys_peer_and_what_it_waits_for_ends"),
    (LetsWaitWhoIsCutOff, "test_who_is_cut_off_is_nobodys_peer_and_what_it_waits_for_ends"),
    (BansLongerForEachReason, "test_who_is_cut_off_is_nobodys_peer_and_what_it_waits_for_ends"),
    (UnboundedQueues, "test_a_slow_subscriber_loses_the_newest_and_holds_up_nobody"),
]


def suite(kind: type[MemoryTransport]) -> TransportConformance:
    @asynccontextmanager
    async def open_it(ctx: Context, config: MemoryTransportConfig) -> AsyncIterator[MemoryTransport]:
        joined = network(config.network)
        node = kind(ctx.random.randbytes(32), joined, ctx)
        with joined.joined(node):
            yield node

    class Suite(TransportConformance):
        component = Component(role=Role.TRANSPORT, name="broken", open=open_it, config=MemoryTransportConfig)

        def configs(self, count: int) -> list[Any]:
            name = next(_names)
            return [MemoryTransportConfig(network=name) for _ in range(count)]

    return Suite()


@pytest.mark.parametrize(("kind", "test"), CASES, ids=lambda case: getattr(case, "__name__", ""))
async def test_a_broken_transport_fails_the_test_that_names_its_fault(
    kind: type[MemoryTransport], test: str, tmp_path: Path
) -> None:
    with pytest.raises(BaseException) as raised:
        await getattr(suite(kind), test)(tmp_path)
    wrong = AssertionError | pytest.fail.Exception | trio.TooSlowError | TransportError
    # A fault that shows at two places at once may be told of both.
    assert all(isinstance(found, wrong) for found in leaves(raised.value)), repr(raised.value)


@pytest.mark.parametrize("test", sorted({test for _, test in CASES}))
async def test_the_transport_they_were_made_from_passes_that_test(test: str, tmp_path: Path) -> None:
    call = getattr(suite(MemoryTransport), test)
    assert inspect.iscoroutinefunction(call)
    await call(tmp_path)
