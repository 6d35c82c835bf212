"""Checking a proof that a node gave, with nothing but hashes: the node's word is not taken for anything.

What is shown: that a state key has a value, or none, under the state root of one block header. Whose
header that is, is the caller's to know: a digest that he trusts, or a genesis or checkpoint whose validators
signed it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from supervm.client.light import begin, check_header, follow_all
from supervm.crypto.votes import verify_certificate
from supervm.types import smt
from supervm.types.address import parse_hex
from supervm.types.block import BlockHeader
from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.handover import Checkpoint, HandOver


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
    checkpoint: Checkpoint | None = None,
    trusted: Digest | None = None,
    handovers: Sequence[HandOver] = (),
    now_ms: int | None = None,
) -> Proven:
    """Check the answer of `GET /v1/proofs/..` for a state key. Raises ProofInvalid or DecodeError.

    With `genesis` the block's certificate must be signed by a quorum of its validators, or of those that
    `handovers`, one an epoch from the first on, lead to. With `checkpoint` they lead on from its epoch, and
    `genesis` only says which chain it has to be of. Either must be younger than the unbonding time (CONS-73)
    at `now_ms`, UTC milliseconds, which is this machine's clock unless given. With `trusted` the header must
    have that digest. Without any, the header is only what the node says it is.
    """
    header = header_in(answer)
    proof = smt.Proof.decode(parse_hex(str(answer.get("proof")), "proof"))
    if proof.key != key:
        raise ProofInvalid("ProofInvalid", "the proof is of another key", proof.key, f"0x{key.hex()}")
    smt.verify(header.state_root, proof)
    digest = header.digest()
    trust = "the node's own header: give --trusted, --genesis or --checkpoint to check that too"
    if trusted is not None:
        if digest != trusted:
            raise ProofInvalid(
                "ProofInvalid", "the header isn't the trusted one", digest, f"0x{trusted.hex()}"
            )
        trust = "the trusted block digest"
    if genesis is not None or checkpoint is not None:
        begun = begin(genesis, checkpoint, wall_ms() if now_ms is None else now_ms)
        if genesis is not None and checkpoint is None and not handovers:
            _check_finality(answer, header, digest, genesis)
            trust = "signatures of the genesis validators"
        else:
            found = FinalityProof.decode(parse_hex(str(answer.get("certificate")), "certificate"))
            check_header(follow_all(begun, handovers), header, found)
            source = "genesis" if checkpoint is None else f"the checkpoint at height {checkpoint.height}"
            trust = f"signatures of validators proven from {source} through {len(handovers)} epochs"
    return Proven(key, proof.value, header, digest, trust)


def wall_ms() -> int:
    """UTC milliseconds by this machine's clock."""
    return time.time_ns() // 1_000_000


def header_in(answer: Mapping[str, Any]) -> BlockHeader:
    """The header that came with a proof or a block; nothing is checked. Raises DecodeError."""
    return BlockHeader.decode(parse_hex(str(answer.get("header", {}).get("bytes")), "header.bytes"))


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
