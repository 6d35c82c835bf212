"""FAST: effects of certified batches, signed by one validator and gathered to a quorum's (CONS-20..22).

`EffectsSigner` is the validator's part: it hands each certified batch to the application after its past,
and signs what was applied. What must wait is signed once it is applied and holds up nobody. Which batch
comes when is decided by `certificates`; what can be applied, and with which effects, by the application,
which is idempotent by digest.

`EffectsGatherer` is the part of whoever wants to know that effects are final: signatures may cover
different roots, since validators apply in different orders; weight counts by transaction and effects.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs

from supervm.plugins.consensus.bft.batch_events import Applied, VoterOutput
from supervm.plugins.consensus.bft.batch_records import SignedEffects
from supervm.plugins.consensus.bft.effects_messages import (
    Effect,
    Effects,
    EffectsCertificate,
    EffectsShare,
    effects_root,
)
from supervm.plugins.consensus.bft.events import Apply, Halt
from supervm.plugins.consensus.bft.offences import Evidence, Offence
from supervm.plugins.consensus.bft.outbox import Outbox
from supervm.types import merkle
from supervm.types.certificate import BatchCertificate, VoteKind, bitmap_of, numbers_of, vote_message
from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid
from supervm.types.validators import ValidatorSet

SIGNED_MAX, SIGNED_LEAST = 400_000, 8_192
"""Effects that are kept until blocks hold their transactions, at 0.5 to 0.8 KB each: of all validators
together, shared evenly, but of each as many as two full batches have."""


class EffectsSigner:
    """A validator's effects in one epoch. Shares the outbox of the machine that tells it."""

    def __init__(
        self,
        chain_id: bytes,
        epoch: int,
        number: int,
        sign: Callable[[bytes], bytes],
        out: Outbox[VoterOutput],
        *,
        pending_max: int = 10_000,
    ) -> None:
        self._chain_id, self._epoch, self._number = chain_id, epoch, number
        self._sign = sign
        self._out = out
        self._pending_max = pending_max
        self._stopped = False
        self._builders: dict[Digest, bytes] = {}
        self._waiting: dict[Digest, int] = {}
        self._signed: dict[Digest, Digest] = {}
        self._said: dict[Digest, list[Effects]] = {}

    def known(self, certificate: BatchCertificate) -> None:
        """A certificate and its past are known: its turn has come."""
        if self._stopped:
            return
        batch = certificate.header.digest()
        self._builders[batch] = certificate.header.builder
        self._out.put(Apply(batch, certificate))

    def applied(self, applied: Applied) -> None:
        """Sign what the application applied. Nothing leaves before it is logged, with all it rests on."""
        if self._stopped or applied.batch not in self._builders:
            return
        self._waiting[applied.batch] = applied.waiting
        if not applied.waiting:
            del self._waiting[applied.batch]
        for each in applied.effects:
            before = self._signed.get(each.transaction)
            if before is not None and before != each.effects:
                name, one, other = each.transaction.hex(), before.hex(), each.effects.hex()
                self._out.put(Halt(f"transaction 0x{name} has effects 0x{one} and 0x{other}"))
                return
        if not applied.effects:
            return
        message = vote_message(
            self._chain_id, self._epoch, VoteKind.EFFECTS, 0, effects_root(applied.effects)
        )
        signed = Effects(self._epoch, applied.batch, self._number, applied.effects, self._sign(message))
        if signed not in self._said.get(applied.batch, ()):
            self._remember(signed)
            self._out.log(SignedEffects(signed))
        self._out.vote((self._builders[applied.batch],), signed)

    def room(self) -> int:
        """How many more FAST transactions may wait; at 0 the application leaves them to their block."""
        return max(0, self._pending_max - sum(self._waiting.values()))

    @property
    def signed(self) -> Mapping[Digest, Digest]:
        """The effects digest signed of each transaction whose batch is in no executed block, as it is."""
        return self._signed

    def said(self, batch: Digest, transaction: Digest) -> Effects | None:
        """What was signed of a transaction, in a batch that no executed block holds, for whoever asks."""
        for signed in self._said.get(batch, ()):
            if any(each.transaction == transaction for each in signed.effects):
                return signed
        return None

    def settled(self, batches: Sequence[Digest]) -> None:
        """An executed block folded these."""
        for batch in batches:
            self._builders.pop(batch, None)
            self._waiting.pop(batch, None)
            for signed in self._said.pop(batch, ()):
                for each in signed.effects:
                    self._signed.pop(each.transaction, None)

    def stop(self) -> None:
        """Sign no more effects in this epoch, apply nothing that no block holds (CONS-51, rule 2)."""
        self._stopped = True

    def restore(self, signed: Effects) -> None:
        """What the log says was signed."""
        self._remember(signed)

    def _remember(self, signed: Effects) -> None:
        self._said.setdefault(signed.batch, []).append(signed)
        self._signed.update((each.transaction, each.effects) for each in signed.effects)


