"""The consensus role: which transactions, in which order, and the proof that it is final.

A component yields a `Consensus`. It drives the node's `Application` (supervm.contracts.application) from
its own tasks, from the moment it opens until it drains; nothing else calls those methods. What decides is
a pure state machine; the component is the thin driver around it.

What an engine keeps
    Order: heights rise by one from the application's tip; each block names its parent's digest; every
    block is executed before it is committed, and committed once. Where the header's root height is the
    block's own height, it executes before it seals; else it executes final blocks in order and never
    signs for a root that it hasn't computed (CONS-43).
    Certified: with the `certificates` capability every transaction in a block stands in a batch that was
    checked and certified (CONS-4), and the certificate it hands to `commit` verifies against the epoch's
    validator set. An engine without it (CONS-81, ABCI 2.0: prepare, process, finalize, commit) gives its
    transactions as batches whose bitmaps are empty, and a certificate that its own light clients check;
    it says so to `Application.driven`, and FAST isn't offered.
    Bounds: no batch over CONS-1's, no block over `Application.bounds`; it holds a bounded number of
    batches and blocks in memory, and slows the gathering at the bound.
    Durability: whatever it signed and sent is on disk before it leaves. `solo` sends nothing, so its
    votes become durable with the block.
    Cancellation: it may be cancelled at any checkpoint. After it opens again, on the same folder, the
    chain goes on from the tip, and no two blocks of one height were ever final.
    Failure: a storage error or a root that differs stops the engine (it raises); the kernel decides what
    that means. It never goes on from a state it isn't sure of.
    Time and randomness: from its `Context` only.
"""

from typing import Protocol, runtime_checkable

import attrs

CERTIFICATES = "certificates"
"""Capability: batches are certified, so FAST can be offered."""

CAPABILITIES = frozenset({CERTIFICATES})


class ConsensusError(Exception):
    """Base of all that an engine raises. `subject` is the offending value, `mend` what would be right."""

    def __init__(self, problem: str, subject: object = "", mend: str = "") -> None:
        self.problem = problem
        self.subject = subject
        self.mend = mend
        text = f"{problem}: {subject}" if subject != "" else problem
        super().__init__(f"{text} ({mend})" if mend else text)


class ValidatorSetUnsupported(ConsensusError):
    """This engine can't run a chain with such a validator set."""


class SelfCheckFailed(ConsensusError):
    """What this node made would not pass its own checks of a peer: a bug, and nothing was committed."""


class CertificateInvalid(ConsensusError):
    """A certificate doesn't show what it claims."""


@attrs.frozen(kw_only=True)
class ConsensusStatus:
    """Where the engine stands. `height` is the last final one; `view` counts within `epoch`.

    `validator`: this node votes. `producing`: transactions sent to it can reach a block. `reason` says
    why not.
    """

    engine: str
    height: int
    epoch: int
    view: int
    validator: bool
    producing: bool
    reason: str = ""


@runtime_checkable
class Consensus(Protocol):
    """A running engine. It drives the application from its own tasks; these calls only ask."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Of `CAPABILITIES`; fixed for its life."""

    def status(self) -> ConsensusStatus:
        """Where it stands, now. Never blocks."""

    async def drain(self, deadline: float) -> None:
        """Finish the block in hand, start no other, and return; at `deadline` (monotonic seconds) give up
        the one in hand. What was gathered and not committed is simply not committed. Again: returns."""
