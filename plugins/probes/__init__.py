"""The hardware probes that we ship, declared as any plugin would."""

from collections.abc import Iterable

from supervm.api import Probe, hookimpl
from supervm.hardware.probes import BUILTIN


@hookimpl
def supervm_hardware_probes() -> Iterable[Probe]:
    return BUILTIN
