"""A ledger and a node that do only what the API asks, for tests of the API alone.

A "transaction" is any bytes that begin with `ok`; `full` ones find no room, `later` ones wait, others
don't decode. `commit` puts what is pending into a block.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from supervm.chain.events import BLOCK, EventLog
from supervm.chain.views import (
    AccountView,
    Admitted,
    BlockView,
    LedgerStatus,
    ProofView,
    SnapshotView,
    TransactionView,
)
from supervm.contracts.application import EpochWish, NodeIdentity, Refused
from supervm.contracts.storage import ClassFacts, DiskFull, PlannedMove, TemperatureReport
from supervm.http.ports import ComponentFacts, PluginFacts
from supervm.storage.errors import MoveBusy, MoveRefused, SnapshotBusy
from supervm.storage.moving import MoveFacts, Phase
from supervm.storage.temperature import Thresholds
from supervm.telemetry.metrics import Registry
from supervm.types.block import BlockHeader
from supervm.types.digests import TRANSACTION, digest
from supervm.types.handover import HandOver
from supervm.types.receipt import Event, ObjectVersion, Receipt, Status
from supervm.types.smt import prove, root_of
from supervm.types.state import (
    NATIVE_TOKEN,
    Account,
    Object,
    OwnerKind,
    Token,
    account_key,
    balance_key,
    encode_balance,
    object_key,
    token_key,
)
from supervm.types.transaction import Lane

ALICE = bytes.fromhex("a1" * 32)
NOBODY = bytes.fromhex("0b" * 32)
GOLD = bytes.fromhex("60" * 32)
OWNED, SHARED, FROZEN, DELETED = (bytes([n]) * 32 for n in (1, 2, 3, 4))
ZERO = bytes(32)

OBJECTS = {
    OWNED: Object(3, OwnerKind.OWNED, ALICE, 7, data=b"mine"),
    SHARED: Object(9, OwnerKind.SHARED, (5).to_bytes(8, "little") + bytes(24), 7, data=b"ours"),
    FROZEN: Object(1, OwnerKind.IMMUTABLE, ZERO, 8),
    DELETED: Object(2, OwnerKind.OWNED, ALICE, 7, deleted=True),
}
TOKENS = {GOLD: Token(b"GOLD", 6, ALICE, True, 2**100), NATIVE_TOKEN: Token(b"SVM", 9, ZERO, False, 10**18)}


def digest_of(data: bytes) -> bytes:
    return digest(TRANSACTION, data)


class TemperedDouble:
    """Fulfils `supervm.contracts.storage.Tempered`: one thing would sink."""

    async def temperature(self, *, look: bool = False) -> TemperatureReport:
        await trio.lowlevel.checkpoint()
        return TemperatureReport(
            classes=(
                ClassFacts(name="hot", over="rocksdb", path="/nvme/hot", rows=5, bytes=2**40),
                ClassFacts(name="cold", over="sqlite", path="/hdd/cold", rows=0, bytes=0),
            ),
            moves=(
                PlannedMove(
                    source="hot",
                    target="cold",
                    trigger="rank",
                    why="ranked below hot for 6 windows",
                    units=2,
                    rows=4,
                    bytes=2**39,
                ),
            ),
            thresholds=attrs.asdict(Thresholds()),
            units=3,
            counted=3,
            windows=7,
            moved_rows=0,
            moved_bytes=0,
            dry_run=True,
            complete=True,
        )


class MovesDouble:
    """Fulfils `supervm.http.ports.Moves`: moves to rocksdb, once."""

    def __init__(self) -> None:
        self.facts = MoveFacts()
        self.tempered: TemperedDouble | None = TemperedDouble()

    def ask(self, to: str) -> None:
        if to != "rocksdb":
            raise MoveRefused(f"storage component '{to}' isn't installed", to, "There are rocksdb, sqlite.")
        if self.facts.running:
            raise MoveBusy("a move to rocksdb is under way or done", to, "Restart the node.")
        self.facts = MoveFacts(to=to, phase=Phase.COPYING, rows=3, rows_of=2**40, changed=2)


class SnapshotsDouble:
    """Fulfils `supervm.http.ports.Snapshots`; remembers what was asked, and is busy while it takes one."""

    def __init__(self) -> None:
        self.taking = False
        self.full = False
        self.last_failure = ""
        self.asked = 0

    def ask(self) -> None:
        if self.taking:
            raise SnapshotBusy("a snapshot is being taken")
        if self.full:
            raise DiskFull("a snapshot waits for room on the node's disk", "7 bytes free", "Free some.")
        self.asked += 1

    async def listed(self) -> list[SnapshotView]:
        await trio.lowlevel.checkpoint()
        return [
            SnapshotView(
                name="snapshot-000000001000-1700000000",
                height=1_000,
                state_root=GOLD,
                first_block=745,
                created_ms=1_700_000_000_000,
                size_bytes=2**33,
                chunks=8_192,
                digest=OWNED,
                pinned=True,
            )
        ]


class EnderDouble:
    """An engine whose validator can ask for the epoch's end; None from `wish` while it is none."""

    def __init__(self) -> None:
        self.known: EpochWish | None = EpochWish(epoch=4, asked=False, weight=1, weight_of=4, closing=False)

    def wish(self) -> EpochWish | None:
        return self.known

    def end_epoch(self) -> EpochWish | None:
        if self.known is not None and not self.known.asked:
            self.known = attrs.evolve(self.known, asked=True, weight=self.known.weight + 1)
        return self.known


