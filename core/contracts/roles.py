"""The roles a node is composed of, how many of each, and what a failure of one means.

`application` and `surface` are the node's own: the ledger that consensus drives, and what serves the
outside. They are roles so that the kernel opens and supervises them like everything else.
"""

from enum import StrEnum

from supervm.kernel.component import RoleSpec, Supervision


class Role(StrEnum):
    """The jobs that components can take. `application` and `surface` are the node's own."""

    STORAGE = "storage"
    TRANSPORT = "transport"
    ROUTING = "routing"
    CONSENSUS = "consensus"
    PRIVACY = "privacy"
    GAS = "gas"
    CHAIN = "chain"
    COMPUTE = "compute"
    CONTRACTS = "contracts"
    APPLICATION = "application"
    SURFACE = "surface"


class NodeMustStop(Exception):
    """A component raises it where the node must not go on, whatever its role's policy says: the node drains
    and exits 1 with this cause."""

    must_stop = True


# Storage is never restarted in place: after a failed write nobody knows what is durable.
ROLES: dict[str, RoleSpec] = {
    spec.name: spec
    for spec in (
        RoleSpec(name=Role.STORAGE, many=False, order=0, supervision=Supervision(fatal=True)),
        RoleSpec(name=Role.TRANSPORT, many=True, order=1, required=False),
        RoleSpec(name=Role.ROUTING, many=False, order=2),
        RoleSpec(name=Role.CONSENSUS, many=False, order=3),
        RoleSpec(name=Role.PRIVACY, many=True, order=4, required=False),
        RoleSpec(name=Role.GAS, many=False, order=5),
        RoleSpec(name=Role.CHAIN, many=True, order=6, required=False),
        RoleSpec(name=Role.COMPUTE, many=True, order=7, required=False),
        RoleSpec(name=Role.CONTRACTS, many=True, order=8, required=False),
        RoleSpec(name=Role.APPLICATION, many=False, order=9, supervision=Supervision(fatal=True)),
        RoleSpec(name=Role.SURFACE, many=True, order=10, required=False),
    )
}
