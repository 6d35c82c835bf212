"""Blocks of transfers without consensus: executed, staged and committed by a ledger; nobody signs them."""

from collections.abc import Sequence

import attrs
import trio

from supervm.bench.errors import CantMeasure
from supervm.bench.packing import CHAIN_ID
from supervm.bench.pairs import Clock
from supervm.config import PluginsConfig
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import Role
from supervm.execution import GAS_STATE_KEY, BlockInput, BlockResult
from supervm.execution.engine import BlockEngine, choose_engine
from supervm.kernel.component import Component
from supervm.node.catalogue import read_catalogue
from supervm.storage.ledger import Ledger
from supervm.types.batch import BATCH_BYTES_MAX, Batch, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.genesis import Genesis
from supervm.types.limits import DEFAULT_LIMITS
from supervm.types.packed_receipts import heads_of
from supervm.types.receipt import Status
from supervm.types.transaction import Transaction
from supervm.types.validators import Validator, ValidatorSet

NODE = b"\x01" * 32


def component_of(role: Role, name: str) -> Component:
    """One of the default composition's."""
    known = read_catalogue(PluginsConfig()).named(role)
    if name not in known:
        raise CantMeasure(f"there is no {role.value} {name}; there are {', '.join(sorted(known))}")
    component: Component = known[name].component
    return component


def genesis_of(accounts: Sequence[bytes], balance: int) -> Genesis:
    """A genesis that gives each of these addresses as much."""
    validator = Validator(node_id=NODE, public_key=bytes(32), weight=1)
    funded = tuple(sorted((each, balance) for each in accounts))
    return Genesis(name="bench", created_ms=0, validators=ValidatorSet((validator,)), accounts=funded)


async def execute(
    engine: BlockEngine, ledger: Ledger, gas: GasPolicy, transactions: Sequence[Transaction]
) -> BlockResult:
    """What the block after the ledger's tip comes to with these transactions."""
    gas_state = (await ledger.get_state([GAS_STATE_KEY]))[GAS_STATE_KEY]
    assert gas_state is not None, "genesis puts the gas policy's state there"
    block = BlockInput(
        height=ledger.tip.height + 1,
        epoch=1,
        timestamp_ms=ledger.tip_header.timestamp_ms + 1,
        chain_id=CHAIN_ID,
        limits=DEFAULT_LIMITS,
        transactions=tuple(transactions),
    )
    with engine.open_block(block, gas, gas_state) as run:
        asked = run.missing()
        found = await ledger.get_state(asked)
        run.supply([found[key] for key in asked])
        return await trio.to_thread.run_sync(run.execute)


@attrs.define
class Maker:
    """Makes block after block on one ledger."""

    ledger: Ledger
    gas: GasPolicy
    engine: BlockEngine

    @classmethod
    def on(cls, ledger: Ledger, gas: GasPolicy, cache_bytes: int) -> "Maker":
        """With an engine of one thread that keeps at most so much of the state."""
        engine = choose_engine(native=True, threads=1, bytes_max=cache_bytes, seed=bytes(32))
        return cls(ledger, gas, engine)

    async def next(self, raw: Sequence[bytes]) -> float:
        """Commit a block of these transactions; how many seconds its staging and commit took.

        Raises WrongBlock where one of them isn't committed.
        """
        result = await execute(self.engine, self.ledger, self.gas, [Transaction.decode(each) for each in raw])
        wrong = next(
            (head for head in heads_of(result.receipts) if head.status is not Status.COMMITTED), None
        )
        if wrong is not None:
            raise WrongBlock(f"block {self.ledger.tip.height + 1}: a transfer of the plan wasn't committed")
        clock, height = Clock(), self.ledger.tip.height + 1
        with clock:
            staged = await self.ledger.stage(result.changes, height)
        block = make_block(self.ledger.tip_header, staged.root, raw)
        with clock:
            await self.ledger.commit(block, result.receipts, b"", staged)
        self.engine.follow(result.changes)
        return clock.seconds


class WrongBlock(Exception):
    """A block isn't what the plan says; the text goes to the oracle."""


def make_block(parent: BlockHeader, root: bytes, transactions: Sequence[bytes]) -> Block:
    """The block after `parent` with these transactions, in batches; nobody has signed it."""
    batches: list[Batch] = []
    first = 0
    while first < len(transactions):
        end, size_bytes = first, 0
        while end < len(transactions) and size_bytes + len(transactions[end]) <= BATCH_BYTES_MAX:
            size_bytes += len(transactions[end])
            end += 1
        some = tuple(transactions[first:end])
        header = batch_header(
            chain_id=parent.chain_id, epoch=1, builder=NODE, sequence=len(batches), transactions=some, gas=0
        )
        batches.append(Batch(header, bytes(64), some))
        first = end
    certificates = [BatchCertificate(each.header, bytes(64), b"\x01", (bytes(64),)) for each in batches]
    body = BlockBody(certificates=tuple(certificates))
    sealing = BlockHeader(
        chain_id=parent.chain_id,
        epoch=1,
        height=parent.height + 1,
        parent=parent.digest(),
        proposer=NODE,
        timestamp_ms=parent.timestamp_ms + 1,
        root_height=parent.height + 1,
        state_root=root,
        receipts_root=bytes(32),
        base_price=parent.base_price,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=parent.validators_digest,
    )
    return Block(sealing, body, tuple(batches))
