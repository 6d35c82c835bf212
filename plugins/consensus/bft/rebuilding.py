"""An ordering machine's log: the fewest records that it is rebuilt from, and what a record puts back."""

from supervm.plugins.consensus.bft.branches import Branches, node_of
from supervm.plugins.consensus.bft.events import Record
from supervm.plugins.consensus.bft.records import Entered, Finalized, Notarized, Nullified, Proposed
from supervm.plugins.consensus.bft.views import Views


def records_of(views: Views, branches: Branches) -> list[Record]:
    """What a log may be shortened to: statements and certificates of views from the last final block's on."""
    found: list[Record] = []
    for view in views.values():
        found += [Entered(certificate) for certificate in view.certificates()]
        if view.proposed is not None:
            found.append(Proposed(view.proposed))
        if view.notarized is not None:
            node = branches.get(view.notarized.digest)
            if node is not None:
                found.append(Notarized(view.notarized, node.block))
        if view.nullified is not None:
            found.append(Nullified(view.nullified))
        if view.finalized is not None and view.notarisation is not None:
            found.append(Finalized(view.finalized, view.notarisation))
    return found


def epoch_of(record: Record) -> int:
    """The epoch in which a record of ordering was made."""
    match record:
        case Entered(certificate):
            return certificate.epoch
        case Proposed(proposal):
            return proposal.epoch
        case Notarized(vote) | Nullified(vote) | Finalized(vote):
            return vote.epoch
    raise AssertionError(f"no record of ordering: {record!r}")


def put_back(record: Record, views: Views, branches: Branches) -> None:
    """Set what a record says in its view. What storage holds already is skipped."""
    match record:
        case Entered(certificate):
            views.restore(certificate)
        case Proposed(proposal):
            view = views.from_log(proposal.view)
            if view is not None:
                view.proposed = view.proposal = proposal
                view.proposal_digest = proposal.block.digest()
        case Notarized(vote, block):
            view = views.from_log(vote.view)
            if view is not None:
                view.notarized = vote
                view.add(vote)
                branches.add(node_of(block, vote.digest))
        case Nullified(vote):
            view = views.from_log(vote.view)
            if view is not None:
                view.nullified = vote
                view.add(vote)
        case Finalized(vote, notarisation):
            view = views.from_log(vote.view)
            if view is not None:
                view.finalized = vote
                view.add(vote)
                views.restore(notarisation)
