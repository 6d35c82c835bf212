"""One value against the type of its option: strict for TOML, read by type for plain text.

TOML says what it means, so `"8"` is no number and `1` is no boolean. Text from the environment and the
command line has no type, so the option's type decides how it is read. Both end in cattrs.
"""

import tomllib
import types
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import cattrs

from supervm.config.sources import Text


class WrongValue(ValueError):
    """A value that doesn't fit its option. `expected` says in words what would."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


def structure(value: Any, kind: Any) -> Any:
    """`value` as `kind` (a type from an attrs class). Raises WrongValue; never guesses a conversion."""
    if isinstance(value, Text):
        value = _read_text(str(value), kind)
    try:
        return _CONVERTER.structure(value, kind)
    except WrongValue as error:
        raise WrongValue(expected(kind)) from error
    except (ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
        raise WrongValue(expected(kind)) from error


def expected(kind: Any) -> str:
    """What an option of this type takes, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(argument) for argument in arguments if argument is not type(None))
    if origin in (list, tuple, frozenset, set):
        return f"a list of {_PLURALS.get(arguments[0], 'values')}"
    if origin is dict or attrs.has(origin or kind):
        return "a table"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(repr(member.value) for member in kind)
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def plain(value: Any) -> Any:
    """`value` in TOML's own types: str, int, float, bool, list, dict; None stays None."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def as_text(value: Any) -> str:
    """`value` as plain text that its option's type reads back; the inverse of an option given as text."""
    from supervm.config.render import toml_value

    value = plain(value)
    return value if isinstance(value, str) else toml_value(value)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text in quotes",
    Path: "a path in quotes",
}
_PLURALS = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts in quotes"}


def _read_text(text: str, kind: Any) -> Any:
    """Text as the TOML value that an option of this type would have been given."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        return _read_text(text, kinds[0]) if len(kinds) == 1 else _toml(text)
    if kind in (str, Path) or (isinstance(kind, type) and issubclass(kind, str | Enum)):
        return text
    if origin is typing.Literal and all(isinstance(argument, str) for argument in arguments):
        return text
    if origin in (list, tuple, frozenset, set) and not text.lstrip().startswith("["):
        return [_read_text(item.strip(), arguments[0]) for item in text.split(",") if item.strip()]
    return _toml(text)


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (ValueError, RecursionError):
        # ValueError: not TOML, or a number with more digits than Python reads.
        return text


def _exactly(*kinds: type) -> Callable[[Any, Any], Any]:
    def hook(value: Any, kind: Any) -> Any:
        # bool is an int to Python, not to a person.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise WrongValue(expected(kind))
        return kind(value)

    return hook


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) in (list, tuple, frozenset, set)


def _structure_list(value: Any, kind: Any) -> Any:
    if not isinstance(value, list | tuple | set | frozenset):
        raise WrongValue(expected(kind))
    return typing.get_origin(kind)(_CONVERTER.structure(item, typing.get_args(kind)[0]) for item in value)


def _structure_literal(value: Any, kind: Any) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in typing.get_args(kind)):
        raise WrongValue(expected(kind))
    return value


_CONVERTER = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
_CONVERTER.register_structure_hook(bool, _exactly(bool))
_CONVERTER.register_structure_hook(int, _exactly(int))
_CONVERTER.register_structure_hook(float, _exactly(float, int))
_CONVERTER.register_structure_hook(str, _exactly(str))
_CONVERTER.register_structure_hook(Path, _exactly(str, Path))
_CONVERTER.register_structure_hook_func(_is_list, _structure_list)
_CONVERTER.register_structure_hook_func(_is_literal, _structure_literal)
