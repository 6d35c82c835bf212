"""Path and query parameters: read strictly, so that a typing error is answered and not ignored."""

import difflib
import re
from collections.abc import Sequence

from starlette.requests import Request

from supervm.http.problems import Problem, bad_request, of_input
from supervm.types.address import parse_hex
from supervm.types.errors import InvalidInput

U64_MAX = 2**64 - 1
WORD = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")


def query(request: Request, known: Sequence[str] = ()) -> dict[str, str]:
    """The query's parameters; one that is unknown, or stands twice, is refused by name."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            allowed = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
            raise bad_request("UnknownParameter", "query", name, allowed)
        if name in found:
            raise bad_request("RepeatedParameter", "query", name, "give it once")
        found[name] = value
    return found


def no_query(request: Request) -> None:
    query(request)


def digest(text: str, field: str) -> bytes:
    """32 bytes from 0x and 64 hex digits."""
    try:
        return parse_hex(text, field, 32)
    except InvalidInput as error:
        raise of_input(error) from None


def u64(text: str, field: str, most: int = U64_MAX, least: int = 0) -> int:
    """A decimal number without sign or leading zeros."""
    if not _DECIMAL.fullmatch(text) or not least <= int(text) <= most:
        raise bad_request("BadNumber", field, text, f"a decimal number from {least} to {most}")
    return int(text)


def seconds(text: str, field: str, most: float) -> float:
    """A decimal number of seconds, up to thousandths."""
    if not _SECONDS.fullmatch(text) or float(text) > most:
        raise bad_request("BadNumber", field, text, f"seconds from 0 to {most:g}")
    return float(text)


def height_or_digest(text: str, field: str) -> int | bytes:
    """A block is named by its height in decimal or by its digest in hex."""
    if text.startswith("0x"):
        return digest(text, field)
    try:
        return u64(text, field)
    except Problem:
        raise bad_request(
            "BadReference", field, text, "a height in decimal, or 0x and 64 hex digits"
        ) from None


def one_of(text: str, field: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise bad_request("BadChoice", field, text, f"one of {', '.join(choices)}")
    return text


def word(text: str, field: str) -> str:
    """A short name in plain ASCII."""
    if not re.fullmatch(WORD, text):
        raise bad_request("BadText", field, text, "1 to 64 letters, digits, and `.`, `_`, `-` inside")
    return text
