"""`bench messages`: what validators send for a block, a batch and a transaction, by their number (CONS-99).

Counted are the frames that whole validators hand to a virtual network without faults, each once for every
peer it is sent to, with what they send again. Bytes are those of frames; a transport adds its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import click

from supervm.bench.growth import exponent
from supervm.bench.report import BenchResult
from supervm.cli.bench_options import count, seed
from supervm.cli.bench_result import finish
from supervm.cli.output import json_option, progress
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.driver.posting import unpack
from supervm.plugins.consensus.simulation import turns
from supervm.plugins.consensus.simulation.plan import USERS, Ask, Plan, Request
from supervm.plugins.consensus.simulation.trace import Trace
from supervm.plugins.consensus.simulation.world import World

SIZES = (4, 7, 10, 16, 31)
SETTLE_S = 3.0
APART_S = 0.5

KINDS = {
    messages.BATCH: "batch",
    messages.ACCEPT: "accept",
    messages.REFUSE: "refuse",
    messages.BATCH_CERTIFICATE: "batch certificate",
    messages.EFFECTS: "effects",
    messages.EFFECTS_CERTIFICATE: "effects certificate",
    messages.PROPOSAL: "proposal",
    messages.NOTARIZE: "notarize",
    messages.NULLIFY: "nullify",
    messages.FINALIZE: "finalize",
    messages.NOTARISATION: "notarisation",
    messages.NULLIFICATION: "nullification",
    messages.FINALISATION: "finalisation",
}
OTHER = "other"
ORDERING = frozenset(KINDS[kind] for kind in range(messages.PROPOSAL, messages.EPOCH_DONE))
"""Sent for blocks; what is before them in `KINDS` is sent for batches."""


@attrs.frozen(kw_only=True)
class Counts:
    """Of one run. `sent`: kind to (messages, bytes). `problem` is empty, or what an oracle said."""

    validators: int
    blocks: int
    batches: int
    transactions: int
    sent: Mapping[str, tuple[int, int]]
    problem: str

    def total(self, kinds: frozenset[str]) -> tuple[int, int]:
        """Messages and bytes of these kinds together."""
        found = [self.sent.get(kind, (0, 0)) for kind in kinds]
        return sum(each for each, _ in found), sum(each for _, each in found)

    def facts(self) -> dict[str, Any]:
        block, batch = self.total(ORDERING), self.total(frozenset(self.sent) - ORDERING)
        blocks, batches, transactions = max(self.blocks, 1), max(self.batches, 1), max(self.transactions, 1)
        return {
            "blocks": self.blocks,
            "batches": self.batches,
            "transactions": self.transactions,
            "messages_a_block": round(block[0] / blocks, 1),
            "bytes_a_block": round(block[1] / blocks),
            "messages_a_batch": round(batch[0] / batches, 1),
            "bytes_a_batch": round(batch[1] / batches),
            "messages_a_transaction": round((block[0] + batch[0]) / transactions, 2),
            "bytes_a_transaction": round((block[1] + batch[1]) / transactions),
            "by_kind": {kind: {"messages": each, "bytes": size} for kind, (each, size) in self.sent.items()},
        }


class _CountingWorld(World):
    """A world that counts what is sent until it heals; after that validators are only waited for."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, Trace(None))
        self.sent: dict[str, list[int]] = {}
        self.counted: tuple[int, int, int] = (0, 0, 0)

    def _sent(self, number: int, target: int, payload: bytes) -> None:
        super()._sent(number, target, payload)
        if not self.oracles.healed:
            for frame in unpack(payload):
                entry = self.sent.setdefault(KINDS.get(frame[0], OTHER), [0, 0])
                entry[0] += 1
                entry[1] += len(frame)

    async def _heal(self) -> None:
        oracles = self.oracles
        self.counted = (max(oracles.digests, default=0), len(oracles.ordered), len(oracles.transactions))
        await super()._heal()


def count_sent(validators: int, batches: int, transactions: int, seed: int) -> Counts:
    """Run so many validators, who get `batches` bursts of `transactions` transfers, each at another one."""
    requests = [
        Request(round((burst + 1) * APART_S, 6), each % USERS, Ask.TRANSFER, (burst % validators,))
        for burst in range(batches)
        for each in range(transactions)
    ]
    plan = Plan(
        seed=seed,
        profile="counted",
        weights=(1,) * validators,
        heal_s=batches * APART_S + SETTLE_S,
        requests=tuple(requests),
        work_ms=(0.0, 0.5),
    )
    world = _CountingWorld(plan)
    turns.run(world.main, f"counted/{validators}/{seed}")
    blocks, ordered, final = world.counted
    problem = f"{world.violated}: {world.problem}" if world.violated else ""
    if not problem and final != batches * transactions:
        problem = f"{final} of {batches * transactions} transactions were final when counting ended"
    return Counts(
        validators=validators,
        blocks=blocks,
        batches=ordered,
        transactions=final,
        sent={kind: (each, size) for kind, (each, size) in sorted(world.sent.items())},
        problem=problem,
    )


def growths(found: Sequence[Counts]) -> dict[str, float]:
    """With which power of the validators' number each figure grows."""
    sizes = [each.validators for each in found]
    facts = [each.facts() for each in found]
    names = [name for name in facts[0] if "_a_" in name]
    return {name: round(exponent(sizes, [each[name] for each in facts]), 2) for name in names}


class _Sizes(click.ParamType[tuple[int, ...]]):
    """Numbers of validators with commas between them."""

    name = "N,N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(int(each) for each in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} isn't numbers with commas, such as 4,7,10", param, ctx)
        if len(set(sizes)) != len(sizes) or len(sizes) < 2 or not all(4 <= each <= 64 for each in sizes):
            self.fail(f"{value!r}: two or more different numbers from 4 to 64", param, ctx)
        return sizes


@click.command("messages")
@click.option(
    "--validators", type=_Sizes(), default=SIZES, metavar="N,N", help="How many; two or more sizes."
)
@count("--batches", 8, "Bursts of transactions, each to another validator.")
@count("--transactions", 60, "Transfers of a burst.")
@seed("Of the network's delays.")
@json_option
def count_messages(
    validators: tuple[int, ...], batches: int, transactions: int, seed: int, as_json: bool
) -> None:
    """What validators send for a block, a batch and a transaction, and how it grows with their number.

    Whole validators on a virtual network and clock: figures are counts, the same on every machine.

    \b
    Example:
      supervm bench messages --validators 4,7,10
    """
    found = []
    with progress("messages", len(validators)) as bar:
        for each in validators:
            found.append(count_sent(each, batches, transactions, seed))
            bar.update(1)
    problems = [f"{each.validators} validators: {each.problem}" for each in found if each.problem]
    result = BenchResult(
        name="messages",
        parameters={"validators": list(validators), "batches": batches, "transactions": transactions},
        goodput=None,
        attempts=len(validators) * batches * transactions,
        failed=0,
        oracle="; ".join(problems) or "ok",
        extra={
            "sizes": {str(each.validators): each.facts() for each in found},
            "exponents": growths(found),
        },
    )
    finish(result, as_json)
