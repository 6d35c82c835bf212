"""A plugin each of whose extensions raises, or exits."""

import sys
from typing import Any

from supervm.api import hookimpl


@hookimpl
def supervm_http_routes() -> Any:
    raise RuntimeError("no routes today")


@hookimpl
def supervm_hardware_probes() -> Any:
    sys.exit("no probes today")


@hookimpl
def supervm_cli(group: Any) -> None:
    raise RuntimeError("no verbs today")
