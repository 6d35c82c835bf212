"""The event log: numbered, bounded, resumable."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervm.chain.events import GAP, ITEMS_PER_EVENT_MAX, Event, EventLog


async def collect(log: EventLog, after: int | None, count: int) -> list[Event]:
    seen: list[Event] = []
    async for event in log.follow(after):
        seen.append(event)
        if len(seen) == count:
            break
    return seen


async def test_a_reader_resumes_after_the_id_it_saw_last() -> None:
    log = EventLog()
    for number in range(5):
        log.append("block", {"number": number})
    seen = await collect(log, 2, 3)
    assert [event.id for event in seen] == [3, 4, 5]
    assert [event.data["number"] for event in seen] == [2, 3, 4]


async def test_a_reader_without_an_id_sees_what_comes_from_now_on() -> None:
    log = EventLog()
    log.append("block", {"number": 0})
    seen: list[Event] = []

    async def read() -> None:
        seen.extend(await collect(log, None, 2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        log.append("block", {"number": 1})
        await wait_all_tasks_blocked()
        log.append("block", {"number": 2})
    assert [event.data["number"] for event in seen] == [1, 2]


async def test_the_log_keeps_no_more_than_its_bounds_and_counts_what_left() -> None:
    log = EventLog(events_max=3)
    for number in range(10):
        log.append("block", {"number": number})
    assert (len(log), log.oldest_id, log.last_id, log.dropped) == (3, 8, 10, 7)
    heavy = EventLog(items_max=2 * ITEMS_PER_EVENT_MAX)
    for _ in range(5):
        heavy.append("receipts", {}, items=ITEMS_PER_EVENT_MAX)
    assert len(heavy) == 2


@pytest.mark.parametrize("after", [0, 5, 999])
async def test_who_missed_events_is_told_and_goes_on_from_the_gaps_id(after: int) -> None:
    log = EventLog(events_max=3)
    for number in range(10):
        log.append("block", {"number": number})
    gap = [event async for event in log.follow(after)]
    assert [(event.kind, event.id) for event in gap] == [(GAP, 7)]
    assert [event.id for event in await collect(log, gap[0].id, 3)] == [8, 9, 10]


async def test_a_slow_reader_is_cut_off_with_a_gap() -> None:
    log = EventLog(events_max=3)
    log.append("block", {"number": 0})
    reader = log.follow(0)
    assert (await anext(reader)).id == 1
    for number in range(10):
        log.append("block", {"number": number})
    assert (await anext(reader)).kind == GAP
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


async def test_an_empty_log_lets_a_reader_wait() -> None:
    log = EventLog()
    with trio.move_on_after(0.01) as waited:
        await collect(log, 0, 1)
    assert waited.cancelled_caught
