"""What a client may POST as transactions, and how it is read.

| content type | body | |
|---|---|---|
| `application/octet-stream` | the transaction's canonical bytes | one |
| `application/json` | `{"bytes": "0x.."}` | one |
| `application/json` | `[{"bytes": "0x.."}, "0x..", ..]` | many |
| `application/vnd.supervm.transactions` | u32 LE length, bytes, and so on to the end | many |
"""

import json
from typing import Any

import attrs

from supervm.http.problems import Problem, bad_request, of_input
from supervm.types.address import parse_hex
from supervm.types.errors import InvalidInput, shorten

OCTETS = "application/octet-stream"
JSON = "application/json"
PACKED = "application/vnd.supervm.transactions"
MEDIA_TYPES = (OCTETS, JSON, PACKED)


@attrs.frozen
class Submission:
    """Transactions as bytes, not yet decoded; `many` tells which answer the client expects."""

    transactions: tuple[bytes, ...]
    many: bool


def media_type(header: str) -> str:
    """The media type of a Content-Type header, without its parameters; 415 for one we don't read."""
    found = header.partition(";")[0].strip().lower()
    if found not in MEDIA_TYPES:
        wanted = ", ".join(MEDIA_TYPES)
        raise Problem(
            status=415,
            code="UnsupportedMediaType",
            detail=f"Content-Type: {shorten(header) or 'missing'} (use one of {wanted})",
            value=shorten(header),
            mend=wanted,
        )
    return found


def read_submission(media: str, body: bytes, transactions_max: int) -> Submission:
    """The transactions of a body. Raises 400 and 413 problems that name the item and the place."""
    if media == OCTETS:
        return Submission((body,), many=False)
    if media == PACKED:
        return Submission(_read_packed(body, transactions_max), many=True)
    value = parse_json(body)
    if isinstance(value, list):
        _check_count(len(value), transactions_max)
        return Submission(tuple(_read_item(item, f"item {n}") for n, item in enumerate(value)), many=True)
    if isinstance(value, dict):
        return Submission((_read_item(value, "body"),), many=False)
    raise bad_request("BadJson", "body", body, 'an object {"bytes": "0x.."} or a list of them')


def parse_json(body: bytes) -> Any:
    """JSON in UTF-8; no key twice, no NaN."""
    try:
        return json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else shorten(str(error))
        raise bad_request("BadJson", "body", body, f"JSON in UTF-8: {reason}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_item(item: Any, field: str) -> bytes:
    if isinstance(item, dict):
        unknown = sorted(set(item) - {"bytes"})
        if unknown:
            raise bad_request("UnknownField", field, unknown[0], 'the only field is "bytes"')
        item = item.get("bytes")
        field = f"{field}.bytes"
    if not isinstance(item, str):
        raise bad_request("BadHex", field, item, "a text of 0x and hex digits")
    try:
        return parse_hex(item, field)
    except InvalidInput as error:
        raise of_input(error) from None


def _read_packed(body: bytes, transactions_max: int) -> tuple[bytes, ...]:
    found: list[bytes] = []
    at = 0
    while at < len(body):
        start, end = at + 4, at + 4 + int.from_bytes(body[at : at + 4], "little")
        if start > len(body) or end > len(body):
            detail = f"item {len(found)} at byte {at}"
            raise bad_request(
                "Truncated", detail, body[at : at + 8], "u32 little-endian length, then as many bytes"
            )
        if len(found) == transactions_max:
            _check_count(len(found) + 1, transactions_max)
        found.append(body[start:end])
        at = end
    _check_count(len(found), transactions_max)
    return tuple(found)


def _check_count(count: int, transactions_max: int) -> None:
    if count == 0:
        raise bad_request("Empty", "body", "no transactions", "at least one transaction")
    if count > transactions_max:
        raise Problem(
            status=413,
            code="TooManyTransactions",
            detail=f"more than {transactions_max} transactions in one request",
            value=str(count),
            mend=f"at most {transactions_max} a request",
        )
