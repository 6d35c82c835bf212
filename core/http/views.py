"""The ledger's values as JSON: u64 and u128 as decimal strings, bytes as 0x hex, names for codes."""

from typing import Any

from supervm.chain.views import (
    AccountView,
    Admitted,
    BlockView,
    LedgerStatus,
    ProofView,
    SnapshotView,
    TransactionView,
)
from supervm.contracts.application import EpochWish, Refused
from supervm.contracts.routing import NodeEntry, Service
from supervm.contracts.storage import TemperatureReport
from supervm.http.ports import MoveState, PluginFacts
from supervm.http.problems import Problem
from supervm.types.address import format_hex
from supervm.types.block import BlockHeader
from supervm.types.handover import HandOver
from supervm.types.receipt import ObjectVersion, Receipt
from supervm.types.state import Object, OwnerKind, Token

Json = dict[str, Any]

UNABLE = frozenset({"DiskNearlyFull"})
"""Refusals that say that the node can take nothing now, whatever is sent."""


def account(view: AccountView) -> Json:
    return {
        "address": format_hex(view.address),
        "height": str(view.height),
        "nonce": str(view.nonce),
        "sponsor_nonce": str(view.sponsor_nonce),
        "pending_nonce": str(view.pending_nonce),
        "balances": {format_hex(token): str(amount) for token, amount in view.balances.items()},
        "more": format_hex(view.more) if view.more is not None else None,
    }


def ledger_object(object_id: bytes, found: Object) -> Json:
    return {
        "id": format_hex(object_id),
        "owner": owner(found),
        "initial_version": str(found.initial_version) if found.owner_kind is OwnerKind.SHARED else None,
        "version": str(found.version),
        "type": found.type,
        "data": format_hex(found.data),
    }


def owner(found: Object) -> Any:
    if found.owner_kind is OwnerKind.OWNED:
        return {"owned": format_hex(found.owner)}
    return "shared" if found.owner_kind is OwnerKind.SHARED else "immutable"


def token(token_id: bytes, found: Token) -> Json:
    return {
        "id": format_hex(token_id),
        "symbol": found.symbol.decode("ascii"),
        "decimals": found.decimals,
        "minter": format_hex(found.minter),
        "fixed": found.fixed,
        "supply": str(found.supply),
    }


def epoch(wish: EpochWish) -> Json:
    return {
        "epoch": str(wish.epoch),
        "asked": wish.asked,
        "weight": str(wish.weight),
        "weight_of": str(wish.weight_of),
        "closing": wish.closing,
    }


def transaction(view: TransactionView) -> Json:
    return {
        "digest": format_hex(view.digest),
        "status": view.status.name.lower(),
        "lane": view.lane.name if view.lane is not None else None,
        "height": str(view.height) if view.height is not None else None,
        "index": view.index,
        "receipt": receipt(view.receipt) if view.receipt is not None else None,
        "bytes": format_hex(view.data) if view.data is not None else None,
        "effects_certificate": (
            format_hex(view.effects_certificate) if view.effects_certificate is not None else None
        ),
        "equivocation": (
            [format_hex(each) for each in view.equivocation] if view.equivocation is not None else None
        ),
    }


def receipt(found: Receipt) -> Json:
    return {
        "digest": format_hex(found.digest),
        "lane": found.lane.name,
        "status": found.status.name.lower(),
        "code": found.code,
        "gas_used": str(found.gas_used),
        "fee": str(found.fee),
        "gas_token": format_hex(found.gas_token),
        "created": [_version(each) for each in found.created],
        "written": [_version(each) for each in found.written],
        "deleted": [_version(each) for each in found.deleted],
        "events": [
            {
                "emitter": format_hex(each.emitter),
                "topic": format_hex(each.topic),
                "data": format_hex(each.data),
            }
            for each in found.events
        ],
        "return_value": format_hex(found.return_value),
        "height": str(found.height),
        "index": found.index,
        "bytes": format_hex(found.encode()),
    }


def _version(found: ObjectVersion) -> Json:
    return {"id": format_hex(found.id), "version": str(found.version)}


def block(view: BlockView) -> Json:
    return {
        "digest": format_hex(view.digest),
        "header": header(view.header),
        "certificate": format_hex(view.certificate),
        "transactions": [format_hex(each) for each in view.transactions],
    }


def header(found: BlockHeader) -> Json:
    return {
        "chain_id": format_hex(found.chain_id),
        "epoch": str(found.epoch),
        "height": str(found.height),
        "parent": format_hex(found.parent),
        "proposer": format_hex(found.proposer),
        "timestamp_ms": str(found.timestamp_ms),
        "root_height": str(found.root_height),
        "state_root": format_hex(found.state_root),
        "receipts_root": format_hex(found.receipts_root),
        "base_price": str(found.base_price),
        "transactions_root": format_hex(found.transactions_root),
        "body_digest": format_hex(found.body_digest),
        "validators_digest": format_hex(found.validators_digest),
        "next_validators_digest": format_hex(found.next_validators_digest),
        "bytes": format_hex(found.encode()),
    }


