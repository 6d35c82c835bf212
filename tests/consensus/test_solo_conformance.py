"""`solo` keeps the consensus contract."""

from supervm.plugins.consensus import supervm_components
from supervm.testing.conformance.consensus import ConsensusConformance


class TestSolo(ConsensusConformance):
    component = next(iter(supervm_components()))
