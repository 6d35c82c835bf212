"""FAST: effects of certified batches, signed by one validator and gathered to a quorum's (CONS-20..22).

`EffectsSigner` is the validator's part: it hands each certified batch to the application after its past,
and signs what was applied. What must wait is signed once it is applied and holds up nobody. Which batch
comes when is decided by `certificates`; what can be applied, and with which effects, by the application,
which is idempotent by digest.

`EffectsGatherer` is the part of whoever wants to know that effects are final: signatures may cover
different roots, since validators apply in different orders; weight counts by transaction and effects.
"""

from collections.abc import Callable, Sequence

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

GATHERED_MAX = 100_000
ROOTS_A_VALIDATOR = 64


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


@attrs.frozen
class _SignedRoot:
    """The list under one root, and the signatures over it by validator."""

    effects: tuple[Effect, ...]
    signatures: dict[int, bytes]


@attrs.define
class _Gathering:
    """Who signed which effects of a transaction: by effects, by root, the validators' signatures."""

    by_effects: dict[Digest, dict[Digest, _SignedRoot]] = attrs.Factory(dict)
    final: Digest | None = None


class EffectsGatherer:
    """Counts verified effects messages of one epoch until a quorum has signed the same effects.

    Bounded: `transactions_max` transactions at a time, the oldest final ones go first; beyond it, new ones
    are left to their blocks. A validator's messages beyond 64 roots a batch are ignored.
    """

    def __init__(self, epoch: int, validators: ValidatorSet, transactions_max: int = GATHERED_MAX) -> None:
        self._epoch, self._validators, self._max = epoch, validators, transactions_max
        self._found: dict[Digest, _Gathering] = {}
        self._roots: dict[tuple[Digest, int], int] = {}
        self._offenders: set[int] = set()
        self.offences: list[Evidence] = []
        """Who signed two effects of a transaction, each once: for whoever passes that on."""

    def add(self, message: Effects) -> list[Effect]:
        """Take a verified message; give the transactions that it made final."""
        if message.epoch != self._epoch or message.validator >= len(self._validators.members):
            return []
        place = (message.batch, message.validator)
        if self._roots.get(place, 0) >= ROOTS_A_VALIDATOR:
            return []
        self._roots[place] = self._roots.get(place, 0) + 1
        root = message.root()
        made: list[Effect] = []
        for each in message.effects:
            gathering = self._gathering(each.transaction)
            if gathering is None:
                continue
            if len(gathering.by_effects) > 1 or each.effects not in gathering.by_effects:
                self._compare(gathering, each, message)
            if gathering.final is not None:
                continue
            roots = gathering.by_effects.setdefault(each.effects, {})
            if any(message.validator in signed.signatures for signed in roots.values()):
                continue
            signed = roots.setdefault(root, _SignedRoot(message.effects, {}))
            signed.signatures[message.validator] = message.signature
            if self._validators.is_quorum(self._weight(roots)):
                gathering.final = each.effects
                made.append(each)
        return made

    def _compare(self, gathering: _Gathering, effect: Effect, message: Effects) -> None:
        """Whether this validator has signed other effects of the transaction before (CONS-70, 4)."""
        number = message.validator
        for effects, roots in gathering.by_effects.items():
            signed = next((each for each in roots.values() if number in each.signatures), None)
            if effects != effect.effects and signed is not None and number not in self._offenders:
                self._offenders.add(number)
                signature = signed.signatures[number]
                before = Effects(self._epoch, message.batch, number, tuple(signed.effects), signature)
                self.offences.append(Evidence(Offence.EFFECTS, before, message))

    def certificate(self, transaction: Digest) -> EffectsCertificate | None:
        """The certificate of a transaction whose effects are final here; else None."""
        gathering = self._found.get(transaction)
        if gathering is None or gathering.final is None:
            return None
        shares = [
            self._share(root, transaction, signed)
            for root, signed in sorted(
                gathering.by_effects[gathering.final].items(), key=lambda each: each[0]
            )
        ]
        return EffectsCertificate(self._epoch, transaction, gathering.final, tuple(shares))

    def forget(self, batch: Digest, transactions: Sequence[Digest]) -> None:
        """A final block holds the batch: its own certificate is proof enough."""
        for digest in transactions:
            self._found.pop(digest, None)
        for number in range(len(self._validators.members)):
            self._roots.pop((batch, number), None)

    def _gathering(self, transaction: Digest) -> _Gathering | None:
        found = self._found.get(transaction)
        if found is None and len(self._found) < self._max:
            found = self._found[transaction] = _Gathering()
        return found

    def _weight(self, roots: dict[Digest, _SignedRoot]) -> int:
        members = self._validators.members
        return sum(members[number].weight for signed in roots.values() for number in signed.signatures)

    def _share(self, root: Digest, transaction: Digest, signed: _SignedRoot) -> EffectsShare:
        effects, signatures = signed.effects, signed.signatures
        index = [each.transaction for each in effects].index(transaction)
        path = merkle.path([each.leaf() for each in effects], index)
        numbers = sorted(signatures)
        return EffectsShare(
            root,
            index,
            len(effects),
            path,
            bitmap_of(numbers, len(self._validators.members)),
            tuple(signatures[number] for number in numbers),
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
