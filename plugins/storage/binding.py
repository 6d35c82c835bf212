"""The package that a backend needs and the project itself does not."""

import importlib
import importlib.util

import attrs
import trio

from supervm.contracts.storage import Unsupported


@attrs.frozen
class Binding:
    """`module` of the package that `pip install supervm[extra]` brings, for `database`."""

    module: str
    extra: str
    database: str

    def missing(self) -> str:
        """Why this machine can't run the backend; empty where it can. Loads nothing."""
        if importlib.util.find_spec(self.module) is not None:
            return ""
        return f"the package {self.module} is not installed; install supervm[{self.extra}]"

    async def load(self) -> None:
        """Import it, in a thread. Raises `Unsupported` where it is not installed or does not load."""
        try:
            await trio.to_thread.run_sync(importlib.import_module, self.module)
        except ImportError as error:
            raise Unsupported(
                f"the {self.database} binding can't be loaded",
                error,
                f"Install supervm[{self.extra}], or choose sqlite.",
            ) from error