class LedgerDouble:
    """Fulfils `supervm.http.ports.Ledger`."""

    def __init__(self) -> None:
        self.chain_id = b"\xc1" * 32
        self.identity = NodeIdentity(node_id=b"\x1d" * 32, public_key=b"\x0e" * 32, sign=lambda message: ZERO)
        self.events = EventLog()
        self.epoch_ender: EnderDouble | None = EnderDouble()
        self.queries = self
        self.snapshots: SnapshotsDouble | None = SnapshotsDouble()
        self.submitted: list[bytes] = []
        self.gate: trio.Event | None = None
        self.failure: Exception | None = None
        self.fails_after = 0
        self.oldest_block = 0
        self._pending: dict[bytes, bytes] = {}
        self._receipts: dict[bytes, tuple[Receipt, bytes]] = {}
        self._changed = trio.Event()
        self.waiting = 0
        self.state = {
            account_key(ALICE): Account(nonce=4, balance=2**127).encode(),
            balance_key(ALICE, GOLD): encode_balance(5),
            **{object_key(name): found.encode() for name, found in OBJECTS.items()},
            **{token_key(name): found.encode() for name, found in TOKENS.items()},
        }
        self.held = 0
        self.blocks = [self._block(0, ())]
        self.handed_over: list[HandOver] = []

    async def _reach(self) -> None:
        if self.gate is not None:
            self.held += 1
            try:
                await self.gate.wait()
            finally:
                self.held -= 1
        if self.failure is not None:
            if not self.fails_after:
                raise self.failure
            self.fails_after -= 1

    async def submit(self, transactions: Sequence[bytes]) -> list[Admitted | Refused]:
        await self._reach()
        self.submitted += transactions
        return [self._admit(data) for data in transactions]

    def _admit(self, data: bytes) -> Admitted | Refused:
        if data.startswith(b"ok"):
            found = digest_of(data)
            duplicate = found in self._pending
            self._pending[found] = data
            return Admitted(digest=found, lane="FAST", duplicate=duplicate)
        if data.startswith(b"full"):
            return Refused(
                code="MempoolFull",
                field="mempool",
                value="50000",
                mend="try again",
                digest=digest_of(data),
                retry_after_s=2.5,
            )
        if data.startswith(b"disk"):
            return Refused(
                code="DiskNearlyFull", field="node", value="7 bytes free", mend="later", retry_after_s=30.0
            )
        if data.startswith(b"twice"):
            return Refused(
                code="Equivocated", field="nonce", value="4", mend="", digest=digest_of(data), conflict=GOLD
            )
        return Refused(code="Truncated", field="body", value="0x", mend="the whole transaction")

    def commit(self) -> BlockView:
        """Put what is pending into the next block."""
        height = len(self.blocks)
        for index, (found, data) in enumerate(self._pending.items()):
            receipt = Receipt(
                digest=found,
                lane=Lane.FAST,
                status=Status.COMMITTED,
                gas_used=15_100,
                fee=151,
                gas_token=NATIVE_TOKEN,
                created=(ObjectVersion(OWNED, 1),),
                events=(Event(ALICE, b"paid", b"\x05"),),
                height=height,
                index=index,
            )
            self._receipts[found] = (receipt, data)
        view = self._block(height, tuple(self._pending))
        self.blocks.append(view)
        self._pending.clear()
        self.events.append(BLOCK, {"height": str(height), "digest": f"0x{view.digest.hex()}"})
        self._changed.set()
        self._changed = trio.Event()
        return view

    def _block(self, height: int, transactions: tuple[bytes, ...]) -> BlockView:
        header = BlockHeader(
            chain_id=self.chain_id,
            epoch=0,
            height=height,
            parent=self.blocks[-1].digest if height else ZERO,
            proposer=self.identity.node_id,
            timestamp_ms=1_700_000_000_000 + height,
            root_height=height,
            state_root=root_of(self.state),
            receipts_root=ZERO,
            base_price=10_000,
            transactions_root=ZERO,
            body_digest=ZERO,
            validators_digest=ZERO,
        )
        certificate = b"certificate" if height else b""
        return BlockView(
            digest=header.digest(), header=header, certificate=certificate, transactions=transactions
        )

    async def status(self) -> LedgerStatus:
        await self._reach()
        tip = self.blocks[-1]
        return LedgerStatus(
            chain_id=self.chain_id,
            height=tip.header.height,
            block_digest=tip.digest,
            epoch=0,
            timestamp_ms=tip.header.timestamp_ms,
            root_height=tip.header.height,
            state_root=tip.header.state_root,
            base_price=10_000,
            mempool_transactions=len(self._pending),
            mempool_bytes=sum(map(len, self._pending.values())),
            mempool_ready=len(self._pending),
            development=True,
            oldest_block=self.oldest_block,
        )

    async def account(self, address: bytes, *, after: bytes = b"") -> AccountView:
        await self._reach()
        nonce, balances = 0, {NATIVE_TOKEN: 0}
        if address == ALICE:
            nonce, balances = 4, {NATIVE_TOKEN: 2**127, GOLD: 5}
        return AccountView(
            address=address,
            height=len(self.blocks) - 1,
            nonce=nonce,
            sponsor_nonce=0,
            pending_nonce=nonce,
            balances={token: amount for token, amount in balances.items() if not after or token > after},
        )

    async def object(self, object_id: bytes) -> Object | None:
        await self._reach()
        return OBJECTS.get(object_id)

    async def token(self, token: bytes) -> Token | None:
        await self._reach()
        return TOKENS.get(token)

    async def transaction(self, digest: bytes, *, wait_s: float = 0.0) -> TransactionView:
        await self._reach()
        with trio.move_on_after(wait_s):
            while wait_s and digest in self._pending:
                self.waiting += 1
                await self._changed.wait()
        if digest in self._receipts:
            receipt, data = self._receipts[digest]
            return TransactionView(
                digest=digest,
                status=receipt.status,
                lane=receipt.lane,
                height=receipt.height,
                index=receipt.index,
                receipt=receipt,
                data=data,
            )
        if digest in self._pending:
            data = self._pending[digest]
            return TransactionView(digest=digest, status=Status.PENDING, lane=Lane.FAST, data=data)
        return TransactionView(digest=digest, status=Status.UNKNOWN)

    async def block(self, reference: int | bytes) -> BlockView | None:
        await self._reach()
        if isinstance(reference, bytes):
            return next((each for each in self.blocks if each.digest == reference), None)
        return self.blocks[reference] if reference < len(self.blocks) else None

    async def proof(self, key: bytes) -> ProofView:
        await self._reach()
        return ProofView(header=self.blocks[-1].header, certificate=b"c", proof=prove(self.state, key))

    async def handovers(self, first: int, limit: int) -> list[HandOver]:
        await self._reach()
        return self.handed_over[first - 1 : first - 1 + limit]


