"""What a seed stands for: who takes part, who is hostile, what clients ask, and which faults come when."""

import random
from enum import Enum

import attrs

from supervm.plugins.consensus.simulation.attacks import Attack

PROFILES = ("calm", "storm", "crash", "byzantine")
HEAL_S = (3.0, 6.0)
_APART = (Attack.SLANDER, Attack.INVENT, Attack.HOLLOW)
"""Each drawn by itself, so that what else a seed stands for is as it was before there was this one."""
_DRAWN: tuple[Attack, ...] = tuple(each for each in Attack if each not in _APART)


class Fault(Enum):
    """What goes wrong. All of it ends when the network heals."""

    CRASH = "crash"
    CUT = "cut"
    ONE_WAY = "one way"
    LOSSY = "lossy"
    SLOW = "slow"
    DISK_FULL = "disk full"
    DISK_LOST = "disk lost"
    DISK_DAMAGED = "disk damaged"
    SLOW_DISK = "slow disk"
    SLOW_CPU = "slow processor"


@attrs.frozen
class Mishap:
    """A fault from one second to another: the validators that it hits (a cut: those on one side).

    `by_ms`: how much longer each sync of a slow disk takes, and each message and each call in a thread on a
    slow processor: half to one and a half times that.
    """

    fault: Fault
    at_s: float
    until_s: float
    nodes: tuple[int, ...]
    by_ms: float = 0.0

    def __str__(self) -> str:
        by = f" by {self.by_ms:g} ms" if self.by_ms else ""
        nodes = ",".join(map(str, self.nodes))
        return f"{self.fault.value} of {nodes}{by} {self.at_s:.3f}..{self.until_s:.3f} s"


class Ask(Enum):
    """What a client does."""

    TRANSFER = "transfer"
    TWICE = "two transactions of one nonce"
    OBJECT = "makes and changes an object"
    OBJECT_TWICE = "changes one version of an object twice"
    OVERSPEND = "spends its funds twice, and so does who is paid"


@attrs.frozen
class Request:
    """A client's act: when, who, and the validators that it is sent to."""

    at_s: float
    user: int
    ask: Ask
    nodes: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Plan:
    """A run. Times in seconds from its start; from `heal_s` on no fault is left but hostile validators."""

    seed: int
    profile: str
    weights: tuple[int, ...]
    heal_s: float
    requests: tuple[Request, ...]
    mishaps: tuple[Mishap, ...] = ()
    attacks: tuple[tuple[int, Attack], ...] = ()
    skews_ms: tuple[int, ...] = ()
    delay_ms: tuple[float, float] = (1.0, 20.0)
    loss: float = 0.0
    duplicates: float = 0.0
    sync_ms: tuple[float, float] = (0.2, 5.0)
    work_ms: tuple[float, float] = (0.0, 2.0)
    epoch_blocks: int = 3_600

    @property
    def count(self) -> int:
        return len(self.weights)

    @property
    def hostile(self) -> frozenset[int]:
        return frozenset(number for number, _ in self.attacks)

    def lines(self) -> list[str]:
        """The plan for a person: what isn't as in a calm run."""
        found = [f"{self.count} validators, weights {self.weights}, heals at {self.heal_s:.3f} s"]
        found.append(
            f"delay {self.delay_ms[0]:g}..{self.delay_ms[1]:g} ms, loss {self.loss:g}, "
            f"duplicates {self.duplicates:g}, sync {self.sync_ms[0]:g}..{self.sync_ms[1]:g} ms, "
            f"work {self.work_ms[0]:g}..{self.work_ms[1]:g} ms"
        )
        if self.epoch_blocks < 100:
            found.append(f"epochs of {self.epoch_blocks} blocks")
        found += [
            f"clock of {number} is off by {skew} ms" for number, skew in enumerate(self.skews_ms) if skew
        ]
        found += [f"hostile {number}: {attack.value}" for number, attack in self.attacks]
        found += [str(mishap) for mishap in self.mishaps]
        found += [f"{each.at_s:.3f} s: user {each.user}, {each.ask.value}" for each in self.requests]
        return found


