"""Values of every message and record, for hypothesis."""

import attrs
from hypothesis import strategies as st

from supervm.plugins.consensus.bft import records
from supervm.plugins.consensus.bft.effects_messages import Effect, Effects, EffectsCertificate, EffectsShare
from supervm.plugins.consensus.bft.fetching import (
    Absent,
    Get,
    Got,
    GotBlock,
    GotRow,
    OldestHeld,
    WantBlocks,
    WantDigest,
    WantRow,
    WantViews,
    What,
)
from supervm.plugins.consensus.bft.offences import AcceptedTransaction, Equivocation, Evidence, Offence
from supervm.plugins.consensus.bft.votes import (
    Accept,
    AskEpoch,
    EndEpoch,
    EpochDone,
    Proposal,
    Refusal,
    Refuse,
    TellEpoch,
    ViewVote,
)
from supervm.types.certificate import NO_DIGEST, Certificate, VoteKind
from tests.types.strategies import (
    ascending,
    b32,
    batch_certificates,
    batch_headers,
    batches,
    blocks,
    signatures,
    signed_bitmaps,
    small,
    u64,
)

digests = b32.filter(any)
validators = st.integers(0, 8191)
codes = st.text("ABZabz09_-", max_size=32)
indexes = st.integers(0, 4095)
plain_blocks = blocks().map(lambda block: attrs.evolve(block, batches=()))


@st.composite
def certificates(draw: st.DrawFn, *kinds: VoteKind) -> Certificate:
    kind = draw(st.sampled_from(kinds))
    digest = NO_DIGEST if kind == VoteKind.NULLIFY else draw(digests)
    return Certificate(kind, draw(u64), draw(u64), digest, *draw(signed_bitmaps()))


@st.composite
def view_votes(draw: st.DrawFn, *kinds: VoteKind) -> ViewVote:
    kind = draw(st.sampled_from(kinds))
    digest = NO_DIGEST if kind == VoteKind.NULLIFY else draw(digests)
    return ViewVote(kind, draw(u64), draw(u64), digest, draw(validators), draw(signatures))


notarisations = certificates(VoteKind.NOTARIZE)
view_certificates = certificates(VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE)
votes = view_votes(VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE)
accepts = st.builds(Accept, u64, b32, validators, signatures)


def by_index(items: st.SearchStrategy, size_min: int = 0) -> st.SearchStrategy:
    unique = st.lists(items, min_size=size_min, max_size=4, unique_by=lambda each: each.index)
    return unique.map(lambda found: tuple(sorted(found, key=lambda each: each.index)))


refuses = st.builds(
    Refuse,
    u64,
    b32,
    validators,
    codes,
    ascending(b32, 4),
    by_index(st.builds(Refusal, indexes, codes, small)),
)
effects = st.builds(
    Effects, u64, b32, validators, by_index(st.builds(Effect, indexes, b32, b32), 1), signatures
)


@st.composite
def shares(draw: st.DrawFn) -> EffectsShare:
    count = draw(st.integers(1, 4096))
    index = draw(st.integers(0, count - 1))
    path = tuple(draw(st.lists(b32, max_size=12)))
    return EffectsShare(draw(b32), index, count, path, *draw(signed_bitmaps()))


effects_certificates = st.builds(
    EffectsCertificate,
    u64,
    b32,
    b32,
    st.lists(shares(), max_size=3, unique_by=lambda share: share.root).map(
        lambda found: tuple(sorted(found, key=lambda share: share.root))
    ),
)
proposals = st.builds(Proposal, u64, u64, plain_blocks, st.none() | notarisations, signatures)
accepted = st.builds(
    AcceptedTransaction, accepts, batch_headers(), small, indexes, st.lists(b32, max_size=12).map(tuple)
)
evidence = st.one_of(
    st.builds(Evidence, st.just(Offence.ACCEPTS), accepted, accepted),
    st.builds(
        Evidence, st.just(Offence.PROPOSALS), view_votes(VoteKind.PROPOSAL), view_votes(VoteKind.PROPOSAL)
    ),
    st.builds(
        Evidence, st.just(Offence.NOTARIZES), view_votes(VoteKind.NOTARIZE), view_votes(VoteKind.NOTARIZE)
    ),
    st.builds(
        Evidence,
        st.just(Offence.FINALIZE_AND_NULLIFY),
        view_votes(VoteKind.FINALIZE),
        view_votes(VoteKind.NULLIFY),
    ),
    st.builds(Evidence, st.just(Offence.EFFECTS), effects, effects),
)
equivocations = (
    st.lists(small, min_size=2, max_size=2, unique=True)
    .map(sorted)
    .flatmap(lambda pair: st.builds(Equivocation, st.just(pair[0]), st.just(pair[1]), small))
)


@st.composite
def wanted_views(draw: st.DrawFn) -> WantViews:
    first = draw(st.integers(0, 2**64 - 256))
    return WantViews(draw(u64), first, first + draw(st.integers(0, 255)))


wants = st.one_of(
    st.builds(WantDigest, st.sampled_from(What), b32),
    wanted_views(),
    st.builds(WantBlocks, u64, st.integers(1, 256)),
    st.builds(WantRow, st.binary(min_size=9, max_size=128), u64),
)
items = st.one_of(
    batches(),
    batch_certificates(),
    effects,
    effects_certificates,
    view_certificates,
    st.builds(GotBlock, plain_blocks, st.none() | certificates(VoteKind.FINALIZE)),
    st.builds(Absent, wants),
    st.builds(OldestHeld, u64),
    st.builds(GotRow, st.binary(min_size=9, max_size=128), st.binary(max_size=64)),
)
messages = st.one_of(
    batches(),
    accepts,
    refuses,
    batch_certificates(),
    effects,
    effects_certificates,
    proposals,
    votes,
    view_certificates,
    st.builds(EpochDone, u64, validators, signatures),
    st.builds(lambda epoch, signed: EndEpoch(epoch, *signed), u64, signed_bitmaps()),
    evidence,
    equivocations,
    st.builds(Get, st.lists(wants, min_size=1, max_size=4).map(tuple)),
    st.builds(Got, st.lists(items, min_size=1, max_size=3).map(tuple)),
    st.builds(AskEpoch, b32),
    st.builds(TellEpoch, b32, u64, validators, signatures),
)
log_records = st.one_of(
    st.builds(records.Entered, view_certificates),
    st.builds(records.Proposed, proposals),
    st.builds(records.Notarized, view_votes(VoteKind.NOTARIZE), plain_blocks),
    st.builds(records.Finalized, view_votes(VoteKind.FINALIZE), notarisations),
    st.builds(records.Nullified, view_votes(VoteKind.NULLIFY)),
    st.builds(records.DidEpoch, st.builds(EpochDone, u64, validators, signatures)),
    st.builds(records.SilentBefore, u64),
)
