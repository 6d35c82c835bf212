"""The stable surface for plugins: third parties import this and `supervm.testing`, nothing else.

Each role's contract is here under the role's name, with its Protocol, values, errors and bounds:

    from supervm.api import Component, Context, Role, storage

    await store.write([storage.Put(b"key", b"value")], storage.Durability.DURABLE)
"""

from supervm.contracts import application, consensus, gas, privacy, routing, storage, transport
from supervm.contracts.roles import Role
from supervm.hardware.facts import HardwareFacts, Known, Probe, ProbeContext, Unknown
from supervm.hookspecs import hookimpl
from supervm.kernel.component import (
    Backoff,
    Breaker,
    Clock,
    Component,
    Context,
    Health,
    HealthState,
    Log,
    Metrics,
    Needs,
    NoConfig,
    Supervision,
)
from supervm.kernel.errors import RoleUnavailable
from supervm.types.address import Address
from supervm.types.block import Block
from supervm.types.receipt import Receipt
from supervm.types.state import NATIVE_TOKEN

API_VERSION = (1, 0)

__all__ = [
    "API_VERSION",
    "NATIVE_TOKEN",
    "Address",
    "Backoff",
    "Block",
    "Breaker",
    "Clock",
    "Component",
    "Context",
    "HardwareFacts",
    "Health",
    "HealthState",
    "Known",
    "Log",
    "Metrics",
    "Needs",
    "NoConfig",
    "Probe",
    "ProbeContext",
    "Receipt",
    "Role",
    "RoleUnavailable",
    "Supervision",
    "Unknown",
    "application",
    "consensus",
    "gas",
    "hookimpl",
    "privacy",
    "routing",
    "storage",
    "transport",
]
