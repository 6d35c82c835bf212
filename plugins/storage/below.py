"""The backend that a store of this package is over: found by name, configured as its own section would be."""

import importlib
from collections.abc import Mapping
from typing import Any

from supervm.api import Component
from supervm.contracts.storage import StorageError


def backend_below(over: str, options: Mapping[str, Any], what: str, section: str) -> tuple[Component, Any]:
    """The component `over` and its configuration. It imports the backend's module: for a thread.

    Raises `StorageError` where this machine can't run it, or where `options` has one that it does not know or
    not a value it takes. `what` is opened so, as in "class cold"; `section` is how its keys begin, as in
    "storage.tiered.cold_".
    """
    module = importlib.import_module(f"supervm.plugins.storage.{over}")
    component: Component = getattr(module, over)
    if obstacle := component.available():
        raise StorageError(f"{what} can't be over {over}: {obstacle}", f"{section}over", "Choose another.")
    try:
        return component, component.config(**options)
    except (TypeError, ValueError) as error:
        raise StorageError(
            f"{what} can't be opened over {over} with these options: {error}",
            f"{section}options",
            f"See `supervm plugins show {over}`.",
        ) from error
