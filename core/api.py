"""The stable surface for plugins: third parties import this and `supervm.testing`, nothing else."""

from supervm.contracts.roles import Role
from supervm.hardware.facts import Known, Probe, ProbeContext, Unknown
from supervm.hookspecs import hookimpl
from supervm.kernel.component import (
    Component,
    Context,
    Health,
    HealthState,
    Needs,
    NoConfig,
    Supervision,
)

API_VERSION = (1, 0)

__all__ = [
    "API_VERSION",
    "Component",
    "Context",
    "Health",
    "HealthState",
    "Known",
    "Needs",
    "NoConfig",
    "Probe",
    "ProbeContext",
    "Role",
    "Supervision",
    "Unknown",
    "hookimpl",
]
