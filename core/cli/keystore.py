"""Where key files are, and how their passphrases are asked for.

A key is named by its file, `NAME.json`, in `DATA/keys` or in `~/.supervm/keys`, or by a path.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from supervm.cli.errors import Failure, Misuse

if TYPE_CHECKING:
    from supervm.crypto.keys import KeyPair

HOME = Path("~/.supervm")
PASSPHRASE_VARIABLE = "SUPERVM_KEY_PASSPHRASE"
PASSPHRASE_BYTES_MAX = 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Command = TypeVar("Command", bound=Callable[..., Any])


def data_option(command: Command) -> Command:
    """`--data DIR`: the data folder whose keys are meant."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="SUPERVM_NODE__DATA",
        help="Data folder; its keys come first.  [default: ~/.supervm/data]",
    )(command)


def passphrase_option(command: Command) -> Command:
    """`--passphrase-file FILE`, else SUPERVM_KEY_PASSPHRASE, else a prompt."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"File whose first line is the passphrase; else {PASSPHRASE_VARIABLE}, else a prompt.",
    )(command)


def folders(data: Path | None) -> list[Path]:
    """Where keys are looked for, in order."""
    first = (data if data is not None else HOME / "data").expanduser() / "keys"
    return [first, (HOME / "keys").expanduser()]


def new_path(name: str, data: Path | None) -> Path:
    """Where a new key is written: the data folder's keys if one is named, else the user's."""
    if not NAME.fullmatch(name):
        raise Misuse(f"{name!r} is no name for a key; use letters, digits, '.', '_' and '-', at most 64")
    folder = folders(data)[0 if data is not None else 1]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / f"{name}.json"


def find(name: str, data: Path | None) -> Path:
    """The file of a key. Raises Failure naming the keys that there are."""
    if "/" in name or name.endswith(".json"):
        return Path(name).expanduser()
    for folder in folders(data):
        if (path := folder / f"{name}.json").exists():
            return path
    known = ", ".join(sorted({path.stem for path in every(data)})) or "none yet"
    raise Failure(f"no key {name!r} (there are: {known}); make one with 'supervm keys new {name}'")


def every(data: Path | None) -> Sequence[Path]:
    """All key files, by name."""
    return sorted(
        (path for folder in folders(data) for path in folder.glob("*.json")), key=lambda path: path.stem
    )


def unlock(path: Path, passphrase_file: Path | None) -> "KeyPair":
    """The key in a file, asking for its passphrase where it has one."""
    from supervm.crypto.keyfile import read_key_facts, read_key_file

    if not read_key_facts(path).encrypted:
        return read_key_file(path)
    return read_key_file(path, passphrase(passphrase_file, f"Passphrase of {path.stem}"))


def passphrase(file: Path | None, prompt: str, *, confirm: bool = False) -> bytes:
    """A passphrase from the file, the environment, or the terminal. Raises Failure without any."""
    if file is not None:
        with file.open("rb") as opened:
            found = opened.read(PASSPHRASE_BYTES_MAX + 2).splitlines()
        if not found or not found[0]:
            raise Failure(f"{file}: its first line is empty; write the passphrase there")
        return found[0]
    if variable := os.environ.get(PASSPHRASE_VARIABLE):
        return variable.encode()
    if not sys.stdin.isatty():
        raise Failure(
            f"a passphrase is needed and there is no terminal to ask on; "
            f"give --passphrase-file or {PASSPHRASE_VARIABLE}"
        )
    asked: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return asked.encode()
