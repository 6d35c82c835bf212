"""The client of a replay, in a process of its own: post, post again after trouble, watch blocks.

    python -m supervm.bench.sender --api URL --transactions FILE --log FILE

The file holds signed transactions, each after its u32 length. Whatever happens to the node, the same
bytes are sent until a block holds them. A transaction counts as committed when the node shows it in a
block, which is an acknowledgement: from then on it must never be lost. Progress is one JSON object a line
on stdout; the log gets a line for each block seen, with what is needed to check the promise afterwards.

A FAST transaction is final once a quorum signed its effects, as the node says; a block must hold it too.
Blocks are asked for, again and again; with `--events` the node's stream of events tells of them, with what
became of each transaction, which costs both sides far less, but a node that goes away ends the run.
"""

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import attrs
import trio

from supervm.client.http import ClientError, NodeClient, NodeUnreachable, RequestRefused
from supervm.kernel.errors import leaf
from supervm.types.codec import unpack_transactions
from supervm.types.transaction import Transaction

COUNT_MAX = 1_000_000
ITEM_BYTES_MAX = 262_144
BLOCKS_A_REQUEST = 16
POLL_S = 0.01
"""Between two looks at the chain; finality is measured no finer than this."""
EVENTS_WAITING_MAX = 64
"""Events read and not yet looked at; beyond them the reader of the stream waits."""
TROUBLE_S = 0.05
"""Pause after a request that came to nothing."""
TELL_S = 0.1
"""Between two lines of progress."""


class Rejected(Exception):
    """The node refused a transaction for good. The message says which and why."""


class TooSlow(Exception):
    """Nothing was committed for as long as the sender was told to be patient."""


class StreamEnded(Exception):
    """The node's stream of events broke off, or told of a gap."""


@attrs.define
class Progress:
    """What was sent and what came of it. Times are monotonic seconds.

    `posted` is what the node that is running now has taken; a node that went away has forgotten it. `final`:
    when each was first seen certified or in a block.
    """

    transactions: dict[str, bytes]
    posted: set[str] = attrs.Factory(set)
    waiting: deque[str] = attrs.field()
    committed: dict[str, float] = attrs.Factory(dict)
    final: dict[str, float] = attrs.Factory(dict)
    first_post: dict[str, float] = attrs.Factory(dict)
    posts: int = 0
    next_height: int = 1
    losses: int = 0
    _watchers: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)

    @waiting.default
    def _all(self) -> deque[str]:
        """What is to be posted, in order; those that are committed by now are passed over."""
        return deque(self.transactions)

    @property
    def done(self) -> bool:
        return len(self.committed) == len(self.transactions)

    async def changed(self) -> None:
        """Wait until something is final, or to be posted again."""
        await self._watchers.park()

    def next_batch(self, window: int, batch: int) -> list[str]:
        """Digests to post now: not committed, not with the node, at most `window` of them there."""
        room = min(batch, window - len(self.posted))
        found: list[str] = []
        while self.waiting and len(found) < room:
            digest = self.waiting.popleft()
            if digest not in self.final and digest not in self.posted:
                found.append(digest)
        return found

    def again(self, digests: Sequence[str]) -> None:
        """These weren't taken: they come before all others, in their order."""
        self.waiting.extendleft(reversed(digests))
        self._watchers.unpark_all()

    def lost_node(self) -> None:
        """The node didn't answer: what it had taken may be gone."""
        self.losses += 1
        self.posted.clear()
        self.waiting = self._all()
        self._watchers.unpark_all()

    def saw_block(self, height: int, digests: Sequence[str], now: float) -> None:
        """A block is final. A digest in two blocks would have been applied twice."""
        assert height == self.next_height, f"block {height} came after {self.next_height - 1}"
        self.next_height = height + 1
        for digest in digests:
            if digest in self.transactions:
                assert digest not in self.committed, f"{digest} is in two blocks"
                self.committed[digest] = now
                self.final.setdefault(digest, now)
                self.posted.discard(digest)
        self._watchers.unpark_all()

    def saw_certificate(self, digests: Sequence[str], now: float) -> None:
        """A quorum signed the effects of these: they are final, and a block will hold them."""
        for digest in digests:
            if digest in self.transactions:
                self.final.setdefault(digest, now)
                self.posted.discard(digest)
        self._watchers.unpark_all()