def draw_plan(seed: int, profile: str, count: int) -> Plan:
    """The run of a seed: the same for the same three."""
    assert profile in PROFILES, profile
    rng = random.Random(f"{profile}/{count}/{seed}")
    heal_s = round(rng.uniform(*HEAL_S), 3)
    weights = (1,) * count if rng.random() < 0.7 else tuple(rng.randint(1, 10) for _ in range(count))
    plan = Plan(
        seed=seed,
        profile=profile,
        weights=weights,
        heal_s=heal_s,
        requests=_requests(rng, count, heal_s),
        skews_ms=tuple(rng.randint(-200, 200) for _ in range(count)),
    )
    # Of its own draws, so that the rest is as it would be without.
    epochs = random.Random(f"{profile}/{count}/{seed}/epochs")
    if epochs.random() < 0.3:
        plan = attrs.evolve(plan, epoch_blocks=epochs.choice((9, 10, 12, 16)))
    if profile == "calm":
        return plan
    if rng.random() < 0.3:
        plan = attrs.evolve(plan, work_ms=(1.0, rng.choice((20.0, 100.0))))
    if profile == "byzantine":
        hostile = _light(rng, weights)
        drawn = [(number, rng.choice(_DRAWN)) for number in hostile for _ in range(rng.randint(1, 3))]
        for attack in _APART:
            apart = random.Random(f"{profile}/{count}/{seed}/{attack.name.lower()}")
            drawn += [(number, attack) for number in hostile if apart.random() < 0.15]
        plan = attrs.evolve(plan, attacks=tuple(dict.fromkeys(drawn)))
        if rng.random() < 0.5:
            plan = attrs.evolve(plan, delay_ms=(0.5, rng.choice((100.0, 200.0))))
    if profile == "storm" or rng.random() < 0.25:
        plan = _stormy(rng, plan)
    if profile == "crash" or rng.random() < 0.25:
        plan = _crashing(rng, plan)
    if rng.random() < 0.2 and not plan.hostile and not any(each.fault in LOSING for each in plan.mishaps):
        # A clock that is far behind makes its validator refuse every proposal: it counts among the f.
        light = _light(rng, weights)
        if light:
            skews = list(plan.skews_ms)
            skews[light[0]] = rng.choice((-30_000, 30_000))
            plan = attrs.evolve(plan, skews_ms=tuple(skews))
    if profile in ("storm", "crash"):
        plan = attrs.evolve(plan, mishaps=plan.mishaps + _slow_machines(plan))
    return plan


LOSING = frozenset({Fault.DISK_LOST, Fault.DISK_DAMAGED})
"""Who is hit by these is counted among the f from then on."""


