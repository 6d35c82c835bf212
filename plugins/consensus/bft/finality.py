"""What is final in an epoch: the last final block, the blocks above it, and the roots that they show.

A finalisation makes its block final with all its ancestors (CONS-35). It may come before they do: then it
is pending until the blocks down to the final chain are here.
"""

from supervm.plugins.consensus.bft.branches import Branches
from supervm.plugins.consensus.bft.events import Final
from supervm.plugins.consensus.bft.roots import Roots
from supervm.plugins.consensus.bft.starting import Start
from supervm.types.certificate import Certificate
from supervm.types.digests import Digest


class Finality:
    """`view`: the one in which the last final block was proposed. `ended`: the finalisation of the epoch's
    last block, once that is final; `finalisation`: that of the last final block."""

    def __init__(self, start: Start) -> None:
        self.branches = Branches(start.tip, start.ordered, start.done)
        self.roots = Roots(start.executed, start.epoch.base.height)
        self.view = start.tip_view
        self.finalisation = start.finalisation
        self.ended = start.ended
        self.pending: Certificate | None = None

    def covers(self, view: int) -> bool:
        """Whether nothing said of a view matters any more."""
        return view <= self.view or self.ended is not None

    def proof(self, view: int) -> Certificate | None:
        """What shows a peer that a view is behind the last final block, where it is."""
        return self.ended or (self.finalisation if view <= self.view else None)

    def wait(self, certificate: Certificate) -> None:
        """A finalisation is known: it is pending unless one of a later view is."""
        if self.pending is None or self.pending.view < certificate.view:
            self.pending = certificate

    def advance(self) -> list[Final]:
        """Make final what the pending finalisation names: the blocks that are newly so, lowest first.

        Raises `Unlinked` where a block on the way down is missing, `ForksFinal` where it leads elsewhere.
        """
        certificate = self.pending
        assert certificate is not None, "there is no finalisation to act on"
        views = self._justified_views(certificate)
        path = self.branches.finalise(certificate.digest)
        self.pending = None
        self.finalisation = certificate
        self.view = max(self.view, certificate.view)
        found: list[Final] = []
        for node in path:
            own = certificate if node.digest == certificate.digest else None
            found.append(Final(node.block, views[node.digest], own))
            self.roots.claim(node.block.header)
        if self.branches.tip_is_last:
            self.ended = certificate
        return found

    def _justified_views(self, certificate: Certificate) -> dict[Digest, int]:
        """The view of each block on the way down, as its child's body names it."""
        views = {certificate.digest: certificate.view}
        node = self.branches.get(certificate.digest)
        while node is not None:
            parent = self.branches.get(node.parent)
            if parent is not None:
                views[parent.digest] = Certificate.decode(node.block.body.justification).view
            node = parent
        return views

    def contradiction(self) -> str:
        """How a final header shows another root than this node computed (CONS-43); empty if none does."""
        found = self.roots.mismatch()
        self.roots.forget_below(self.branches.tip.root_height)
        return found
