"""The sender's book: what it sends again, and what it counts as done."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from supervm.bench.report import percentile
from supervm.bench.sender import Progress, Rejected, SeenBlock


def book(count: int = 5) -> Progress:
    return Progress({f"0x{n}": bytes([n]) for n in range(count)})


def test_it_sends_in_order_within_window_and_batch() -> None:
    progress = book()
    assert progress.next_batch(window=10, batch=2) == ["0x0", "0x1"]
    progress.posted.update(["0x0", "0x1"])
    assert progress.next_batch(window=3, batch=2) == ["0x2"]
    assert progress.next_batch(window=2, batch=2) == []


def test_what_a_lost_node_had_taken_is_sent_again_and_what_is_committed_is_not() -> None:
    progress = book()
    progress.posted.update(["0x0", "0x1", "0x2"])
    progress.saw_block(1, ["0x1", "0xother"], now=1.0)
    progress.lost_node()
    assert progress.next_batch(window=10, batch=10) == ["0x0", "0x2", "0x3", "0x4"]
    assert not progress.done


@pytest.mark.parametrize(
    "happens",
    [
        lambda progress: progress.saw_block(1, ["0x0"], now=1.0),
        lambda progress: progress.saw_certificate(["0x0"], now=1.0),
        lambda progress: progress.again(["0x0"]),
        lambda progress: progress.lost_node(),
    ],
    ids=["block", "certificate", "again", "lost"],
)
async def test_whoever_waits_for_room_is_told_of_it(
    happens: Callable[[Progress], None], autojump_clock: trio.testing.MockClock
) -> None:
    progress = book(2)
    assert progress.next_batch(window=1, batch=2) == ["0x0"]
    progress.posted.add("0x0")
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(progress.changed)
            await trio.testing.wait_all_tasks_blocked()
            happens(progress)


def test_a_transaction_in_two_blocks_is_noticed() -> None:
    progress = book()
    progress.saw_block(1, ["0x1"], now=1.0)
    with pytest.raises(AssertionError, match="0x1 is in two blocks"):
        progress.saw_block(2, ["0x1"], now=2.0)


def test_a_skipped_block_is_noticed() -> None:
    with pytest.raises(AssertionError, match="block 2 came after 0"):
        book().saw_block(2, [], now=1.0)


def test_it_is_done_when_every_transaction_is_in_a_block() -> None:
    progress = book(2)
    progress.saw_block(1, ["0x1"], now=1.0)
    progress.saw_block(2, ["0x0"], now=2.0)
    assert progress.done
    assert progress.committed == {"0x1": 1.0, "0x0": 2.0}


def told(digest: str, status: str = "committed") -> dict[str, str]:
    return {"digest": digest, "status": status, "code": "InsufficientFunds", "lane": "ORDERED"}


def test_a_block_is_seen_when_the_stream_has_told_of_all_in_it() -> None:
    block = SeenBlock()
    assert block.saw("block", {"height": "1", "digest": "0xb1", "transactions": 0})
    assert not block.saw("block", {"height": "2", "digest": "0xb2", "transactions": 3})
    assert not block.saw("receipts", {"height": "2", "receipts": [told("0x1"), told("0x2")]})
    assert block.saw("receipts", {"height": "2", "receipts": [told("0x3")]})
    assert (block.height, block.digest, block.digests) == (2, "0xb2", ["0x1", "0x2", "0x3"])


def test_a_transaction_that_failed_in_its_block_is_no_success() -> None:
    block = SeenBlock()
    block.saw("block", {"height": "1", "digest": "0xb1", "transactions": 1})
    with pytest.raises(Rejected, match="0x1 is failed: InsufficientFunds"):
        block.saw("receipts", {"height": "1", "receipts": [told("0x1", "failed")]})


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [([], 0.5, None), ([4.0], 0.99, 4.0), ([1, 2, 3, 4], 0.5, 2), (list(range(1, 101)), 0.99, 99)],
)
def test_a_percentile_is_a_value_that_was_measured(
    values: list[float], fraction: float, expected: float | None
) -> None:
    assert percentile(values, fraction) == expected
