"""What a validator refuses in a block (CONS-30, CONS-42), on blocks that `solo` made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.contracts.application import BlockBounds, Tip
from supervm.contracts.consensus import CertificateInvalid, ValidatorSetUnsupported
from supervm.contracts.roles import Role
from supervm.plugins.consensus import supervm_components
from supervm.plugins.consensus.rules import BlockRefused, check_block, check_certificate, check_justification
from supervm.plugins.consensus.sealing import epoch_of, sequence_of, view_of
from supervm.plugins.consensus.solo import SoloConfig
from supervm.testing.conformance.consensus import (
    RecordingApplication,
    identity_of,
    one_validator,
    transactions,
)
from supervm.testing.context import opened
from supervm.types.block import Block, BlockBody
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind
from supervm.types.validators import Validator, ValidatorSet

SOLO = next(iter(supervm_components()))


@attrs.frozen
class Made:
    """The last block of a short chain, with what it is checked against."""

    application: RecordingApplication
    parent: Tip
    block: Block
    certificate: Certificate

    def check(self, block: Block, **changed: Any) -> None:
        application = self.application
        given: dict[str, Any] = {
            "chain_id": application.chain_id,
            "parent": self.parent,
            "epoch": self.block.header.epoch,
            "last_of_epoch": False,
            "validators": application.validators(1),
            "next_validators": application.validators(2),
            "builders": {application.identity.node_id: application.identity.public_key},
            "bounds": application.bounds,
        }
        check_block(block, **(given | changed))


@pytest.fixture
async def made(tmp_path: Path, autojump_clock: object) -> Made:
    application = RecordingApplication(epoch_blocks=100)
    config = SoloConfig(batch_transactions_max=4, idle_blocks=False)
    async with opened(SOLO, tmp_path, config, requires={Role.APPLICATION: application}):
        application.submit(*transactions(1, tag="first"))
        await application.until_committed(1)
        parent = application.tip()
        application.submit(*transactions(12))
        await application.until_committed(13)
    final = application.chain[1]
    return Made(application, parent, final.block, Certificate.decode(final.certificate))


def with_header(block: Block, **changed: Any) -> Block:
    return Block(attrs.evolve(block.header, **changed), block.body, block.batches)


def with_certificates(block: Block, *certificates: BatchCertificate) -> Block:
    body = BlockBody(block.body.justification, block.body.system_operations, certificates)
    header = attrs.evolve(block.header, transactions_root=body.transactions_root(), body_digest=body.digest())
    return Block(header, body)


async def test_a_block_by_the_rules_passes(made: Made) -> None:
    made.check(made.block)
    assert len(made.block.body.certificates) == 3


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("CONS-30", {"chain_id": b"\x01" * 32}),
        ("CONS-30", {"height": 3}),
        ("CONS-30", {"parent": b"\x01" * 32}),
        ("CONS-30", {"timestamp_ms": 0}),
        ("CONS-30", {"root_height": 0}),
        ("CONS-30", {"proposer": b"\x01" * 32}),
        ("CONS-30", {"body_digest": b"\x01" * 32}),
        ("CONS-30", {"transactions_root": b"\x01" * 32}),
        ("CONS-50", {"epoch": 2}),
        ("CONS-54", {"validators_digest": b"\x01" * 32}),
        ("CONS-54", {"next_validators_digest": b"\x01" * 32}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_a_header_field_that_is_not_as_it_must_be_is_refused(
    made: Made, rule: str, changed: dict[str, Any]
) -> None:
    with pytest.raises(BlockRefused) as refused:
        made.check(with_header(made.block, **changed))
    assert refused.value.rule == rule


async def test_an_epochs_last_block_must_name_the_next_set(made: Made) -> None:
    with pytest.raises(BlockRefused, match="next validator set"):
        made.check(made.block, last_of_epoch=True)
    named = with_header(made.block, next_validators_digest=made.application.validators(2).digest())
    made.check(named, last_of_epoch=True)


@pytest.mark.parametrize("bound", ["gas_max", "bytes_max", "transactions_max", "batches_max"])
async def test_a_block_over_a_bound_is_refused(made: Made, bound: str) -> None:
    bounds: BlockBounds = attrs.evolve(made.application.bounds, **{bound: 1})
    with pytest.raises(BlockRefused) as refused:
        made.check(made.block, bounds=bounds)
    assert refused.value.rule == "CONS-30"


async def test_a_batch_stands_once_on_a_branch_and_after_its_past(made: Made) -> None:
    first, second, third = made.block.body.certificates
    for certificates, rule in (
        ((first, first), "CONS-42"),
        ((second, first), "CONS-42"),
        ((first, third), "CONS-42"),
    ):
        with pytest.raises(BlockRefused) as refused:
            made.check(with_certificates(made.block, *certificates))
        assert refused.value.rule == rule
    made.check(with_certificates(made.block, first, second))
    made.check(with_certificates(made.block, second), ordered={first.header.digest()})
    with pytest.raises(BlockRefused, match="twice"):
        made.check(with_certificates(made.block, first), ordered={first.header.digest()})


@pytest.mark.parametrize(
    "change",
    [
        lambda one: attrs.evolve(one, signature=bytes(64)),
        lambda one: attrs.evolve(one, signatures=(bytes(64),)),
        lambda one: attrs.evolve(one, bitmap=b"\x00", signatures=()),
        lambda one: attrs.evolve(one, header=attrs.evolve(one.header, gas=1)),
        lambda one: attrs.evolve(one, header=attrs.evolve(one.header, epoch=2)),
        lambda one: attrs.evolve(one, header=attrs.evolve(one.header, builder=b"\x07" * 32)),
    ],
    ids=["builder signature", "accept", "no quorum", "other sums", "other epoch", "other builder"],
)
async def test_a_batch_that_is_not_certified_is_refused(
    made: Made, change: Callable[[BatchCertificate], BatchCertificate]
) -> None:
    with pytest.raises(BlockRefused):
        made.check(with_certificates(made.block, change(made.block.body.certificates[0])))


async def test_the_justification_must_prove_the_parent(made: Made) -> None:
    application = made.application
    given: dict[str, Any] = {
        "chain_id": application.chain_id,
        "parent": made.parent,
        "parent_view": 1,
        "first_of_epoch": False,
        "validators": application.validators(1),
    }
    good = made.block.body.justification
    check_justification(good, **given)
    for wrong in ({"parent_view": 2}, {"first_of_epoch": True}, {"chain_id": b"\x01" * 32}):
        with pytest.raises(BlockRefused) as refused:
            check_justification(good, **(given | wrong))
        assert refused.value.rule == "CONS-32"
    for data in (b"", good[:-1], made.application.chain[0].certificate):
        with pytest.raises(BlockRefused):
            check_justification(data, **given)
    genesis = attrs.evolve(made.parent, height=0)
    check_justification(b"", **(given | {"parent": genesis}))
    with pytest.raises(BlockRefused):
        check_justification(good, **(given | {"parent": genesis}))


async def test_a_certificate_of_anything_else_is_refused(made: Made) -> None:
    given: dict[str, Any] = {
        "kind": VoteKind.FINALIZE,
        "chain_id": made.application.chain_id,
        "epoch": 1,
        "view": 2,
        "digest": made.block.digest(),
        "validators": made.application.validators(1),
    }
    check_certificate(made.certificate, **given)
    for wrong in (
        {"kind": VoteKind.NOTARIZE},
        {"epoch": 2},
        {"view": 1},
        {"digest": made.parent.digest},
        {"chain_id": b"\x01" * 32},
        {"validators": one_validator(identity_of(2))},
    ):
        with pytest.raises(CertificateInvalid):
            check_certificate(made.certificate, **(given | wrong))


def test_epochs_count_from_one_and_views_start_again_in_each() -> None:
    assert [epoch_of(height, 3) for height in range(8)] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [view_of(height, 3) for height in range(8)] == [0, 1, 2, 3, 1, 2, 3, 1]


def test_no_sequence_number_is_used_twice_in_an_epoch() -> None:
    used = [sequence_of(view, index) for view in range(1, 50) for index in range(1_024)]
    assert len(set(used)) == len(used)


async def test_solo_refuses_a_chain_of_several_validators(tmp_path: Path) -> None:
    members = sorted(
        (Validator(each.node_id, each.public_key, 1) for each in map(identity_of, (1, 2))),
        key=lambda each: each.node_id,
    )
    application = RecordingApplication(validators=ValidatorSet(tuple(members)))
    with pytest.RaisesGroup(ValidatorSetUnsupported, flatten_subgroups=True, allow_unwrapped=True):
        async with opened(SOLO, tmp_path, requires={Role.APPLICATION: application}):
            raise AssertionError("it opened")


async def test_a_node_that_is_not_the_validator_follows_and_says_so(
    tmp_path: Path, autojump_clock: object
) -> None:
    application = RecordingApplication(identity=identity_of(2), validators=one_validator(identity_of(1)))
    async with opened(SOLO, tmp_path, requires={Role.APPLICATION: application}) as engine:
        application.submit(*transactions(3))
        await trio.sleep(60)
        status = engine.status()
        assert (status.validator, status.producing) == (False, False)
        assert identity_of(1).node_id.hex() in status.reason
        assert (await engine.health()).state == "degraded"
        await engine.drain(trio.current_time() + 5)
    assert application.calls == []


async def test_idle_blocks_can_be_switched_off(tmp_path: Path, autojump_clock: object) -> None:
    for idle_blocks, expected in ((True, 12), (False, 0)):
        application = RecordingApplication()
        config = SoloConfig(idle_blocks=idle_blocks)
        async with opened(SOLO, tmp_path, config, requires={Role.APPLICATION: application}):
            await trio.sleep(61)
        assert application.height == expected
        assert application.violations == []


async def test_blocks_keep_their_distance(tmp_path: Path, autojump_clock: object) -> None:
    application = RecordingApplication()
    config = SoloConfig(block_interval_min_ms=500, batch_transactions_max=1, batches_max=1)
    async with opened(SOLO, tmp_path, config, requires={Role.APPLICATION: application}):
        began = trio.current_time()
        application.submit(*transactions(11))
        await application.until_committed(11)
        assert 5.0 <= trio.current_time() - began < 6.0
