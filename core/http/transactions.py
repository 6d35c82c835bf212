"""/v1/transactions: send transactions, and ask what became of one."""

from collections.abc import Sequence

import trio
from starlette.requests import Request
from starlette.responses import Response

from supervm.chain.views import Admitted, TransactionView
from supervm.contracts.application import Refused
from supervm.http import parameters, views
from supervm.http.api import Api, api_of
from supervm.http.guard import DEADLINE
from supervm.http.parameters import no_query, query
from supervm.http.problems import Problem
from supervm.http.responses import JsonResponse
from supervm.http.submissions import Submission, media_type, read_submission
from supervm.types.address import format_hex

# Above this a body is parsed in a thread: 64 KiB of JSON take about a millisecond.
PARSE_INLINE_BYTES = 64 * 1024


async def submit(request: Request) -> Response:
    """Take transactions into the mempool: 202 once they are checked, which is not yet durable."""
    no_query(request)
    api = api_of(request)
    media = media_type(request.headers.get("content-type", ""))
    if request.headers.get("content-encoding", "identity") != "identity":
        found = request.headers["content-encoding"]
        raise Problem(
            status=415,
            code="UnsupportedEncoding",
            detail=f"Content-Encoding: {found}",
            value=found,
            mend="send the body as it is",
        )
    async with api.bodies.read(request) as body:
        submission = await _parse(api, media, body)
        results = await api.ledger.submit(submission.transactions)
        assert len(results) == len(submission.transactions), "one result a transaction"
    return _many(results) if submission.many else _one(results[0])


async def _parse(api: Api, media: str, body: bytes) -> Submission:
    most = api.config.transactions_max
    if len(body) <= PARSE_INLINE_BYTES:
        return read_submission(media, body, most)
    return await trio.to_thread.run_sync(read_submission, media, body, most, limiter=api.parsing)


def _one(result: Admitted | Refused) -> Response:
    if isinstance(result, Refused):
        raise views.refusal(result)
    location = f"/v1/transactions/{format_hex(result.digest)}"
    return JsonResponse(views.admitted(result), 202, {"location": location})


def _many(results: Sequence[Admitted | Refused]) -> Response:
    """One entry a transaction, in their order; 429 where none was taken and all may come again later.

    503 where the node can take nothing, whatever is sent.
    """
    refused = [each for each in results if isinstance(each, Refused)]
    answer = {
        "accepted": len(results) - len(refused),
        "refused": len(refused),
        "transactions": [_entry(each) for each in results],
    }
    waits = [each.retry_after_s for each in refused if each.retry_after_s is not None]
    if len(waits) == len(results):
        first = refused[0]
        raise Problem(
            status=views.refusal(first).status,
            code=first.code,
            detail=f"none of {len(results)} transactions was taken; the first: {first}",
            value=first.value,
            mend=first.mend,
            retry_after_s=max(waits),
            extra=answer,
        )
    return JsonResponse(answer, 202)


def _entry(result: Admitted | Refused) -> dict[str, object]:
    if isinstance(result, Admitted):
        return views.admitted(result)
    digest = format_hex(result.digest) if result.digest is not None else None
    return {"digest": digest, "error": views.refusal(result).document()}


async def transaction(request: Request) -> Response:
    """A transaction's status; with `?wait=SECONDS` a pending one's outcome, if it comes in that time."""
    api = api_of(request)
    digest = parameters.digest(request.path_params["digest"], "digest")
    wait = query(request, ("wait",)).get("wait")
    if wait is None:
        return JsonResponse(views.transaction(await api.ledger.queries.transaction(digest)))
    seconds = parameters.seconds(wait, "wait", api.config.wait_max_s)
    with api.waits:
        request.scope[DEADLINE].deadline += seconds
        return JsonResponse(views.transaction(await _outcome(api, digest, seconds)))


async def _outcome(api: Api, digest: bytes, seconds: float) -> TransactionView:
    """Wait for a transaction's outcome, but never while the node drains."""
    view: TransactionView | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_when_closing, api, nursery.cancel_scope)
        view = await api.ledger.queries.transaction(digest, wait_s=seconds)
        nursery.cancel_scope.cancel()
    return view if view is not None else await api.ledger.queries.transaction(digest)


async def _end_when_closing(api: Api, scope: trio.CancelScope) -> None:
    await api.closing.wait()
    scope.cancel()
