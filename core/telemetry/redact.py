"""What may not be read in a log line, and how it is hidden (OBS-41).

Secrets go by field name or by value; private payloads, proofs and witnesses by field name. Addresses
are shortened while `pii_redaction` is on: enough stays to follow one address through a log, not to
look it up. A log is no place for large values either: bytes and texts are cut.
"""

import re
from typing import Any

HIDDEN = "[redacted]"
SECRET_FIELDS = frozenset(
    [
        "api_token",
        "auth_token",
        "authorization",
        "cookie",
        "mnemonic",
        "passphrase",
        "password",
        "payload",
        "private_key",
        "proof",
        "secret",
        "secret_key",
        "seed",
        "signing_key",
        "token",
        "witness",
    ]
)
ADDRESS_FIELDS = frozenset(
    [
        "address",
        "addresses",
        "beneficiary",
        "collector",
        "fee_payer",
        "from_address",
        "minter",
        "owner",
        "recipient",
        "sender",
        "to",
        "to_address",
    ]
)
TEXT_CHARACTERS_MAX = 2000
ITEMS_MAX = 64
DEPTH_MAX = 6
SECRETS_MAX = 16
_ADDRESS = re.compile(r"\b(0x[0-9a-fA-F]{8})[0-9a-fA-F]{52}([0-9a-fA-F]{4})\b")


class Redactor:
    """Turns the fields of an event into plain, bounded, harmless values."""

    def __init__(self, pii_redaction: bool = True) -> None:
        self._pii = pii_redaction
        self._secrets: tuple[str, ...] = ()

    def protect(self, secret: str) -> None:
        """Hide this very text wherever it appears. Short texts would hide too much and are refused."""
        if len(secret) < 8:
            raise ValueError("a secret to protect has at least 8 characters")
        assert len(self._secrets) < SECRETS_MAX, "a node has a handful of secrets"
        self._secrets = (*self._secrets, secret)

    def fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: self._field(name, value, 0) for name, value in list(fields.items())[:ITEMS_MAX]}

    def message(self, text: str) -> str:
        """Free text, such as an exception's message: every long hex id is shortened too."""
        return self._text(text, shorten=self._pii)

    def _field(self, name: str, value: Any, depth: int) -> Any:
        lowered = name.lower()
        if lowered in SECRET_FIELDS:
            return HIDDEN
        return self._plain(value, depth, shorten=self._pii and lowered in ADDRESS_FIELDS)

    def _plain(self, value: Any, depth: int, shorten: bool) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._text(value, shorten)
        if isinstance(value, bytes | bytearray | memoryview):
            data = bytes(value[: TEXT_CHARACTERS_MAX // 2])
            return self._text(f"0x{data.hex()}", shorten)
        if depth < DEPTH_MAX and isinstance(value, dict):
            items = list(value.items())[:ITEMS_MAX]
            return {str(key): self._field(str(key), item, depth + 1) for key, item in items}
        if depth < DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
            return [self._plain(item, depth + 1, shorten) for item in list(value)[:ITEMS_MAX]]
        try:
            return self.message(str(value))
        except Exception as error:
            # A broken __str__ in a plugin's object must not break the line that reports on it.
            return f"<{type(value).__name__}: {type(error).__name__} in __str__>"

    def _text(self, text: str, shorten: bool) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        if shorten:
            text = _ADDRESS.sub(r"\1..\2", text)
        if len(text) > TEXT_CHARACTERS_MAX:
            text = f"{text[:TEXT_CHARACTERS_MAX]}.. ({len(text)} characters)"
        return text
