"""Privacy schemes that ship: `none`, which refuses every private transaction."""

from collections.abc import Iterator

from supervm.api import Component, Role, hookimpl
from supervm.plugins.privacy.none import open_none


@hookimpl
def supervm_components() -> Iterator[Component]:
    yield Component(
        role=Role.PRIVACY,
        name="none",
        open=open_none,
        description="knows no private transaction and refuses every one",
    )
