"""The OpenAPI 3.1 document: every route with its parameters, bodies, answers and problems.

A test holds it against the route table, both ways, and real answers against its schemas.
"""

from typing import Any

from supervm.chain.queries import HANDOVERS_MAX
from supervm.contracts.routing import ANSWER_MAX, TIERS
from supervm.http.ledger import BLOCKS_DEFAULT, BLOCKS_MAX, EPOCH_MAX
from supervm.http.network import LATENCY_MS_MAX
from supervm.http.parameters import WORD
from supervm.http.problems import PROBLEM_TYPE
from supervm.http.schemas import DECIMAL, SCHEMAS, SERVICES, Schema, array, ref
from supervm.http.submissions import JSON, OCTETS, PACKED

API_VERSION = "1.0.0"
RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds"}}

# What any route may answer, whatever was asked.
COMMON = {
    400: "The request can't be understood: a parameter or the body",
    401: "The node's API needs a token",
    500: "A fault of the node; its log has the cause",
    503: "The node can't answer now: overloaded, not ready, or a component is away",
}


def document() -> dict[str, Any]:
    """The whole document, ready for JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SuperVM node",
            "version": API_VERSION,
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
            "description": "Amounts and u64/u128 are decimal strings, bytes are 0x hex. Every error is an "
            "RFC 9457 problem document. Unknown query parameters are refused. GET routes answer HEAD too. "
            "Routes that plugins add are under /x/PLUGIN-ID/ and not described here.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "tags": [
            {"name": "probes", "description": "For supervisors, scrapers and people; 4 at a time"},
            {"name": "ledger", "description": "Transactions and committed state"},
            {"name": "node", "description": "The node itself and others"},
        ],
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the node has an api.token",
                }
            },
        },
    }


def answer(description: str, schema: Schema, media: str = JSON, **headers: Schema) -> Schema:
    found: Schema = {"description": description, "content": {media: {"schema": schema}}}
    return found | ({"headers": headers} if headers else {})


def problem(status: int, description: str) -> Schema:
    found = answer(description, ref("Problem"), PROBLEM_TYPE)
    return found | ({"headers": RETRY_AFTER} if status in (429, 503) else {})


def operation(
    tag: str, name: str, summary: str, ok: dict[str, Schema], problems: dict[int, str], **more: Any
) -> Schema:
    failures = {str(status): problem(status, text) for status, text in sorted((COMMON | problems).items())}
    return {"tags": [tag], "operationId": name, "summary": summary, "responses": ok | failures, **more}


def get(tag: str, name: str, summary: str, ok: Schema, *parameters: Schema, **problems: str) -> Schema:
    """A GET route; `problems` are named like `e404`."""
    also = {int(status[1:]): text for status, text in problems.items()}
    return {"get": operation(tag, name, summary, {"200": ok}, also, parameters=list(parameters))}


def path(name: str, description: str, schema: Schema | None = None) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema or ref("Bytes32"),
    }


def query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def decimal(most: int, **more: Any) -> Schema:
    """A query number. It is text on the wire; the schema is that of the number it must be."""
    return {"type": "integer", "minimum": 0, "maximum": most, **more}


def change(name: str, summary: str, **problems: str) -> Schema:
    """A POST route that changes the node's plugins; for its operator only."""
    also = {
        403: "The node has no api.token, so nobody may",
        404: "No such plugin",
        408: "A body came, and too slowly",
        409: "It can't be done while the node runs; `detail` says why",
        413: "A body came, and too large",
    }
    return {
        "post": operation(
            "node",
            f"{name}_plugin",
            summary,
            {"200": answer("Done", ref("PluginChange"))},
            also | {int(status[1:]): text for status, text in problems.items()},
            parameters=[path("id", "The plugin's id", {"type": "string", "pattern": WORD})],
            security=[{"token": []}],
        )
    }


BUSY = "Too many scrapes at a time"
TEXT = {"type": "string"}
HEIGHT = {"type": "string", "pattern": DECIMAL, "maxLength": 19, "description": "A height in decimal"}

