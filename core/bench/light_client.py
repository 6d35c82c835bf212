"""`bench light-client`: what believing a header, a set or an account costs a light client (CONS-72).

Everything that the client checks is made before the clock, as bytes. Inside: decoding them and the checks of
`supervm.client.light`, on one thread. One answer in eight is wrong somewhere that only the last step of a
check sees; all are judged, the time is that of the right ones.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from statistics import median
from time import perf_counter, thread_time
from typing import Any

import attrs

from supervm.bench.report import BenchResult
from supervm.client.light import Trusted, check_header, check_state, follow, from_genesis
from supervm.crypto.keys import KeyPair
from supervm.crypto.votes import sign_vote
from supervm.types import smt
from supervm.types.address import Suite
from supervm.types.block import HEADER_BYTES, BlockBody, BlockHeader
from supervm.types.certificate import Certificate, VoteKind, bitmap_of
from supervm.types.errors import InvalidInput
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver
from supervm.types.state import Account, account_key
from supervm.types.validators import Validator, ValidatorSet

SIZES = (4, 7, 31, 100)
ANSWERS = 8
HEADERS_ABOVE = 8
"""Of a header that is final by one above it."""
CREATED_MS = 1_700_000_000_000

Progress = Callable[[str, int], AbstractContextManager[Any]]


@attrs.frozen(kw_only=True)
class LightPlan:
    """What to do. `validators`: sizes of the sets; `accounts`: in the state of which one is proven."""

    validators: tuple[int, ...] = SIZES
    accounts: int = 10_000
    turns: int = 50
    seed: int = 1


@attrs.frozen
class Answer:
    """What a node gave, and whether the client must believe it."""

    data: bytes
    right: bool


@attrs.define
class Case:
    """One kind of thing to believe. `believe` raises `InvalidInput` for what isn't proven."""

    name: str
    believe: Callable[[bytes], object]
    answers: Sequence[Answer]
    wall_us: list[float] = attrs.Factory(list)
    cpu_us: list[float] = attrs.Factory(list)
    checked: int = 0
    wrong: int = 0

    @property
    def data_bytes(self) -> int:
        return len(next(each.data for each in self.answers if each.right))

    def turn(self) -> None:
        """Check every answer once."""
        walls, cpus = [], []
        for answer in self.answers:
            cpu_s, wall_s = thread_time(), perf_counter()
            try:
                self.believe(answer.data)
                believed = True
            except InvalidInput:
                believed = False
            wall_s, cpu_s = perf_counter() - wall_s, thread_time() - cpu_s
            self.checked += 1
            self.wrong += believed is not answer.right
            if answer.right:
                walls.append(wall_s * 1e6)
                cpus.append(cpu_s * 1e6)
        self.wall_us.append(median(walls))
        self.cpu_us.append(sum(cpus) / len(cpus))

    def figures(self) -> dict[str, Any]:
        return {
            "bytes": self.data_bytes,
            "us": {
                "median": round(median(self.wall_us), 1),
                "min": round(min(self.wall_us), 1),
                "max": round(max(self.wall_us), 1),
            },
            "cpu_us": round(median(self.cpu_us), 1),
        }


def run_light(plan: LightPlan, progress: Progress) -> BenchResult:
    """Run the plan. Blocks."""
    sized: dict[int, list[Case]] = {}
    state = _State(plan.accounts, plan.seed)
    with progress("signing", len(plan.validators)) as bar:
        for count in plan.validators:
            sized[count] = list(_cases(_Chain(count, state.root, plan.seed)))
            bar.update(1)
    account = _account_case(_Chain(1, state.root, plan.seed), state)
    every = [account, *(case for cases in sized.values() for case in cases)]
    with progress("checking", plan.turns) as bar:
        for _ in range(plan.turns):
            for case in every:
                case.turn()
            bar.update(1)
    problems = [f"{case.wrong} wrong answers on {case.name}" for case in every if case.wrong]
    first = plan.validators[0]
    header = sized[first][0]
    return BenchResult(
        name="light-client",
        parameters={
            "validators": list(plan.validators),
            "accounts": plan.accounts,
            "turns": plan.turns,
            "answers": ANSWERS,
            "headers_above": HEADERS_ABOVE,
            "seed": plan.seed,
            "goodput_of": f"headers, {first} validators",
        },
        goodput=round(1e6 / median(header.wall_us), 1),
        attempts=sum(case.checked for case in every),
        failed=sum(case.wrong for case in every),
        oracle="; ".join(problems) or "ok",
        extra={
            "account_under_header": account.figures(),
            "validators": {
                str(count): {case.name: case.figures() for case in cases} for count, cases in sized.items()
            },
        },
    )


