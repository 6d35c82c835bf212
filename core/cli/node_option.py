"""The node a verb talks to: `--api URL`, with a token where it wants one."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from supervm.client.http import NodeClient

Command = TypeVar("Command", bound=Callable[..., Any])


def api_option(command: Command) -> Command:
    """`--api URL` (or `--node URL`), else SUPERVM_API, else the default address."""
    return click.option(
        "--api",
        "--node",
        "api",
        envvar="SUPERVM_API",
        default="http://127.0.0.1:8645",
        show_default=True,
        metavar="URL",
        help="Node to talk to (SUPERVM_API).",
    )(command)


def connect(api: str, timeout_s: float | None = None) -> "NodeClient":
    """A client of the node; use it in a `with`. A token is taken from SUPERVM_API_TOKEN."""
    from supervm.client.http import TIMEOUT_S, NodeClient

    token = os.environ.get("SUPERVM_API_TOKEN", "")
    return NodeClient(api, token=token, timeout_s=timeout_s or TIMEOUT_S)
