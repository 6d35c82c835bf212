"""What the API asks of the rest of the node, and nothing more.

`Ledger` is fulfilled by what the APPLICATION component yields (`supervm.chain`), `NodeFacts` by the
node's assembly, which knows the kernel.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from supervm.chain.views import (
    AccountView,
    Admitted,
    BlockView,
    LedgerStatus,
    ProofView,
    SnapshotView,
    TransactionView,
)
from supervm.contracts.application import EpochEnder, NodeIdentity, Refused
from supervm.contracts.storage import Tempered
from supervm.telemetry.metrics import Registry
from supervm.types.handover import HandOver
from supervm.types.state import Object, Token


@attrs.frozen(kw_only=True)
class ComponentFacts:
    """One component as `GET /v1/plugins` shows it. `contract` is "MAJOR.MINOR", `lease` may be None."""

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


class ComponentName(Protocol):
    """Which component something was done to."""

    @property
    def role(self) -> str: ...

    @property
    def name(self) -> str: ...


class PluginControl(Protocol):
    """What an operator may do to the plugins of a running node. One at a time; each names the components.

    Raises `PluginUnknown`, `HotPlugRefused` with the reason, `StartFailed` naming the component.
    """

    async def load(self, plugin_id: str) -> Sequence[ComponentName]:
        """Load an installed plugin; the components that opened."""

    async def unload(self, plugin_id: str) -> Sequence[ComponentName]:
        """Drain a plugin, close it and forget its hooks; the components that closed."""

    async def reset(self, plugin_id: str) -> Sequence[ComponentName]:
        """Try what waits or is broken again now; the components that are tried."""


class MoveState(Protocol):
    """A move of the node's store to another backend: `phase` is a name, `problem` why it failed."""

    @property
    def to(self) -> str: ...

    @property
    def phase(self) -> str: ...

    @property
    def rows(self) -> int: ...

    @property
    def rows_of(self) -> int: ...

    @property
    def changed(self) -> int: ...

    @property
    def problem(self) -> str: ...


class Moves(Protocol):
    """Moves the node's store to another backend while it runs."""

    @property
    def facts(self) -> MoveState:
        """The move under way, or the last one."""

    @property
    def tempered(self) -> Tempered | None:
        """The store, where it moves rows between classes of its own."""

    def ask(self, to: str) -> None:
        """Begin to move to a storage component. Raises `MoveRefused`, `MoveBusy`."""


class NodeFacts(Protocol):
    """What the node knows of itself, and the way to change its plugins."""

    @property
    def metrics(self) -> Registry:
        """The node's one registry."""

    @property
    def control(self) -> PluginControl | None:
        """None until the node is open."""

    @property
    def moves(self) -> Moves | None:
        """None until the node is open."""

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

    def append(self, kind: str, data: Mapping[str, Any], items: int = 1) -> Any: ...


class Queries(Protocol):
    """Reads of committed state. None where there is nothing of that name; an account always is."""

    async def status(self) -> LedgerStatus: ...

    async def account(self, address: bytes, *, after: bytes = b"") -> AccountView:
        """At most 1,000 tokens, those above `after`."""

    async def object(self, object_id: bytes) -> Object | None: ...

    async def token(self, token: bytes) -> Token | None: ...

    async def transaction(self, digest: bytes, *, wait_s: float = 0.0) -> TransactionView:
        """With `wait_s`, a pending transaction's outcome is waited for that long."""

    async def block(self, reference: int | bytes) -> BlockView | None: ...

    async def proof(self, key: bytes) -> ProofView:
        """A proof of a state key (`supervm.types.state`) at the newest root that a header shows."""

    async def handovers(self, first: int, limit: int) -> Sequence[HandOver]:
        """What proves the set of the epoch after `first`, and of those after it."""


class Snapshots(Protocol):
    """The snapshots that the node keeps of its chain."""

    @property
    def taking(self) -> bool:
        """Whether one is being taken now."""

    @property
    def last_failure(self) -> str:
        """Why the last one could not be taken; empty where it could."""

    def ask(self) -> None:
        """Have one taken now. Raises `SnapshotBusy` where one is being taken."""

    async def listed(self) -> Sequence[SnapshotView]:
        """Those there are, the lowest height first."""


class Ledger(Protocol):
    """The APPLICATION component, as the API uses it."""

    @property
    def snapshots(self) -> Snapshots | None:
        """None until the chain is open."""

    @property
    def chain_id(self) -> bytes: ...

    @property
    def identity(self) -> NodeIdentity: ...

    @property
    def queries(self) -> Queries: ...

    @property
    def events(self) -> Events: ...

    @property
    def epoch_ender(self) -> EpochEnder | None:
        """None where no engine ends epochs early."""

    async def submit(self, transactions: Sequence[bytes]) -> Sequence[Admitted | Refused]:
        """Take or refuse each, in order. Taken means: checked and in the mempool, not yet durable."""