class _State:
    """Accounts, the root of their tree, and proofs of some of them."""

    def __init__(self, accounts: int, seed: int) -> None:
        chance = random.Random(seed)
        keys = [account_key(chance.randbytes(32)) for _ in range(accounts)]
        rows = {key: Account(nonce=at, balance=at + 1).encode() for at, key in enumerate(keys)}
        self.root = smt.root_of(rows)
        self.proofs = [smt.prove(rows, chance.choice(keys)) for _ in range(ANSWERS)]


class _Chain:
    """A validator set of this size, and what it signs."""

    def __init__(self, count: int, state_root: bytes, seed: int) -> None:
        chance = random.Random(f"{seed}/{count}")
        keys = [KeyPair(Suite.ED25519, chance.randbytes(32)) for _ in range(2 * count)]
        self._keys = {key.node_id: key for key in keys}
        self.validators, self.next = (_set_of(half) for half in (keys[:count], keys[count:]))
        genesis = Genesis(name="light-client", created_ms=CREATED_MS, validators=self.validators)
        self.trusted: Trusted = from_genesis(genesis)
        self._state_root = state_root

    def header(self, height: int, parent: bytes = bytes(32), **changes: Any) -> BlockHeader:
        header = BlockHeader(
            chain_id=self.trusted.chain_id,
            epoch=1,
            height=height,
            parent=parent,
            proposer=self.validators.members[0].node_id,
            timestamp_ms=CREATED_MS + height,
            root_height=height - 2,
            state_root=self._state_root,
            receipts_root=bytes(32),
            base_price=1,
            transactions_root=bytes(32),
            body_digest=BlockBody().digest(),
            validators_digest=self.validators.digest(),
        )
        return attrs.evolve(header, **changes)

    def finalise(self, header: BlockHeader, right: bool) -> Certificate:
        """Signed by the least quorum; where it isn't `right`, the last of them signed another height."""
        members = self.validators.members
        quorum = next(n for n in range(1, len(members) + 1) if self.validators.is_quorum(n))
        signatures = []
        for at, member in enumerate(members[:quorum]):
            view = header.height if right or at < quorum - 1 else header.height + 1
            digest = header.digest()
            key = self._keys[member.node_id]
            signatures.append(sign_vote(key, header.chain_id, 1, VoteKind.FINALIZE, view, digest))
        bitmap = bitmap_of(range(quorum), len(members))
        return Certificate(VoteKind.FINALIZE, 1, header.height, header.digest(), bitmap, tuple(signatures))


def _set_of(keys: Sequence[KeyPair]) -> ValidatorSet:
    ordered = sorted(keys, key=lambda key: key.node_id)
    return ValidatorSet(tuple(Validator(key.node_id, key.public_key, 1) for key in ordered))


RIGHTS = tuple(at != ANSWERS - 1 for at in range(ANSWERS))


def _cases(chain: _Chain) -> Iterator[Case]:
    trusted = chain.trusted

    alone = []
    for at, right in enumerate(RIGHTS):
        header = chain.header(10 + at)
        alone.append(Answer(_pair(header, FinalityProof(chain.finalise(header, right))), right))
    yield Case("header", lambda data: _believe_header(trusted, data), alone)

    above = []
    for at, right in enumerate(RIGHTS):
        line = [chain.header(10 * (at + 1))]
        for _ in range(HEADERS_ABOVE):
            line.append(chain.header(line[-1].height + 1, line[-1].digest()))
        proof = FinalityProof(chain.finalise(line[-1], right), tuple(line[1:]))
        above.append(Answer(_pair(line[0], proof), right))
    yield Case("header_by_headers_above", lambda data: _believe_header(trusted, data), above)

    handovers = []
    for at, right in enumerate(RIGHTS):
        last = chain.header(100 + at, next_validators_digest=chain.next.digest())
        handovers.append(Answer(HandOver(last, chain.finalise(last, right), chain.next).encode(), right))
    yield Case("handover", lambda data: follow(trusted, HandOver.decode(data)), handovers)


def _account_case(chain: _Chain, state: _State) -> Case:
    """An account under a header that is believed already."""
    shown = chain.header(10)
    proofs = [
        Answer((proof if right else attrs.evolve(proof, value=b"another")).encode(), right)
        for proof, right in zip(state.proofs, RIGHTS, strict=True)
    ]

    def believe(data: bytes) -> object:
        return check_state(shown, shown.root_height, smt.Proof.decode(data))

    return Case("account_under_header", believe, proofs)


def _pair(header: BlockHeader, proof: FinalityProof) -> bytes:
    return header.encode() + proof.encode()


def _believe_header(trusted: Trusted, data: bytes) -> None:
    header = BlockHeader.decode(data[:HEADER_BYTES])
    check_header(trusted, header, FinalityProof.decode(data[HEADER_BYTES:]))
