"""Layers and the options that exist -> the effective configuration, with the origin of every value.

Each option takes its value from the last layer that has it, else its default. Every problem is found in
one pass: unknown keys, wrong types, values that a validator refuses, all with file:key and the mend.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from supervm.config.errors import ConfigErrors, ConfigProblem, nearest
from supervm.config.sections import RoleSection, node_sections
from supervm.config.sources import Layer, Text, from_pairs
from supervm.config.values import WrongValue, expected, plain, structure

BUILT_IN = "built-in"


@attrs.frozen
class Entry:
    """One effective value: its table (`storage.sqlite`), its name there, who said so, and if it is secret."""

    table: str
    name: str
    value: Any
    origin: str
    secret: bool = False

    @property
    def key(self) -> str:
        return f"{self.table}.{self.name}"


@attrs.frozen
class Effective:
    """A configuration that holds. `options` has every known component's, in use or not.

    `unused` lists profile keys that no installed option answers to, for `probe` to show.
    """

    sections: Mapping[str, Any]
    use: Mapping[str, tuple[str, ...]]
    options: Mapping[tuple[str, str], Any]
    entries: tuple[Entry, ...]
    unused: tuple[str, ...] = ()

    def origin(self, key: str) -> str:
        """Who set the dotted `key`. Raises KeyError for a key that doesn't exist."""
        for entry in self.entries:
            if entry.key == key:
                return entry.origin
        raise KeyError(key)


def resolve(
    layers: Sequence[Layer],
    *,
    sections: Mapping[str, type] | None = None,
    roles: Sequence[RoleSection] = (),
    partial: bool = False,
) -> Effective:
    """The effective configuration; a later layer wins. Raises ConfigErrors with every problem at once.

    `sections` are the node's own unless given.
    `partial` looks at `sections` and `roles` alone and lets other sections pass: what is needed to find
    plugins is read before their options are known.
    """
    reading = _Reading(layers)
    sections = node_sections() if sections is None else sections
    if not partial:
        reading.refuse_unknown("", [*sections, *(section.role for section in roles)])
    found = {name: reading.take(name, kind) for name, kind in sections.items()}
    use: dict[str, tuple[str, ...]] = {}
    options: dict[tuple[str, str], Any] = {}
    for section in roles:
        reading.refuse_unknown(section.role, ["use", *section.components])
        use[section.role] = reading.take_use(section)
        for name, kind in section.components.items():
            options[section.role, name] = reading.take(f"{section.role}.{name}", kind)
    if reading.problems:
        raise ConfigErrors(reading.problems)
    return Effective(found, use, options, tuple(reading.entries), tuple(reading.unused))


def options_from_text(kind: type, texts: Mapping[str, str], origin: str) -> Any:
    """The options class `kind` from names and plain text, as a genesis fixes a component's parameters.

    Raises ConfigErrors that name `origin`.
    """
    pairs = [(f"options.{name}", Text(text), f"{origin}: {name}") for name, text in texts.items()]
    layer = from_pairs(origin, pairs, dashes=False)
    return resolve([layer], sections={"options": kind}).sections["options"]


