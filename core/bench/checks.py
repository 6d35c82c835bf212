"""What must hold after a replay, asked of the node through its API and judged by the oracle.

Each check gives the problems it found, in words; none means that it holds.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

from supervm.bench.oracle import expected_balances
from supervm.bench.workload import SAT_TOKEN
from supervm.client.http import NodeClient

READERS = 4
PROBLEMS_MAX = 5
SAT = f"0x{SAT_TOKEN.hex()}"

Progress = Callable[[str, int], AbstractContextManager[Any]]


def check_balances(client: NodeClient, block: bytes, progress: Progress) -> list[str]:
    """Every account of the block against a plain sum over the file; every spender spent once."""
    paid, spenders, _ = expected_balances(block)

    def check(address: str) -> str | None:
        account = client.account(address)
        found = int(account["balances"].get(SAT, "0"))
        if found != paid[address]:
            return f"{address} holds {found} SAT, the file says {paid[address]}"
        if address in spenders and account["nonce"] != "1":
            return f"{address} has nonce {account['nonce']}, not 1"
        return None

    return _first(_in_threads(check, sorted({*paid, *spenders}), "checking balances", progress))


def check_acknowledged(client: NodeClient, log: Path, progress: Progress) -> list[str]:
    """Every block that the sender ever saw is still there, at its height, with the same transactions."""

    def check(seen: Mapping[str, Any]) -> str | None:
        block = client.block(int(seen["height"]))
        if block["digest"] != seen["digest"] or block["transactions"] != seen["transactions"]:
            return f"block {seen['height']} was {seen['digest']}, is {block['digest']}"
        return None

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return _first(_in_threads(check, lines, "checking blocks", progress))


def check_outcomes(client: NodeClient, log: Path, progress: Progress) -> tuple[int, list[str]]:
    """(transactions that failed, problems): each is in one block, and committed there."""
    seen: dict[str, int] = {}
    problems = []
    for line in log.read_text().splitlines():
        for digest in (facts := json.loads(line))["transactions"]:
            if digest in seen:
                problems.append(f"{digest} is in blocks {seen[digest]} and {facts['height']}")
            seen[digest] = facts["height"]

    def check(digest: str) -> str | None:
        status = client.transaction(digest)["status"]
        return None if status == "committed" else f"{digest} is {status}"

    failed = list(filter(None, _in_threads(check, list(seen), "checking outcomes", progress)))
    return len(failed), _first([*problems, *failed])


def _in_threads(
    check: Callable[[Any], str | None], items: Sequence[Any], label: str, progress: Progress
) -> Iterator[str | None]:
    with ThreadPoolExecutor(READERS, "bench-check") as pool, progress(label, len(items)) as bar:
        for result in pool.map(check, items):
            bar.update(1)
            yield result


def _first(results: Iterable[str | None]) -> list[str]:
    """The first few problems; the rest are counted."""
    found = filter(None, results)
    shown = list(islice(found, PROBLEMS_MAX))
    more = sum(1 for _ in found)
    return [*shown, f"and {more} more"] if more else shown
