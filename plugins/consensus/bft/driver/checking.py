"""The signatures of what peers sent, verified before any machine hears of it: many at once, in a thread.

What was verified once is remembered by blake3 of all its bytes: certificates come from everyone. A message
that nobody can act on any more isn't verified, and goes no further.
"""

from collections.abc import Callable, Sequence

import trio

from supervm.crypto.batch import verify_many
from supervm.plugins.consensus.bft.driver.proving import claims_of_certificate
from supervm.plugins.consensus.bft.effects_messages import Effects, EffectsCertificate
from supervm.plugins.consensus.bft.fetching import Absent, Got, GotBlock, OldestHeld
from supervm.plugins.consensus.bft.messages import (
    Accept,
    Batch,
    BatchCertificate,
    EndEpoch,
    EpochDone,
    Evidence,
    Message,
    Proposal,
    ViewVote,
)
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.verifying import Claim, claims_of
from supervm.types.address import Suite
from supervm.types.certificate import Certificate, VoteKind, vote_message
from supervm.types.digests import plain_digest
from supervm.types.errors import InvalidInput, ProofInvalid
from supervm.types.validators import ValidatorSet

REMEMBERED_MAX = 65_536
INLINE_MAX = 4
"""So few signatures are verified faster than a thread is asked."""


class Checker:
    """Verifies messages of one epoch. `builders`: the key of each admitted builder, by node id."""

    def __init__(
        self,
        epoch: Epoch,
        leader_of: Callable[[int], int],
        builders: dict[bytes, bytes],
        base_validators: ValidatorSet | None = None,
    ) -> None:
        self._epoch = epoch
        self._leader_of = leader_of
        self._builders = builders
        self._base_validators = base_validators
        self._remembered: dict[bytes, None] = {}
        self._limiter = trio.CapacityLimiter(1)

    async def judge(self, messages: Sequence[Message]) -> list[str]:
        """For each message why it is bad; empty where every signature in it is right."""
        wrong = [""] * len(messages)
        claims: list[Claim] = []
        owners: list[int] = []
        for index, message in enumerate(messages):
            try:
                needed = self._needed(message)
            except InvalidInput as error:
                # What a message holds as bytes, a proposal's justification and operations, is decoded here.
                wrong[index] = error.code
                continue
            claims += needed
            owners += [index] * len(needed)
        items = [(int(Suite.ED25519), key, text, signature) for key, text, signature in claims]
        if len(items) <= INLINE_MAX:
            right = verify_many(items)
        else:
            right = await trio.to_thread.run_sync(verify_many, items, limiter=self._limiter)
        for index, claim, is_right in zip(owners, claims, right, strict=True):
            if not is_right:
                wrong[index] = "BadSignature"
            elif len(claim[1]) and not wrong[index]:
                self._remember(claim)
        return wrong

    def _remember(self, claim: Claim) -> None:
        self._remembered[_key(claim)] = None
        if len(self._remembered) > REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]

    def _needed(self, message: Message) -> list[Claim]:
        return [claim for claim in self._claims(message) if _key(claim) not in self._remembered]

    def _claims(self, message: Message) -> list[Claim]:
        chain_id = self._epoch.chain_id
        match message:
            case Evidence():
                return claims_of(message, self._epoch, self._leader_of)
            case ViewVote() | EpochDone() | Certificate() | EndEpoch() | Proposal():
                if message.epoch != self._epoch.number:
                    # Of another epoch: its set isn't known here. The machine looks at nothing but its number.
                    return []
                found = claims_of(message, self._epoch, self._leader_of, self._base_validators)
                if isinstance(message, Proposal):
                    for each in message.block.body.certificates:
                        found += self._builder_claim(each)
                return found
            case Batch() | BatchCertificate() if message.header.epoch != self._epoch.number:
                return []
            case Accept() | Effects() if message.epoch != self._epoch.number:
                return []
            case Batch():
                return self._builder_claim(message)
            case Accept() | Effects():
                return [(self._key_of(message.validator), message.message(chain_id), message.signature)]
            case BatchCertificate():
                text = message.message(chain_id)
                signed = message.signed(self._epoch.validators)
                return self._builder_claim(message) + [(key, text, signature) for key, signature in signed]
            case Got(items):
                return [claim for item in items for claim in self._item_claims(item)]
        return []

    def _item_claims(self, item: object) -> list[Claim]:
        match item:
            case GotBlock(_, finalisation):
                # A block itself is asked for by its digest, which a quorum signed.
                return [] if finalisation is None else self._claims(finalisation)
            case Absent() | OldestHeld():
                return []
            case Batch() | BatchCertificate() | Certificate() | Effects():
                return self._claims(item)
            case EffectsCertificate(epoch) if epoch == self._epoch.number:
                return claims_of_certificate(item, self._epoch.chain_id, self._epoch.validators)
        return []

    def _builder_claim(self, batch: Batch | BatchCertificate) -> list[Claim]:
        header = batch.header
        key = self._builders.get(header.builder)
        if key is None:
            raise ProofInvalid("NotAdmitted", "no admitted builder", header.builder, "one of the set")
        text = vote_message(self._epoch.chain_id, header.epoch, VoteKind.BATCH, 0, header.digest())
        return [(key, text, batch.signature)]

    def _key_of(self, number: int) -> bytes:
        members = self._epoch.validators.members
        if number >= len(members):
            raise ProofInvalid("NoValidator", "of nobody in the set", number, f"below {len(members)}")
        return members[number].public_key


def _key(claim: Claim) -> bytes:
    key, text, signature = claim
    return plain_digest(key + signature + text)
