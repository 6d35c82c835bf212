"""A light client follows sets from hand-over to hand-over, and believes headers and states for signatures and
hashes alone (CONS-54, CONS-71..74)."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from supervm.client.checkpoint_file import FILE_BYTES_MAX, dump_checkpoint, load_checkpoint
from supervm.client.light import (
    UNBONDING_MS,
    EpochFinality,
    Trusted,
    check_age,
    check_batch,
    check_header,
    check_state,
    checkpoint_at,
    follow,
    follow_all,
    from_checkpoint,
    from_genesis,
)
from supervm.client.proof import check_proof
from supervm.crypto.keys import KeyPair
from supervm.crypto.votes import sign_vote
from supervm.types import merkle, smt
from supervm.types.address import Suite
from supervm.types.block import BlockBody, BlockHeader
from supervm.types.certificate import Certificate, VoteKind, bitmap_of
from supervm.types.errors import DecodeError, InvalidInput, ProofInvalid
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.handover import Checkpoint, HandOver
from supervm.types.state import Account, account_key
from supervm.types.validators import Validator, ValidatorSet

KEYS = sorted((KeyPair(Suite.ED25519, bytes([n + 1]) * 32) for n in range(6)), key=lambda key: key.node_id)
OF = {key.node_id: key for key in KEYS}
ALICE = account_key(b"\x0a" * 32)
STATE = {ALICE: Account(nonce=3, balance=7).encode(), account_key(b"\x0c" * 32): Account(balance=1).encode()}


def set_of(*numbers: int, weight: int = 1) -> ValidatorSet:
    return ValidatorSet(tuple(Validator(KEYS[n].node_id, KEYS[n].public_key, weight) for n in numbers))


SETS = {1: set_of(0, 1, 2, 3), 2: set_of(1, 2, 3, 4), 3: set_of(2, 3, 4, 5, weight=3)}
GENESIS = Genesis(name="light", created_ms=1_000, validators=SETS[1])
CHAIN = GENESIS.chain_id
NOW_MS = 2_000
BATCHES = [bytes([n]) * 32 for n in range(5)]


def header_of(epoch: int, height: int, parent: bytes = bytes(32), **changes: Any) -> BlockHeader:
    header = BlockHeader(
        chain_id=CHAIN,
        epoch=epoch,
        height=height,
        parent=parent,
        proposer=KEYS[0].node_id,
        timestamp_ms=1_000 + height,
        root_height=height - 2,
        state_root=smt.root_of(STATE),
        receipts_root=bytes(32),
        base_price=1,
        transactions_root=merkle.root(BATCHES),
        body_digest=BlockBody().digest(),
        validators_digest=SETS[epoch].digest(),
    )
    return attrs.evolve(header, **changes)


def finalise(
    header: BlockHeader,
    validators: ValidatorSet,
    count: int = 3,
    kind: VoteKind = VoteKind.FINALIZE,
    epoch: int | None = None,
) -> Certificate:
    """By the first so many of a set, each with its key."""
    digest, epoch = header.digest(), header.epoch if epoch is None else epoch
    signers = [OF[each.node_id] for each in validators.members[:count]]
    signatures = tuple(sign_vote(key, CHAIN, epoch, kind, 9, digest) for key in signers)
    return Certificate(kind, epoch, 9, digest, bitmap_of(range(count), len(validators.members)), signatures)


def handover(epoch: int) -> HandOver:
    header = header_of(epoch, 10 * epoch, next_validators_digest=SETS[epoch + 1].digest())
    return HandOver(header, finalise(header, SETS[epoch]), SETS[epoch + 1])


FIRST, SECOND = handover(1), handover(2)


def test_the_sets_of_all_epochs_follow_from_genesis_one_certificate_an_epoch() -> None:
    trusted = follow_all(from_genesis(GENESIS), [FIRST, SECOND])
    assert (trusted.epoch, trusted.validators, trusted.height) == (3, SETS[3], 20)
    assert trusted.timestamp_ms == SECOND.header.timestamp_ms


def forged(name: str) -> HandOver:
    header = FIRST.header
    forgeries: dict[str, Callable[[], HandOver]] = {
        "another set": lambda: attrs.evolve(FIRST, validators=SETS[3]),
        "a set that the header doesn't name": lambda: attrs.evolve(
            FIRST, header=attrs.evolve(header, next_validators_digest=SETS[3].digest()), validators=SETS[3]
        ),
        "signed by the next set": lambda: attrs.evolve(FIRST, finalisation=finalise(header, SETS[2])),
        "signed by few": lambda: attrs.evolve(FIRST, finalisation=finalise(header, SETS[1], count=2)),
        "a notarisation": lambda: attrs.evolve(
            FIRST, finalisation=finalise(header, SETS[1], kind=VoteKind.NOTARIZE)
        ),
        "a finalisation of another epoch": lambda: attrs.evolve(
            FIRST, finalisation=finalise(header, SETS[1], epoch=2)
        ),
        "of a block that ends no epoch": lambda: _signed(next_validators_digest=bytes(32)),
        "of another chain": lambda: _signed(chain_id=b"another chain".ljust(32, b".")),
        "of another epoch": lambda: _signed(epoch=2),
        "below what is trusted": lambda: _signed(height=0, root_height=0),
        "before what is trusted": lambda: _signed(timestamp_ms=1),
    }
    return forgeries[name]()


def _signed(**changes: Any) -> HandOver:
    header = attrs.evolve(FIRST.header, **changes)
    return HandOver(header, finalise(header, SETS[1]), SETS[2])


@pytest.mark.parametrize(
    "name",
    [
        "another set",
        "a set that the header doesn't name",
        "signed by the next set",
        "signed by few",
        "a notarisation",
        "a finalisation of another epoch",
        "of a block that ends no epoch",
        "of another chain",
        "of another epoch",
        "below what is trusted",
        "before what is trusted",
    ],
)
def test_a_forged_hand_over_is_refused(name: str) -> None:
    with pytest.raises(ProofInvalid):
        follow(from_genesis(GENESIS), forged(name))


def test_an_epoch_cant_be_skipped() -> None:
    with pytest.raises(ProofInvalid):
        follow(from_genesis(GENESIS), SECOND)


def proof_of(header: BlockHeader, validators: ValidatorSet) -> bytes:
    return FinalityProof(finalise(header, validators)).encode()


def test_certificates_of_all_epochs_are_judged_by_the_sets_that_hand_overs_lead_to() -> None:
    judge = EpochFinality(GENESIS, [FIRST, SECOND])
    for epoch in (1, 2, 3):
        header = header_of(epoch, 10 * epoch - 5)
        judge.check(header, proof_of(header, SETS[epoch]))
        for other in {1, 2, 3} - {epoch}:
            with pytest.raises(ProofInvalid):
                judge.check(header, proof_of(header, SETS[other]))
    with pytest.raises(ProofInvalid):
        EpochFinality(GENESIS, [FIRST, FIRST])


def test_an_epoch_above_the_hand_overs_is_judged_by_the_last_set_if_it_names_that() -> None:
    judge = EpochFinality(GENESIS, [FIRST])
    same = header_of(3, 25, validators_digest=SETS[2].digest())
    judge.check(same, proof_of(same, SETS[2]))
    changed = header_of(3, 25)
    with pytest.raises(ProofInvalid):
        judge.check(changed, proof_of(changed, SETS[3]))
    with pytest.raises(ProofInvalid):
        judge.check(changed, proof_of(changed, SETS[2]))


def trusted_third() -> Trusted:
    return follow_all(from_genesis(GENESIS), [FIRST, SECOND])


def test_a_header_is_final_by_its_certificate_or_by_the_headers_up_to_one_that_has_one() -> None:
    header = header_of(3, 25)
    check_header(trusted_third(), header, FinalityProof(finalise(header, SETS[3])))
    above = header_of(3, 26, header.digest())
    top = header_of(3, 27, above.digest())
    check_header(trusted_third(), header, FinalityProof(finalise(top, SETS[3]), (above, top)))
    for wrong in (
        FinalityProof(finalise(top, SETS[3]), (top,)),
        FinalityProof(finalise(top, SETS[3]), (above,)),
        FinalityProof(finalise(top, SETS[3], count=2), (above, top)),
        FinalityProof(finalise(header_of(3, 26), SETS[3])),
        FinalityProof(finalise(header, SETS[2])),
    ):
        with pytest.raises(ProofInvalid):
            check_header(trusted_third(), header, wrong)
    strange = header_of(3, 26, header.digest(), validators_digest=SETS[2].digest())
    leaps = header_of(3, 30, header.digest())
    for each in (strange, leaps):
        with pytest.raises(ProofInvalid):
            check_header(trusted_third(), header, FinalityProof(finalise(each, SETS[3]), (each,)))


def test_a_batch_and_a_state_are_proven_by_a_header() -> None:
    header = header_of(3, 25)
    check_batch(header, BATCHES[3], 3, 5, merkle.path(BATCHES, 3))
    with pytest.raises(ProofInvalid):
        check_batch(header, BATCHES[3], 2, 5, merkle.path(BATCHES, 3))
    assert check_state(header, 23, smt.prove(STATE, ALICE)) == STATE[ALICE]
    assert check_state(header, 23, smt.prove(STATE, account_key(b"\x0b" * 32))) is None
    with pytest.raises(ProofInvalid):
        check_state(header, 25, smt.prove(STATE, ALICE))
    with pytest.raises(ProofInvalid):
        check_state(attrs.evolve(header, state_root=bytes(32)), 23, smt.prove(STATE, ALICE))


def test_who_was_away_for_longer_than_stakes_are_bound_needs_a_checkpoint() -> None:
    trusted = from_genesis(GENESIS)
    check_age(trusted, 1_000 + UNBONDING_MS)
    with pytest.raises(ProofInvalid, match="checkpoint"):
        check_age(trusted, 1_001 + UNBONDING_MS)
    last = FIRST.header
    checkpoint = Checkpoint(
        chain_id=CHAIN,
        height=last.height,
        digest=last.digest(),
        epoch=2,
        timestamp_ms=last.timestamp_ms,
        validators=SETS[2],
    )
    begun = from_checkpoint(Checkpoint.decode(checkpoint.encode()))
    assert follow(begun, SECOND) == trusted_third()


def test_hand_overs_and_checkpoints_have_one_encoding() -> None:
    encoded = FIRST.encode()
    assert HandOver.decode(encoded) == FIRST
    for wrong in (encoded + b"\0", encoded[:-1], b"\x02" + encoded[1:], b""):
        with pytest.raises(DecodeError):
            HandOver.decode(wrong)
        with pytest.raises(DecodeError):
            Checkpoint.decode(wrong)


def answer_of(epoch: int, height: int) -> dict[str, Any]:
    header = header_of(epoch, height)
    return {
        "header": {"bytes": f"0x{header.encode().hex()}"},
        "proof": f"0x{smt.prove(STATE, ALICE).encode().hex()}",
        "certificate": f"0x{FinalityProof(finalise(header, SETS[epoch])).encode().hex()}",
    }


def test_a_proof_of_a_later_epoch_is_checked_through_the_hand_overs_from_genesis() -> None:
    answer, given = answer_of(3, 25), {"genesis": GENESIS, "now_ms": NOW_MS}
    proven = check_proof(answer, ALICE, handovers=[FIRST, SECOND], **given)
    assert proven.value == STATE[ALICE] and "2 epochs" in proven.trust
    with pytest.raises(InvalidInput):
        check_proof(answer, ALICE, **given)
    with pytest.raises(InvalidInput):
        check_proof(answer, ALICE, handovers=[FIRST], **given)


def checkpoint_of_the_first_epoch() -> Checkpoint:
    header = FIRST.header
    return checkpoint_at(GENESIS, [FIRST], header, FinalityProof(FIRST.finalisation))


def test_a_genesis_older_than_the_unbonding_time_is_refused_and_a_younger_checkpoint_goes_on() -> None:
    late_ms = GENESIS.created_ms + UNBONDING_MS + 1
    given: dict[str, Any] = {"genesis": GENESIS, "now_ms": late_ms}
    for answer, handovers in ((answer_of(1, 5), []), (answer_of(3, 25), [FIRST, SECOND])):
        with pytest.raises(ProofInvalid, match="checkpoint") as refused:
            check_proof(answer, ALICE, handovers=handovers, **given)
        assert refused.value.code == "TooOld"
    checkpoint = checkpoint_of_the_first_epoch()
    proven = check_proof(answer_of(3, 25), ALICE, checkpoint=checkpoint, handovers=[SECOND], **given)
    assert proven.value == STATE[ALICE] and "checkpoint at height 10" in proven.trust
    assert check_proof(answer_of(2, 15), ALICE, checkpoint=checkpoint, now_ms=late_ms).value == STATE[ALICE]


def test_by_default_the_age_is_judged_by_the_clock_of_this_machine() -> None:
    with pytest.raises(ProofInvalid, match="unbonding"):
        check_proof(answer_of(1, 5), ALICE, genesis=GENESIS)


def test_a_checkpoint_that_is_old_or_of_another_chain_is_refused() -> None:
    checkpoint, answer = checkpoint_of_the_first_epoch(), answer_of(2, 15)
    last_ms = checkpoint.timestamp_ms + UNBONDING_MS
    assert check_proof(answer, ALICE, checkpoint=checkpoint, now_ms=last_ms).value == STATE[ALICE]
    with pytest.raises(ProofInvalid) as refused:
        check_proof(answer, ALICE, checkpoint=checkpoint, now_ms=last_ms + 1)
    assert refused.value.code == "TooOld"
    other = attrs.evolve(checkpoint, chain_id=b"\x01" * 32)
    for genesis in (GENESIS, None):
        with pytest.raises(ProofInvalid, match="chain"):
            check_proof(answer, ALICE, genesis=genesis, checkpoint=other, now_ms=NOW_MS)


def test_a_header_below_the_checkpoint_is_refused_and_the_checkpoints_own_needs_no_signatures() -> None:
    header = header_of(2, 15)
    own = checkpoint_at(GENESIS, [FIRST], header, FinalityProof(finalise(header, SETS[2])))
    unsigned = answer_of(2, 15) | {
        "certificate": f"0x{FinalityProof(finalise(header, SETS[2], count=1)).encode().hex()}"
    }
    assert check_proof(unsigned, ALICE, checkpoint=own, now_ms=NOW_MS).block_digest == header.digest()
    for below in (answer_of(2, 14), answer_of(1, 5)):
        with pytest.raises(ProofInvalid):
            check_proof(below, ALICE, checkpoint=own, now_ms=NOW_MS)
    with pytest.raises(ProofInvalid, match="chain"):
        check_proof(unsigned, ALICE, checkpoint=attrs.evolve(own, chain_id=b"\x01" * 32), now_ms=NOW_MS)
    other = header_of(2, 15, timestamp_ms=9_999)
    with pytest.raises(ProofInvalid):
        check_header(from_checkpoint(own), other, FinalityProof(finalise(other, SETS[2])))


def test_a_checkpoint_is_made_of_what_is_proven_from_genesis_alone() -> None:
    checkpoint = checkpoint_of_the_first_epoch()
    assert (checkpoint.epoch, checkpoint.height, checkpoint.validators) == (2, 10, SETS[2])
    header = header_of(1, 5)
    made = checkpoint_at(GENESIS, [], header, FinalityProof(finalise(header, SETS[1])))
    assert (made.epoch, made.validators, made.digest) == (1, SETS[1], header.digest())
    with pytest.raises(ProofInvalid):
        checkpoint_at(GENESIS, [], header, FinalityProof(finalise(header, SETS[1], count=2)))
    with pytest.raises(ProofInvalid, match="another epoch"):
        checkpoint_at(GENESIS, [], FIRST.header, FinalityProof(FIRST.finalisation))


def test_the_file_of_a_checkpoint_is_read_as_it_was_written_and_a_broken_one_refused() -> None:
    checkpoint = checkpoint_of_the_first_epoch()
    data = dump_checkpoint(checkpoint)
    assert load_checkpoint(data) == checkpoint
    broken = (b"", b"\xff\xfe", data[2:], data[:-3], data[:-2], b"0x02" + data[4:], data.strip() + b"00")
    for wrong in (*broken, b"0x" + b"00" * FILE_BYTES_MAX):
        with pytest.raises(InvalidInput):
            load_checkpoint(wrong)
