"""A chain whose every answer is known beforehand, and all the questions that a ledger may be asked of it."""

import random
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import attrs
import trio

from supervm.contracts.storage import StorageError
from supervm.storage.errors import Pruned
from supervm.storage.ledger import Ledger
from supervm.storage.verify import verify_tree
from supervm.types import smt
from supervm.types.genesis import genesis_state
from supervm.types.receipt import Receipt
from supervm.types.state import account_key, system_key
from tests.storage.ledger_support import (
    CERTIFICATE,
    GAS_STATE,
    add_block,
    address,
    changes_of,
    digest_of,
    make_genesis,
    receipts_of,
    set_balance,
)


class StillClock:
    """A clock that stands, so that the same work is the same calls on any machine."""

    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    async def sleep(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()


CLOCK = StillClock()
ACCOUNTS = 24
GENESIS = make_genesis("faults", ACCOUNTS)
NEVER = [account_key(address(number)) for number in range(9_000, 9_004)]
"""Accounts that the chain never has."""


@cache
def transactions_at(height: int) -> tuple[bytes, ...]:
    """Some accounts set, one new, an earlier one removed. No transaction comes twice."""
    chance = random.Random(height)
    changed = [set_balance(number, height * 100 + number) for number in chance.sample(range(ACCOUNTS), 5)]
    return (*changed, set_balance(100 + height, height), set_balance(99 + height, 0))


@cache
def state_at(height: int) -> dict[bytes, bytes]:
    """The state after a height."""
    if height == 0:
        return {**genesis_state(GENESIS), system_key(b"gas"): GAS_STATE}
    state = dict(state_at(height - 1))
    for key, value in changes_of(transactions_at(height)).items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    return state


async def grow(ledger: Ledger) -> int:
    """Commit the block that follows; its height."""
    height = ledger.tip.height + 1
    transactions = transactions_at(height)
    await add_block(ledger, transactions[:4], transactions[4:])
    return height


@attrs.define
class Answers:
    """What a ledger answered. `wrong` is in words: other than the chain has it, or no `StorageError`.

    `lacking` is what a search didn't find and should have: an index or a range can't prove that it is whole.
    """

    right: int = 0
    refused: list[StorageError] = attrs.Factory(list)
    lacking: list[str] = attrs.Factory(list)
    wrong: list[str] = attrs.Factory(list)

    async def ask(
        self,
        what: str,
        question: Callable[[], Awaitable[Any]],
        truth: Any,
        lacks: Callable[[Any], bool] = lambda found: False,
    ) -> None:
        try:
            found = await question()
        except StorageError as error:
            self.refused.append(error)
        except Exception as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")
        else:
            if found == truth:
                self.right += 1
            elif lacks(found):
                self.lacking.append(what)
            else:
                self.wrong.append(f"{what}: {found!r:.200}, not {truth!r:.200}")


async def ask_everything(ledger: Ledger, pruned: int = 0) -> Answers:
    """Every question there is, judged. `pruned`: the highest horizon that was ever asked for."""
    answers = Answers()
    tip = ledger.tip.height
    state = state_at(tip)
    gone = {account_key(address(99 + height)) for height in range(2, tip + 1)}
    for key in [*state, *gone - state.keys(), *NEVER]:
        await answers.ask(f"state {key.hex()}", lambda key=key: _value(ledger, key), state.get(key))
        await answers.ask(f"proof {key.hex()}", lambda key=key: _proven(ledger, key), state.get(key))
    await answers.ask(
        "all accounts", lambda: _scanned(ledger), state, lambda found: found.items() < state.items()
    )
    headers: dict[int, Any] = {}
    for height in range(tip + 1):
        await _ask_of_height(ledger, height, pruned, answers, headers)
    await answers.ask("a block above the tip", lambda: ledger.block(tip + 1), None)
    digests = [digest_of(data) for height in range(1, tip + 1) for data in transactions_at(height)]
    unknown = [digest_of(b"never sent")]
    await answers.ask(
        "known", lambda: ledger.known([*digests, *unknown]), set(digests), lambda found: found < set(digests)
    )
    await answers.ask("a transaction never sent", lambda: ledger.transaction(unknown[0]), None)
    return answers


async def _ask_of_height(
    ledger: Ledger, height: int, pruned: int, answers: Answers, headers: dict[int, Any]
) -> None:
    transactions = transactions_at(height) if height else ()
    held: list[Receipt] = receipts_of(height, transactions) if height else []

    async def unless_pruned(question: Callable[[], Awaitable[Any]], truth: Any) -> Any:
        try:
            return await question()
        except Pruned as error:
            return truth if error.height == height < pruned else error

    async def header() -> Any:
        headers[height] = found = await ledger.header(height)
        return found.height, found.parent == headers[height - 1].digest() if height else True

    async def block() -> Any:
        found = await ledger.block(height)
        return found.header.height, [data for batch in found.batches for data in batch.transactions]

    async def located(digest: bytes) -> Any:
        found = await ledger.transaction(digest)
        return None if found is None else (found.height, found.index, found.data, found.receipt)

    if height == 0 or height - 1 in headers:
        await answers.ask(f"header {height}", header, (height, True))
    await answers.ask(
        f"certificate {height}", lambda: ledger.certificate(height), CERTIFICATE if height else b""
    )
    shown = height, list(transactions)
    await answers.ask(f"block {height}", lambda: unless_pruned(block, shown), shown)
    await answers.ask(
        f"receipts {height}", lambda: unless_pruned(lambda: ledger.receipts(height), held), held
    )
    for index, data in enumerate(transactions):
        truth = (height, index, data, held[index])
        digest = digest_of(data)
        await answers.ask(
            f"transaction {height}/{index}",
            lambda digest=digest, truth=truth: unless_pruned(lambda: located(digest), truth),
            truth,
            lambda found: found is None,
        )


async def _value(ledger: Ledger, key: bytes) -> bytes | None:
    return (await ledger.get_state([key]))[key]


async def _proven(ledger: Ledger, key: bytes) -> bytes | None:
    header, proof = await ledger.prove(key)
    smt.verify(header.state_root, proof)
    assert proof.key == key, "a proof of another key"
    return proof.value


async def _scanned(ledger: Ledger) -> dict[bytes, bytes]:
    return dict(await ledger.scan_state(b""))


async def verified(ledger: Ledger) -> bool:
    """Whether the tree is that of the whole state, and the index that of every block that is kept."""
    try:
        await verify_tree(ledger)
        for height in range(ledger.horizon.blocks, ledger.tip.height + 1):
            await ledger.check_index(height)
    except StorageError:
        return False
    return True
