"""Every message of CONS-38 as one frame: `u8 kind || fields`, in the encoding of EXEC-6.

A value has one encoding; `decode` refuses any other, and whatever is longer than its kind may be, with
`DecodeError`. Signatures, weights and digests of certificates aren't verified here.
"""

from collections.abc import Callable

from supervm.plugins.consensus.bft.effects_messages import (
    Effect,
    Effects,
    EffectsCertificate,
    EffectsShare,
    effects_root,
)
from supervm.plugins.consensus.bft.fetching import (
    ANSWER_BYTES_MAX,
    Absent,
    Get,
    Got,
    GotBlock,
    OldestHeld,
    Want,
    WantBlocks,
    WantDigest,
    WantViews,
    What,
)
from supervm.plugins.consensus.bft.offences import AcceptedTransaction, Equivocation, Evidence, Offence
from supervm.plugins.consensus.bft.votes import (
    BLOCK_BYTES_MAX,
    CERTIFICATE_BYTES_MAX,
    Accept,
    AskEpoch,
    EndEpoch,
    EpochDone,
    Proposal,
    Refusal,
    Refuse,
    TellEpoch,
    ViewVote,
    read_view_certificate,
    write_view_certificate,
)
from supervm.types.batch import Batch
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind
from supervm.types.codec import Reader, Writer
from supervm.types.errors import DecodeError

Message = (
    Batch
    | Accept
    | Refuse
    | BatchCertificate
    | Effects
    | EffectsCertificate
    | Proposal
    | ViewVote
    | Certificate
    | EpochDone
    | EndEpoch
    | Evidence
    | Equivocation
    | Get
    | Got
    | AskEpoch
    | TellEpoch
)

BATCH, ACCEPT, REFUSE, BATCH_CERTIFICATE, EFFECTS, EFFECTS_CERTIFICATE = 1, 2, 3, 4, 5, 6
PROPOSAL, NOTARIZE, NULLIFY, FINALIZE, NOTARISATION, NULLIFICATION, FINALISATION = range(7, 14)
EPOCH_DONE, END_EPOCH, EVIDENCE, EQUIVOCATION, GET, GOT, ASK_EPOCH, TELL_EPOCH = range(14, 22)

_CERTIFICATES = {
    NOTARISATION: VoteKind.NOTARIZE,
    NULLIFICATION: VoteKind.NULLIFY,
    FINALISATION: VoteKind.FINALIZE,
}
_CERTIFICATE_FRAMES = {kind: frame for frame, kind in _CERTIFICATES.items()}
_VOTES = (NOTARIZE, NULLIFY, FINALIZE)

_KIB, _MIB = 2**10, 2**20
_SMALL = 256
_BYTES_MAX = {
    BATCH: _MIB + 64 * _KIB,
    ACCEPT: _SMALL,
    REFUSE: _MIB + 512 * _KIB,
    BATCH_CERTIFICATE: CERTIFICATE_BYTES_MAX,
    EFFECTS: 512 * _KIB,
    EFFECTS_CERTIFICATE: 2 * _MIB,
    PROPOSAL: BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX + _SMALL,
    NOTARIZE: _SMALL,
    NULLIFY: _SMALL,
    FINALIZE: _SMALL,
    NOTARISATION: CERTIFICATE_BYTES_MAX,
    NULLIFICATION: CERTIFICATE_BYTES_MAX,
    FINALISATION: CERTIFICATE_BYTES_MAX,
    EPOCH_DONE: _SMALL,
    END_EPOCH: CERTIFICATE_BYTES_MAX,
    EVIDENCE: _MIB,
    EQUIVOCATION: _MIB,
    GET: 8 * _KIB,
    GOT: max(ANSWER_BYTES_MAX, BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX) + 4 * _KIB,
    ASK_EPOCH: _SMALL,
    TELL_EPOCH: _SMALL,
}
FRAME_BYTES_MAX = max(_BYTES_MAX.values())

_READ: dict[int, Callable[[Reader], Message]] = {
    each.KIND: each.read
    for each in (
        Accept,
        Refuse,
        Effects,
        EffectsCertificate,
        Proposal,
        EpochDone,
        EndEpoch,
        Evidence,
        Equivocation,
        Get,
        Got,
        AskEpoch,
        TellEpoch,
    )
} | {BATCH_CERTIFICATE: BatchCertificate.read}


def frame_bytes_max(kind: int) -> int:
    """The most bytes that a frame of a kind has, so that a stream can refuse before it reads; else 0."""
    return _BYTES_MAX.get(kind, 0)


def kind_of(message: Message) -> int:
    """The number of a message's frame."""
    match message:
        case Batch():
            return BATCH
        case BatchCertificate():
            return BATCH_CERTIFICATE
        case Certificate():
            return _CERTIFICATE_FRAMES[message.kind]
        case ViewVote():
            assert message.kind in _VOTES, f"{message.kind!r} alone is no frame"
            return int(message.kind)
    return message.KIND


def encode(message: Message) -> bytes:
    """The frame of a message. Raises `InvalidInput` where a field doesn't fit its width."""
    kind = kind_of(message)
    writer = Writer().u8(kind)
    match message:
        case Batch():
            writer.raw(message.encode())
        case Certificate():
            write_view_certificate(writer, message)
        case _:
            message.write(writer)
    frame = writer.done()
    assert len(frame) <= _BYTES_MAX[kind], f"a frame of kind {kind} with {len(frame)} bytes"
    return frame


def decode(frame: bytes) -> Message:
    """The message of a frame; raises `DecodeError` for any other bytes."""
    reader = Reader(frame)
    kind = reader.u8("frame.kind")
    largest = _BYTES_MAX.get(kind)
    if largest is None:
        raise DecodeError("UnknownFormat", "frame.kind", kind, "1 to 21")
    if len(frame) > largest:
        raise DecodeError("TooLarge", "frame", f"{len(frame)} bytes", f"at most {largest} of kind {kind}")
    if kind == BATCH:
        return Batch.decode(frame[1:])
    if kind in _VOTES:
        message: Message = ViewVote.read(reader, VoteKind(kind))
    elif kind in _CERTIFICATES:
        message = read_view_certificate(reader, _CERTIFICATES[kind])
    else:
        message = _READ[kind](reader)
    reader.finish("frame")
    return message


__all__ = [
    "FRAME_BYTES_MAX",
    "Absent",
    "Accept",
    "AcceptedTransaction",
    "AskEpoch",
    "Batch",
    "BatchCertificate",
    "Certificate",
    "Effect",
    "Effects",
    "EffectsCertificate",
    "EffectsShare",
    "EndEpoch",
    "EpochDone",
    "Equivocation",
    "Evidence",
    "Get",
    "Got",
    "GotBlock",
    "Message",
    "Offence",
    "OldestHeld",
    "Proposal",
    "Refusal",
    "Refuse",
    "TellEpoch",
    "ViewVote",
    "Want",
    "WantBlocks",
    "WantDigest",
    "WantViews",
    "What",
    "decode",
    "effects_root",
    "encode",
    "frame_bytes_max",
    "kind_of",
]
