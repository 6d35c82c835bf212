"""The error that ends a node."""

from supervm.contracts.consensus import ConsensusError
from supervm.contracts.roles import NodeMustStop


class Halted(ConsensusError, NodeMustStop):
    """The node must stop: it found what can't be with at most f hostile validators, or a bug of its own."""
