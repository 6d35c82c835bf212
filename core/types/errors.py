"""What bad input raises: one family, with a code, the offending value and the mend."""

import reprlib
from pathlib import PurePath

VALUE_CHARS_MAX = 80


def shorten(value: object) -> str:
    """Return `value` as text of at most about 80 characters; bytes as 0x hex with their length.

    A path, which is never a stranger's, is given whole.
    """
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value[:32])
        return f"0x{data.hex()}" if len(value) <= 32 else f"0x{data.hex()}... ({len(value)} bytes)"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = value[: VALUE_CHARS_MAX + 1] if isinstance(value, str) else _short_repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}..."


def _short_repr(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:
        # Python refuses to print integers of more than 4300 digits, wherever they hide.
        return f"a {type(value).__name__} with a huge integer"


class InvalidInput(Exception):
    """Somebody else's input is not acceptable.

    `code` is a stable name, `message` says what is wrong, `value` is the offending value as short
    text, and `mend` says what would be right (both may be empty).
    """

    def __init__(self, code: str, message: str, value: object = "", mend: str = "") -> None:
        self.code = code
        self.message = message
        self.value = shorten(value)
        self.mend = mend
        super().__init__(code, message, self.value, mend)

    def __str__(self) -> str:
        got = f": {self.value}" if self.value else ""
        mend = f" ({self.mend})" if self.mend else ""
        return f"{self.message}{got}{mend}"


class DecodeError(InvalidInput):
    """Bytes are not the one canonical encoding of a value. `field` names the place.

    Codes: `Truncated`, `TrailingBytes`, `TooLarge`, `TooMany`, `UnknownFormat`, `NonCanonical`,
    `OutOfRange`.
    """

    def __init__(self, code: str, field: str, value: object = "", mend: str = "") -> None:
        self.field = field
        super().__init__(code, f"{field}: {_SAYS.get(code, code)}", value, mend)


_SAYS = {
    "Truncated": "the bytes end too early",
    "TrailingBytes": "bytes follow the end",
    "TooLarge": "too large",
    "TooMany": "too many items",
    "UnknownFormat": "unknown format or tag",
    "NonCanonical": "not in canonical form",
    "OutOfRange": "out of range",
}


class ProofInvalid(InvalidInput):
    """A proof or a certificate does not show what it claims."""
