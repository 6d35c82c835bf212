"""A proof is believed for its hashes alone, and a header for its signatures."""

from typing import Any

import attrs
import pytest

from supervm.client.proof import check_proof
from supervm.crypto.keys import KeyPair
from supervm.crypto.votes import sign_vote
from supervm.types import smt
from supervm.types.address import Suite
from supervm.types.block import BlockBody, BlockHeader
from supervm.types.certificate import Certificate, VoteKind, bitmap_of
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.state import Account, account_key
from supervm.types.validators import Validator, ValidatorSet

KEY = KeyPair(Suite.ED25519, b"\x05" * 32)
GENESIS = Genesis(
    name="t", created_ms=1, validators=ValidatorSet((Validator(KEY.node_id, KEY.public_key, 1),))
)
ALICE, NOBODY = account_key(b"\x0a" * 32), account_key(b"\x0b" * 32)
STATE = {ALICE: Account(nonce=3, balance=7).encode(), account_key(b"\x0c" * 32): Account(balance=1).encode()}


NOW_MS = 1_000


def answer(key: bytes, signer: KeyPair = KEY, **changes: Any) -> dict[str, Any]:
    header = BlockHeader(
        chain_id=GENESIS.chain_id,
        epoch=1,
        height=4,
        parent=bytes(32),
        proposer=KEY.node_id,
        timestamp_ms=2,
        root_height=4,
        state_root=smt.root_of(STATE),
        receipts_root=bytes(32),
        base_price=1,
        transactions_root=BlockBody().transactions_root(),
        body_digest=BlockBody().digest(),
        validators_digest=GENESIS.validators.digest(),
    )
    header = attrs.evolve(header, **changes)
    signature = sign_vote(signer, header.chain_id, 1, VoteKind.FINALIZE, 4, header.digest())
    certificate = Certificate(VoteKind.FINALIZE, 1, 4, header.digest(), bitmap_of([0], 1), (signature,))
    return {
        "header": {"bytes": f"0x{header.encode().hex()}"},
        "proof": f"0x{smt.prove(STATE, key).encode().hex()}",
        "certificate": f"0x{certificate.encode().hex()}",
    }


def test_a_right_proof_gives_the_value_and_says_whom_the_header_rests_on() -> None:
    proven = check_proof(answer(ALICE), ALICE, genesis=GENESIS, now_ms=NOW_MS)
    assert proven.value == STATE[ALICE]
    assert "validators" in proven.trust
    assert "node's own header" in check_proof(answer(ALICE), ALICE).trust


def test_absence_is_proven_too() -> None:
    assert check_proof(answer(NOBODY), NOBODY, genesis=GENESIS, now_ms=NOW_MS).value is None


@pytest.mark.parametrize(
    "given",
    [
        answer(NOBODY),
        answer(ALICE, state_root=b"\x01" * 32),
        answer(ALICE) | {"proof": "0x00"},
        answer(ALICE) | {"proof": None},
        answer(ALICE) | {"header": {}},
        answer(ALICE, chain_id=b"\x02" * 32),
        answer(ALICE, signer=KeyPair(Suite.ED25519, b"\x06" * 32)),
        answer(ALICE, validators_digest=b"\x03" * 32),
        answer(ALICE, height=0, root_height=0),
        answer(ALICE) | {"certificate": answer(ALICE, timestamp_ms=9)["certificate"]},
    ],
    ids=[
        "another key",
        "another root",
        "no proof",
        "nothing",
        "no header",
        "another chain",
        "not signed by a validator",
        "other validators",
        "unsigned genesis block",
        "certificate of another block",
    ],
)
def test_anything_else_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        check_proof(given, ALICE, genesis=GENESIS, now_ms=NOW_MS)


def test_a_header_other_than_the_trusted_one_is_refused() -> None:
    trusted = check_proof(answer(ALICE), ALICE).block_digest
    assert check_proof(answer(ALICE), ALICE, trusted=trusted).trust == "the trusted block digest"
    with pytest.raises(InvalidInput, match="trusted"):
        check_proof(answer(ALICE, timestamp_ms=9), ALICE, trusted=trusted)
