"""Where values come from: a file, the environment, --set and other flags. Each source is one layer.

A layer keeps the nested table as it was written; what a key means is decided later, when the options of
the installed components are known. Text from the environment and the command line is marked `Text` and
is read by the type of the option it lands on.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from supervm.config.errors import ConfigErrors, ConfigProblem

FILE_BYTES_MAX = 2**20
"""A larger configuration file is refused unread."""
DEPTH_MAX = 16
ENVIRONMENT_PREFIX = "SUPERVM_"
# SUPERVM_NATIVE and the like have no section, so no double underscore, and aren't configuration.
ENVIRONMENT_SEPARATOR = "__"


class Text(str):
    """A value typed as plain text: `8`, `true`, `a,b` become what the option's type makes of them."""

    __slots__ = ()


@attrs.frozen
class Layer:
    """One source. `origin` is what is printed beside a value; `places` overrides it key by key.

    `strict` False (a tier profile) lets keys pass that this build has no option for; they are listed, not
    refused. `dashes` False means that names can't hold a dash (environment), so `my-store` is `my_store`.
    """

    origin: str
    table: Mapping[str, Any]
    places: Mapping[str, str] = attrs.field(factory=dict)
    strict: bool = True
    dashes: bool = True

    def origin_of(self, key: str) -> str:
        """The origin printed for the dotted `key`."""
        return self.places.get(key, self.origin)

    def place_of(self, key: str) -> str:
        """Where to look for `key`, for an error message."""
        return self.places.get(key) or f"{self.origin.removeprefix('file ')}:{key}"


def read_file(path: Path) -> Layer:
    """The layer of a TOML file. Raises ConfigErrors: unreadable, over FILE_BYTES_MAX, not UTF-8, not TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _refuse(str(path), f"can't be read: {error.strerror}", "name a readable TOML file") from error
    if len(data) > FILE_BYTES_MAX:
        raise _refuse(str(path), f"larger than {FILE_BYTES_MAX} bytes", "a configuration file is small TOML")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _refuse(str(path), f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _refuse(str(path), f"not TOML: {error}", "mend that line") from error
    return Layer(f"file {path}", table)


def read_environment(environ: Mapping[str, str]) -> Layer:
    """The layer of SUPERVM_SECTION__KEY variables; SUPERVM_STORAGE__SQLITE__PATH is storage.sqlite.path."""
    pairs = []
    for name, text in sorted(environ.items()):
        words = name.removeprefix(ENVIRONMENT_PREFIX).lower().split(ENVIRONMENT_SEPARATOR)
        if name.startswith(ENVIRONMENT_PREFIX) and len(words) > 1:
            pairs.append((".".join(words), Text(text), f"environment {name}"))
    return from_pairs("environment", pairs, dashes=False)


def read_settings(settings: Iterable[str]) -> Layer:
    """The layer of `--set KEY=VALUE` flags. Raises ConfigErrors for a flag without a key or `=`."""
    pairs, problems = [], []
    for setting in settings:
        key, separator, text = setting.partition("=")
        key = key.strip()
        if not separator or not all(key.split(".")) or "." not in key:
            problems.append(
                ConfigProblem(
                    "--set", f"{setting!r} isn't SECTION.KEY=VALUE", "e.g. --set storage.use=sqlite"
                )
            )
        else:
            pairs.append((key, Text(text), f"--set {key}"))
    if problems:
        raise ConfigErrors(problems)
    return from_pairs("--set", pairs)


def read_flags(flags: Iterable[tuple[str, Any, str]]) -> Layer:
    """The layer of flags with a name of their own: (key, value, flag), a value of None being not given."""
    return from_pairs("command line", [flag for flag in flags if flag[1] is not None])


def from_pairs(
    origin: str, pairs: Iterable[tuple[str, Any, str]], *, strict: bool = True, dashes: bool = True
) -> Layer:
    """A layer of (dotted key, value, place); a later pair wins.

    Raises ConfigErrors when one key is inside another's value.
    """
    table: dict[str, Any] = {}
    places: dict[str, str] = {}
    problems = []
    for key, value, place in pairs:
        words = key.split(".")
        inner: Any = table
        for word in words[:-1]:
            inner = inner.setdefault(word, {}) if isinstance(inner, dict) else None
        if len(words) > DEPTH_MAX or not isinstance(inner, dict) or isinstance(inner.get(words[-1]), dict):
            problems.append(
                ConfigProblem(place, f"{key!r} is both a value and a table", "set one of the two")
            )
            continue
        inner[words[-1]] = value
        places[key] = place
    if problems:
        raise ConfigErrors(problems)
    return Layer(origin, table, places, strict, dashes)


def read_all(readers: Iterable[Callable[[], Layer]]) -> list[Layer]:
    """The layer of each reader, in order. Raises ConfigErrors with the problems of all of them."""
    layers: list[Layer] = []
    problems: list[ConfigProblem] = []
    for read in readers:
        try:
            layers.append(read())
        except ConfigErrors as errors:
            problems += errors.problems
    if problems:
        raise ConfigErrors(problems)
    return layers


def _refuse(place: str, problem: str, mend: str) -> ConfigErrors:
    return ConfigErrors([ConfigProblem(place, problem, mend)])
