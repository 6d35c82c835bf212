"""The gas policy under which benchmarks execute: the chain's default one, opened alone as a node opens it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from supervm.config import PluginsConfig
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import Role
from supervm.node.catalogue import read_catalogue
from supervm.testing import opened

POLICY = "flat"
T = TypeVar("T")


def with_gas(work: Callable[[GasPolicy], T]) -> T:
    """Do `work` in a thread while the policy is open; it has the default price, and burns the fees."""
    results: list[T] = []
    errors: list[Exception] = []

    async def run() -> None:
        component = read_catalogue(PluginsConfig()).named(Role.GAS)[POLICY].component
        with tempfile.TemporaryDirectory(prefix="supervm-bench-") as folder:
            async with opened(component, Path(folder)) as policy:
                try:
                    results.append(await trio.to_thread.run_sync(work, policy, abandon_on_cancel=True))
                except Exception as error:
                    errors.append(error)  # raised outside, as itself and not in the group of a nursery

    trio.run(run)
    if errors:
        raise errors[0]
    return results[0]