@attrs.define(eq=False)
class _Signed:
    """One list of effects that a validator signed. `left`: its transactions that still count."""

    root: Digest
    effects: tuple[Effect, ...]
    signature: bytes
    left: int = 0


@attrs.define(eq=False)
class _Signer:
    """What is kept of one validator: its lists by root, oldest first, and its word on each transaction, with
    the list that has it. `count`: effects in all these lists."""

    lists: dict[Digest, _Signed] = attrs.Factory(dict)
    words: dict[Digest, tuple[Digest, _Signed]] = attrs.Factory(dict)
    count: int = 0


class EffectsGatherer:
    """Counts verified effects messages of one epoch until a quorum has signed the same effects.

    A signature covers neither batch nor indices, so nothing rests on them: what counts is the root and who
    signed it, the same one once. Bounded by validator: of each one lists of `effects_max` effects are kept,
    and its oldest go first. So whoever signs what doesn't exist loses words of its own and nobody else's;
    where honest ones sign so much ahead of the blocks, what has been final for longest isn't proven here any
    more. What a validator says first of a transaction counts.
    """

    def __init__(self, epoch: int, validators: ValidatorSet, effects_max: int | None = None) -> None:
        self._epoch, self._validators = epoch, validators
        share = max(SIGNED_MAX // len(validators.members), SIGNED_LEAST)
        self._max = share if effects_max is None else effects_max
        self._signers = [_Signer() for _ in validators.members]
        self._weights: dict[bytes, int] = {}
        self._final: dict[Digest, Digest] = {}
        self._offenders: set[int] = set()
        self.offences: list[Evidence] = []
        """Who signed two effects of a transaction, each once: for whoever passes that on."""

    def add(self, message: Effects) -> list[Effect]:
        """Take a verified message; give the transactions that it made final."""
        number = message.validator
        if message.epoch != self._epoch or number >= len(self._signers):
            return []
        root = message.root()
        signer = self._signers[number]
        if root in signer.lists:
            return []
        signed = _Signed(root, message.effects, message.signature)
        made: list[Effect] = []
        for each in message.effects:
            word = signer.words.get(each.transaction)
            if word is None:
                if not signed.left:
                    self._keep(number, signed)
                made += self._count(number, each, signed)
            elif word[0] != each.effects:
                self._accuse(word[1], message)
        return made

    def _keep(self, number: int, signed: _Signed) -> None:
        """Make room for a validator's list among its own."""
        signer = self._signers[number]
        while signer.lists and signer.count + len(signed.effects) > self._max:
            oldest = next(iter(signer.lists.values()))
            for each in oldest.effects:
                word = signer.words.get(each.transaction)
                if word is not None and word[1] is oldest:
                    self._take_back(number, each.transaction)
        signer.lists[signed.root] = signed
        signer.count += len(signed.effects)

    def _count(self, number: int, effect: Effect, signed: _Signed) -> list[Effect]:
        """A validator's word on a transaction; give that if it is final by it."""
        self._signers[number].words[effect.transaction] = effect.effects, signed
        signed.left += 1
        leaf = effect.leaf()
        weight = self._weights.get(leaf, 0) + self._validators.members[number].weight
        self._weights[leaf] = weight
        if effect.transaction in self._final or not self._validators.is_quorum(weight):
            return []
        self._final[effect.transaction] = effect.effects
        return [effect]

    def _take_back(self, number: int, transaction: Digest) -> None:
        """Forget a validator's word on a transaction, and its list with the last of these."""
        signer = self._signers[number]
        effects, signed = signer.words.pop(transaction)
        signed.left -= 1
        if not signed.left:
            del signer.lists[signed.root]
            signer.count -= len(signed.effects)
        leaf = transaction + effects
        weight = self._weights.pop(leaf) - self._validators.members[number].weight
        if weight:
            self._weights[leaf] = weight
        if self._final.get(transaction) == effects and not self._validators.is_quorum(weight):
            del self._final[transaction]

    def _accuse(self, signed: _Signed, message: Effects) -> None:
        """A validator has signed other effects of a transaction before (CONS-70, 4)."""
        number = message.validator
        if number not in self._offenders:
            self._offenders.add(number)
            before = Effects(self._epoch, message.batch, number, signed.effects, signed.signature)
            self.offences.append(Evidence(Offence.EFFECTS, before, message))

    def certificate(self, transaction: Digest) -> EffectsCertificate | None:
        """The certificate of a transaction whose effects are final here; else None."""
        final = self._final.get(transaction)
        if final is None:
            return None
        members = self._validators.members
        roots: dict[Digest, dict[int, _Signed]] = {}
        weight = 0
        for number, signer in enumerate(self._signers):
            effects, signed = signer.words.get(transaction, (None, None))
            if signed is not None and effects == final and not self._validators.is_quorum(weight):
                roots.setdefault(signed.root, {})[number] = signed
                weight += members[number].weight
        shares = tuple(self._share(transaction, roots[root]) for root in sorted(roots))
        return EffectsCertificate(self._epoch, transaction, final, shares)

    def forget(self, transactions: Sequence[Digest]) -> None:
        """A final block holds these: its own certificate is proof enough."""
        for transaction in transactions:
            for number, signer in enumerate(self._signers):
                if transaction in signer.words:
                    self._take_back(number, transaction)

    def _share(self, transaction: Digest, signed: dict[int, _Signed]) -> EffectsShare:
        """Of one root, by the validators that signed it."""
        first = next(iter(signed.values()))
        index = [each.transaction for each in first.effects].index(transaction)
        return EffectsShare(
            first.root,
            index,
            len(first.effects),
            merkle.path([each.leaf() for each in first.effects], index),
            bitmap_of(list(signed), len(self._validators.members)),
            tuple(each.signature for each in signed.values()),
        )


def check_effects_certificate(
    certificate: EffectsCertificate, validators: ValidatorSet
) -> list[tuple[bytes, bytes, Digest]]:
    """Check an effects certificate but for its signatures; (public key, signature, root) of each.

    Every path has to lead to its root, and different validators that are a quorum have to have signed.
    Raises `ProofInvalid`.
    """
    item = certificate.transaction + certificate.effects
    signed: list[tuple[bytes, bytes, Digest]] = []
    seen: dict[int, None] = {}
    count = len(validators.members)
    for share in certificate.shares:
        merkle.verify(share.root, item, share.index, share.count, share.path)
        numbers = numbers_of(share.bitmap)
        if len(share.bitmap) != (count + 7) // 8 or (numbers and numbers[-1] >= count):
            raise ProofInvalid("ProofInvalid", "the bitmap is not of this validator set", share.bitmap)
        if len(numbers) != len(share.signatures) or any(number in seen for number in numbers):
            raise ProofInvalid("ProofInvalid", "a validator counts once", share.bitmap)
        seen.update(dict.fromkeys(numbers))
        signed += [
            (validators.members[number].public_key, signature, share.root)
            for number, signature in zip(numbers, share.signatures, strict=True)
        ]
    weight = sum(validators.members[number].weight for number in seen)
    if not validators.is_quorum(weight):
        raise ProofInvalid("NoQuorum", "the signatures weigh too little", weight)
    return signed
