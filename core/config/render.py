"""The effective configuration as a TOML file, with where each value came from (`--print-config`)."""

import json
import re
from typing import Any

from supervm.config.resolve import BUILT_IN, Effective, Entry
from supervm.config.values import plain


def render(effective: Effective) -> str:
    """Valid TOML that loads to the same configuration.

    Secrets are the exception: they are left out, and said to be set. A component that is not in use has
    its table here only if someone set something in it.
    """
    tables: dict[str, list[Entry]] = {}
    for entry in effective.entries:
        tables.setdefault(entry.table, []).append(entry)
    lines = ["# The effective configuration, and where each value came from."]
    for table, entries in tables.items():
        if _shown(effective, table, entries):
            lines += ["", f"[{'.'.join(_key(word) for word in table.split('.'))}]"]
            lines += [_line(entry) for entry in entries]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """One value in TOML. Text is a basic string; None has no TOML form and is a bug of the caller."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's, except that TOML also wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    assert isinstance(value, dict), f"{value!r} has no TOML form"
    return "{" + ", ".join(f"{_key(name)} = {toml_value(item)}" for name, item in value.items()) + "}"


def _shown(effective: Effective, table: str, entries: list[Entry]) -> bool:
    role, _, component = table.partition(".")
    if not component or component.split(".")[0] in effective.use.get(role, ()):
        return True
    return any(entry.origin != BUILT_IN and not entry.origin.startswith("profile") for entry in entries)


def _line(entry: Entry) -> str:
    origin = "".join(letter if letter.isprintable() else "?" for letter in entry.origin)
    if entry.secret and entry.value:
        return f"# {_key(entry.name)} is set and not shown  # {origin}"
    if entry.value is None:
        return f"# {_key(entry.name)} is not set  # {origin}"
    return f"{_key(entry.name)} = {toml_value(plain(entry.value))}  # {origin}"


def _key(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9_-]+", word) else toml_value(word)
