"""A PostgreSQL server of the tests' own: in a temporary folder, on a socket there, gone afterwards.

`here` is the `postgres` component over it: a folder of the test becomes a store of its own by its name.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
from blake3 import blake3

from supervm.api import Component, Context
from supervm.plugins.storage import postgres as plugin
from supervm.plugins.storage.postgres import PostgresConfig, open_postgres
from supervm.plugins.storage.threaded import ThreadedStore

USER = "postgres"
DSN = "SUPERVM_TEST_POSTGRES"
"""Names the server to test; set it to test one that runs already."""


def programs() -> Path | None:
    """The folder of the server's programs, or None where it is not installed."""
    found = [Path(each).parent for name in ("initdb",) if (each := shutil.which(name))]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


@attrs.define
class Server:
    """A server that runs, or was stopped."""

    folder: Path
    bin: Path

    @property
    def dsn(self) -> str:
        return f"host={self.folder} port=5432 user={USER} dbname=postgres"

    @property
    def runs(self) -> bool:
        """Whether it was started and not stopped."""
        return (self.folder / "data" / "postmaster.pid").exists()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses='' -k {self.folder} -c max_connections=80 -c shared_buffers=16MB"
        self._run("pg_ctl", "-D", "data", "-o", options, "-l", "log", "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is a crash."""
        self._run("pg_ctl", "-D", "data", "-m", mode, "-w", "-t", "60", "stop")

    def make(self) -> None:
        """Make its files."""
        self._run("initdb", "-D", "data", "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to run as root.
        other: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}
        with (self.folder / "output").open("ab") as output:
            done = subprocess.run(
                [self.bin / program, *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=240,
                **other,
            )
        if done.returncode:
            raise RuntimeError(f"{program}: {(self.folder / 'output').read_text(errors='replace')[-2_000:]}")


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server in `folder`, which its user must be able to reach."""
    found = programs()
    assert found is not None
    server = Server(folder, found)
    server.make()
    server.start()
    try:
        yield server
    finally:
        if server.runs:
            server.stop("immediate")


@contextmanager
def folder_for_server() -> Iterator[Path]:
    """A folder that the server's user owns, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="svm-pg-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, USER, USER)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@attrs.frozen(kw_only=True)
class HereConfig(PostgresConfig):
    """The same with a short lease, so that the tests don't wait for the dead."""

    lease_s: float = 0.8


def name_of(folder: Path) -> str:
    """The store that stands for a folder."""
    return "s" + blake3(str(folder).encode()).hexdigest()[:24]


@asynccontextmanager
async def open_here(ctx: Context, config: HereConfig) -> AsyncIterator[ThreadedStore]:
    """The store of the context's folder on the server that the environment names."""
    given = attrs.evolve(config, dsn=config.dsn or os.environ[DSN], name=name_of(ctx.data_dir))
    async with open_postgres(ctx, given) as store:
        yield store


here: Component = attrs.evolve(plugin.postgres, open=open_here, config=HereConfig)
