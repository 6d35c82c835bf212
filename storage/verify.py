"""Checking a ledger against itself: state against tree, and the chain against its own execution.

Nothing here repairs. Each check names the first thing that is not as it must be.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol, cast

import attrs
import trio

from supervm.contracts.gas import GasPolicy
from supervm.contracts.storage import KeyValueStore
from supervm.storage.creation import GAS_KEY
from supervm.storage.errors import ChainMismatch
from supervm.storage.ledger import Ledger, open_ledger
from supervm.storage.loading import Progress
from supervm.storage.pages import HASH_BYTES, SLOTS, Slots, slot_node
from supervm.storage.spaces import STATE, TREE, CommitMarker, corrupt, header_key, unseal
from supervm.storage.tree import SLICES, Change, build_slice, node_at
from supervm.types import merkle, smt
from supervm.types.block import Block, BlockHeader
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.receipt import Receipt

CHECKED_TOGETHER = 64
LEAVES_MAX = 250_000  # held at once, about 60 MB
PART_DEPTH = 3
PARTS = SLOTS**PART_DEPTH  # of the tree; the least that is held at once
PARTS_LOADED = 1_024


async def verify_tree(ledger: Ledger, progress: Progress | None = None) -> int:
    """Recompute the whole state root from the flat state; the number of entries.

    Each of 4,096 parts of the tree must hash to what the stored tree says, and that must lead to the state
    root of the commit marker. A state too large for one pass is read again for each range of parts that
    fits in memory. Raises `StoreCorrupt` naming the entry, page or slice.
    """
    return await _verify_parts(ledger, 0, PARTS, progress)


async def verify_slice(ledger: Ledger, first: int) -> int:
    """Recompute the 1/256 of the state whose kh begin with the byte `first` (STO-37); its entries.

    Reads the whole flat state, hashes 1/256 of it. Raises as `verify_tree` does.
    """
    of_slice = PARTS // SLICES
    return await _verify_parts(ledger, first * of_slice, (first + 1) * of_slice)


async def _verify_parts(ledger: Ledger, first: int, end: int, progress: Progress | None = None) -> int:
    entries = 0
    while first < end:
        first, found = await _verify_some(ledger, first, end)
        entries += found
        if progress is not None:
            progress(first, end)
    return entries


async def _verify_some(ledger: Ledger, first: int, end: int) -> tuple[int, int]:
    """Check parts from `first` to as near `end` as memory allows: the end reached, entries checked."""
    async with ledger.view() as (view, marker, _):
        parts: dict[int, list[Change]] = {number: [] for number in range(first, end)}
        held = 0
        scan = cast("AsyncGenerator[tuple[bytes, bytes], None]", view.scan(STATE, bytes([STATE[0] + 1])))
        async with aclosing(scan) as rows:
            async for row, stored in rows:
                path = smt.key_hash(row[1:])
                part = path[0] << 4 | path[1] >> 4
                if part not in parts:
                    continue
                parts[part].append((path, path + smt.value_hash(unseal(row, stored))))
                held += 1
                while held > LEAVES_MAX and len(parts) > 1:
                    end -= 1
                    held -= len(parts.pop(end))
        for at in range(first, end, PARTS_LOADED):
            some = {number: parts[number] for number in range(at, min(at + PARTS_LOADED, end))}
            pages = await ledger.load_pages(marker, [_path(number) for number in some], view)
            wrong = await trio.to_thread.run_sync(_wrong_part, pages, marker.height, some)
            if wrong is not None:
                byte = wrong * SLICES // PARTS
                raise corrupt(TREE, f"state entries whose hash begins with {byte:02x} don't make its root")
        return end, held


def _path(part: int) -> bytes:
    """The first kh of a part."""
    return (part << 4).to_bytes(2, "big").ljust(HASH_BYTES, b"\x00")


def _wrong_part(pages: Mapping[bytes, Slots], height: int, parts: Mapping[int, list[Change]]) -> int | None:
    """The first part whose entries make another node than the tree has."""
    for number, leaves in parts.items():
        leaves.sort()
        slot, _ = build_slice(leaves, height, PART_DEPTH)
        if slot_node(slot) != node_at(pages, height, _path(number), PART_DEPTH):
            return number
    return None


class Outcome(Protocol):
    """What executing a block gives."""

    @property
    def changes(self) -> Mapping[bytes, bytes | None]: ...
    @property
    def receipts(self) -> Sequence[Receipt]: ...


@attrs.frozen(kw_only=True)
class Replay:
    """How the chain's owner executes and judges a block.

    `touched`: every state key that execution may look at. `execute(state, block)`: pure; `state` holds
    the touched keys that have an entry. `check_certificate(header, certificate)`: raises `InvalidInput`
    where it doesn't prove the block final. All three run in threads.
    """

    touched: Callable[[Block], Collection[bytes]]
    execute: Callable[[Mapping[bytes, bytes], Block], Outcome]
    check_certificate: Callable[[BlockHeader, bytes], None]


@attrs.frozen
class Verified:
    """Progress: blocks up to `height` of `tip` agree; `transactions` so far."""

    height: int
    tip: int
    transactions: int


@attrs.frozen
class _Roots:
    """What the headers to come may show of a height."""

    state: bytes
    receipts: bytes
    base_price: int


async def verify_chain(
    ledger: Ledger, scratch: KeyValueStore, genesis: Genesis, gas: GasPolicy, replay: Replay
) -> AsyncGenerator[Verified, None]:
    """Execute the stored chain again from genesis, and compare every root, receipt and certificate.

    `scratch` is an empty store, which ends with a second copy of the ledger: it bounds what is in memory,
    and any backend will do. Yields after each block. Raises `ChainMismatch` naming height, what differs
    and both values; `StoreCorrupt` for what can't be read.
    """
    gas_state = gas.initial_state()
    price = gas.base_price(gas_state)
    tip = ledger.tip
    # All of it by the specification, the tree too: what C made is judged by another.
    async with open_ledger(scratch, genesis, gas_state, price, scratch=True, native_tree=False) as twin:
        assert twin.tip.height == 0, "the scratch store is not empty"
        parent = twin.tip_header
        _same(0, "genesis block", parent.digest(), (await _header(ledger, 0)).digest())
        roots = {0: _Roots(twin.tip.state_root, merkle.EMPTY_ROOT, price)}
        transactions = 0
        yield Verified(0, tip.height, 0)
        async with aclosing(ledger.each_block(1)) as blocks:
            async for block in blocks:
                await _replay_block(ledger, twin, block, parent, gas, replay, roots)
                await ledger.check_index(block.header.height)
                parent = block.header
                transactions += sum(len(batch.transactions) for batch in block.batches)
                yield Verified(parent.height, tip.height, transactions)
                if parent.height == tip.height:
                    break
        _same(tip.height, "state root of the commit marker", twin.tip.state_root, tip.state_root)
        _same(tip.height, "receipts root of the commit marker", twin.tip.receipts_root, tip.receipts_root)


class StoredBlocks(Protocol):
    """What `verify_kept` reads: a ledger, or what will be one. All must be there up to the tip."""

    async def header(self, height: int) -> BlockHeader | None: ...
    async def certificate(self, height: int) -> bytes | None: ...
    async def block(self, which: int) -> Block | None: ...
    async def stored_receipts(self, height: int) -> list[Receipt] | None: ...


async def verify_kept(
    stored: StoredBlocks,
    tip: CommitMarker,
    oldest: int,
    check_certificate: Callable[[BlockHeader, bytes], None] | None,
) -> AsyncGenerator[Verified, None]:
    """Check a chain whose old blocks are pruned, as far as that goes without executing it.

    Every header must follow the one before and, where they are checked, have a certificate that proves it
    final, up to the one that the tip's marker names; every block from height `oldest` up, the ones that are
    kept, must be whole and its receipts those that its header, or a later one, shows. Yields each height.
    Raises as `verify_chain` does. The state is `verify_tree`'s to check. Certificates are checked some at
    once, a few heights later than the rest.
    """
    parent = await _header(stored, 0)
    if oldest == 0:
        assert await stored.block(0) is not None, "it is there, or said to be damaged"
    unproven: list[tuple[BlockHeader, bytes]] = []
    receipts_roots: dict[int, bytes] = {}
    transactions = 0
    for height in range(1, tip.height + 1):
        header = await _header(stored, height)
        _same(height, "parent", parent.digest(), header.parent)
        _same(height, "chain id", parent.chain_id, header.chain_id)
        if check_certificate is not None:
            unproven.append((header, await stored.certificate(height) or b""))
            if len(unproven) == CHECKED_TOGETHER or height == tip.height:
                await trio.to_thread.run_sync(_check_certificates, unproven, check_certificate)
                unproven = []
        if height >= oldest:
            block, receipts = await stored.block(height), await stored.stored_receipts(height)
            assert block is not None and receipts is not None, height
            transactions += sum(len(batch.transactions) for batch in block.batches)
            receipts_roots[height] = merkle.plain_root([receipt.encode() for receipt in receipts])
            if height == tip.height:
                _same(height, "receipts root of the marker", receipts_roots[height], tip.receipts_root)
        covered = range(parent.root_height + 1, header.root_height + 1)
        if all(each in receipts_roots for each in covered):
            shown = merkle.plain_root([receipts_roots.pop(each) for each in covered])
            _same(height, "receipts root", shown, header.receipts_root)
        parent = header
        yield Verified(height, tip.height, transactions)
    _same(tip.height, "block digest of the marker", parent.digest(), tip.block_digest)


async def _check_certificate(
    stored: StoredBlocks, header: BlockHeader, check: Callable[[BlockHeader, bytes], None]
) -> None:
    certificate = await stored.certificate(header.height) or b""
    await trio.to_thread.run_sync(_check_certificates, [(header, certificate)], check)


def _check_certificates(
    given: Sequence[tuple[BlockHeader, bytes]], check: Callable[[BlockHeader, bytes], None]
) -> None:
    for header, certificate in given:
        try:
            check(header, certificate)
        except InvalidInput as error:
            raise ChainMismatch(
                header.height, "certificate", "one that proves the block final", str(error)
            ) from error


async def _header(stored: StoredBlocks, height: int) -> BlockHeader:
    header = await stored.header(height)
    if header is None:
        raise corrupt(header_key(height), "it is missing")
    return header


async def _replay_block(
    ledger: Ledger,
    twin: Ledger,
    block: Block,
    parent: BlockHeader,
    gas: GasPolicy,
    replay: Replay,
    roots: dict[int, _Roots],
) -> None:
    """Execute one block on the twin and compare; `roots` gains its height and loses what is shown."""
    header = block.header
    height = header.height
    _same(height, "parent", parent.digest(), header.parent)
    _same(height, "chain id", parent.chain_id, header.chain_id)
    certificate = await ledger.certificate(height) or b""
    await _check_certificate(ledger, header, replay.check_certificate)
    touched = await trio.to_thread.run_sync(replay.touched, block)
    found = await twin.get_state({GAS_KEY, *touched})
    state = {key: value for key, value in found.items() if value is not None}
    outcome = await trio.to_thread.run_sync(replay.execute, state, block)
    _same_receipts(height, outcome.receipts, await ledger.stored_receipts(height) or [])
    staged = await twin.stage(outcome.changes, height)
    gas_state = outcome.changes.get(GAS_KEY) or state[GAS_KEY]
    roots[height] = _Roots(
        staged.root,
        merkle.plain_root([each.encode() for each in outcome.receipts]),
        gas.base_price(gas_state),
    )
    _check_roots(header, parent, roots)
    await twin.commit(block, outcome.receipts, certificate, staged)


def _check_roots(header: BlockHeader, parent: BlockHeader, roots: dict[int, _Roots]) -> None:
    """What a header shows of an executed height (CONS-30), against what that height gave here."""
    shown = header.root_height
    if not parent.root_height <= shown <= header.height:
        raise ChainMismatch(header.height, "root height", f"from {parent.root_height}", str(shown))
    _same(header.height, f"state root of height {shown}", roots[shown].state, header.state_root)
    covered = [roots[height].receipts for height in range(parent.root_height + 1, shown + 1)]
    _same(header.height, "receipts root", merkle.plain_root(covered), header.receipts_root)
    price = roots[shown].base_price
    if header.base_price != price:
        raise ChainMismatch(header.height, "base price", str(price), str(header.base_price))
    for height in range(parent.root_height, shown):
        del roots[height]


def _same_receipts(height: int, computed: Sequence[Receipt], stored: Sequence[Receipt]) -> None:
    if len(computed) != len(stored):
        raise ChainMismatch(height, "number of receipts", str(len(computed)), str(len(stored)))
    for number, (ours, theirs) in enumerate(zip(computed, stored, strict=True)):
        if ours != theirs:
            raise ChainMismatch(height, f"receipt {number}", str(ours), str(theirs))


def _same(height: int, what: str, computed: bytes, stored: bytes) -> None:
    if computed != stored:
        raise ChainMismatch(height, what, f"0x{computed.hex()}", f"0x{stored.hex()}")
