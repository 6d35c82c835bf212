"""Where an ordering machine begins: the chosen values, and what storage holds of its epoch."""

import attrs

from supervm.contracts.application import Tip
from supervm.plugins.consensus.bft.events import ExecutedBlock
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.types.certificate import Certificate
from supervm.types.digests import Digest


@attrs.frozen(kw_only=True)
class Settings:
    """The chosen values of CONS-30, 34, 37. Times in microseconds.

    `unexecuted_max`: with more final blocks than so many to execute, a validator takes no part in further
    views until it has caught up.
    """

    interval_min_us: int = 50_000
    interval_max_us: int = 5_000_000
    views_ahead_max: int = 64
    proposals_ahead_max: int = 8
    unexecuted_max: int = 32


@attrs.frozen(kw_only=True)
class Start:
    """Where a machine begins: the epoch, and what storage holds of it.

    `own`: this validator's number, None for a node that only follows. `tip`: the last committed block,
    `tip_view` the view in which it was proposed on its branch (0: the epoch's base). `executed`: blocks
    that this node executed, from the tip's root height on. `ordered`, `done`: batches and epoch-done
    numbers in the epoch's final blocks. `finalisation`: the tip's, for peers that lack it. `ended`: the
    finalisation of the epoch's last block, where the tip is that: the machine then only answers who is
    behind.
    """

    epoch: Epoch
    own: int | None
    tip: Tip
    tip_view: int
    executed: tuple[ExecutedBlock, ...]
    ordered: frozenset[Digest] = frozenset()
    done: frozenset[int] = frozenset()
    finalisation: Certificate | None = None
    ended: Certificate | None = None