def _stormy(rng: random.Random, plan: Plan) -> Plan:
    faults = (Fault.CUT, Fault.ONE_WAY, Fault.LOSSY, Fault.SLOW)
    return attrs.evolve(
        plan,
        delay_ms=(0.5, rng.choice((20.0, 100.0, 400.0))),
        loss=rng.choice((0.0, 0.02, 0.1, 0.2)),
        duplicates=rng.choice((0.0, 0.05)),
        mishaps=plan.mishaps + _mishaps(rng, plan, faults, plan.count // 2),
    )


def _crashing(rng: random.Random, plan: Plan) -> Plan:
    mishaps = _mishaps(rng, plan, (Fault.CRASH, Fault.CRASH, Fault.CRASH, Fault.DISK_FULL), plan.count // 2)
    if rng.random() < 0.4:
        at_s = round(rng.uniform(0, plan.heal_s), 6)
        until_s = round(at_s + rng.uniform(0.001, 0.5), 6)
        mishaps += (Mishap(Fault.CRASH, at_s, until_s, tuple(range(plan.count))),)
    if rng.random() < 0.3 and not plan.hostile:
        light = _light(rng, plan.weights)
        if light:
            at_s = round(rng.uniform(0.5, plan.heal_s), 6)
            mishaps += (Mishap(rng.choice(sorted(LOSING, key=str)), at_s, round(at_s + 0.3, 6), light[:1]),)
    storms = random.Random(f"{plan.profile}/{plan.count}/{plan.seed}/storms")
    if storms.random() < 0.2:
        mishaps += _restarts(storms, plan)
    sync_ms = rng.choice(((0.2, 5.0), (0.2, 60.0)))
    return attrs.evolve(plan, mishaps=plan.mishaps + mishaps, sync_ms=sync_ms)


def _restarts(rng: random.Random, plan: Plan) -> tuple[Mishap, ...]:
    """A storm of restarts: one validator after the other, each many times, up to healing."""
    found = []
    for _ in range(6 * plan.count):
        at_s = round(rng.uniform(0.2, plan.heal_s), 6)
        until_s = round(min(at_s + rng.uniform(0.001, 0.1), plan.heal_s), 6)
        found.append(Mishap(Fault.CRASH, at_s, until_s, (rng.randrange(plan.count),)))
    return tuple(found)


_SLOW_BY_MS = {
    Fault.SLOW_DISK: (30.0, 100.0, 300.0, 1_000.0, 3_000.0),
    Fault.SLOW_CPU: (5.0, 20.0, 100.0, 400.0),
}


def _slow_machines(plan: Plan) -> tuple[Mishap, ...]:
    """Spells of slow disks and slow processors, in three of ten seeds each; of their own draws."""
    found = []
    for fault, slow_by_ms in _SLOW_BY_MS.items():
        rng = random.Random(f"{plan.profile}/{plan.count}/{plan.seed}/{fault.value}")
        if rng.random() >= 0.3:
            continue
        for _ in range(rng.randint(1, 2)):
            at_s = round(rng.uniform(0, plan.heal_s), 6)
            until_s = round(min(at_s + rng.uniform(0.2, 3.0), plan.heal_s), 6)
            nodes = tuple(sorted(rng.sample(range(plan.count), rng.randint(1, plan.count // 2))))
            found.append(Mishap(fault, at_s, until_s, nodes, rng.choice(slow_by_ms)))
    return tuple(found)


def _requests(rng: random.Random, count: int, heal_s: float) -> tuple[Request, ...]:
    found = []
    for _ in range(rng.randint(3, 10)):
        ask = rng.choices(list(Ask), (6, 2, 2, 1, 1))[0]
        nodes = rng.sample(range(count), 2)
        found.append(Request(round(rng.uniform(0, heal_s), 6), rng.randrange(USERS), ask, tuple(nodes)))
    return tuple(sorted(found, key=lambda each: each.at_s))


USERS = 6


def _light(rng: random.Random, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Some validators whose weight together is at most f, as many as fit in an order that is drawn."""
    left = (sum(weights) - 1) // 3
    numbers = list(range(len(weights)))
    rng.shuffle(numbers)
    chosen = []
    for number in numbers:
        if weights[number] <= left:
            chosen.append(number)
            left -= weights[number]
    return tuple(chosen)


def _mishaps(rng: random.Random, plan: Plan, faults: tuple[Fault, ...], most: int) -> tuple[Mishap, ...]:
    found = []
    for _ in range(rng.randint(1, 5)):
        at_s = round(rng.uniform(0, plan.heal_s), 6)
        lasts_s = rng.choice((0.001, 0.05, 0.3, 1.0, 2.0))
        until_s = round(min(at_s + rng.uniform(0.001, lasts_s), plan.heal_s), 6)
        hit = tuple(sorted(rng.sample(range(plan.count), rng.randint(1, max(1, most)))))
        found.append(Mishap(rng.choice(faults), at_s, until_s, hit))
    return tuple(found)
