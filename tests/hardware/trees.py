"""Recorded machines: a text file each, unpacked to a folder that probes can be pointed at.

A file begins with TOML: what isn't a file on the machine (`machine`, `affinity`, `device` and
`free_bytes` of the data folder's volume, `[environ]`, `[commands]` by program, `[expected]` facts and
tier). Then each entry: `@ PATH` and its lines, `@ PATH (times N)` with `{n}` counted, `@ PATH (folder)`, or
`@ PATH -> TARGET` for a link.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import attrs

from supervm.hardware.facts import ProbeContext
from supervm.hardware.system import CommandFailed, Volume

FOLDER = Path(__file__).parent / "trees"
NAMES = sorted(path.stem for path in FOLDER.glob("*.tree"))
ENTRY = re.compile(r"^@ (\S+)(?: -> (\S+)| \(times (\d+)\)| (\(folder\)))?$", re.MULTILINE)


@attrs.frozen
class Tree:
    """An unpacked machine, and what is known of it."""

    root: Path
    facts: dict[str, Any]

    @property
    def expected(self) -> dict[str, Any]:
        return self.facts["expected"]

    def path(self, name: str) -> Path:
        return self.root / name

    def context(self, **changes: Any) -> ProbeContext:
        commands = self.facts.get("commands", {})

        def command(arguments, timeout_s: float = 0) -> str:
            if arguments[0] not in commands:
                raise CommandFailed(f"{arguments[0]} is not installed")
            return commands[arguments[0]]

        data = self.root / "data"
        values: dict[str, Any] = {
            "data_dir": data,
            "proc": self.root / "proc",
            "sys": self.root / "sys",
            "root": self.root / "root",
            "platform": "linux",
            "machine": self.facts["machine"],
            "address_bits": 64,
            "environ": self.facts.get("environ", {}),
            "affinity": lambda: self.facts["affinity"],
            "volume": lambda _: Volume(tuple(self.facts["device"]), self.facts["free_bytes"], data),
            "command": command,
            "native": lambda: None,
        }
        return ProbeContext(**(values | changes))


def unpack(name: str, to: Path) -> Tree:
    """Write a recorded machine's files below `to`."""
    text = (FOLDER / f"{name}.tree").read_text(encoding="utf-8")
    found = list(ENTRY.finditer(text))
    for entry, after in zip(found, [*found[1:], None], strict=True):
        path = to / entry[1]
        content = text[entry.end() + 1 : after.start() if after else None]
        if entry[4]:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry[2]:
            path.symlink_to(entry[2])
        elif entry[3]:
            path.write_text("".join(content.replace("{n}", str(n)) for n in range(int(entry[3]))))
        else:
            path.write_text(content)
    (to / "root").mkdir(exist_ok=True)
    (to / "data").mkdir()
    return Tree(to, tomllib.loads(text[: found[0].start()]))
