"""Checking a proof that a node gave, with nothing but hashes: the node's word is not taken for anything.

What is shown: that a state key has a value, or none, under the state root of one block header. Whose
header that is, is the caller's to know: a digest that he trusts, or a genesis whose validators signed it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from supervm.client.light import check_header, follow_all, from_genesis
from supervm.crypto.votes import verify_certificate
from supervm.types import smt
from supervm.types.address import parse_hex
from supervm.types.block import BlockHeader
from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver


@attrs.frozen
class Proven:
    """What a proof shows: the value of `key` (None: there is none) after the block at `root_height`."""

    key: bytes
    value: bytes | None
    header: BlockHeader
    block_digest: Digest
    trust: str


def check_proof(
    answer: Mapping[str, Any],
    key: bytes,
    *,
    genesis: Genesis | None = None,
    trusted: Digest | None = None,
    handovers: Sequence[HandOver] = (),
) -> Proven:
    """Check the answer of `GET /v1/proofs/..` for a state key. Raises ProofInvalid or DecodeError.

    With `genesis` the block's certificate must be signed by a quorum of its validators, or of those that
    `handovers`, one an epoch from the first on, lead to; with `trusted` the header must have that digest.
    Without either, the header is only what the node says it is.
    """
    header = BlockHeader.decode(parse_hex(str(answer.get("header", {}).get("bytes")), "header.bytes"))
    proof = smt.Proof.decode(parse_hex(str(answer.get("proof")), "proof"))
    if proof.key != key:
        raise ProofInvalid("ProofInvalid", "the proof is of another key", proof.key, f"0x{key.hex()}")
    smt.verify(header.state_root, proof)
    digest = header.digest()
    trust = "the node's own header: give --trusted or --genesis to check that too"
    if trusted is not None:
        if digest != trusted:
            raise ProofInvalid(
                "ProofInvalid", "the header isn't the trusted one", digest, f"0x{trusted.hex()}"
            )
        trust = "the trusted block digest"
    if genesis is not None:
        if handovers:
            found = FinalityProof.decode(parse_hex(str(answer.get("certificate")), "certificate"))
            check_header(follow_all(from_genesis(genesis), handovers), header, found)
            trust = f"signatures of validators proven from genesis through {len(handovers)} epochs"
        else:
            _check_finality(answer, header, digest, genesis)
            trust = "signatures of the genesis validators"
    return Proven(key, proof.value, header, digest, trust)


def epoch_of(answer: Mapping[str, Any]) -> int:
    """The epoch of the header that came with a proof; nothing is checked. Raises DecodeError."""
    return BlockHeader.decode(parse_hex(str(answer.get("header", {}).get("bytes")), "header.bytes")).epoch


def _check_finality(answer: Mapping[str, Any], header: BlockHeader, digest: Digest, genesis: Genesis) -> None:
    """The header is of the genesis' chain, and final by a quorum of its validators."""
    if header.chain_id != genesis.chain_id:
        raise ProofInvalid(
            "ProofInvalid", "the header is of another chain", header.chain_id, f"0x{genesis.chain_id.hex()}"
        )
    if header.height == 0:
        raise ProofInvalid(
            "ProofInvalid", "block 0 carries no signatures", header.height, "ask again after the first block"
        )
    if header.validators_digest != genesis.validators.digest():
        mend = "follow the changes of the set from genesis, or give --trusted"
        raise ProofInvalid(
            "ProofInvalid", "the validators have changed since genesis", header.validators_digest, mend
        )
    found = FinalityProof.decode(parse_hex(str(answer.get("certificate")), "certificate"))
    found.check_of(digest)
    verify_certificate(found.finalisation, genesis.chain_id, genesis.validators)
