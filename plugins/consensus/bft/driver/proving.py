"""That a FAST transaction is final: signatures of its effects, gathered at whichever node is asked (CONS-21).

Validators send what they signed to the batch's builder. Any other node asks them when a client asks it; who
has the signatures of a quorum already gives those.
"""

from collections.abc import Callable, Mapping, Sequence

from supervm.api import Context
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.driver.vouching import Vouched
from supervm.plugins.consensus.bft.effects import EffectsGatherer, check_effects_certificate
from supervm.plugins.consensus.bft.effects_messages import Effects, EffectsCertificate
from supervm.plugins.consensus.bft.fetching import Get, Item, WantDigest, What
from supervm.plugins.consensus.bft.offences import Evidence
from supervm.types.certificate import VoteKind, vote_message
from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid
from supervm.types.validators import ValidatorSet

ASKED_MAX = 1_024
ASK_AGAIN_S = 0.2
CERTIFICATES_MAX = 100_000
SETTLED_MAX = 16_384
"""Batches of the last blocks, whose signatures may still come."""


class EffectsProofs:
    """Of one epoch. `ask(peer, get)` carries a question; `final` hears what has become final here, `accuse`
    who signed two effects of a transaction. `vouched` keeps what blocks must fold so; nothing is put into it
    after its epoch."""

    def __init__(
        self,
        ctx: Context,
        epoch: int,
        validators: ValidatorSet,
        peers: Sequence[bytes],
        ask: Callable[[bytes, Get], None],
        final: Callable[[Sequence[Digest]], None],
        accuse: Callable[[Evidence], None] = lambda evidence: None,
        vouched: Vouched | None = None,
    ) -> None:
        self._ctx = ctx
        self._epoch = epoch
        self._validators = validators
        self._peers = peers
        self._ask = ask
        self._final = final
        self._accuse = accuse
        self._vouched = Vouched(epoch) if vouched is None else vouched
        self._gatherer = EffectsGatherer(epoch, validators)
        self._own: dict[Digest, Effects] = {}
        self._given: dict[Digest, EffectsCertificate] = {}
        self._asked_s: dict[Digest, float] = {}
        self._settled: dict[Digest, None] = {}
        self._certified = ctx.metrics.counter(
            "supervm_fast_certified_total", "FAST transactions whose effects a quorum signed, as known here"
        )

    # What comes

    def signed(self, own: Effects) -> None:
        """What this validator signed, and has on disk."""
        if own.batch in self._settled:
            return
        for each in own.effects:
            self._own[each.transaction] = own
            if len(self._own) > CERTIFICATES_MAX:
                del self._own[next(iter(self._own))]
        self.add(own)

    def are_of(self, peer: bytes, message: Effects) -> bool:
        """Whether effects come from who signed them: no honest validator passes on another's, and the bytes
        don't say who put the batch to them. What was true once may be sent again, so that is no fault."""
        return self._validators.number_of(peer) == message.validator

    def add(self, message: Effects) -> None:
        """Verified effects of a validator. Of a batch that a block holds they come too late."""
        if message.batch not in self._settled:
            self._tell([(each.transaction, each.effects) for each in self._gatherer.add(message)])
            while self._gatherer.offences:
                self._accuse(self._gatherer.offences.pop())

    def add_certificate(self, certificate: EffectsCertificate) -> None:
        """A verified certificate, asked for."""
        name = certificate.transaction
        if name not in self._asked_s or self.held(name) is not None:
            return
        self._given[name] = certificate
        if len(self._given) > CERTIFICATES_MAX:
            del self._given[next(iter(self._given))]
        self._tell([(name, certificate.effects)])

    def _tell(self, final: Sequence[tuple[Digest, Digest]]) -> None:
        """Transactions with their effects, which a quorum signed."""
        for name, effects in final:
            self._vouched.saw(name, effects)
        if final:
            self._certified.inc(len(final))
            self._final([name for name, _ in final])
        for name, _ in final:
            self._asked_s.pop(name, None)

    def forget(self, batches: Sequence[Digest], transactions: Sequence[Digest]) -> None:
        """A final block holds these: its own certificate is proof enough."""
        for batch in batches:
            self._settled[batch] = None
            if len(self._settled) > SETTLED_MAX:
                del self._settled[next(iter(self._settled))]
        self._gatherer.forget(transactions)
        self._vouched.forget(transactions)
        for name in transactions:
            self._own.pop(name, None)
            self._given.pop(name, None)
            self._asked_s.pop(name, None)

    # What is asked

    def held(self, transaction: Digest) -> EffectsCertificate | None:
        """The certificate, where a quorum's signatures are here."""
        return self._given.get(transaction) or self._gatherer.certificate(transaction)

    def certificate(self, transaction: Digest) -> bytes | None:
        """As a frame (CONS-38, kind 6)."""
        found = self.held(transaction)
        return None if found is None else messages.encode(found)

    def vouched(self, epoch: int) -> Mapping[str, Mapping[Digest, Digest]]:
        """What a block must fold so: see `EffectsSource`."""
        return self._vouched.of(epoch)

    def answer(self, transaction: Digest) -> Item | None:
        """For a peer: the certificate, else what this validator signed."""
        return self.held(transaction) or self._own.get(transaction)

    def want(self, transaction: Digest) -> None:
        """Ask all validators, unless they were asked just now. At most 1,024 at a time; the oldest goes."""
        now_s = self._ctx.clock.monotonic()
        last = self._asked_s.pop(transaction, None)
        self._asked_s[transaction] = now_s if last is None or now_s - last >= ASK_AGAIN_S else last
        if len(self._asked_s) > ASKED_MAX:
            del self._asked_s[next(iter(self._asked_s))]
        if self._asked_s[transaction] == now_s:
            question = Get((WantDigest(What.EFFECTS, transaction),))
            for peer in self._peers:
                self._ask(peer, question)


def claims_of(
    found: Effects | EffectsCertificate, chain_id: bytes, validators: ValidatorSet
) -> list[tuple[bytes, bytes, bytes]]:
    """(key, signed bytes, signature) of all that must hold. Raises `ProofInvalid`."""
    if isinstance(found, EffectsCertificate):
        return claims_of_certificate(found, chain_id, validators)
    if found.validator >= len(validators.members):
        raise ProofInvalid("NoValidator", "of nobody in the set", found.validator)
    key = validators.members[found.validator].public_key
    return [(key, found.message(chain_id), found.signature)]


def claims_of_certificate(
    certificate: EffectsCertificate, chain_id: bytes, validators: ValidatorSet
) -> list[tuple[bytes, bytes, bytes]]:
    """(key, signed bytes, signature) of all that must hold. Raises `ProofInvalid`."""
    return [
        (key, vote_message(chain_id, certificate.epoch, VoteKind.EFFECTS, 0, root), signature)
        for key, signature, root in check_effects_certificate(certificate, validators)
    ]
