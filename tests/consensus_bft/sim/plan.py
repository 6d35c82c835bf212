"""What a seed stands for: who takes part, who is hostile, and which faults come when."""

import random
from enum import Enum

import attrs

SECOND = 1_000_000


class Fault(Enum):
    CRASH = "crash"
    CUT = "cut"
    ONE_WAY = "one way"
    SLOW = "slow"
    LOSSY = "lossy"


class Trick(Enum):
    """What a hostile validator does, beside running the honest code."""

    SILENT = "silent"
    SPLIT = "two proposals, each to some"
    PARTIAL = "messages to some only"
    HOARD = "votes to one peer, certificates to one peer"
    EVERY_VOTE = "votes for whatever it sees, and against"
    ORPHAN = "proposes on a parent that isn't notarised"
    WRONG_ROOT = "proposes a root that nobody computed"
    FUTURE = "proposes with a time in the future"
    STALE_PARENT = "proposes on an old parent"
    DISORDER = "proposes batches before their past, or twice"
    NOISE = "votes of other epochs, views and validators"


@attrs.frozen
class Mishap:
    """A fault from one moment to another: the nodes that it hits (a cut: those on one side)."""

    fault: Fault
    at_us: int
    until_us: int
    nodes: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Plan:
    """A run. Times in microseconds from its start; `heal_us`: from then on nothing fails."""

    seed: int
    weights: tuple[int, ...]
    tricks: tuple[tuple[int, Trick], ...] = ()
    mishaps: tuple[Mishap, ...] = ()
    skews_ms: tuple[int, ...] = ()
    delay_us: tuple[int, int] = (1_000, 20_000)
    loss: float = 0.0
    duplicates: float = 0.0
    sync_us: tuple[int, int] = (200, 5_000)
    execute_us: tuple[int, int] = (200, 10_000)
    work_us: tuple[int, ...] = ()
    close_us: int = 0
    crash_at_record: tuple[int, int, bool] | None = None
    """(node, how many durable records, whether all crash): they come back a tenth of a second later."""
    heal_us: int = 4 * SECOND
    end_us: int = 60 * SECOND

    @property
    def hostile(self) -> frozenset[int]:
        return frozenset(number for number, _ in self.tricks)

    @property
    def count(self) -> int:
        return len(self.weights)


PROFILES = ("calm", "storm", "crash", "byzantine")


def draw_plan(seed: int, profile: str, count: int) -> Plan:
    """The run of a seed: the same for the same three."""
    rng = random.Random(f"{profile}/{count}/{seed}")
    heal_us = rng.randint(1, 3) * SECOND
    weights = tuple(1 for _ in range(count)) if rng.random() < 0.6 else _uneven(rng, count)
    works = tuple(sorted(rng.randrange(heal_us) for _ in range(rng.randint(2, 10))))
    plan = Plan(
        seed=seed,
        weights=weights,
        work_us=works,
        heal_us=heal_us,
        skews_ms=tuple(rng.randint(-200, 200) for _ in range(count)),
        close_us=rng.randrange(heal_us) if rng.random() < 0.3 else 0,
    )
    if profile == "calm":
        return plan
    if rng.random() < 0.3:
        plan = attrs.evolve(plan, execute_us=(50_000, 300_000))
    hostile = _hostile(rng, weights) if profile == "byzantine" else ()
    plan = attrs.evolve(plan, tricks=_tricks(rng, hostile))
    if hostile and rng.random() < 0.5:
        plan = attrs.evolve(plan, delay_us=(500, rng.choice((100_000, 200_000))))
    if profile == "storm" or rng.random() < 0.3:
        plan = attrs.evolve(
            plan,
            delay_us=(500, rng.choice((20_000, 100_000, 400_000))),
            loss=rng.choice((0.0, 0.02, 0.1, 0.3)),
            duplicates=rng.choice((0.0, 0.05)),
            mishaps=_mishaps(rng, count, heal_us, (Fault.CUT, Fault.ONE_WAY, Fault.SLOW, Fault.LOSSY)),
        )
    if profile == "crash" or rng.random() < 0.3:
        crashes = _mishaps(rng, count, heal_us, (Fault.CRASH,))
        if rng.random() < 0.5:
            at = rng.randrange(heal_us)
            crashes += (Mishap(Fault.CRASH, at, at + rng.randint(1, 500_000), tuple(range(count))),)
        disk = rng.choice(((200, 5_000), (200, 60_000)))
        plan = attrs.evolve(plan, mishaps=plan.mishaps + crashes, sync_us=disk)
    # A clock that is far behind makes its validator refuse every proposal: it counts among the f.
    skewed = rng.randrange(count)
    if rng.random() < 0.2 and not hostile and weights[skewed] <= (sum(weights) - 1) // 3:
        skew = rng.choice((-30_000, 30_000))
        skews = tuple(skew if n == skewed else each for n, each in enumerate(plan.skews_ms))
        plan = attrs.evolve(plan, skews_ms=skews)
    return plan


def _uneven(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randint(1, 10) for _ in range(count))


def _hostile(rng: random.Random, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Some validators whose weight is at most f; as many as fit, the lightest first half of the time."""
    left = (sum(weights) - 1) // 3
    numbers = list(range(len(weights)))
    rng.shuffle(numbers)
    if rng.random() < 0.5:
        numbers.sort(key=lambda number: weights[number])
    chosen = []
    for number in numbers:
        if weights[number] <= left:
            chosen.append(number)
            left -= weights[number]
    return tuple(sorted(chosen))


def _tricks(rng: random.Random, hostile: tuple[int, ...]) -> tuple[tuple[int, Trick], ...]:
    tricks = list(Trick)
    drawn = [(number, rng.choice(tricks)) for number in hostile for _ in range(rng.randint(1, 3))]
    return tuple(dict.fromkeys(drawn))


def _mishaps(rng: random.Random, count: int, heal_us: int, faults: tuple[Fault, ...]) -> tuple[Mishap, ...]:
    found = []
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(heal_us)
        lasts = rng.choice((1_000, 50_000, 300_000, 1_000_000))
        hit = rng.sample(range(count), rng.randint(1, max(1, count // 2)))
        until = min(at + rng.randint(1, lasts), heal_us)
        found.append(Mishap(rng.choice(faults), at, until, tuple(sorted(hit))))
    return tuple(found)
