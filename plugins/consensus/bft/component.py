"""The declaration of `bft`. What it needs is imported when it is opened."""

from supervm.api import Component, Role
from supervm.plugins.consensus.bft.driver.component import BftConfig, open_bft

BFT = Component(
    role=Role.CONSENSUS,
    name="bft",
    open=open_bft,
    config=BftConfig,
    requires=(Role.APPLICATION, Role.STORAGE),
    wants=(Role.TRANSPORT,),
    features=frozenset({"certificates"}),
    description="several validators: certified batches, ordered by Simplex, final while a third is hostile",
)
