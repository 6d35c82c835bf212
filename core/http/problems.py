"""RFC 9457 problem documents: every error of the API is one, with a stable `code`.

    {"type": "urn:supervm:problem:bad-hex", "title": "Bad hex", "status": 400,
     "detail": "digest: wrong length: 0x12 (0x and 64 hex digits)",
     "code": "BadHex", "value": "0x12", "mend": "0x and 64 hex digits"}

`code` is what a program should test. `value` is the offending value, shortened; `mend` says what would
be right. Both may be empty, never absent.
"""

import re
from collections.abc import Mapping
from typing import Any

import attrs

from supervm.http.responses import JsonResponse
from supervm.types.errors import InvalidInput, shorten

PROBLEM_TYPE = "application/problem+json"
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@attrs.frozen(kw_only=True)
class Problem(Exception):
    """An error to answer with; raise it anywhere below the app. `extra` members are added as they are."""

    status: int
    code: str
    detail: str
    value: str = ""
    mend: str = ""
    retry_after_s: float | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    def document(self) -> dict[str, Any]:
        words = _WORD.sub(" ", self.code).lower()
        document = {
            "type": f"urn:supervm:problem:{words.replace(' ', '-')}",
            "title": words.capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "value": self.value,
            "mend": self.mend,
        }
        if self.retry_after_s is not None:
            document["retry_after_s"] = self.retry_after_s
        return document | dict(self.extra)

    def response(self) -> JsonResponse:
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            # The header counts whole seconds; less than one would tell a client not to wait at all.
            headers["retry-after"] = str(max(1, round(self.retry_after_s)))
        return JsonResponse(self.document(), self.status, headers, PROBLEM_TYPE)


def bad_request(code: str, field: str, value: object, mend: str) -> Problem:
    """400: the request itself can't be understood."""
    shown = shorten(value)
    return Problem(status=400, code=code, detail=f"{field}: {shown} ({mend})", value=shown, mend=mend)


def not_found(code: str, what: str, value: object, mend: str = "") -> Problem:
    shown = shorten(value)
    return Problem(status=404, code=code, detail=f"{what}: {shown}", value=shown, mend=mend)


def overloaded(what: str, limit: int, retry_after_s: float = 1.0, status: int = 503) -> Problem:
    """A bound of this node is reached; nothing is wrong with the request."""
    return Problem(
        status=status,
        code="Overloaded",
        detail=f"{what}: the bound of {limit} is reached",
        value=str(limit),
        mend=f"try again in {retry_after_s:g} s",
        retry_after_s=retry_after_s,
    )


def of_input(error: InvalidInput, status: int = 400) -> Problem:
    """Bad input that the ledger's own types refused."""
    return Problem(status=status, code=error.code, detail=str(error), value=error.value, mend=error.mend)
