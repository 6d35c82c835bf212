"""JSON, text and nothing else: the responses of the API."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


class JsonResponse(Response):
    """A value as compact UTF-8 JSON. NaN and infinities are our own bug and raise."""

    def __init__(
        self,
        value: Any,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/json",
    ) -> None:
        body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        super().__init__(body.encode("utf-8", "replace"), status, dict(headers or {}), media_type)


class TextResponse(Response):
    """Plain text; `content_type` is sent as it stands."""

    def __init__(self, text: str, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text.encode(), 200, {**(headers or {}), "content-type": content_type})