async def send_all(
    client: NodeClient,
    progress: Progress,
    *,
    window: int,
    batch: int,
    patience_s: float,
    log: TextIO,
    events: bool = False,
) -> None:
    """Post everything and wait until all of it is committed. Raises Rejected, TooSlow, StreamEnded."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_post, client, progress, window, batch)
        nursery.start_soon(_listen if events else _follow, client, progress, log)
        done, since = -1, time.monotonic()
        while not progress.done:
            if len(progress.committed) != done:
                done, since = len(progress.committed), time.monotonic()
            elif time.monotonic() - since > patience_s:
                raise TooSlow(
                    f"{done} of {len(progress.transactions)} committed, none in the last {patience_s:g} s"
                )
            _tell(progress)
            with trio.move_on_after(TELL_S):
                while not progress.done:
                    await progress.changed()
        nursery.cancel_scope.cancel()
    _tell(progress)


async def _post(client: NodeClient, progress: Progress, window: int, batch: int) -> None:
    while not progress.done:
        digests = progress.next_batch(window, batch)
        if not digests:
            await progress.changed()
            continue
        losses = progress.losses
        now = time.monotonic()
        for digest in digests:
            progress.first_post.setdefault(digest, now)
        progress.posts += len(digests)
        data = [progress.transactions[digest] for digest in digests]
        try:
            sent = await trio.to_thread.run_sync(client.send, data)
        except NodeUnreachable:
            progress.lost_node()
            await trio.sleep(TROUBLE_S)
            continue
        except RequestRefused as refused:
            # Full, draining, or not open yet: any of it passes.
            if refused.status not in (429, 503):
                raise
            progress.again(digests)
            await trio.sleep(refused.retry_after_s or TROUBLE_S)
            continue
        wait_s = 0.0
        later: list[str] = []
        for digest, refusal in zip(digests, sent.refusals, strict=True):
            if refusal is None:
                # A node that went away in between has forgotten even what it took.
                if losses == progress.losses and digest not in progress.final:
                    progress.posted.add(digest)
            elif refusal.retry_after_s is not None:
                wait_s = max(wait_s, refusal.retry_after_s)
                later.append(digest)
            elif refusal.code not in ("NonceUsed", "AlreadyExecuted"):
                raise Rejected(f"{digest} was refused: {refusal.code}: {refusal.text}")
            # NonceUsed: a block has it that the follower is about to see.
        if losses == progress.losses:
            progress.again(later)
        await trio.sleep(max(wait_s, 0.0))


async def _follow(client: NodeClient, progress: Progress, log: TextIO) -> None:
    while not progress.done:
        try:
            answer = await trio.to_thread.run_sync(_blocks, client, progress.next_height)
        except NodeUnreachable:
            progress.lost_node()
            await trio.sleep(TROUBLE_S)
            continue
        except RequestRefused as refused:
            if refused.status not in (429, 503):
                raise
            await trio.sleep(refused.retry_after_s or TROUBLE_S)
            continue
        now = time.monotonic()
        for block in answer:
            height, digests = int(block["header"]["height"]), block["transactions"]
            progress.saw_block(height, digests, now)
            line = {"height": height, "digest": block["digest"], "transactions": digests}
            log.write(json.dumps(line) + "\n")
            log.flush()
        if not answer:
            await trio.sleep(POLL_S)


async def _listen(client: NodeClient, progress: Progress, log: TextIO) -> None:
    """Follow the stream of events, from the first that the node had: each block, then what it holds."""
    send, receive = trio.open_memory_channel[tuple[str, Any]](EVENTS_WAITING_MAX)

    def read() -> None:
        for _, kind, facts in client.events("0"):
            trio.from_thread.run(send.send, (kind, facts))

    async def run() -> None:
        await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        raise StreamEnded("the node closed its stream of events")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        block = SeenBlock()
        async for kind, facts in receive:
            if kind == "gap":
                raise StreamEnded("the client is too slow for the node's stream of events")
            if kind == "certified":
                progress.saw_certificate(facts["transactions"], time.monotonic())
            elif kind in ("block", "receipts") and block.saw(kind, facts):
                now = time.monotonic()
                progress.saw_block(block.height, block.digests, now)
                line = {"height": block.height, "digest": block.digest, "transactions": block.digests}
                log.write(json.dumps({**line, "seen_s": now}) + "\n")
                log.flush()
        nursery.cancel_scope.cancel()


@attrs.define
class SeenBlock:
    """A final block as the stream of events tells of it, piece by piece."""

    height: int = 0
    digest: str = ""
    count: int = 0
    digests: list[str] = attrs.Factory(list)

    def saw(self, kind: str, facts: dict[str, Any]) -> bool:
        """Take the next event; whether the block is whole. Raises Rejected where a transaction failed."""
        if kind == "block":
            assert len(self.digests) == self.count, f"block {self.height} was cut short"
            self.height, self.digest = int(facts["height"]), facts["digest"]
            self.count, self.digests = int(facts["transactions"]), []
        else:
            assert int(facts["height"]) == self.height, f"receipts of {facts['height']} in {self.height}"
            for receipt in facts["receipts"]:
                if receipt["status"] != "committed":
                    raise Rejected(f"{receipt['digest']} is {receipt['status']}: {receipt['code']}")
                self.digests.append(receipt["digest"])
        return len(self.digests) == self.count


def _blocks(client: NodeClient, height: int) -> list[Any]:
    answer = client.get("/v1/blocks", **{"from": height, "limit": BLOCKS_A_REQUEST})
    blocks: list[Any] = answer["blocks"]
    return blocks


def _tell(progress: Progress, **more: Any) -> None:
    facts = {"posted": len(progress.first_post), "committed": len(progress.committed), **more}
    print(json.dumps(facts), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Send a file of transactions; exit 0 when every one is committed."""
    parser = argparse.ArgumentParser(prog="supervm.bench.sender", description=__doc__)
    parser.add_argument("--api", required=True)
    parser.add_argument("--transactions", required=True, type=Path)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--window", type=int, default=4096, help="transactions with the node at a time")
    parser.add_argument("--batch", type=int, default=256, help="transactions a request")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without a commit to give up")
    parser.add_argument(
        "--events", action="store_true", help="wait for the node to tell of blocks and certificates"
    )
    asked = parser.parse_args(argv)
    packed = unpack_transactions(asked.transactions.read_bytes(), COUNT_MAX, ITEM_BYTES_MAX)
    transactions = {f"0x{Transaction.decode(data).digest.hex()}": data for data in packed}
    progress = Progress(transactions)
    ready_cpu_s = 0.0

    async def run() -> None:
        nonlocal ready_cpu_s
        with NodeClient(asked.api) as client, asked.log.open("w") as log:
            ready_cpu_s = time.process_time()
            await send_all(
                client,
                progress,
                window=asked.window,
                batch=asked.batch,
                patience_s=asked.patience,
                log=log,
                events=asked.events,
            )

    failed: list[BaseException] = []
    try:
        trio.run(run)
    except* (Rejected, TooSlow, StreamEnded, ClientError) as group:
        failed.append(leaf(group))
    if failed:
        print(json.dumps({"error": f"{type(failed[0]).__name__}: {failed[0]}"}), flush=True)
        return 1
    latencies = sorted(at - progress.first_post[digest] for digest, at in progress.final.items())
    _tell(
        progress,
        posts=progress.posts,
        losses=progress.losses,
        seconds=max(progress.committed.values()) - min(progress.first_post.values()),
        began_s=min(progress.first_post.values()),
        ended_s=max(progress.final.values()),
        before_block=sum(at < progress.committed[digest] for digest, at in progress.final.items()),
        cpu_s=time.process_time() - ready_cpu_s,
        latency_ms=[round(latency * 1000, 3) for latency in latencies],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
