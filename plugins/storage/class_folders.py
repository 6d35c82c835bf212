"""The folders of a store that has several: each says whose it is, so that none is missed or mistaken.

`tiered.json` in the store's own folder has the store's mark and the classes it was given; `class.json` in
each class's folder has the same mark and the class's name. A class once given must be there at every start:
a disk that is not mounted is an empty folder, and is told, never filled anew.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from blake3 import blake3

from supervm.contracts.storage import StorageError, StoreCorrupt, StoreTooNew
from supervm.plugins.storage.folder import open_folder, os_error
from supervm.plugins.storage.pointers import MARK_BYTES
from supervm.storage.folder import sync_path
from supervm.storage.temperature import Temperature

STORE_FILE = "tiered.json"
CLASS_FILE = "class.json"
FORMAT = 1
FILE_BYTES_MAX = 4096
FOREIGN = frozenset({"lost+found", CLASS_FILE + ".tmp"})
MEND = "Restore the folder from a checkpoint."


@attrs.frozen
class StoreFacts:
    """A store's mark, and by class the backend it was given."""

    mark: bytes
    classes: Mapping[Temperature, str] = attrs.field(factory=dict)


def read_store(folder: Path) -> StoreFacts | None:
    """What a folder says of its store; None where it says nothing. Raises `StoreCorrupt`, `StoreTooNew`."""
    found = _read(folder / STORE_FILE)
    if found is None:
        return None
    try:
        mark = bytes.fromhex(found["mark"])
        classes = {Temperature[name.upper()]: str(over) for name, over in found["classes"].items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        raise StoreCorrupt("it lacks what it must say", folder / STORE_FILE, MEND) from None
    if len(mark) != MARK_BYTES:
        raise StoreCorrupt(f"a mark of {len(mark)} bytes", folder / STORE_FILE, MEND)
    return StoreFacts(mark, classes)


def write_store(folder: Path, facts: StoreFacts) -> None:
    """Durably; the file is the old one or the new one at any moment."""
    classes = {one.word: over for one, over in sorted(facts.classes.items())}
    _write(folder / STORE_FILE, {"mark": facts.mark.hex(), "classes": classes})


def write_class(folder: Path, facts: StoreFacts, temperature: Temperature) -> None:
    _write(folder / CLASS_FILE, {"mark": facts.mark.hex(), "class": temperature.word})


def claim(folder: Path, facts: StoreFacts, temperature: Temperature, over: str) -> StoreFacts:
    """See that a folder is this class of this store, or make it so; the facts with it.

    Raises `StorageError` where the class was given before and is not there, or where a new one's folder holds
    something; `StoreCorrupt` where it is another store's, another class, or of another backend.
    """
    given, word = facts.classes.get(temperature), temperature.word
    if given is not None and given != over:
        raise StoreCorrupt(
            f"class {word} is a {given} store, not {over}",
            folder,
            f"Set storage.tiered.{word}_over = {given}.",
        )
    if given is None:
        open_folder(folder)
    found = _read(folder / CLASS_FILE) if folder.is_dir() else None
    if found is None and given is not None:
        raise StorageError(
            f"the disk of class {word} is not there",
            folder,
            f"Mount it; if it has moved, set storage.tiered.{word}_path to where it is now.",
        )
    if found is None:
        if strange := sorted(set(_names(folder)) - FOREIGN):
            raise StorageError(
                f"the folder for class {word} is not empty ({strange[0]})",
                folder,
                "Name a folder of its own.",
            )
        write_class(folder, facts, temperature)
    elif found.get("mark") != facts.mark.hex() or found.get("class") != word:
        raise StoreCorrupt(
            f"the folder is not class {word} of this store", folder, "Name the right one; swap no disks."
        )
    return attrs.evolve(facts, classes={**facts.classes, temperature: over})


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise os_error(error, folder) from error


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_error(error, path) from error
    try:
        found = json.loads(data)
        said, form = found.pop("checksum"), found["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StoreCorrupt("the file can't be read", path, MEND) from None
    if said != _checksum(found):
        raise StoreCorrupt("its checksum does not fit", path, MEND)
    if form != FORMAT:
        raise StoreTooNew(f"format {form} is not {FORMAT}", path, "Run a newer program.")
    return dict(found)


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    whole = {**facts, "format": FORMAT}
    write_whole(path, json.dumps({**whole, "checksum": _checksum(whole)}).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is the old one or this one, whatever happens; durable when it returns."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_path(path.parent)
    except OSError as error:
        raise os_error(error, temporary) from error


def _checksum(facts: Mapping[str, Any]) -> str:
    return blake3(json.dumps(facts, sort_keys=True).encode()).digest(8).hex()