class ControlDouble:
    """Fulfils `supervm.http.ports.PluginControl`; remembers what was asked, and raises `failure`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.failure: Exception | None = None
        self.takes_s = 0.0

    async def load(self, plugin_id: str) -> Sequence[ComponentFacts]:
        return await self._answer("load", plugin_id)

    async def unload(self, plugin_id: str) -> Sequence[ComponentFacts]:
        return await self._answer("unload", plugin_id)

    async def reset(self, plugin_id: str) -> Sequence[ComponentFacts]:
        return await self._answer("reset", plugin_id)

    async def _answer(self, verb: str, plugin_id: str) -> Sequence[ComponentFacts]:
        self.asked.append((verb, plugin_id))
        await trio.sleep(self.takes_s)
        if self.failure is not None:
            raise self.failure
        return [ComponentFacts(role="chain", name="watcher", contract="1.0", state="serving", health="ok")]


class FactsDouble:
    """Fulfils `supervm.http.ports.NodeFacts`."""

    def __init__(self) -> None:
        self.metrics = Registry()
        self.reasons: list[str] = []
        self.health_now = "ok"
        self.routes: dict[str, Sequence[Any]] = {}
        self.control: ControlDouble | None = ControlDouble()
        self.moves: MovesDouble | None = MovesDouble()

    def tier(self) -> str:
        return "L3"

    def versions(self) -> Mapping[str, str]:
        return {"supervm": "0.1.0", "kernel": "1.0", "api": "1.0"}

    def composition(self) -> Mapping[str, Sequence[str]]:
        return {"storage": ["memory"], "transport": [], "surface": ["http"]}

    def plugins(self) -> Sequence[PluginFacts]:
        component = ComponentFacts(
            role="storage", name="memory", contract="1.0", state="serving", health="ok", restarts=2
        )
        return [
            PluginFacts(
                id="storage-backends",
                version="0.1.0",
                source="supervm.plugins.storage",
                trust="shipped",
                components=(component,),
            )
        ]

    def not_ready(self) -> Sequence[str]:
        return self.reasons

    def health(self) -> str:
        return self.health_now

    def peers(self) -> int:
        return 0

    def http_routes(self) -> Mapping[str, Sequence[Any]]:
        return self.routes


class LogDouble:
    """Remembers events as (level, event, fields)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        self.events.append(("debug", event, fields))

    def info(self, event: str, **fields: Any) -> None:
        self.events.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.events.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.events.append(("error", event, fields))

    @property
    def errors(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [event for event in self.events if event[0] == "error"]
