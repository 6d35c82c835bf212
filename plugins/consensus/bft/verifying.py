"""The signatures in a message of ordering: who must have signed what (CONS-38). Pure.

This is the driver's side of the promise that a machine gets only verified messages. `claims_of` gives
(public key, bytes, signature) of everything that a message holds, so that the driver can verify many
messages in one pass off the event loop; `verify` does it at once. Whoever isn't in the set, or no quorum,
is `InvalidInput` before any signature is looked at.
"""

from collections.abc import Callable

from supervm.crypto.batch import verify_many
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.epochs.evidence import claims_of_evidence
from supervm.plugins.consensus.bft.offences import Evidence
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.votes import EndEpoch, EpochDone, Proposal, ViewVote
from supervm.types.address import Suite
from supervm.types.certificate import Certificate, VoteKind, signed_by_quorum, signed_by_some
from supervm.types.errors import ProofInvalid
from supervm.types.validators import ValidatorSet

Claim = tuple[bytes, bytes, bytes]


def claims_of(
    message: object,
    epoch: Epoch,
    leader_of: Callable[[int], int],
    base_validators: ValidatorSet | None = None,
) -> list[Claim]:
    """Every (public key, signed bytes, signature) that must hold for a message of this epoch.

    `base_validators`: the set that finalised the epoch's base, for the first block's justification. Raises
    `InvalidInput` for another epoch, a validator outside the set, or a certificate of no quorum.
    """
    match message:
        case ViewVote() | EpochDone():
            _check_epoch(message.epoch, epoch)
            key = _key_of(message.validator, epoch.validators)
            return [(key, message.message(epoch.chain_id), message.signature)]
        case EndEpoch():
            # Whether they are a quorum is asked where it stands in a block; before, signatures are gathered.
            _check_epoch(message.epoch, epoch)
            signed = signed_by_some(message.bitmap, message.signatures, epoch.validators)
            text = message.message(epoch.chain_id)
            return [(key, text, signature) for key, signature in signed]
        case Certificate():
            _check_epoch(message.epoch, epoch)
            return _claims_of_quorum(message, epoch, epoch.validators)
        case Evidence():
            return list(claims_of_evidence(message, epoch.chain_id, epoch.number, epoch.validators))
        case Proposal():
            return _claims_of_proposal(message, epoch, leader_of, base_validators)
    raise AssertionError(f"no message of ordering: {type(message).__name__}")


def _check_epoch(number: int, epoch: Epoch) -> None:
    if number != epoch.number:
        raise ProofInvalid("WrongEpoch", "of another epoch", number, f"epoch {epoch.number}")


def _key_of(number: int, validators: ValidatorSet) -> bytes:
    if number >= len(validators.members):
        raise ProofInvalid("NoValidator", "of nobody in the set", number, f"below {len(validators.members)}")
    return validators.members[number].public_key


def _claims_of_quorum(certificate: Certificate, epoch: Epoch, validators: ValidatorSet) -> list[Claim]:
    signed = signed_by_quorum(certificate.bitmap, certificate.signatures, validators)
    text = certificate.message(epoch.chain_id)
    return [(key, text, signature) for key, signature in signed]


def _claims_of_proposal(
    proposal: Proposal,
    epoch: Epoch,
    leader_of: Callable[[int], int],
    base_validators: ValidatorSet | None,
) -> list[Claim]:
    _check_epoch(proposal.epoch, epoch)
    leader = _key_of(leader_of(proposal.view), epoch.validators)
    claims = [(leader, proposal.message(epoch.chain_id), proposal.signature)]
    if proposal.notarisation is not None:
        return claims + claims_of(proposal.notarisation, epoch, leader_of)
    body = proposal.block.body
    if body.justification:
        certificate = Certificate.decode(body.justification)
        if certificate.epoch == epoch.base.epoch and certificate.kind == VoteKind.FINALIZE:
            if base_validators is None:
                raise ProofInvalid("WrongEpoch", "genesis has no finalisation", certificate.epoch)
            claims += _claims_of_quorum(certificate, epoch, base_validators)
        else:
            claims += claims_of(certificate, epoch, leader_of)
    for each in body.certificates:
        text = each.message(epoch.chain_id)
        claims += [(key, text, signature) for key, signature in each.signed(epoch.validators)]
    for operation in body.system_operations:
        held = messages.decode(operation)
        if isinstance(held, EpochDone | EndEpoch | Evidence):
            claims += claims_of(held, epoch, leader_of)
    return claims


def verify(
    message: object,
    epoch: Epoch,
    leader_of: Callable[[int], int],
    base_validators: ValidatorSet | None = None,
) -> None:
    """Check every signature of a message; raises `InvalidInput` with the first that is wrong."""
    claims = claims_of(message, epoch, leader_of, base_validators)
    items = [(int(Suite.ED25519), key, text, signature) for key, text, signature in claims]
    for (key, _, signature), right in zip(claims, verify_many(items), strict=True):
        if not right:
            raise ProofInvalid("BadSignature", f"not signed by key 0x{key.hex()}", signature)
