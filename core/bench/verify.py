"""`bench verify`: signature checks a second for each suite, on one thread and on all, beside other libraries.

Inside the clock: reading the key, the checks of form that the chain's rule asks, and the equation; for
ours through `supervm.crypto.batch.verify_many`, as admission does it. Making keys and signatures is done
before. Ours and the peers take turns of equal time, in turned order, over the same signatures.

Two of the peers bind the libraries that our own checks ask (PyNaCl, coincurve): for secp256k1, and for
ed25519 where the report names no faster library, their ratio says what a batch saves, no more.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from time import get_clock_info, perf_counter, thread_time
from typing import Any

import attrs

from supervm.bench.pairs import PAIRS_MIN, Turn, compare, turns
from supervm.bench.report import BenchResult
from supervm.bench.verify_peers import Peer, peers_of
from supervm.crypto.batch import batch_facts, verify_many
from supervm.crypto.suites import SUITE_NAMES, SignatureItem, provider_facts, suite_named

ALL_SUITES = tuple(SUITE_NAMES)
KEYS = 16
SIGNATURES = 64
WRONG_ONE_IN = 8
BATCH = {"ed25519": 64, "secp256k1": 64, "sm2": 8}
"""Signatures between two looks at the clock: as many as admission checks at once, fewer of the slow ones."""
OURS = "supervm"
SM2_OVER_GMSSL_WANTED = 30
"""Below this an SM2 transaction is a cheap way to keep a node busy."""

Answers = Callable[[], Sequence[bool]]
Progress = Callable[[str, int], AbstractContextManager[Any]]


@attrs.frozen(kw_only=True)
class VerifyPlan:
    """What to do. `seconds` is the length of one turn; `threads` how many "all" are."""

    suites: tuple[str, ...] = ALL_SUITES
    pairs: int = PAIRS_MIN
    seconds: float = 0.4
    threads: int = 1
    seed: int = 1


def run_verify(plan: VerifyPlan, progress: Progress) -> BenchResult:
    """Run the plan; takes about suites x pairs x contestants x 2 x seconds. Blocks."""
    found: dict[str, dict[str, Any]] = {}
    ratios: dict[str, float] = {}
    taken_by_all: list[tuple[str, str, Turn]] = []
    missing: dict[str, None] = {}
    for name in plan.suites:
        peers, absent = peers_of(name)
        missing.update(dict.fromkeys(absent))
        batch = batch_facts()[name]
        facts = {**attrs.asdict(provider_facts(name)), "batch": batch.batch, "batch_reason": batch.reason}
        contestants = _contestants(name, peers, plan.seed)
        for label, threads in _modes(plan.threads).items():
            with progress(f"{name}, {label}", plan.pairs * len(contestants)) as bar:
                taken = _race(contestants, plan, threads, bar.update)
            taken_by_all += [(name, who, turn) for who, each in taken.items() for turn in each]
            facts[label] = {"threads": threads, **compare(taken, OURS)}
            for peer, compared in facts[label]["peers"].items():
                ratios[f"{peer} {name} {label}"] = compared["ratio"]["median"]
        found[name] = {**facts, "peer_versions": {peer.name: peer.version for peer in peers}}
    return _result(plan, found, ratios, tuple(missing), taken_by_all)


def signed_items(name: str, seed: int) -> list[tuple[SignatureItem, bool]]:
    """Return signatures of several keys over digests, each with whether it is right. One in 8 isn't.

    The wrong ones have another message or another s, so that finding out takes the whole computation.
    """
    provider = suite_named(name)
    chance = random.Random(seed)
    secrets = [provider.generate(chance.randbytes) for _ in range(KEYS)]
    keys = [provider.public_key(secret) for secret in secrets]
    items = []
    for at in range(SIGNATURES):
        message = chance.randbytes(32)
        signature = provider.sign(secrets[at % KEYS], message)
        right = at % WRONG_ONE_IN != WRONG_ONE_IN - 1
        if not right and at % (2 * WRONG_ONE_IN) < WRONG_ONE_IN:
            message = chance.randbytes(32)
        elif not right:
            signature = signature[:40] + bytes((signature[40] ^ 1,)) + signature[41:]
        items.append(((provider.suite, keys[at % KEYS], message, signature), right))
    return items


Contestant = Sequence[tuple[Answers, Sequence[bool]]]
"""Batches: what checks each, and the right answers."""


def _contestants(name: str, peers: Sequence[Peer], seed: int) -> dict[str, Contestant]:
    batches = _in_batches(signed_items(name, seed), BATCH[name])
    found: dict[str, Contestant] = {OURS: [(_ours(items), right) for items, right in batches]}
    for peer in peers:
        found[peer.name] = [(_theirs(peer, items), right) for items, right in batches]
    return found


def _in_batches(
    items: Sequence[tuple[SignatureItem, bool]], size: int
) -> list[tuple[list[SignatureItem], list[bool]]]:
    cut = [items[at : at + size] for at in range(0, len(items), size)]
    return [([item for item, _ in batch], [right for _, right in batch]) for batch in cut]


def _ours(items: Sequence[SignatureItem]) -> Answers:
    return lambda: verify_many(items)


def _theirs(peer: Peer, items: Sequence[SignatureItem]) -> Answers:
    prepared = [peer.prepare(*item[1:]) for item in items]
    return lambda: [peer.check(*each) for each in prepared]


def _modes(threads: int) -> dict[str, int]:
    return {"one": 1, "all": threads} if threads > 1 else {"one": 1}


def _race(
    contestants: Mapping[str, Contestant], plan: VerifyPlan, threads: int, done: Callable[[int], object]
) -> dict[str, list[Turn]]:
    """Let all take their turns, `pairs` times, every other time in reverse."""
    taken: dict[str, list[Turn]] = {name: [] for name in contestants}
    with ThreadPoolExecutor(threads, "bench-verify") as pool:
        for _, name in turns(list(contestants), plan.pairs):
            taken[name].append(_turn(contestants[name], plan.seconds, threads, pool))
            done(1)
    return taken


def _turn(batches: Contestant, seconds: float, threads: int, pool: ThreadPoolExecutor) -> Turn:
    begun = perf_counter()
    until = begun + seconds

    def work(first: int) -> tuple[int, int, float]:
        checked = wrong = 0
        at, cpu = first, thread_time()
        while True:
            check, right = batches[at % len(batches)]
            answers = check()
            checked += len(right)
            wrong += len(right) if len(answers) != len(right) else _differences(answers, right)
            at += 1
            # Looked at last, so that a turn on a busy machine checks something.
            if perf_counter() >= until:
                return checked, wrong, thread_time() - cpu

    counts = list(pool.map(work, range(threads)))
    took = perf_counter() - begun
    checked, wrong, cpu = (sum(column) for column in zip(*counts, strict=True))
    # A clock of coarse steps may show none; one step is then the least it can have been.
    return Turn(int(checked), int(wrong), took, max(cpu, get_clock_info("thread_time").resolution))


def _differences(answers: Sequence[bool], right: Sequence[bool]) -> int:
    return sum(found is not wanted for found, wanted in zip(answers, right, strict=True))


def _result(
    plan: VerifyPlan,
    found: Mapping[str, Mapping[str, Any]],
    ratios: Mapping[str, float],
    missing: tuple[str, ...],
    taken: Sequence[tuple[str, str, Turn]],
) -> BenchResult:
    wrong: dict[tuple[str, str], int] = {}
    for name, who, turn in taken:
        wrong[name, who] = wrong.get((name, who), 0) + turn.wrong
    problems = [
        f"{who} gave {count} wrong answers on {name}" for (name, who), count in wrong.items() if count
    ]
    first, best = plan.suites[0], list(_modes(plan.threads))[-1]
    return BenchResult(
        name="verify",
        parameters={
            "suites": list(plan.suites),
            "pairs": plan.pairs,
            "seconds": plan.seconds,
            "threads": plan.threads,
            "signatures": SIGNATURES,
            "wrong_one_in": WRONG_ONE_IN,
            "seed": plan.seed,
            "goodput_of": f"{first}, {best}",
        },
        goodput=found[first][best]["a_second"]["median"],
        attempts=sum(turn.done for _, who, turn in taken if who == OURS),
        failed=sum(turn.wrong for _, who, turn in taken if who == OURS),
        ratios=ratios,
        peers_missing=missing,
        oracle="; ".join(problems) or "ok",
        extra={
            "verify": found,
            "sm2_over_gmssl": _sm2_over_gmssl(found["sm2"]["one"]["peers"]["gmssl"])
            if "sm2" in found
            else None,
        },
    )


def _sm2_over_gmssl(compared: Mapping[str, Any]) -> dict[str, Any]:
    """On one thread: the ratio by the clock, and that of CPU time, which a busy machine doesn't move."""
    ratio = compared["ratio"]["median"]
    return {
        "ratio": ratio,
        "cpu_ratio": compared["cpu_ratio"],
        "wanted": SM2_OVER_GMSSL_WANTED,
        "reached": ratio >= SM2_OVER_GMSSL_WANTED,
    }


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