class _Reading:
    """One pass over the layers: what was found, and what was wrong."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.problems: list[ConfigProblem] = []
        self.entries: list[Entry] = []
        self.unused: list[str] = []

    def tables(self, path: str) -> Iterator[tuple[Layer, Mapping[str, Any]]]:
        """Each layer's table at `path`. One that holds a value there was reported by refuse_unknown."""
        for layer in self.layers:
            inner: Any = layer.table
            for word in path.split(".") if path else []:
                word = word if layer.dashes else word.replace("-", "_")
                inner = inner.get(word) if isinstance(inner, Mapping) else None
            if isinstance(inner, Mapping):
                yield layer, inner

    def refuse_unknown(self, path: str, known: Sequence[str], tables: Sequence[str] | None = None) -> None:
        """Note each key of the table at `path` that isn't `known`, and each value where a table belongs."""
        needs_table = set(known) - {"use"} if tables is None else set(tables)
        for layer, table in self.tables(path):
            names = {name if layer.dashes else name.replace("-", "_"): name for name in known}
            for name, value in table.items():
                key = f"{path}.{name}" if path else name
                if name not in names:
                    self._unknown(layer, key, name, value, known)
                elif names[name] in needs_table and not isinstance(value, Mapping):
                    self._problem(layer, key, f"{plain(value)!r} isn't a table", f"write [{key}]")

    def take(self, path: str, kind: type, default: Any = attrs.NOTHING) -> Any:
        """The options at `path` as `kind`, or None where something was wrong (and noted).

        `default` is an instance whose values hold where no layer says anything, before the class's own.
        """
        attrs.resolve_types(kind)
        fields = [field for field in attrs.fields(kind) if field.init]
        nested = {field.name: field.type for field in fields if attrs.has(field.type or object)}
        self.refuse_unknown(path, [field.alias or field.name for field in fields], list(nested))
        values: dict[str, Any] = {}
        before = len(self.problems)
        for field in fields:
            name = field.alias or field.name
            if field.name in nested:
                inner = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
                values[name] = self.take(f"{path}.{name}", nested[field.name], inner)
                continue
            layer, given = self._last(path, name)
            if layer is None:
                if default is not attrs.NOTHING:
                    values[name] = getattr(default, field.name)
                elif field.default is attrs.NOTHING:
                    self.problems.append(
                        ConfigProblem(f"{path}.{name}", "is not set", f"give {expected(field.type)}")
                    )
                continue
            try:
                values[name] = structure(given, field.type)
            except WrongValue as error:
                mend = f"expected {error.expected}"
                self._problem(layer, f"{path}.{name}", f"{plain(given)!r} is the wrong type", mend)
        return self._build(path, kind, values) if len(self.problems) == before else None

    def take_use(self, section: RoleSection) -> tuple[str, ...]:
        """The component names of a role: text for one, a list for many, in the order given."""
        kind: Any = list[str] if section.many else str
        layer, given = self._last(section.role, "use")
        value: Any = list(section.use) if section.many else (section.use[0] if section.use else "")
        if layer is not None:
            try:
                value = structure(given, kind)
            except WrongValue as error:
                key = f"{section.role}.use"
                self._problem(layer, key, f"{plain(given)!r} is the wrong type", f"expected {error.expected}")
        key = f"{section.role}.use"
        self.entries.append(Entry(section.role, "use", value, layer.origin_of(key) if layer else BUILT_IN))
        return tuple(value) if section.many else ((value,) if value else ())

    def _build(self, path: str, kind: type, values: Mapping[str, Any]) -> Any:
        try:
            built = kind(**values)
        except Exception as error:
            # Whatever a component's validator raises is about what the operator wrote.
            message = str(error.args[0] if error.args else error)
            names = [field.alias or field.name for field in attrs.fields(kind)]
            about = [a.name for a in error.args if isinstance(a, attrs.Attribute)]
            name = next((name for name in names if name in about or f"'{name}'" in message), None)
            # A validator that doesn't name its option: the value in its message does, if only one has it.
            if name is None:
                given = {n: plain(value) for n, value in values.items() if self._last(path, n)[0]}
                holding = [n for n, value in given.items() if value != "" and str(value) in message]
                name = holding[0] if len(holding) == 1 else None
            layer = self._last(path, name)[0] if name else None
            place = layer.place_of(f"{path}.{name}") if layer else f"{path}.{name}" if name else path
            self.problems.append(ConfigProblem(place, message))
            return None
        for field in attrs.fields(kind):
            name = field.alias or field.name
            if field.init and not attrs.has(field.type or object):
                layer = self._last(path, name)[0]
                origin = layer.origin_of(f"{path}.{name}") if layer else BUILT_IN
                # An option that its class keeps out of its repr is not for printing.
                entry = Entry(path, name, getattr(built, field.name), origin, not field.repr)
                self.entries.append(entry)
        return built

    def _last(self, path: str, name: str) -> tuple[Layer | None, Any]:
        """The last layer with a value for `name` in the table at `path`, and the value."""
        found: tuple[Layer | None, Any] = (None, None)
        for layer, table in self.tables(path):
            spelt = name if layer.dashes else name.replace("-", "_")
            if spelt in table:
                found = (layer, table[spelt])
        return found

    def _unknown(self, layer: Layer, key: str, name: str, value: Any, known: Sequence[str]) -> None:
        if not layer.strict:
            self.unused.append(key)
            return
        inner = value
        while isinstance(inner, Mapping) and layer.places and len(inner) == 1:
            # An environment variable or flag is named whole, not by its first unknown word.
            word, inner = next(iter(inner.items()))
            key = f"{key}.{word}"
        what = "key" if "." in key or not isinstance(value, Mapping) else "section"
        self._problem(layer, key, f"unknown {what} {name!r}", nearest(name, known))

    def _problem(self, layer: Layer, key: str, problem: str, mend: str) -> None:
        self.problems.append(ConfigProblem(layer.place_of(key), problem, mend))
