"""Gas policies that ship with SuperVM: `flat`."""

from collections.abc import Iterable

from supervm.api import Component, Role, hookimpl
from supervm.plugins.gas.flat import FlatConfig, open_flat


@hookimpl
def supervm_components() -> Iterable[Component]:
    yield Component(
        role=Role.GAS,
        name="flat",
        open=open_flat,
        config=FlatConfig,
        description="one fixed price, in the native token; fees go to one account or are burned",
    )
