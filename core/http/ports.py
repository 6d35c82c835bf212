"""What the API asks of the rest of the node, and nothing more.

`Ledger` is fulfilled by what the APPLICATION component yields (`supervm.chain`), `NodeFacts` by the
node's assembly, which knows the kernel.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from supervm.contracts.application import NodeIdentity, Refused
from supervm.telemetry.metrics import Registry
from supervm.types.block import BlockHeader
from supervm.types.receipt import Receipt, Status
from supervm.types.smt import Proof
from supervm.types.state import Object, Token
from supervm.types.transaction import Lane


@attrs.frozen(kw_only=True)
class ComponentFacts:
    """One component as `GET /v1/plugins` shows it. `contract` is "MAJOR.MINOR"; `lease` None where it has none."""

    role: str
    name: str
    contract: str
    state: str
    health: str
    detail: str = ""
    restarts: int = 0
    breaker: str = "closed"
    isolation: str = "inline"
    lease: str | None = None


@attrs.frozen(kw_only=True)
class PluginFacts:
    """One plugin: `source` is where it was found, `digest` its content's, empty where none is kept."""

    id: str
    version: str
    source: str
    trust: str
    digest: str = ""
    components: tuple[ComponentFacts, ...] = ()


class NodeFacts(Protocol):
    """What the node knows of itself."""

    @property
    def metrics(self) -> Registry:
        """The node's one registry."""

    def tier(self) -> str:
        """L1, L2, L3 or L4."""

    def versions(self) -> Mapping[str, str]:
        """Name to version: at least `supervm`, `kernel` and `api`."""

    def composition(self) -> Mapping[str, Sequence[str]]:
        """Role to the names of its components."""

    def plugins(self) -> Sequence[PluginFacts]:
        """What is loaded, from where, how healthy."""

    def not_ready(self) -> Sequence[str]:
        """Why the node can't serve now, in words; empty when it can."""

    def health(self) -> str:
        """`ok`, `degraded` or `failing`: the worst of its components, by their roles' policies."""

    def peers(self) -> int:
        """Authenticated peers now."""

    def http_routes(self) -> Mapping[str, Sequence[Any]]:
        """Plugin id to the Starlette routes it adds; asked once, when the API opens."""


class Event(Protocol):
    """One of the event log's. Of kind `gap`, `id` is the last one lost, and nothing follows it."""

    @property
    def id(self) -> int: ...

    @property
    def kind(self) -> str: ...

    @property
    def data(self) -> Mapping[str, Any]: ...


class Events(Protocol):
    """The event log, see `supervm.chain.events`."""

    @property
    def last_id(self) -> int: ...

    def follow(self, after: int | None = None) -> AsyncIterator[Event]: ...


@attrs.frozen(kw_only=True)
class Admitted:
    """A transaction that was taken. `duplicate`: these very bytes were here before, nothing changed."""

    digest: bytes
    lane: str
    duplicate: bool = False


@attrs.frozen(kw_only=True)
class LedgerStatus:
    """The tip, and what waits. `timestamp_ms` is the tip's, UTC milliseconds."""

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


@attrs.frozen(kw_only=True)
class AccountView:
    """An account at `height`; `pending_nonce` is the first nonce that no transaction here has.

    `balances` holds the native token and every other one that is not zero, in token order; `more` is
    the token after which it was cut, None where it is whole.
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
    """What became of a transaction. `receipt` and `height` once it is in a block; `data` its bytes where kept."""

    digest: bytes
    status: Status
    lane: Lane | None = None
    height: int | None = None
    index: int | None = None
    receipt: Receipt | None = None
    data: bytes | None = None


@attrs.frozen(kw_only=True)
class BlockView:
    """A block as the API shows it: `certificate` as the engine's light clients check it, encoded."""

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


class Queries(Protocol):
    """Reads of committed state. None where there is nothing of that name; an account always is."""

    async def status(self) -> LedgerStatus: ...

    async def account(self, address: bytes) -> AccountView: ...

    async def object(self, object_id: bytes) -> Object | None: ...

    async def token(self, token: bytes) -> Token | None: ...

    async def transaction(self, digest: bytes) -> TransactionView: ...

    async def block(self, reference: int | bytes) -> BlockView | None: ...

    async def blocks(self, first: int, limit: int) -> Sequence[BlockView]:
        """Blocks from height `first` upward, at most `limit`; empty above the tip."""

    async def proof(self, key: bytes) -> ProofView:
        """A proof of a state key (`supervm.types.state`) at the newest root that a header shows."""


class Ledger(Protocol):
    """The APPLICATION component, as the API uses it."""

    @property
    def chain_id(self) -> bytes: ...

    @property
    def identity(self) -> NodeIdentity: ...

    @property
    def queries(self) -> Queries: ...

    @property
    def events(self) -> Events: ...

    async def submit(self, transactions: Sequence[bytes]) -> Sequence[Admitted | Refused]:
        """Take or refuse each, in order. Taken means: checked and in the mempool, not yet durable."""
