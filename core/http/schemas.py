"""JSON Schemas of what the API gives and takes: the `components` of the OpenAPI document.

Every object is closed (`additionalProperties: false`) and every member required: what is not there is
`null`. A new member is a change that a reader of this file sees.
"""

from typing import Any

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def closed(description: str, optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object of exactly these members; a trailing underscore in a name is dropped."""
    members = {name.rstrip("_"): schema for name, schema in properties.items()}
    return {
        "type": "object",
        "description": description,
        "properties": members,
        "required": [name for name in members if name not in optional],
        "additionalProperties": False,
    }


def array(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def share(description: str) -> Schema:
    return {"type": "number", "minimum": 0, "maximum": 1, "description": description}


def count(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


HEX32 = r"^0x[0-9a-fA-F]{64}$"
DECIMAL = r"^(0|[1-9][0-9]*)$"
STATUSES = ["pending", "applied", "certified", "committed", "failed", "void", "unknown"]
SERVICES = [
    "relay",
    "nat_assist",
    "route_relay",
    "state_query",
    "blocks",
    "archive",
    "snapshot",
    "bootstrap",
]
LANES = ["AUTO", "FAST", "ORDERED", "PRIVATE"]

SCHEMAS: dict[str, Schema] = {
    "Bytes32": text("32 bytes in hex", pattern=HEX32, minLength=66, maxLength=66),
    "Bytes": text("Bytes in hex", pattern=r"^0x([0-9a-fA-F]{2})*$"),
    "U64": text("An unsigned 64-bit number in decimal", pattern=DECIMAL, maxLength=20),
    "U128": text("An unsigned 128-bit number in decimal, in base units", pattern=DECIMAL, maxLength=39),
    "Status": text(
        "pending: in the mempool. applied: executed here ahead of its block. certified: final by an effects "
        "quorum. committed: in a final block. failed: in a final block, its fee taken, nothing else done. "
        "void: in a final block, without any effect. unknown: this node does not have it",
        enum=STATUSES,
    ),
    "Lane": text("How it becomes final", enum=LANES),
    "Problem": {
        "type": "object",
        "description": "RFC 9457. `code` is stable and for programs; the rest is for people. Some problems "
        "have more members",
        "properties": {
            "type": text("A URN that names the code"),
            "title": text("The code in words"),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text("What is wrong here"),
            "code": text("What a program tests", pattern="^[A-Z][A-Za-z0-9]*$"),
            "value": text("The offending value, shortened; may be empty"),
            "mend": text("What would be right; may be empty"),
            "retry_after_s": {"type": "number", "description": "When the same request may succeed"},
            "reasons": array(text("Why the node is not ready")),
            "oldest_block": text("The lowest height that this node keeps", pattern=DECIMAL, maxLength=20),
            "field": text("The place in a refused transaction"),
            "digest": ref("Bytes32"),
            "conflict": ref("Bytes32"),
            "conflict_bytes": ref("Bytes"),
            "accepted": count("Of many: how many were taken"),
            "refused": count("Of many: how many were not"),
            "transactions": array(ref("SubmissionEntry")),
        },
        "required": ["type", "title", "status", "detail", "code", "value", "mend"],
    },
    "Alive": closed("The node lives", status={"const": "ok"}),
    "NodeStatus": closed(
        "The node, its tip and what waits",
        chain_id=ref("Bytes32"),
        height=ref("U64"),
        oldest_block=ref("U64"),
        block_digest=ref("Bytes32"),
        epoch=ref("U64"),
        timestamp_ms=ref("U64"),
        root_height=ref("U64"),
        state_root=ref("Bytes32"),
        base_price=ref("U64"),
        development={"type": "boolean", "description": "A development chain: its keys are public"},
        mempool=closed(
            "What waits to be in a block",
            transactions=count("All of them"),
            bytes=count("Their size"),
            ready=count("Those that could go into a batch now"),
        ),
        tier=text("Hardware class", enum=["L1", "L2", "L3", "L4"]),
        node_id=ref("Bytes32"),
        composition={
            "type": "object",
            "description": "Role to the names of its components",
            "additionalProperties": array(text("A component's name")),
        },
        peers=count("Authenticated peers"),
        health=ref("Health"),
        versions={
            "type": "object",
            "description": "Name to version",
            "additionalProperties": text("A version"),
        },
    ),
    "Health": text("How it is", enum=["ok", "degraded", "failing"]),
    "Account": closed(
        "An account at `height`. One without entries in the state has zeros",
        address=ref("Bytes32"),
        height=ref("U64"),
        nonce=ref("U64"),
        sponsor_nonce=ref("U64"),
        pending_nonce={**ref("U64"), "description": "The first nonce no transaction here has: sign with it"},
        balances={
            "type": "object",
            "description": "Token id to amount: the native token (zeros), and others that are not zero",
            "propertyNames": {"pattern": HEX32},
            "additionalProperties": ref("U128"),
        },
        more={**nullable(ref("Bytes32")), "description": "Not null: there are more, ask with ?after="},
    ),
    "Object": closed(
        "An object",
        id=ref("Bytes32"),
        owner={
            "anyOf": [
                closed("Owned by an address", owned=ref("Bytes32")),
                {"type": "string", "enum": ["shared", "immutable"]},
            ]
        },
        initial_version={
            **nullable(ref("U64")),
            "description": "Of a shared object: the version to declare as an input",
        },
        version=ref("U64"),
        type={"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
        data=ref("Bytes"),
    ),
    "Token": closed(
        "A token",
        id=ref("Bytes32"),
        symbol=text("ASCII capitals and digits", maxLength=16),
        decimals={"type": "integer", "minimum": 0, "maximum": 18},
        minter=ref("Bytes32"),
        fixed={"type": "boolean", "description": "The supply never grows"},
        supply=ref("U128"),
    ),
    "Transaction": closed(
        "What became of a transaction",
        digest=ref("Bytes32"),
        status=ref("Status"),
        lane=nullable(ref("Lane")),
        height=nullable(ref("U64")),
        index=nullable(count("Its place in the block")),
        receipt=nullable(ref("Receipt")),
        bytes={**nullable(ref("Bytes")), "description": "Its canonical bytes, where the node has them"},
        effects_certificate={
            **nullable(ref("Bytes")),
            "description": "Proves a certified one final: a quorum's signatures of its effects, encoded",
        },
        equivocation={
            **nullable(array(ref("Bytes"))),
            "description": "Of one that gets no further: its bytes and those of another that was signed for "
            "the same nonce or object version, so that neither may before the epoch ends",
        },
    ),
    "ObjectVersion": closed("An object at a version", id=ref("Bytes32"), version=ref("U64")),
    "Receipt": closed(
        "What a transaction did",
        digest=ref("Bytes32"),
        lane=ref("Lane"),
        status=ref("Status"),
        code=text("Why it failed; empty on success"),
        gas_used=ref("U64"),
        fee=ref("U128"),
        gas_token=ref("Bytes32"),
        created=array(ref("ObjectVersion")),
        written=array(ref("ObjectVersion")),
        deleted=array(ref("ObjectVersion")),
        events=array(closed("What happened", emitter=ref("Bytes32"), topic=ref("Bytes"), data=ref("Bytes"))),
        return_value=ref("Bytes"),
        height=ref("U64"),
        index=count("Its place in the block"),
        bytes={**ref("Bytes"), "description": "Its canonical encoding, which the receipts root covers"},
    ),
    "Header": closed(
        "A block's header. `state_root` and `receipts_root` are those of the block at `root_height`",
        chain_id=ref("Bytes32"),
        epoch=ref("U64"),
        height=ref("U64"),
        parent=ref("Bytes32"),
        proposer=ref("Bytes32"),
        timestamp_ms=ref("U64"),
        root_height=ref("U64"),
        state_root=ref("Bytes32"),
        receipts_root=ref("Bytes32"),
        base_price=ref("U64"),
        transactions_root=ref("Bytes32"),
        body_digest=ref("Bytes32"),
        validators_digest=ref("Bytes32"),
        next_validators_digest=ref("Bytes32"),
        bytes={**ref("Bytes"), "description": "The 329 bytes that the block's digest covers"},
    ),
    "Block": closed(
        "A final block",
        digest=ref("Bytes32"),
        header=ref("Header"),
        certificate={**ref("Bytes"), "description": "Encoded, as light clients check it; empty for genesis"},
        transactions=array(ref("Bytes32")),
    ),
    "Blocks": closed(
        "A page of blocks, in order",
        blocks=array(ref("Block")),
        next={**nullable(ref("U64")), "description": "Where to read on; null at the tip"},
    ),
    "Proof": closed(
        "That a state key has `value`, or (null) is absent, under `header.state_root`. With `value` null, "
        "`other` is the leaf that stands on the key's path, or null for an empty place",
        kind=text("What the key is of", enum=["account", "balance", "object"]),
        key=ref("Bytes"),
        value=nullable(ref("Bytes")),
        other=nullable(closed("Another leaf", key_hash=ref("Bytes32"), value_hash=ref("Bytes32"))),
        siblings={**array(ref("Bytes32")), "description": "From the bottom of the tree"},
        proof={**ref("Bytes"), "description": "The same in canonical encoding"},
        header=ref("Header"),
        certificate=ref("Bytes"),
    ),
    "HandOvers": closed(
        "Hand-overs from epoch to epoch, in order; none where the first hasn't ended or isn't kept",
        handovers=array(ref("HandOver")),
    ),
    "HandOver": closed(
        "The end of an epoch, and the set that its last block names for the next",
        epoch=ref("U64"),
        height={**ref("U64"), "description": "Of the epoch's last block"},
        validators=array(
            closed("A validator", node_id=ref("Bytes32"), public_key=ref("Bytes32"), weight=ref("U64"))
        ),
        bytes={**ref("Bytes"), "description": "Header, finalisation and set, encoded for light clients"},
    ),
    "Encoded": closed("A transaction in JSON", bytes={**ref("Bytes"), "description": "Canonical bytes"}),
    "Admitted": closed(
        "Taken: checked and in the mempool, not yet durable. `duplicate`: it was known before",
        digest=ref("Bytes32"),
        status=ref("Status"),
        lane=ref("Lane"),
        duplicate={"type": "boolean"},
    ),
    "RefusedEntry": closed(
        "Not taken. `digest` is null where the bytes did not decode",
        digest=nullable(ref("Bytes32")),
        error=ref("Problem"),
    ),
    "SubmissionEntry": {"anyOf": [ref("Admitted"), ref("RefusedEntry")]},
    "Submission": closed(
        "One entry a transaction, in the order they were sent",
        accepted=count("Entries that were taken"),
        refused=count("Entries that were not"),
        transactions=array(ref("SubmissionEntry")),
    ),
    "Nodes": closed("Nodes, best first", nodes=array(ref("Node"), maxItems=10)),
    "Node": closed(
        "A node as it describes itself, and what this one saw; unknown is null. Check who answers",
        node_id=ref("Bytes32"),
        tier=text("Hardware class", enum=["L1", "L2", "L3", "L4"]),
        region=text("Where it says it is"),
        hints=array(
            closed("How to connect", kind=text("In which way", enum=["direct"]), address=text("HOST:PORT")),
            maxItems=8,
        ),
        services=array(text("What it offers", enum=SERVICES)),
        sequence=ref("U64"),
        load=nullable({"type": "integer", "minimum": 0, "maximum": 100}),
        rtt_ms=nullable({"type": "number", "minimum": 0}),
        last_seen_ms=nullable(ref("U64")),
        failures=count("Contacts in a row that failed"),
    ),
    "Plugins": closed("What the node is made of", plugins=array(ref("Plugin"))),
    "Plugin": closed(
        "One plugin",
        id=text("Its name"),
        version=text("Its version"),
        source=text("Where it was found"),
        trust=text("What is known of its origin"),
        digest=text("Of its content; may be empty"),
        components=array(ref("Component")),
    ),
    "Snapshots": closed(
        "The snapshots that the node keeps, the lowest height first",
        snapshots=array(ref("Snapshot")),
        taking={"type": "boolean", "description": "One is being taken now"},
        last_failure=text("Why the last one could not be taken; empty where it could"),
    ),
    "Snapshot": closed(
        "One snapshot",
        name=text("Its name: height, and seconds since 1970"),
        height=ref("U64"),
        state_root=ref("Bytes32"),
        first_block=ref("U64"),
        created_ms=ref("U64"),
        bytes=ref("U64"),
        chunks=count("How many"),
        digest=ref("Bytes32"),
        pinned={"type": "boolean", "description": "It is kept whatever its age"},
    ),
    "Migration": closed(
        "A move of the node's store to another storage backend",
        to=text("The storage component; empty where none was asked for since the node began"),
        phase=text(
            "copying and comparing: under way; done: the node opens the new store at its next start",
            enum=["none", "copying", "comparing", "done", "failed"],
        ),
        rows=ref("U64"),
        rows_of=ref("U64"),
        changed=ref("U64"),
        problem=text("Why it failed; empty where it didn't"),
    ),
    "EpochEnd": closed(
        "How far the epoch is from ending early, as this validator knows",
        epoch=ref("U64"),
        asked={"type": "boolean", "description": "This validator wants it"},
        weight=ref("U64"),
        weight_of=ref("U64"),
        closing={"type": "boolean", "description": "It closes, early or by its length"},
    ),
    "Temperature": closed(
        "What of the store lies in which class, and what would move and why",
        classes=array(ref("StorageClass")),
        moves=array(ref("PlannedMove")),
        thresholds=closed(
            "By what it is decided",
            hot_share=share("Of all units, those that are hot"),
            warm_share=share("Of all units, those that are warm"),
            up_windows=count("Windows above its class before a unit moves up"),
            down_windows=count("Windows below it before it moves down"),
            disk_use_max=share("Of the hot disk, beyond which what is cold goes at once"),
            surge_times={"type": "number", "minimum": 1, "description": "Times its mean that make a surge"},
            surge_accesses_min=count("Accesses in a window without which there is none"),
        ),
        units=ref("U64"),
        counted=count("Units whose accesses are counted; the others were asked for less"),
        windows=ref("U64"),
        moved_rows=ref("U64"),
        moved_bytes=ref("U64"),
        dry_run={"type": "boolean", "description": "Nothing is moved"},
        complete={"type": "boolean", "description": "All was looked through at least once"},
    ),
    "StorageClass": closed(
        "A class of the store",
        name=text("hot, warm or cold"),
        over=text("Its backend"),
        path=text("Its folder"),
        rows=ref("U64"),
        bytes=ref("U64"),
    ),
    "PlannedMove": closed(
        "What belongs into another class",
        source=text("The class that it lies in"),
        target=text("The class that it belongs to"),
        trigger=text(
            "rank: by how it is asked for; disk: the hot disk is full; surge: asked for far more than before",
            enum=["rank", "disk", "surge"],
        ),
        why=text("In words"),
        units=ref("U64"),
        rows=ref("U64"),
        bytes=ref("U64"),
    ),
    "PluginChange": closed(
        "What was done to a plugin, and to which of its components",
        id=text("The plugin"),
        done=text("What was done", enum=["loaded", "unloaded", "reset"]),
        components=array(text("As ROLE.NAME")),
    ),
    "Component": closed(
        "One component",
        role=text("The job it does"),
        name=text("Its name"),
        contract=text("The version of the role's contract", pattern=r"^[0-9]+\.[0-9]+$"),
        state=text("Where it is in its life"),
        health=ref("Health"),
        detail=text("What it says about its health"),
        restarts=count("Since the node started"),
        breaker=text("Of its restarts", enum=["closed", "open", "half-open"]),
        isolation=text("Where it runs", enum=["inline", "process", "sandbox"]),
        lease=nullable(text("Until when it may serve")),
    ),
}
