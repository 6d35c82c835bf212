"""One run of a plan: faults, clients, healing, and the wait until everything is final everywhere."""

import random
import traceback
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import attrs
import trio

from supervm.chain.application import Chain
from supervm.contracts.storage import DiskFull
from supervm.execution.supply import recorded_supply, supply
from supervm.plugins.consensus.simulation import attacks, clients, turns
from supervm.plugins.consensus.simulation.attacks import Tongue
from supervm.plugins.consensus.simulation.clients import Clients
from supervm.plugins.consensus.simulation.disk import VirtualDisk
from supervm.plugins.consensus.simulation.network import Link, Network
from supervm.plugins.consensus.simulation.node import ORIGIN_MS, HostileLink, Life, Place
from supervm.plugins.consensus.simulation.oracles import Oracles
from supervm.plugins.consensus.simulation.plan import LOSING, Fault, Mishap, Plan, Request
from supervm.plugins.consensus.simulation.sharing import ALONE_EVERY, shared_work
from supervm.plugins.consensus.simulation.slowness import Slowness
from supervm.plugins.consensus.simulation.trace import Trace
from supervm.types.block import Block
from supervm.types.genesis import Genesis
from supervm.types.stakes import ESCROW, STAKES_KEY, stakes_of
from supervm.types.state import Account, account_key
from supervm.types.transaction import Transaction
from supervm.types.validators import Validator, ValidatorSet
from supervm.types.wrongs import OFFENCES_KEY, decode_punished

PROGRESS_S = 60.0
"""After healing all that was asked for is final everywhere within so many seconds."""
INSIST_S = 1.0
EVENTS_MAX = 500_000
"""Of a trace; a hundred times what a run has."""
STATE = (b"\x01", b"\x02", b"\x03")


@attrs.frozen
class Outcome:
    """How a run ended. `oracle` is empty when nothing was violated, "stalled" when it only stood still."""

    oracle: str
    problem: str
    digest: str
    height: int
    events: int
    healed_in_s: float
    epoch: int
    punished: tuple[int, ...] = ()


def run_plan(plan: Plan, out: TextIO | None = None, alone: bool | None = None) -> Outcome:
    """Run a plan to its end, in this thread; see `turns` for what it does to the process meanwhile.

    `alone`: every node verifies and decodes by itself; else that is shared (`sharing`). By default the seed
    decides. It shows in the time that a run takes, and in nothing else.
    """
    is_alone = plan.seed % ALONE_EVERY == 0 if alone is None else alone
    with (
        TemporaryDirectory(prefix="supervm-simulation-") as folder,
        nullcontext() if is_alone else shared_work(),
    ):
        world = World(plan, Trace(out), Path(folder))
        try:
            turns.run(world.main, f"{plan.profile}/{plan.count}/{plan.seed}")
        except turns.Spin as spin:
            if not world.violated:
                world.violated, world.problem = "spin", str(spin)
    height = max(world.oracles.digests, default=0)
    return Outcome(
        world.violated,
        world.problem,
        world.trace.digest(),
        height,
        world.trace.events,
        world.healed_in_s,
        max(world.oracles.bases),
        tuple(sorted(world.oracles.punished)),
    )


