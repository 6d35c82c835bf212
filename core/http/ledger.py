"""/v1/status, accounts, objects, tokens, blocks and proofs: reads of committed state."""

from starlette.requests import Request
from starlette.responses import Response

from supervm.chain.queries import HANDOVERS_MAX
from supervm.http import parameters, views
from supervm.http.api import api_of
from supervm.http.parameters import no_query, query
from supervm.http.problems import bad_request, not_found
from supervm.http.responses import JsonResponse
from supervm.types.address import format_hex
from supervm.types.state import NATIVE_TOKEN, account_key, balance_key, object_key

BLOCKS_DEFAULT = 20
EPOCH_MAX = 2**63
BLOCKS_MAX = 100
# A page of full blocks stays a few megabytes; `next` says where to read on.
PAGE_TRANSACTIONS_MAX = 10_000


async def status(request: Request) -> Response:
    no_query(request)
    api = api_of(request)
    facts = api.facts
    answer = views.status(await api.ledger.queries.status())
    answer |= {
        "tier": facts.tier(),
        "node_id": format_hex(api.ledger.identity.node_id),
        "composition": {role: list(names) for role, names in facts.composition().items()},
        "peers": facts.peers(),
        "health": facts.health(),
        "versions": dict(facts.versions()),
    }
    return JsonResponse(answer)


async def account(request: Request) -> Response:
    """An account is there for every address: one that never received anything has nonce 0 and nothing."""
    after = query(request, ("after",)).get("after")
    start = parameters.digest(after, "after") if after is not None else b""
    address = parameters.digest(request.path_params["address"], "address")
    return JsonResponse(views.account(await api_of(request).ledger.queries.account(address, after=start)))


async def ledger_object(request: Request) -> Response:
    no_query(request)
    object_id = parameters.digest(request.path_params["id"], "id")
    found = await api_of(request).ledger.queries.object(object_id)
    if found is None or found.deleted:
        what = "there is no such object" if found is None else "the object was deleted"
        raise not_found("ObjectUnknown", what, object_id, "a proof of it is at /v1/proofs/ID?kind=object")
    return JsonResponse(views.ledger_object(object_id, found))


async def token(request: Request) -> Response:
    no_query(request)
    token_id = parameters.digest(request.path_params["id"], "id")
    found = await api_of(request).ledger.queries.token(token_id)
    if found is None:
        raise not_found("TokenUnknown", "there is no such token", token_id)
    return JsonResponse(views.token(token_id, found))


async def block(request: Request) -> Response:
    no_query(request)
    reference = parameters.height_or_digest(request.path_params["reference"], "reference")
    found = await api_of(request).ledger.queries.block(reference)
    if found is None:
        raise not_found(
            "BlockUnknown", "there is no such block here", reference, "see the height in /v1/status"
        )
    return JsonResponse(views.block(found))


async def blocks(request: Request) -> Response:
    """Blocks from a height upward; without `from` the newest ones."""
    asked = query(request, ("from", "limit"))
    queries = api_of(request).ledger.queries
    limit = parameters.u64(asked.get("limit", str(BLOCKS_DEFAULT)), "limit", BLOCKS_MAX, least=1)
    now = await queries.status()
    tip, newest = now.height, max(now.oldest_block, now.height - limit + 1)
    height = parameters.u64(asked["from"], "from") if "from" in asked else newest
    found: list[views.Json] = []
    transactions = 0
    while len(found) < limit and height <= tip and transactions <= PAGE_TRANSACTIONS_MAX:
        view = await queries.block(height)
        if view is None:
            break  # a page has no gap: who reads on asks for this one again
        found.append(views.block(view))
        transactions += len(view.transactions)
        height += 1
    return JsonResponse({"blocks": found, "next": str(height) if height <= tip else None})


async def proof(request: Request) -> Response:
    """A proof of an account, a balance or an object, or that there is none.

    Without `kind` an id that names an object is an object's, any other an account's: both are digests
    of different things, so no value can be both.
    """
    queries = api_of(request).ledger.queries
    name = parameters.digest(request.path_params["id"], "id")
    asked = query(request, ("kind", "token"))
    kind = asked.get("kind")
    if kind is not None:
        kind = parameters.one_of(kind, "kind", ("account", "object"))
    token_id = parameters.digest(asked["token"], "token") if "token" in asked else NATIVE_TOKEN
    if kind is None:
        is_object = "token" not in asked and await queries.object(name) is not None
        kind = "object" if is_object else "account"
    if kind == "object":
        if "token" in asked:
            raise bad_request("BadChoice", "token", asked["token"], "only with kind=account")
        return JsonResponse(views.proof("object", await queries.proof(object_key(name))))
    if token_id == NATIVE_TOKEN:
        return JsonResponse(views.proof("account", await queries.proof(account_key(name))))
    return JsonResponse(views.proof("balance", await queries.proof(balance_key(name, token_id))))


async def handovers(request: Request) -> Response:
    """What proves the validator sets from one epoch to the next, for light clients (CONS-54, CONS-72)."""
    asked = query(request, ("from", "limit"))
    first = parameters.u64(asked.get("from", "1"), "from", EPOCH_MAX)
    limit = parameters.u64(asked.get("limit", str(HANDOVERS_MAX)), "limit", HANDOVERS_MAX, least=1)
    found = await api_of(request).ledger.queries.handovers(first, limit)
    return JsonResponse({"handovers": [views.handover(each) for each in found]})
