"""A client of one node's HTTP interface: JSON in and out, errors as one typed family.

Blocking, one connection pool a client, safe to share between threads. Every call has a timeout, and no
answer is read beyond `ANSWER_BYTES_MAX`. Nothing is retried here: callers know what may be sent twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import attrs
import httpx

from supervm.types.address import parse_hex
from supervm.types.codec import pack_transactions
from supervm.types.errors import InvalidInput
from supervm.types.handover import HandOver

DEFAULT_API = "http://127.0.0.1:8645"
ANSWER_BYTES_MAX = 64 * 2**20
EVENT_BYTES_MAX = 2**20
EVENT_FIELDS = frozenset({"id", "event", "data"})
TIMEOUT_S = 30.0
HANDOVERS_MAX = 65_536
# The longest pause that a node can make its clients take before they try again.
RETRY_AFTER_S_MAX = 60.0
PACKED_TYPE = "application/vnd.supervm.transactions"


class ClientError(Exception):
    """A request came to nothing. The message names the node and the mend."""


class NodeUnreachable(ClientError):
    """No answer: nobody listens, or the answer broke off. The request may or may not have arrived."""


class AnswerInvalid(ClientError):
    """Something answered, but not as a node does."""


class RequestRefused(ClientError):
    """The node answered with a problem document (RFC 9457). `code` is for programs to test.

    `retry_after_s` is from 0 to RETRY_AFTER_S_MAX whatever the node says; None where it says no number.
    """

    def __init__(self, status: int, document: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.code = str(document.get("code", ""))
        self.document = document
        self.retry_after_s = retry_after_s
        detail = str(document.get("detail") or document.get("title") or f"status {status}")
        mend = str(document.get("mend") or "")
        super().__init__(f"{detail}; {mend}" if mend and mend not in detail else detail)


@attrs.frozen
class Refusal:
    """Why the node took one transaction of many not. `code` is for programs, `text` for people.

    `retry_after_s`: as for RequestRefused.
    """

    code: str
    text: str
    retry_after_s: float | None = None


@attrs.frozen
class Sent:
    """What became of each transaction of a request, in its order: None is taken, else why not."""

    digests: tuple[str | None, ...]
    refusals: tuple[Refusal | None, ...]


class NodeClient:
    """One node's HTTP interface, at `url`. Use it in a `with`."""

    def __init__(self, url: str = DEFAULT_API, *, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # trust_env: a proxy set for the web has no business between an operator and his own node.
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, headers=headers, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def get(self, path: str, **parameters: object) -> Any:
        """The JSON at `path`. Raises RequestRefused, NodeUnreachable, AnswerInvalid."""
        query = {name: str(value) for name, value in parameters.items() if value is not None}
        with self._stream("GET", path, params=query) as response:
            return self._json(response)

    def post(self, path: str) -> Any:
        """Post nothing to `path`; its JSON. Raises RequestRefused, NodeUnreachable, AnswerInvalid."""
        with self._stream("POST", path) as response:
            return self._json(response)

    def ready(self) -> bool:
        """Whether the node says that it is ready to serve. False when it can't be reached."""
        try:
            self.get("/readyz")
        except ClientError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        return self._object("/v1/status")

    def account(self, address: str) -> dict[str, Any]:
        return self._object(f"/v1/accounts/{address}")

    def ledger_object(self, object_id: str) -> dict[str, Any]:
        return self._object(f"/v1/objects/{object_id}")

    def transaction(self, digest: str, **parameters: object) -> dict[str, Any]:
        return self._object(f"/v1/transactions/{digest}", **parameters)

    def block(self, height_or_digest: int | str) -> dict[str, Any]:
        return self._object(f"/v1/blocks/{height_or_digest}")

    def proof(self, name: str, **parameters: object) -> dict[str, Any]:
        return self._object(f"/v1/proofs/{name}", **parameters)

    def handovers(self, upto: int, first: int = 1) -> list[HandOver]:
        """What proves the validator set of epoch `upto`, from epoch `first` on. Nothing of it is checked.

        Raises as `get`, and AnswerInvalid where the node has them not all.
        """
        found: list[HandOver] = []
        if upto - first > HANDOVERS_MAX:
            raise AnswerInvalid(f"{self.url} speaks of epoch {upto}; give --trusted for a header that far on")
        while (epoch := first + len(found)) < upto:
            page = self._object("/v1/handovers", **{"from": epoch}).get("handovers")
            if not isinstance(page, list) or not page:
                raise AnswerInvalid(f"{self.url} has no hand-over from epoch {epoch} to the next")
            try:
                found += [HandOver.decode(parse_hex(str(each.get("bytes")), "bytes")) for each in page]
            except (InvalidInput, AttributeError) as error:
                raise AnswerInvalid(f"{self.url} gave a hand-over that is none: {error}") from error
        return found[: max(0, upto - first)]

    def send(self, transactions: Sequence[bytes]) -> Sent:
        """Post canonical transactions in one request. Sending the same bytes again is harmless.

        Raises RequestRefused (429 when full: `retry_after_s`), NodeUnreachable, AnswerInvalid.
        """
        with self._stream(
            "POST",
            "/v1/transactions",
            content=pack_transactions(transactions),
            headers={"content-type": PACKED_TYPE},
        ) as response:
            answer = self._json(response)
        return self._sent(answer, len(transactions))

    def events(self, last_id: str = "") -> Iterator[tuple[str, str, Any]]:
        """(id, kind, facts) of each server-sent event after `last_id`, until the connection ends.

        Raises RequestRefused, NodeUnreachable, and AnswerInvalid for what is no event of at most
        EVENT_BYTES_MAX bytes.
        """
        headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
        with self._stream("GET", "/v1/events", headers=headers) as response:
            yield from _events(response)

    def _object(self, path: str, **parameters: object) -> dict[str, Any]:
        answer = self.get(path, **parameters)
        if not isinstance(answer, dict):
            raise AnswerInvalid(f"{self.url}{path} answered no JSON object; is it a SuperVM node?")
        return answer

    @contextmanager
    def _stream(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(method, path, **arguments) as response:
                if response.status_code >= 400:
                    self._refuse(response)
                yield response
        except httpx.InvalidURL as error:
            raise ClientError(f"{self.url!r} is no URL ({error}); e.g. {DEFAULT_API}") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            problem = str(error) or type(error).__name__
            raise NodeUnreachable(
                f"no answer from {self.url} ({problem}); start a node with 'supervm run', or give --api URL"
            ) from error

    def _refuse(self, response: httpx.Response) -> None:
        try:
            document = json.loads(self._read(response))
        except (ValueError, RecursionError):
            document = {}
        if not isinstance(document, dict):
            document = {}
        after = response.headers.get("retry-after", "")
        stated = document.get("retry_after_s", float(after) if after.isdecimal() else None)
        raise RequestRefused(response.status_code, document, _pause_s(stated))

    def _json(self, response: httpx.Response) -> Any:
        try:
            return json.loads(self._read(response))
        except (ValueError, RecursionError) as error:
            raise AnswerInvalid(f"{response.url} answered no JSON; is it a SuperVM node?") from error

    def _read(self, response: httpx.Response) -> bytes:
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > ANSWER_BYTES_MAX:
                raise AnswerInvalid(f"{response.url} answered more than {ANSWER_BYTES_MAX} bytes")
        return bytes(data)

    def _sent(self, answer: Any, count: int) -> Sent:
        items = answer.get("transactions") if isinstance(answer, dict) else None
        if not isinstance(items, list) or len(items) != count:
            raise AnswerInvalid(f"{self.url} answered for other transactions than the {count} sent")
        digests, refusals = [], []
        for item in items:
            digest = item.get("digest") if isinstance(item, dict) else 0
            problem = item.get("error") if isinstance(item, dict) else None
            if not isinstance(digest, str | None) or not isinstance(problem, dict | None):
                raise AnswerInvalid(f"{self.url} answered for a transaction with {str(item)[:100]!r}")
            digests.append(digest)
            refusals.append(_refusal(problem))
        return Sent(tuple(digests), tuple(refusals))


def _pause_s(stated: object) -> float | None:
    """The seconds that a node asks its client to wait, bounded; None for what is no such number."""
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not stated >= 0:
        return None
    return float(min(stated, RETRY_AFTER_S_MAX))


def _refusal(problem: Mapping[str, Any] | None) -> Refusal | None:
    if not problem:
        return None
    detail, mend = str(problem.get("detail", "refused")), str(problem.get("mend", ""))
    text = f"{detail}; {mend}" if mend and mend not in detail else detail
    return Refusal(str(problem.get("code", "")), text, _pause_s(problem.get("retry_after_s")))


def _lines(response: httpx.Response) -> Iterator[str]:
    """The answer's lines as they come. Raises AnswerInvalid for one beyond EVENT_BYTES_MAX."""
    rest = bytearray()
    for piece in response.iter_bytes():
        rest += piece
        if b"\n" in piece:
            *whole, rest = rest.split(b"\n")
            for line in whole:
                yield line.removesuffix(b"\r").decode(errors="replace")
        if len(rest) > EVENT_BYTES_MAX:
            raise AnswerInvalid(f"{response.url} sent a line of more than {EVENT_BYTES_MAX} bytes")


def _events(response: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    """Fields up to a blank line make an event (the HTML standard, server-sent events)."""
    fields: dict[str, str] = {}
    for line in _lines(response):
        if line:
            name, _, value = line.partition(":")
            if name not in EVENT_FIELDS:
                continue
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value
            if len(fields[name]) > EVENT_BYTES_MAX:
                raise AnswerInvalid(f"{response.url} sent an event of more than {EVENT_BYTES_MAX} bytes")
        elif "data" in fields:
            try:
                facts = json.loads(fields["data"])
            except (ValueError, RecursionError) as error:
                raise AnswerInvalid(f"{response.url} sent an event that is no JSON") from error
            yield fields.get("id", ""), fields.get("event", "message"), facts
            fields = {}