def handover(found: HandOver) -> Json:
    return {
        "epoch": str(found.header.epoch),
        "height": str(found.header.height),
        "validators": [
            {
                "node_id": format_hex(each.node_id),
                "public_key": format_hex(each.public_key),
                "weight": str(each.weight),
            }
            for each in found.validators.members
        ],
        "bytes": format_hex(found.encode()),
    }


def proof(kind: str, view: ProofView) -> Json:
    found = view.proof
    other = None
    if found.other is not None:
        other = {"key_hash": format_hex(found.other[0]), "value_hash": format_hex(found.other[1])}
    return {
        "kind": kind,
        "key": format_hex(found.key),
        "value": format_hex(found.value) if found.value is not None else None,
        "other": other,
        "siblings": [format_hex(each) for each in found.siblings],
        "proof": format_hex(found.encode()),
        "header": header(view.header),
        "certificate": format_hex(view.certificate),
    }


def status(found: LedgerStatus) -> Json:
    """The ledger's part of `GET /v1/status`."""
    return {
        "chain_id": format_hex(found.chain_id),
        "height": str(found.height),
        "oldest_block": str(found.oldest_block),
        "block_digest": format_hex(found.block_digest),
        "epoch": str(found.epoch),
        "timestamp_ms": str(found.timestamp_ms),
        "root_height": str(found.root_height),
        "state_root": format_hex(found.state_root),
        "base_price": str(found.base_price),
        "development": found.development,
        "mempool": {
            "transactions": found.mempool_transactions,
            "bytes": found.mempool_bytes,
            "ready": found.mempool_ready,
        },
    }


def snapshot(found: SnapshotView) -> Json:
    return {
        "name": found.name,
        "height": str(found.height),
        "state_root": format_hex(found.state_root),
        "first_block": str(found.first_block),
        "created_ms": str(found.created_ms),
        "bytes": str(found.size_bytes),
        "chunks": found.chunks,
        "digest": format_hex(found.digest),
        "pinned": found.pinned,
    }


def migration(found: MoveState) -> Json:
    return {
        "to": found.to,
        "phase": str(found.phase),
        "rows": str(found.rows),
        "rows_of": str(found.rows_of),
        "changed": str(found.changed),
        "problem": found.problem,
    }


def temperature(found: TemperatureReport) -> Json:
    return {
        "classes": [
            {
                "name": each.name,
                "over": each.over,
                "path": each.path,
                "rows": str(each.rows),
                "bytes": str(each.bytes),
            }
            for each in found.classes
        ],
        "moves": [
            {
                "source": each.source,
                "target": each.target,
                "trigger": each.trigger,
                "why": each.why,
                "units": str(each.units),
                "rows": str(each.rows),
                "bytes": str(each.bytes),
            }
            for each in found.moves
        ],
        "thresholds": dict(found.thresholds),
        "units": str(found.units),
        "counted": found.counted,
        "windows": str(found.windows),
        "moved_rows": str(found.moved_rows),
        "moved_bytes": str(found.moved_bytes),
        "dry_run": found.dry_run,
        "complete": found.complete,
    }


def plugin(found: PluginFacts) -> Json:
    return {
        "id": found.id,
        "version": found.version,
        "source": found.source,
        "trust": found.trust,
        "digest": found.digest,
        "components": [
            {
                "role": each.role,
                "name": each.name,
                "contract": each.contract,
                "state": each.state,
                "health": each.health,
                "detail": each.detail,
                "restarts": each.restarts,
                "breaker": each.breaker,
                "isolation": each.isolation,
                "lease": each.lease,
            }
            for each in found.components
        ],
    }


def node(found: NodeEntry) -> Json:
    """What a node says of itself, and what we saw; unknown is null."""
    record = found.record
    return {
        "node_id": format_hex(record.node_id),
        "tier": record.tier,
        "region": record.region,
        "hints": [{"kind": "direct", "address": address} for address in record.addresses],
        "services": [
            service.name.lower() for service in Service if service in record.services and service.name
        ],
        "sequence": str(record.sequence),
        "load": found.load,
        "rtt_ms": found.rtt_ms,
        "last_seen_ms": str(found.last_seen_ms) if found.last_seen_ms is not None else None,
        "failures": found.failures,
    }


def admitted(found: Admitted) -> Json:
    digest = format_hex(found.digest)
    status = found.status.name.lower()
    return {"digest": digest, "status": status, "lane": found.lane, "duplicate": found.duplicate}


def refusal(found: Refused) -> Problem:
    """A refused transaction as a problem: 429 where the same bytes may be taken later, else 422.

    503 where that is no matter of how much is sent.
    """
    extra: Json = {"field": found.field}
    if found.digest is not None:
        extra["digest"] = format_hex(found.digest)
    if found.conflict is not None:
        extra["conflict"] = format_hex(found.conflict)
    if found.other is not None:
        extra["conflict_bytes"] = format_hex(found.other)
    return Problem(
        status=503 if found.code in UNABLE else 429 if found.retry_after_s is not None else 422,
        code=found.code,
        detail=str(found),
        value=found.value,
        mend=found.mend,
        retry_after_s=found.retry_after_s,
        extra=extra,
    )
