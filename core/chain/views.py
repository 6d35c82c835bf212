"""What a node answers about its chain: frozen values, as of one height. Surfaces render them.

Amounts are base units; times are UTC milliseconds; ids and digests are 32 bytes.
"""

from collections.abc import Mapping

import attrs

from supervm.types.block import BlockHeader
from supervm.types.receipt import Receipt, Status
from supervm.types.smt import Proof
from supervm.types.transaction import Lane


@attrs.frozen(kw_only=True)
class Admitted:
    """A transaction that was taken: checked and in the mempool, not durable.

    `lane` is the name of the one it takes. `duplicate`: it was here, or in a block, before; `status` says
    how it stands, and nothing changed.
    """

    digest: bytes
    lane: str
    duplicate: bool = False
    status: Status = Status.PENDING


@attrs.frozen(kw_only=True)
class LedgerStatus:
    """The tip, and what waits. `timestamp_ms` is the tip's; blocks are whole from `oldest_block` up."""

    chain_id: bytes
    height: int
    block_digest: bytes
    epoch: int
    timestamp_ms: int
    root_height: int
    state_root: bytes
    base_price: int
    mempool_transactions: int
    mempool_bytes: int
    mempool_ready: int
    development: bool
    oldest_block: int = 0


@attrs.frozen(kw_only=True)
class SnapshotView:
    """A snapshot that this node keeps: see `supervm.storage.snapshot_format`. `digest` is its manifest's."""

    name: str
    height: int
    state_root: bytes
    first_block: int
    created_ms: int
    size_bytes: int
    chunks: int
    digest: bytes
    pinned: bool


@attrs.frozen(kw_only=True)
class AccountView:
    """An account at `height`; `pending_nonce` is the first nonce that no transaction here has.

    `balances` holds the native token and every other one that is not zero, in token order; `more` is the
    token after which it was cut, None where it is whole.
    """

    address: bytes
    height: int
    nonce: int
    sponsor_nonce: int
    pending_nonce: int
    balances: Mapping[bytes, int]
    more: bytes | None = None


@attrs.frozen(kw_only=True)
class TransactionView:
    """What became of a transaction; `receipt`, `height` and `index` once it is in a block.

    `lane` and `data` (its canonical bytes) are there where the node has it, in the mempool or the chain.
    UNKNOWN: this node never had it, dropped it, or restarted before it was in a block.
    `effects_certificate` proves one CERTIFIED, as its engine encodes it. `equivocation`: this transaction and
    another that its sender signed for the same nonce or object version: neither may get any further before
    the epoch ends (CONS-16).
    """

    digest: bytes
    status: Status
    lane: Lane | None = None
    height: int | None = None
    index: int | None = None
    receipt: Receipt | None = None
    data: bytes | None = None
    effects_certificate: bytes | None = None
    equivocation: tuple[bytes, bytes] | None = None


@attrs.frozen(kw_only=True)
class BlockView:
    """A block with its certificate, as the engine's light clients check it, and transaction digests."""

    digest: bytes
    header: BlockHeader
    certificate: bytes
    transactions: tuple[bytes, ...]


@attrs.frozen(kw_only=True)
class ProofView:
    """A state entry, or its absence, proven against `header.state_root` (of `header.root_height`)."""

    header: BlockHeader
    certificate: bytes
    proof: Proof
