"""What must hold of the validators after `net-4`: asked of each through its API, judged by plain sums.

Each check gives the problems it found, in words; none means that it holds.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from supervm.bench.net_work import FUNDS
from supervm.client.http import NodeClient
from supervm.types.address import format_address

READERS = 4
PROBLEMS_MAX = 5
BLOCKS_A_REQUEST = 16


def read_chain(client: NodeClient, last: int) -> list[dict[str, Any]]:
    """Every block of a node from height 1 to `last`, with the digests of its transactions. Blocks."""
    found: list[dict[str, Any]] = []
    while len(found) < last:
        limit = min(BLOCKS_A_REQUEST, last - len(found))
        blocks = client.get("/v1/blocks", **{"from": len(found) + 1, "limit": limit})["blocks"]
        if not blocks:
            break
        found += blocks
    return found


def check_once(chains: Mapping[str, Sequence[Mapping[str, Any]]], sent: Iterable[str]) -> list[str]:
    """Every node has the same blocks; every transaction that was sent is in one of them, and nothing else."""
    problems = []
    (first, chain), *others = chains.items()
    for name, other in others:
        for one, same in zip(chain, other, strict=False):
            if (one["digest"], one["transactions"]) != (same["digest"], same["transactions"]):
                problems.append(f"{name} has another block {same['header']['height']} than {first}")
                break
        if len(chain) != len(other):
            problems.append(f"{first} has {len(chain)} blocks, {name} {len(other)}")
    places: dict[str, list[str]] = {digest: [] for digest in sent}
    for block in chain:
        for digest in block["transactions"]:
            if digest not in places:
                problems.append(f"{digest} in block {block['header']['height']} was never sent")
            else:
                places[digest].append(block["header"]["height"])
    problems += [
        f"{digest} is in {len(heights)} blocks: {' '.join(heights)}".rstrip(": ")
        for digest, heights in places.items()
        if len(heights) != 1
    ]
    return _some(problems)


def check_seen(chain: Sequence[Mapping[str, Any]], logs: Sequence[Path]) -> list[str]:
    """What any client was ever shown as final is what the chain holds."""
    blocks = {block["header"]["height"]: block for block in chain}
    problems = []
    for log in logs:
        for line in log.read_text().splitlines():
            seen = json.loads(line)
            height = str(seen["height"])
            found = blocks.get(height, {"digest": None, "transactions": []})
            if seen["digest"] != found["digest"]:
                problems.append(f"block {height} was {seen['digest']}, is {found['digest']}")
            elif seen["transactions"] != found["transactions"]:
                problems.append(f"block {height} was shown with other transactions than it holds")
    return _some(problems)


def check_balances(
    client: NodeClient, addresses: Sequence[bytes], due: Sequence[tuple[int, int]], fees: int
) -> list[str]:
    """Nonce and balance of every account as `due`; and the sum of all, less burned fees. Blocks."""
    texts = [format_address(address) for address in addresses]
    with ThreadPoolExecutor(READERS, "bench-check") as pool:
        views = list(pool.map(client.account, texts))
    problems = []
    total = 0
    for text, view, (nonce, balance) in zip(texts, views, due, strict=True):
        held = int(view["balances"].get("0x" + bytes(32).hex(), "0"))
        total += held
        if (int(view["nonce"]), held) != (nonce, balance):
            problems.append(f"{text} has nonce {view['nonce']} and {held}, not {nonce} and {balance}")
    if total != (left := FUNDS * len(addresses) - fees):
        problems.append(f"all accounts together hold {total}, not {left}")
    return _some(problems)


def check_objects(client: NodeClient, versions: Mapping[bytes, int]) -> list[str]:
    """Every object has the version that its mutations, each one more, give it. Blocks."""
    texts = [f"0x{each.hex()}" for each in versions]
    with ThreadPoolExecutor(READERS, "bench-check") as pool:
        found = list(pool.map(client.ledger_object, texts))
    return _some(
        [
            f"object {text} has version {view['version']}, not {version}"
            for text, view, version in zip(texts, found, versions.values(), strict=True)
            if int(view["version"]) != version
        ]
    )


def _some(problems: list[str]) -> list[str]:
    """The first few; the rest are counted."""
    shown = list(islice(problems, PROBLEMS_MAX))
    more = len(problems) - len(shown)
    return [*shown, f"and {more} more"] if more else shown
