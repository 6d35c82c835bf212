"""Genesis as a JSON file: what people write and share. Strict: one mistake, one named error.

u64 and u128 are decimal strings, bytes 0x hex, small counts plain integers. Unknown keys are refused
with the nearest right one. Lists may stand in any order in the file; they are sorted when read.
"""

import difflib
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import attrs

from supervm.types import smt
from supervm.types.address import format_hex, parse_hex
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Entry, Genesis, GenesisGas, GenesisToken
from supervm.types.limits import Limits
from supervm.types.validators import Validator, ValidatorSet

FILE_FORMAT = 1
FILE_BYTES_MAX = 256 * 1024 * 1024
KEYS_MAX = 64
"""Keys of one JSON object whose keys are known beforehand."""

Item = TypeVar("Item")

_INTEGER = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)


def load_genesis(data: bytes) -> Genesis:
    """Read a genesis file; anything wrong raises `InvalidInput` that names the place and the mend."""
    if len(data) > FILE_BYTES_MAX:
        raise InvalidInput(
            "TooLarge", "genesis: too large", f"{len(data)} bytes", f"at most {FILE_BYTES_MAX}"
        )
    try:
        content = json.loads(
            data,
            object_pairs_hook=_object,
            parse_int=_small_integer,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except InvalidInput:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInput("BadJson", "genesis: not JSON", str(error), "a JSON object in UTF-8") from None
    return _genesis(_Fields(content, "genesis"))


def dump_genesis(genesis: Genesis) -> bytes:
    """Return the genesis file's bytes; `load_genesis` gives the same genesis back."""
    content = {
        "format": FILE_FORMAT,
        "name": genesis.name,
        "created_ms": str(genesis.created_ms),
        "development": genesis.development,
        "epoch_blocks": str(genesis.epoch_blocks),
        "state_tree": genesis.state_tree,
        "native": {"symbol": genesis.native_symbol.decode(), "decimals": genesis.native_decimals},
        "validators": [
            {
                "node_id": format_hex(each.node_id),
                "public_key": format_hex(each.public_key),
                "weight": str(each.weight),
            }
            for each in genesis.validators.members
        ],
        "accounts": _dump_entries(genesis.accounts),
        "tokens": [
            {
                "id": format_hex(each.id),
                "symbol": each.symbol.decode(),
                "decimals": each.decimals,
                "minter": format_hex(each.minter),
                "fixed": each.fixed,
                "balances": _dump_entries(each.balances),
            }
            for each in genesis.tokens
        ],
        "gas": {"component": genesis.gas.component, "parameters": dict(genesis.gas.parameters)},
        "limits": attrs.asdict(genesis.limits),
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _dump_entries(entries: tuple[Entry, ...]) -> list[dict[str, str]]:
    return [{"address": format_hex(address), "balance": str(amount)} for address, amount in entries]


class _Fields:
    """A JSON object that is read field by field and must be used up."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, dict):
            raise InvalidInput("BadType", f"{where}: not an object", content, "{...}")
        if len(content) > KEYS_MAX:
            raise InvalidInput("TooMany", f"{where}: too many keys", len(content), f"at most {KEYS_MAX}")
        self._left: dict[str, Any] = dict(content)
        self._known: list[str] = []
        self.where = where

    def place(self, name: str) -> str:
        return f"{self.where}.{name}"

    def take(self, name: str, kind: type, *default: Any) -> Any:
        """Return a field of a JSON type, or the default where it is absent."""
        self._known.append(name)
        if name not in self._left:
            if default:
                return default[0]
            nearest = difflib.get_close_matches(name, [key[:64] for key in self._left], 1)
            mend = f"did you write {nearest[0]!r} for it?" if nearest else "add it"
            raise InvalidInput("MissingKey", f"{self.place(name)}: missing", "", mend)
        value = self._left.pop(name)
        # bool is an int to Python; here they are two kinds.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidInput("BadType", f"{self.place(name)}: wrong type", value, _KIND_NAMES[kind])
        return value

    def number(self, name: str, bits: int, *default: int) -> int:
        """Return a u64 or u128, written as a decimal string."""
        mend = f'a decimal string, "0" to 2^{bits} - 1'
        if name not in self._left and default:
            self._known.append(name)
            return default[0]
        if isinstance(self._left.get(name), int):
            raise InvalidInput("BadType", f"{self.place(name)}: not a string", self._left[name], mend)
        text = self.take(name, str)
        if not _INTEGER.fullmatch(text) or int(text) >= 1 << bits:
            raise InvalidInput("BadNumber", f"{self.place(name)}: not a number", text, mend)
        return int(text)

    def bytes32(self, name: str) -> bytes:
        return parse_hex(self.take(name, str), self.place(name), 32)

    def symbol(self, name: str, *default: str) -> bytes:
        text: str = self.take(name, str, *default)
        if not text.isascii():
            raise InvalidInput("OutOfRange", f"{self.place(name)}: not ASCII", text, "1 to 16 of A-Z and 0-9")
        return text.encode("ascii")

    def finish(self) -> None:
        """Refuse a field that nobody took, naming the nearest right one."""
        for name in self._left:
            nearest = difflib.get_close_matches(name[:64], self._known, 1, 0.5)
            mend = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(self._known)}"
            raise InvalidInput("UnknownKey", f"{self.where}: unknown key", name, mend)


_KIND_NAMES = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}


def _genesis(fields: _Fields) -> Genesis:
    version = fields.take("format", int)
    if version != FILE_FORMAT:
        mend = f"this release reads format {FILE_FORMAT}"
        raise InvalidInput("UnknownFormat", "genesis.format: unknown", version, mend)
    native = _Fields(fields.take("native", dict, {}), "genesis.native")
    genesis = Genesis(
        name=fields.take("name", str),
        created_ms=fields.number("created_ms", 64),
        development=fields.take("development", bool, False),
        epoch_blocks=fields.number("epoch_blocks", 64, 3600),
        state_tree=fields.take("state_tree", str, smt.TREE_NAME),
        native_symbol=native.symbol("symbol", "SVM"),
        native_decimals=native.take("decimals", int, 9),
        validators=_validators(fields),
        accounts=_entries(fields, "accounts"),
        tokens=tuple(sorted(_each(fields, "tokens", _token), key=lambda token: token.id)),
        gas=_gas(_Fields(fields.take("gas", dict, {}), "genesis.gas")),
        limits=_limits(_Fields(fields.take("limits", dict, {}), "genesis.limits")),
    )
    native.finish()
    fields.finish()
    return genesis


def _each(fields: _Fields, name: str, read: Callable[[_Fields], Item]) -> list[Item]:
    items = []
    for at, content in enumerate(fields.take(name, list, [])):
        item = _Fields(content, f"{fields.place(name)}[{at}]")
        items.append(read(item))
        item.finish()
    return items


def _validators(fields: _Fields) -> ValidatorSet:
    members = _each(fields, "validators", _validator)
    return ValidatorSet(tuple(sorted(members, key=lambda each: each.node_id)))


def _validator(item: _Fields) -> Validator:
    return Validator(item.bytes32("node_id"), item.bytes32("public_key"), item.number("weight", 64, 1))


def _entries(fields: _Fields, name: str) -> tuple[Entry, ...]:
    return tuple(sorted(_each(fields, name, _entry)))


def _entry(item: _Fields) -> Entry:
    return item.bytes32("address"), item.number("balance", 128)


def _token(item: _Fields) -> GenesisToken:
    return GenesisToken(
        id=item.bytes32("id"),
        symbol=item.symbol("symbol"),
        decimals=item.take("decimals", int),
        minter=item.bytes32("minter"),
        fixed=item.take("fixed", bool),
        balances=_entries(item, "balances"),
    )


def _gas(fields: _Fields) -> GenesisGas:
    parameters: dict[str, object] = fields.take("parameters", dict, {})
    gas = GenesisGas(
        component=fields.take("component", str, "flat"),
        parameters=tuple(sorted((name, _text(name, value)) for name, value in parameters.items())),
    )
    fields.finish()
    return gas


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        mend = 'a string, numbers too: "10000"'
        raise InvalidInput("BadType", f"genesis.gas.parameters.{name}: wrong type", value, mend)
    return value


def _limits(fields: _Fields) -> Limits:
    known = {each.name: fields.take(each.name, int, each.default) for each in attrs.fields(Limits)}
    fields.finish()
    return Limits(**known)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; a key that stands twice is refused, since readers differ on which counts."""
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if _seen_before(seen, name))
        raise InvalidInput("DuplicateKey", "genesis: a key stands twice", twice, "keep one")
    return content


def _seen_before(seen: set[str], name: str) -> bool:
    before = name in seen
    seen.add(name)
    return before


def _small_integer(text: str) -> int:
    if len(text) > 15:
        raise InvalidInput("BadNumber", "genesis: a plain number too large", text, "a decimal string")
    return int(text)


def _no_float(text: str) -> NoReturn:
    raise InvalidInput("BadNumber", "genesis: not an integer", text, "integers only")