PATHS: dict[str, Schema] = {
    "/healthz": get("probes", "healthz", "Does the node live?", answer("It does", ref("Alive")), e429=BUSY),
    "/readyz": get(
        "probes",
        "readyz",
        "Can the node do its work? A 503 lists every reason why not, in `reasons`",
        answer("It can", ref("Alive")),
        e429=BUSY,
    ),
    "/metrics": get(
        "probes",
        "metrics",
        "Every metric, at most a second old, as Prometheus text 0.0.4",
        answer("The metrics", TEXT, "text/plain", Age={"schema": {"type": "integer"}}),
        e429=BUSY,
    ),
    "/summary": get(
        "probes", "summary", "The main figures for people", answer("Text", TEXT, "text/plain"), e429=BUSY
    ),
    "/openapi.json": get("node", "openapi", "This document", answer("OpenAPI 3.1", {"type": "object"})),
    "/v1/status": get(
        "node", "status", "The node, its tip and what waits", answer("The status", ref("NodeStatus"))
    ),
    "/v1/transactions": {
        "post": operation(
            "ledger",
            "submit",
            "Send one transaction or many",
            {
                "202": answer(
                    "One: it was taken. Many: what became of each",
                    {"anyOf": [ref("Admitted"), ref("Submission")]},
                    Location={"schema": TEXT, "description": "Of one: where to ask for its status"},
                )
            },
            {
                408: "The body came too slowly",
                413: "The body is too large, or has too many transactions",
                415: "Not a content type or an encoding that is read here",
                422: "One transaction was sent, and refused: `code` says why",
                429: "The mempool is full, and nothing of the request was taken",
                503: "The node can take nothing now: it is overloaded, a component is away, or its disk is "
                "nearly full (`DiskNearlyFull`)",
            },
            description="202 means: checked and in the mempool, not yet durable. Sending the same bytes "
            "again is harmless. Of many, each is taken or refused for itself.",
            requestBody={
                "required": True,
                "content": {
                    OCTETS: {"schema": {"type": "string", "format": "binary"}},
                    JSON: {
                        "schema": {
                            "anyOf": [
                                ref("Encoded"),
                                array({"anyOf": [ref("Encoded"), ref("Bytes")]}, minItems=1, maxItems=4096),
                            ]
                        }
                    },
                    PACKED: {
                        "schema": {
                            "type": "string",
                            "format": "binary",
                            "description": "Of each transaction: u32 little-endian length, then its bytes",
                        }
                    },
                },
            },
        )
    },
    "/v1/transactions/{digest}": get(
        "ledger",
        "transaction",
        "What became of a transaction; one that the node does not have is `unknown`",
        answer("Its status", ref("Transaction")),
        path("digest", "The transaction's digest"),
        query(
            "wait",
            "Seconds to wait for the outcome of a pending one",
            {"type": "number", "minimum": 0, "maximum": 60, "multipleOf": 0.001},
        ),
        e410="It is in a block that this node pruned",
        e429="Too many waits at a time",
    ),
    "/v1/accounts/{address}": get(
        "ledger",
        "account",
        "An account: nonce and balances by token",
        answer("The account", ref("Account")),
        path("address", "The account's address"),
        query("after", "Give the tokens above this id", ref("Bytes32")),
    ),
    "/v1/objects/{id}": get(
        "ledger",
        "object",
        "An object",
        answer("The object", ref("Object")),
        path("id", "The object's id"),
        e404="There is none, or it was deleted",
    ),
    "/v1/tokens/{id}": get(
        "ledger",
        "token",
        "A token",
        answer("The token", ref("Token")),
        path("id", "The token's id; zeros for the native one"),
        e404="There is none",
    ),
    "/v1/blocks": get(
        "ledger",
        "blocks",
        "A page of blocks upward from a height; without `from` the newest",
        answer("The page", ref("Blocks")),
        query("from", "The first height", decimal(2**64 - 1)),
        query("limit", "How many at most", {**decimal(BLOCKS_MAX, default=BLOCKS_DEFAULT), "minimum": 1}),
        e410="The first of them is pruned",
    ),
    "/v1/blocks/{reference}": get(
        "ledger",
        "block",
        "A block: header, certificate, transaction digests",
        answer("The block", ref("Block")),
        path("reference", "Its height, or its digest", {"anyOf": [HEIGHT, ref("Bytes32")]}),
        e404="This node has no such block",
        e410="The node had the block and pruned it",
    ),
    "/v1/proofs/{id}": get(
        "ledger",
        "proof",
        "A state entry, or its absence, with its Merkle path to the root in a header",
        answer("The proof", ref("Proof")),
        path("id", "An address or an object's id"),
        query(
            "kind",
            "What the id names; without it, an object where there is one, else an account",
            {"type": "string", "enum": ["account", "object"]},
        ),
        query("token", "Prove the account's balance of this token", ref("Bytes32")),
    ),
    "/v1/handovers": get(
        "ledger",
        "handovers",
        "What proves the validator sets from one epoch to the next, one whole epoch after the other",
        answer("Hand-overs", ref("HandOvers")),
        query("from", "The first epoch, whose last block names the set of the next", decimal(EPOCH_MAX)),
        query("limit", "How many at most", {**decimal(HANDOVERS_MAX, default=HANDOVERS_MAX), "minimum": 1}),
    ),
    "/v1/events": get(
        "node",
        "events",
        "Server-sent events: `block`, `receipts`, `certified`, `dropped`, `health`; `gap` when some are lost",
        answer("The stream, without end", TEXT, "text/event-stream"),
        query("after", "As Last-Event-ID; that header is read where this is not given", TEXT),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Resume after this id, as it came in the stream; 0 for all that is kept",
            "schema": TEXT,
        },
        e429="Too many readers at a time",
    ),
    "/v1/nodes": get(
        "node",
        "nodes",
        "Nodes that fit, best first",
        answer("Nodes", ref("Nodes")),
        query("tier", "Of this hardware class", {"type": "string", "enum": list(TIERS)}),
        query("region", "In this region", {"type": "string", "pattern": WORD}),
        query("max_latency_ms", "Round trip at most", decimal(LATENCY_MS_MAX)),
        query("max_load", "Load at most", decimal(100)),
        {
            **query(
                "services", "Offers all of these", array({"type": "string", "enum": SERVICES}, minItems=1)
            ),
            "style": "form",
            "explode": False,
        },
        query("limit", "How many at most", {**decimal(ANSWER_MAX, default=ANSWER_MAX), "minimum": 1}),
    ),
    "/v1/nodes/{id}": get(
        "node",
        "node",
        "One node, with hints how to connect",
        answer("The node", ref("Node")),
        path("id", "The node's id"),
        e404="It is not in this node's table",
    ),
    "/v1/snapshots": get(
        "node", "snapshots", "The snapshots that the node keeps", answer("Snapshots", ref("Snapshots"))
    )
    | {
        "post": operation(
            "node",
            "take_snapshot",
            "Begin with a snapshot now; it is listed once it is whole",
            {"202": answer("It begins", ref("Snapshots"))},
            {
                403: "The node has no api.token, so nobody may",
                408: "A body came, and too slowly",
                409: "One is being taken",
                413: "A body came, and too large",
            },
            security=[{"token": []}],
        )
    },
    "/v1/migration": get(
        "node",
        "migration",
        "Whether the node's store is being moved to another backend, and how far it is",
        answer("The move under way, or the last one", ref("Migration")),
    ),
    "/v1/migration/{to}": {
        "post": operation(
            "node",
            "begin_migration",
            "Begin to move the node's store to another storage backend while it runs",
            {"202": answer("It begins", ref("Migration"))},
            {
                403: "The node has no api.token, so nobody may",
                408: "A body came, and too slowly",
                409: "There is no moving to that backend, or a move is under way or done",
                413: "A body came, and too large",
            },
            parameters=[path("to", "The storage component", {"type": "string", "pattern": WORD})],
            security=[{"token": []}],
        )
    },
    "/v1/epoch": get(
        "node",
        "epoch",
        "How far the epoch is from ending early: more than two thirds of the weight close it",
        answer("What this validator knows", ref("EpochEnd")),
        e409="This node doesn't vote on that",
    ),
    "/v1/epoch/end": {
        "post": operation(
            "node",
            "end_epoch",
            "Sign that the epoch should end, and tell all validators",
            {"202": answer("It is said", ref("EpochEnd"))},
            {
                403: "The node has no api.token, so nobody may",
                408: "A body came, and too slowly",
                409: "This node doesn't vote on that",
                413: "A body came, and too large",
            },
            security=[{"token": []}],
        )
    },
    "/v1/temperature": get(
        "node",
        "temperature",
        "What of the store lies in which class, and what would move and why",
        answer("When all was last looked through", ref("Temperature")),
        e404="The node's storage has no classes to move rows between",
        e503="The node is starting",
    ),
    "/v1/plugins": get(
        "node", "plugins", "What is loaded, version, health, restarts", answer("Plugins", ref("Plugins"))
    ),
    "/v1/plugins/{id}/load": change(
        "load",
        "Load an installed plugin, and open its components of roles that take many",
        e502="A component did not open: `value` names it, `detail` its cause. Nothing of it is loaded",
    ),
    "/v1/plugins/{id}/unload": change("unload", "Drain a plugin, close it and forget its hooks"),
    "/v1/plugins/{id}/reset": change("reset", "Try a plugin's waiting and broken components again now"),
}
