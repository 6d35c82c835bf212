"""Many signed transactions from a file: read, sent in batches, followed to their end."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from supervm.cli.errors import Failure, Misuse
from supervm.cli.sending import ENDED, FINAL, WAIT_S, await_end
from supervm.client.http import NodeClient, RequestRefused, Sent
from supervm.types.address import parse_hex
from supervm.types.codec import unpack_transactions
from supervm.types.errors import InvalidInput
from supervm.types.limits import DEFAULT_LIMITS

FILE_BYTES_MAX = 2**30
COUNT_MAX = 1_000_000
BATCH = 256
BATCH_BYTES_MAX = 4 * 2**20
SHOWN_MAX = 10
FULL_WAIT_S = 0.5
FULL_TRIES_MAX = 120

Progress = Callable[[str, int], AbstractContextManager[Any]]


def submit_file(client: NodeClient, file: Path, *, wait: bool, progress: Progress) -> dict[str, Any]:
    """Send a file's transactions; counts, and the first refusals. Raises Misuse, Failure, ClientError."""
    transactions = read_transactions(file)
    digests: list[str] = []
    refused: list[dict[str, str]] = []
    with progress("sending", len(transactions)) as bar:
        for batch in batches(transactions):
            sent = _send(client, batch)
            for digest, refusal in zip(sent.digests, sent.refusals, strict=True):
                if refusal is None:
                    digests.append(str(digest))
                else:
                    refused.append({"digest": str(digest), "code": refusal.code, "reason": refusal.text})
            bar.update(len(batch))
    statuses: dict[str, int] = {}
    if wait:
        with progress("waiting", len(digests)) as bar:
            for digest in digests:
                status = await_end(client, digest, WAIT_S)["status"]
                statuses[status] = statuses.get(status, 0) + 1
                if status not in ENDED:
                    raise Failure(f"{digest} is {status} after {WAIT_S:g} s; is the node making blocks?")
                bar.update(1)
    return {
        "transactions": len(transactions),
        "accepted": len(digests),
        "refused": len(refused),
        "not_committed": sum(count for status, count in statuses.items() if status not in FINAL),
        "statuses": statuses,
        "refusals": refused[:SHOWN_MAX],
    }


def read_transactions(file: Path) -> list[bytes]:
    """The transactions of a file of JSON lines or of length-prefixed bytes. Raises Misuse with the place."""
    with file.open("rb") as opened:
        data = opened.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise Misuse(f"{file}: more than {FILE_BYTES_MAX} bytes; split it")
    # A length prefix can't look like this: it would announce 573 MB or more.
    if data.lstrip()[:1] in (b"{", b'"'):
        found = [
            _read_line(file, number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()
        ]
    else:
        try:
            found = unpack_transactions(data, COUNT_MAX, DEFAULT_LIMITS.transaction_bytes_max)
        except InvalidInput as error:
            raise Misuse(
                f"{file}: {error}; it must hold u32 lengths and transactions, or JSON lines"
            ) from error
    if not found:
        raise Misuse(f"{file}: no transactions in it")
    return found


def batches(transactions: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Parts of at most BATCH transactions and about BATCH_BYTES_MAX bytes, in order."""
    batch: list[bytes] = []
    size = 0
    for data in transactions:
        if batch and (len(batch) == BATCH or size + len(data) > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(data)
        size += len(data)
    if batch:
        yield batch


def _send(client: NodeClient, batch: list[bytes]) -> Sent:
    """Send one batch, again after a pause while the node says that it is full."""
    for _ in range(FULL_TRIES_MAX):
        try:
            sent = client.send(batch)
        except RequestRefused as refused:
            if refused.status not in (429, 503):
                raise
            pause_s = refused.retry_after_s or FULL_WAIT_S
        else:
            waits = [each.retry_after_s for each in sent.refusals if each and each.retry_after_s is not None]
            if not waits:
                return sent
            pause_s = max(waits)
        time.sleep(pause_s)  # noqa: TID251 - the node asked for the pause; this process has nothing else to do
    raise Failure(f"the node has been full for {FULL_TRIES_MAX} tries; send the file again later")


def _read_line(file: Path, number: int, line: bytes) -> bytes:
    try:
        item = json.loads(line)
        return parse_hex(item["bytes"] if isinstance(item, dict) else item, "bytes")
    except (ValueError, KeyError, TypeError, RecursionError, InvalidInput) as error:
        raise Misuse(f'{file}: line {number} isn\'t {{"bytes": "0x.."}}: {error}') from error
