"""What proves a block final: its own finalisation, or the headers up to a block that has one."""

import attrs
import pytest

from supervm.types.block import BlockHeader
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.errors import DecodeError, ProofInvalid
from supervm.types.finality import HEADERS_MAX, FinalityProof

FIRST = BlockHeader(
    chain_id=b"c" * 32,
    epoch=1,
    height=7,
    parent=b"p" * 32,
    proposer=b"o" * 32,
    timestamp_ms=1,
    root_height=5,
    state_root=b"s" * 32,
    receipts_root=b"r" * 32,
    base_price=1,
    transactions_root=bytes(32),
    body_digest=bytes(32),
    validators_digest=b"v" * 32,
)


def chain(count: int) -> list[BlockHeader]:
    headers = [FIRST]
    for height in range(8, 7 + count):
        headers.append(attrs.evolve(FIRST, height=height, parent=headers[-1].digest()))
    return headers


def finalisation(digest: bytes, kind: VoteKind = VoteKind.FINALIZE) -> Certificate:
    return Certificate(kind, 1, 9, digest, b"\x07", (b"1" * 64, b"2" * 64, b"3" * 64))


def test_a_blocks_own_finalisation_is_its_proof_byte_for_byte() -> None:
    own = finalisation(FIRST.digest())
    assert FinalityProof(own).encode() == own.encode()
    found = FinalityProof.decode(own.encode())
    assert found == FinalityProof(own)
    found.check_of(FIRST.digest())


def test_headers_up_to_a_finalised_block_prove_each_of_their_ancestors() -> None:
    first, *later = chain(4)
    proof = FinalityProof(finalisation(later[-1].digest()), tuple(later))
    found = FinalityProof.decode(proof.encode())
    assert found == proof
    found.check_of(first.digest())


def test_a_proof_of_another_block_is_refused() -> None:
    first, *later = chain(4)
    good = finalisation(later[-1].digest())
    for proof in (
        FinalityProof(good),
        FinalityProof(good, tuple(later[1:])),
        FinalityProof(good, tuple(later[:-1])),
        FinalityProof(finalisation(later[-1].digest(), VoteKind.NOTARIZE), tuple(later)),
    ):
        with pytest.raises(ProofInvalid):
            proof.check_of(first.digest())


def test_a_proof_has_bounds_and_one_encoding() -> None:
    later = chain(2)[1:]
    encoded = FinalityProof(finalisation(later[-1].digest()), tuple(later)).encode()
    with pytest.raises(DecodeError):
        FinalityProof.decode(encoded + b"\x00")
    with pytest.raises(DecodeError):
        FinalityProof.decode(encoded[:-1])
    too_many = FinalityProof(finalisation(later[-1].digest()), (later[0],) * (HEADERS_MAX + 1))
    with pytest.raises(DecodeError):
        FinalityProof.decode(too_many.encode())
