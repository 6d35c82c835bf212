"""A reader of the plain YAML that our files for Prometheus are written in.

Maps and lists by indentation, `[a, b]`, comments on lines of their own, plain and double-quoted text.
All values are text. Anything else is refused.
"""

import json
import re
from typing import Any

_ENTRY = re.compile(r"([A-Za-z_]\w*):(?: (.*))?")


def read_yaml(text: str) -> Any:
    """Raises `ValueError` for a line that it can't read."""
    lines = [
        (len(line) - len(line.lstrip(" ")), line.strip())
        for line in text.splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    value, rest = _block(lines)
    if rest:
        raise ValueError(f"{rest[0][1]!r} stands out of line")
    return value


Lines = list[tuple[int, str]]


def _block(lines: Lines) -> tuple[Any, Lines]:
    indent, first = lines[0]
    if first.startswith("- "):
        items = []
        while lines and lines[0][0] == indent and lines[0][1].startswith("- "):
            inner = lines[0][1][2:]
            if _ENTRY.fullmatch(inner):
                # What follows the dash is the first line of a block that stands two further in.
                value, lines = _block([(indent + 2, inner), *lines[1:]])
            else:
                value, lines = _scalar(inner), lines[1:]
            items.append(value)
        return items, lines
    entries: dict[str, Any] = {}
    while lines and lines[0][0] == indent:
        found = _ENTRY.fullmatch(lines[0][1])
        if found is None or found[1] in entries:
            raise ValueError(f"{lines[0][1]!r} is no new entry of a map")
        lines = lines[1:]
        if found[2] is not None:
            entries[found[1]] = _scalar(found[2])
        elif lines and lines[0][0] > indent:
            entries[found[1]], lines = _block(lines)
        else:
            raise ValueError(f"{found[1]} has no value")
    return entries, lines


def _scalar(text: str) -> Any:
    if text.startswith("["):
        return [_scalar(item.strip()) for item in text.removeprefix("[").removesuffix("]").split(",")]
    if text.startswith('"'):
        value: str = json.loads(text)
        return value
    if ": " in text or " #" in text or text[0] in "{&*!|>'%@`":
        raise ValueError(f"{text!r} is more than plain text")
    return text
