"""Chains for the ledger's tests: a genesis, blocks whose transactions set state keys, stores that fail."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from blake3 import blake3

from supervm.contracts.storage import DeleteRange, Durability, KeyValueStore, Operation, StoreFailed
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy
from supervm.storage.ledger import Ledger, open_ledger
from supervm.testing.context import opened
from supervm.types import merkle
from supervm.types.batch import Batch, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.genesis import Genesis
from supervm.types.receipt import Receipt, Status
from supervm.types.state import Account, account_key
from supervm.types.transaction import Lane
from supervm.types.validators import Validator, ValidatorSet

GAS = FlatPolicy(FlatConfig())
GAS_STATE = GAS.initial_state()
BASE_PRICE = GAS.base_price(GAS_STATE)
CERTIFICATE = b"final"
ZERO = bytes(32)


def address(number: int) -> bytes:
    return blake3(b"address" + number.to_bytes(8, "big")).digest()


def make_genesis(name: str = "test", accounts: int = 3) -> Genesis:
    validator = Validator(node_id=b"\x01" * 32, public_key=b"\x02" * 32, weight=1)
    entries = sorted((address(number), 1000 + number) for number in range(accounts))
    return Genesis(
        name=name,
        created_ms=1_700_000_000_000,
        validators=ValidatorSet((validator,)),
        accounts=tuple(entries),
    )


GENESIS = make_genesis()


def set_balance(number: int, balance: int) -> bytes:
    """A transaction of these tests: a state key of 33 bytes and its new value; none removes it."""
    value = Account(balance=balance).encode() if balance else b""
    return account_key(address(number)) + value


def changes_of(transactions: Sequence[bytes]) -> dict[bytes, bytes | None]:
    return {data[:33]: data[33:] or None for data in transactions}


def digest_of(data: bytes) -> bytes:
    return blake3(data).digest()


def receipts_of(height: int, transactions: Sequence[bytes]) -> list[Receipt]:
    return [
        Receipt(
            digest=digest_of(data),
            lane=Lane.ORDERED,
            status=Status.COMMITTED,
            gas_used=len(data),
            gas_token=ZERO,
            height=height,
            index=index,
        )
        for index, data in enumerate(transactions)
    ]


def make_block(
    before: BlockHeader,
    root: bytes,
    receipts: Sequence[Receipt],
    batches: Sequence[Sequence[bytes]],
    **header: Any,
) -> Block:
    made, certificates = [], []
    for sequence, transactions in enumerate(batches):
        batch = batch_header(
            chain_id=before.chain_id,
            epoch=1,
            builder=b"\x01" * 32,
            sequence=sequence,
            transactions=transactions,
            gas=0,
        )
        made.append(Batch(batch, bytes(64), tuple(transactions)))
        certificates.append(BatchCertificate(batch, bytes(64), b"\x01", (bytes(64),)))
    body = BlockBody(certificates=tuple(certificates))
    facts: dict[str, Any] = {
        "chain_id": before.chain_id,
        "epoch": 1,
        "height": before.height + 1,
        "parent": before.digest(),
        "proposer": b"\x01" * 32,
        "timestamp_ms": before.timestamp_ms + 1,
        "root_height": before.height + 1,
        "state_root": root,
        "receipts_root": merkle.root([merkle.root([each.encode() for each in receipts])]),
        "base_price": BASE_PRICE,
        "transactions_root": body.transactions_root(),
        "body_digest": body.digest(),
        "validators_digest": before.validators_digest,
    }
    return Block(BlockHeader(**{**facts, **header}), body, tuple(made))


async def add_block(ledger: Ledger, *batches: Sequence[bytes], **header: Any) -> Block:
    """Commit a block of these batches, whose transactions set the state keys that they name."""
    batches = tuple(batch for batch in batches if batch)
    transactions = [data for batch in batches for data in batch]
    height = ledger.tip.height + 1
    receipts = receipts_of(height, transactions)
    staged = await ledger.stage(changes_of(transactions), height)
    block = make_block(ledger.tip_header, staged.root, receipts, batches, **header)
    await ledger.commit(block, receipts, CERTIFICATE, staged)
    return block


@asynccontextmanager
async def opened_store(backend: str, path: Path) -> AsyncIterator[KeyValueStore]:
    """A real storage component, alone. `path` holds a persistent one across openings."""
    module = __import__(f"supervm.plugins.storage.{backend}", fromlist=[backend])
    async with opened(getattr(module, backend), path) as store:
        yield store


def ledger_on(store: KeyValueStore, genesis: Genesis = GENESIS, **options: Any) -> Any:
    return open_ledger(store, genesis, GAS_STATE, BASE_PRICE, **options)


async def rows_of(store: KeyValueStore) -> dict[bytes, bytes]:
    return {key: value async for key, value in store.scan()}


@attrs.define
class FailingStore:
    """A store whose write number `fail_at` (from 0) fails before or after the real one happens."""

    inner: KeyValueStore
    fail_at: int
    after: bool
    error: BaseException = attrs.Factory(lambda: StoreFailed("injected failure"))
    writes: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write(self, batch: Sequence[Operation], durability: Durability = Durability.DURABLE) -> None:
        number = self.writes
        self.writes += 1
        if number == self.fail_at and not self.after:
            raise self.error
        await self.inner.write(batch, durability)
        if number == self.fail_at:
            raise self.error


def state_of(genesis_state: Mapping[bytes, bytes], *blocks: Sequence[bytes]) -> dict[bytes, bytes]:
    """The state that these blocks' transactions leave, by plain dictionary."""
    state = dict(genesis_state)
    for transactions in blocks:
        for key, value in changes_of(transactions).items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    return state


def space_range(space: bytes) -> DeleteRange:
    return DeleteRange(space, bytes([space[0] + 1]))