class World:
    """The validators of a plan, and what lies between them.

    `folder`: where the files stand that say that a key was never used; without one nobody's disk may be lost.
    """

    def __init__(self, plan: Plan, trace: Trace, folder: Path | None = None) -> None:
        self.plan = plan
        self._folder = folder
        self.trace = trace
        self.violated = self.problem = ""
        self.healed_in_s = 0.0
        self._random = self._rng("world")
        self._scope = trio.CancelScope()
        self._active: list[Mishap] = []
        self._down = [0] * plan.count
        self._lives_begun = [0] * plan.count
        self._lives: dict[int, Life] = {}
        self._damaged: set[int] = set()
        self._moved = trio.Event()
        keys = [clients.key(900 + each) for each in range(plan.count)]
        self._keys = sorted(keys, key=lambda each: each.node_id)
        self.validators = ValidatorSet(
            tuple(
                Validator(each.node_id, each.public_key, weight)
                for each, weight in zip(self._keys, plan.weights, strict=True)
            )
        )
        people = Clients(b"", plan.count)
        self.genesis = Genesis(
            name="simulation",
            created_ms=ORIGIN_MS,
            development=True,
            validators=self.validators,
            epoch_blocks=plan.epoch_blocks,
            accounts=tuple(sorted((each, clients.FUNDS) for each in people.addresses)),
        )
        self.clients = Clients(self.genesis.chain_id, plan.count)
        self._network: Network | None = None
        self.oracles = Oracles(b"", self.validators, self._is_honest, self.fail)
        self._places = [self._place(number) for number in range(plan.count)]

    def _rng(self, name: str) -> random.Random:
        plan = self.plan
        return random.Random(f"{plan.profile}/{plan.count}/{plan.seed}/{name}")

    def _place(self, number: int) -> Place:
        plan, key = self.plan, self._keys[number]
        attacks = frozenset(attack for each, attack in plan.attacks if each == number)
        tongue = None
        if attacks:
            rng = self._rng(f"tongue/{number}")
            sets, chain_id = self.oracles.sets, self.genesis.chain_id
            tongue = Tongue(number, key.node_id, sets, chain_id, key.sign, attacks, rng)
        founding = None
        if self._folder is not None:
            founding = self._folder / str(number)
            founding.touch()
        return Place(
            founding=founding,
            number=number,
            key=key,
            genesis=self.genesis,
            skew_ms=plan.skews_ms[number] if plan.skews_ms else 0,
            disk=VirtualDisk(),
            trace=self.trace,
            sync_s=turns.drawing(self._rng(f"disk/{number}"), *plan.sync_ms),
            slow_disk=Slowness(self._rng(f"slow disk/{number}")),
            slow_cpu=Slowness(self._rng(f"slow processor/{number}")),
            committed=self._committed,
            tongue=tongue,
        )

    def _is_honest(self, number: int) -> bool:
        return number not in self._damaged and number not in self.plan.hostile

    @property
    def honest(self) -> list[int]:
        """Validators that neither are hostile nor run on a damaged disk. Who has lost its disk is one: it
        contradicts nothing that it said before, and catches up (CONS-67)."""
        return [number for number in range(self.plan.count) if self._is_honest(number)]

    def fail(self, oracle: str, problem: str) -> None:
        """Something that must hold doesn't: the run ends. The first one counts."""
        if not self.violated:
            self.violated, self.problem = oracle, problem
            self.trace.note("violated", oracle, problem)
            self._scope.cancel()

    async def main(self) -> None:
        self._scope.deadline = self.plan.heal_s + 2 * PROGRESS_S
        with self._scope:
            async with trio.open_nursery() as nursery:
                plan = self.plan
                self._nursery = nursery
                self._network = Network(
                    random=self._rng("network"),
                    trace=self.trace,
                    nursery=nursery,
                    numbers={key.node_id: number for number, key in enumerate(self._keys)},
                    delay_ms=plan.delay_ms,
                    loss=plan.loss,
                    duplicates=plan.duplicates,
                    watch=self._sent,
                    cut_off=self._cut_off,
                )
                async with trio.open_nursery() as starting:
                    for number in range(plan.count):
                        starting.start_soon(self._start, number)
                for request in plan.requests:
                    nursery.start_soon(self._request, request)
                nursery.start_soon(self._insist)
                async with trio.open_nursery() as faults:
                    # All end by then, but for nodes that are down a little longer.
                    faults.start_soon(turns.sleep_until, plan.heal_s)
                    for mishap in plan.mishaps:
                        faults.start_soon(self._happen, mishap)
                await self._heal()
                nursery.cancel_scope.cancel()
        if self._scope.cancelled_caught and not self.violated:
            self.fail("stalled", f"the run doesn't end by {self._scope.deadline:g} s")

    # Lives

    async def _start(self, number: int) -> None:
        """Begin a life of a validator; returns when it is open, or has ended already."""
        assert self._network is not None
        place = self._places[number]
        self._lives_begun[number] += 1
        link: Link
        if place.tongue is not None:
            link = HostileLink(place.key.node_id, number, self._network, processor=place.slow_cpu)
            link.tongue = place.tongue
        else:
            link = Link(place.key.node_id, number, self._network, processor=place.slow_cpu)
        self._network.links[place.key.node_id] = link
        life = self._lives[number] = Life(place, link)
        self._nursery.start_soon(self._live, life)
        await life.settled.wait()
        # One that is killed while it starts begins nothing: its disk may be gone by now.
        if life.chain is not None and not life.is_killed and number in self.honest:
            tip = life.chain.ledger.tip
            if not self.oracles.genesis:
                self.oracles.genesis = tip.block_digest
            self.oracles.on_start(number, tip.height, tip.block_digest)
            self._moved.set()

    async def _live(self, life: Life) -> None:
        number = life.number
        low_ms, high_ms = self.plan.work_ms
        work = turns.drawing(self._rng(f"work/{number}/{self._lives_begun[number]}"), low_ms, high_ms)
        turns.WORK.set(lambda: work() + life.place.slow_cpu.extra_s())
        turns.WHO.set(f"validator {number}")
        try:
            await life.live(f"{self.plan.seed}/{number}/{self._lives_begun[number]}")
        except Exception as error:
            if life.is_killed:
                # What a node does while it dies is nobody's business: nothing of it is written or sent.
                return
            causes = leaves(error)
            if any(_raised_by(each) == attacks.__file__ for each in causes):
                # A bug of the simulator, not something that a hostile validator does.
                raise
            self.trace.note("failed", number, *(type(each).__name__ for each in causes))
            if life.engine is None and all(isinstance(each, DiskFull) for each in causes):
                # It can't even start: its supervisor tries again, as a real node's does.
                self._nursery.start_soon(self._again, number)
            elif number in self.honest:
                self.fail("failed", f"{number} ends by itself: {'; '.join(map(_said, causes))}")
            # Who is hit by a bad disk stops by itself, and is given an empty one.
            elif number in self._damaged:
                life.place.disk.lose()
                self._nursery.start_soon(self._again, number)

    async def _again(self, number: int) -> None:
        life = self._lives[number]
        await life.gone.wait()
        await turns.sleep(0.1)
        if not self._down[number] and self._lives[number] is life:
            await self._start(number)

    async def _stop(self, number: int) -> None:
        life = self._lives[number]
        life.crash()
        await life.gone.wait()
        lost = life.place.disk.crash(self._random)
        self.trace.note("crash", number, lost)

    # Faults

    async def _happen(self, mishap: Mishap) -> None:
        await turns.sleep_until(mishap.at_s)
        self.trace.note("fault", mishap)
        if mishap.fault is Fault.CRASH or mishap.fault in LOSING:
            await self._crash(mishap)
        else:
            self._active.append(mishap)
            self._apply()
            await turns.sleep_until(mishap.until_s)
            self._active.remove(mishap)
            self._apply()

    async def _crash(self, mishap: Mishap) -> None:
        for number in mishap.nodes:
            self._down[number] += 1
            if self._down[number] == 1:
                await self._stop(number)
            disk = self._places[number].disk
            if mishap.fault is Fault.DISK_LOST:
                disk.lose()
                self.oracles.on_lost(number)
            elif mishap.fault is Fault.DISK_DAMAGED:
                self._damaged.add(number)
                self.trace.note("damaged", disk.damage(self._random).hex())
        await turns.sleep_until(mishap.until_s)
        async with trio.open_nursery() as starting:
            for number in mishap.nodes:
                self._down[number] -= 1
                if not self._down[number]:
                    starting.start_soon(self._start, number)

    def _apply(self) -> None:
        """The faults that last now, on the network and the disks."""
        assert self._network is not None
        everyone = range(self.plan.count)
        cuts: list[tuple[int, int]] = []
        for each in self._active:
            ways = [(one, other) for one in each.nodes for other in everyone if other not in each.nodes]
            if each.fault in (Fault.CUT, Fault.ONE_WAY):
                cuts += ways
            if each.fault is Fault.CUT:
                cuts += [(other, one) for one, other in ways]
        self._network.set(cuts=cuts, lossy=self._hit(Fault.LOSSY), slow=self._hit(Fault.SLOW))
        full = self._hit(Fault.DISK_FULL)
        for number, place in enumerate(self._places):
            place.disk.full = number in full
            place.slow_disk.by_ms = self._slow_by_ms(Fault.SLOW_DISK, number)
            place.slow_cpu.by_ms = self._slow_by_ms(Fault.SLOW_CPU, number)

    def _hit(self, fault: Fault) -> list[int]:
        return [number for each in self._active if each.fault is fault for number in each.nodes]

    def _slow_by_ms(self, fault: Fault, number: int) -> float:
        """By the slowest of the spells that last now."""
        spells = [each for each in self._active if each.fault is fault and number in each.nodes]
        return max((each.by_ms for each in spells), default=0.0)

    # Clients

    async def _request(self, request: Request) -> None:
        await turns.sleep_until(request.at_s)
        signed = self.clients.ask(request.user, request.ask, self.oracles.transactions)
        for place in self._places:
            if place.tongue is not None:
                place.tongue.given.extend(signed)
        for number, each in zip(cycle(request.nodes), signed, strict=False):
            self._submit(number, [each])

    async def _insist(self) -> None:
        turn = 0
        while True:
            await turns.sleep(INSIST_S)
            asked = self.clients.honest + self.clients.doubtful
            waiting = [each for each in asked if each.digest not in self.oracles.transactions]
            turn += 1
            if waiting:
                self._submit(turn % self.plan.count, waiting)

    def _submit(self, number: int, transactions: list[Transaction]) -> None:
        life = self._lives[number]
        if life.is_open and life.chain is not None and life.nursery is not None:
            self.trace.note("submit", number, *(each.digest.hex()[:16] for each in transactions))
            life.nursery.start_soon(life.chain.submit, [each.data for each in transactions])

    # What is judged

    def _sent(self, number: int, target: int, payload: bytes) -> None:
        if self.trace.events > EVENTS_MAX:
            self.fail("runaway", f"more than {EVENTS_MAX} events")
        self.oracles.on_sent(number, target, payload)

    def _cut_off(self, number: int, target: int, reason: str) -> None:
        """Nobody who is honest is cut off by one who is, whatever the hostile make it pass on."""
        if self.oracles.is_honest(number) and self.oracles.is_honest(target):
            self.fail("cut_off", f"{number} cuts off {target}, which is honest: {reason}")

    def _committed(self, life: Life, block: Block) -> None:
        assert life.chain is not None
        number, height = life.number, block.header.height
        self.trace.note("final", number, height, block.digest().hex())
        if number not in self.honest:
            return
        is_first = height not in self.oracles.digests
        root = life.chain.ledger.tip.state_root
        self.oracles.on_final(number, block, root, self._latest_honest_ms())
        self._moved.set()
        if is_first and life.nursery is not None:
            life.nursery.start_soon(self._conserve, life.chain, height)

    def _latest_honest_ms(self) -> int:
        skews = [self._places[number].skew_ms for number in self.honest]
        return ORIGIN_MS + round(trio.current_time() * 1000) + max(skews)

    async def _conserve(self, chain: Chain, height: int) -> None:
        """A final block makes no value and loses none, and does what was final before it."""
        receipts = await chain.ledger.receipts(height)
        self.oracles.on_receipts(height, receipts or ())
        state: dict[bytes, bytes] = {}
        for prefix in STATE:
            state.update(await chain.ledger.scan_state(prefix))
        if supply(state) != recorded_supply(state):
            self.fail("conservation", f"at height {height} balances are {supply(state)}")
        system = await chain.ledger.get_state([STAKES_KEY, OFFENCES_KEY])
        at_stake = sum(each.amount for each in stakes_of(system[STAKES_KEY]).records)
        escrow = state.get(account_key(ESCROW))
        if at_stake != (Account.decode(escrow).balance if escrow else 0):
            self.fail("conservation", f"at height {height} escrow isn't what is at stake, {at_stake}")
        self.oracles.on_punished(height, [each.public_key for each in decode_punished(system[OFFENCES_KEY])])

    async def _heal(self) -> None:
        assert self._network is not None
        self._network.heal()
        self.oracles.healed = True
        self.trace.note("heal")
        for each, number in enumerate(self.honest):
            self._submit(number, [self.clients.probe(each)])
        began_s = trio.current_time()
        with trio.move_on_after(PROGRESS_S):
            while self._waits():
                self._moved = trio.Event()
                await self._moved.wait()
        self.healed_in_s = trio.current_time() - began_s
        waits = self._waits()
        if waits:
            self.fail("stalled", f"{waits} {PROGRESS_S:g} s after healing")

    def _accusing(self, number: int) -> int:
        """Evidence that an honest validator knows, and that no final block holds."""
        engine = self._lives[number].engine
        return engine.accusing if engine is not None else 0

    def _waits(self) -> str:
        """What is still missing, empty when all is final everywhere."""
        oracles = self.oracles
        missing = sum(each.digest not in oracles.transactions for each in self.clients.honest)
        if missing:
            return f"{missing} transactions aren't final"
        undone = oracles.undone()
        if undone:
            return f"{len(undone)} transactions that were final by effects are in no block"
        outside = oracles.not_final()
        if outside:
            return f"{len(outside)} certified batches are in no block"
        accusing = sum(self._accusing(number) for number in self.honest)
        if accusing:
            return f"evidence is in no block, at {accusing} places"
        goal = max(oracles.digests, default=0)
        behind = [number for number in self.honest if oracles.heights.get(number, 0) < goal]
        return f"{behind} are below height {goal}" if behind else ""


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group of groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error]


def _raised_by(error: BaseException) -> str:
    """The file whose code raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename if frames else ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
