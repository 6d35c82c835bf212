"""`plugin.toml`: what a plugin says of itself, readable without importing any of its code (PLUG-3)."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError

from supervm.kernel.compose import nearest
from supervm.kernel.errors import KernelError

MANIFEST_BYTES_MAX = 64 * 1024
FILE_NAME = "plugin.toml"


class ManifestInvalid(KernelError):
    """A manifest that can't be read; the message names the file, the key and the mend."""


@attrs.frozen(kw_only=True)
class Declared:
    """One component as the manifest names it."""

    role: str
    name: str
    contract: str = "1.0"
    features: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Manifest:
    """`api` is the lowest plugin API the plugin was written for, `MAJOR.MINOR`."""

    manifest: int = attrs.field(validator=attrs.validators.in_((1,)))
    id: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z][a-z0-9-]{1,63}"))
    version: str
    api: str = attrs.field(validator=attrs.validators.matches_re(r"\d{1,4}\.\d{1,4}"))
    entry: str
    run: str = attrs.field(default="python", validator=attrs.validators.in_(("python",)))
    components: tuple[Declared, ...] = ()
    publisher: str = ""
    licence: str = ""
    homepage: str = ""
    description: str = ""

    @property
    def api_version(self) -> tuple[int, int]:
        major, minor = self.api.split(".")
        return int(major), int(minor)


def _exact(value: Any, kind: type) -> Any:
    """TOML's own type and no other: `api = 1.0` is a number, and 1.10 would be 1.1."""
    if type(value) is not kind:
        raise TypeError(f"{value!r} isn't {'text in quotes' if kind is str else 'a whole number'}")
    return value


_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_structure_hook(str, _exact)
_converter.register_structure_hook(int, _exact)


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises `ManifestInvalid`."""
    try:
        data = path.read_bytes()
        if len(data) > MANIFEST_BYTES_MAX:
            raise ManifestInvalid(f"{path}: {len(data)} bytes, at most {MANIFEST_BYTES_MAX} are allowed")
        values = tomllib.loads(data.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{path}: {error}") from error
    try:
        return _converter.structure(values, Manifest)
    except ClassValidationError as error:
        raise ManifestInvalid(f"{path}: {_explain(error)}") from error


def _explain(group: BaseExceptionGroup[Any]) -> str:
    """The first cause in a tree of validation errors, with the nearest key for an unknown one."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ForbiddenExtraKeysError):
        fields = [field.name for field in attrs.fields(error.cl)]
        return "; ".join(f"unknown key {key!r}: {nearest(key, fields)}" for key in sorted(error.extra_fields))
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r} is missing"
    return str(error.args[0]) if error.args else type(error).__name__


def manifest_beside(module: str) -> Path | None:
    """The manifest next to `module` or a package around it, found without importing what is not yet there.

    Python imports the parents of a dotted name to look it up. So only the top package is looked up, and
    the rest is followed on disk, unless the top package runs already (as ours does).
    """
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(module if top in sys.modules else top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    places = folders if top in sys.modules else [folder.joinpath(*rest) for folder in folders] + folders
    if not folders and spec.origin:
        places = [Path(spec.origin).parent]
    return next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)
