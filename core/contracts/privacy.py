"""The privacy role: kinds of private transactions, and who can tell that a proof holds (PRIV-1, PRIV-12).

A component yields a `PrivacyScheme`. Any number may be open; each owns payload kinds and proof circuits.

What a scheme keeps
    Fails closed: `True` only if a proof verifies. An absent, broken or overdue verifier, an unknown
    circuit, malformed bytes: an error, and callers treat everything but `True` as refusal. Nothing
    private is ever sent on a public lane.
    Determinism: the same answer on every machine. Nothing but the arguments decides.
    Bounds: `PROOF_DEADLINE_S` an item; a batch over `BATCH_MAX` is refused whole.
    Cancellation: safe at every checkpoint; nothing is kept of what was not finished.
    Secrecy: no proof, input or image reaches a log, a metric's label or an error's text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import attrs

PROOF_DEADLINE_S = 5.0
BATCH_MAX = 4_096
CIRCUIT_ID = re.compile(r"[a-z0-9_]{1,48}_v[0-9]{1,6}")
"""Circuit ids never change their meaning: a new one gets a new version."""


class PrivacyError(Exception):
    """Base of all refusals of this role. `code` is the class's name, stable for receipts and clients."""

    @property
    def code(self) -> str:
        return type(self).__name__


class VerifierUnavailable(PrivacyError):
    """Nobody here can tell whether the proof holds."""


class UnknownCircuit(PrivacyError):
    """No verifier for this circuit id."""


class CircuitDisabled(PrivacyError):
    """The chain has switched this circuit off."""


class ProofMissing(PrivacyError):
    """A private transaction without a proof."""


class InvalidProof(PrivacyError):
    """Proof bytes that can't be decoded; the reason names what, never their content."""


class InvalidPublicInputs(PrivacyError):
    """Public inputs of a wrong count, out of range, or with trailing bytes."""


@attrs.frozen(kw_only=True)
class CircuitInfo:
    """What a circuit takes: how many public inputs of 32 bytes; `description` is for people."""

    public_inputs: int
    description: str = ""


@attrs.frozen(kw_only=True, repr=False)
class ProofItem:
    """One proof to verify. Its bytes are not in its repr."""

    circuit: str
    proof: bytes
    public_inputs: bytes


@runtime_checkable
class PrivacyScheme(Protocol):
    """A verifier and the transaction kinds it judges. See the module for what it keeps."""

    @property
    def backend(self) -> str:
        """Which proof system: `noop` refuses everything."""

    @property
    def payload_kinds(self) -> frozenset[int]:
        """Payload kinds (u16) that this scheme owns; no two schemes share one."""

    def circuits(self) -> Mapping[str, CircuitInfo]:
        """Circuit id to what it takes."""

    async def verify(self, item: ProofItem) -> bool:
        """Whether a proof holds. Raises a `PrivacyError` for anything that isn't a clear yes or no."""

    async def verify_batch(self, items: Sequence[ProofItem]) -> Sequence[bool | PrivacyError]:
        """Each item's answer, in order; one bad item never changes another's."""
