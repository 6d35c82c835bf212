"""True chains for tests: several epochs, changing sets, batches, certificates with stand-in signatures."""

import random

import attrs

from supervm.types.batch import Batch, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import (
    BatchCertificate,
    Certificate,
    VoteKind,
    bitmap_of,
    numbers_of,
)
from supervm.types.digests import ZERO
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.world import CHAIN, hash32, node_id, signature

GENESIS = b"genesis of a chain".ljust(32, b".")


def set_of(members: dict[int, int]) -> ValidatorSet:
    """Validators by number and weight."""
    return ValidatorSet(
        tuple(Validator(node_id(n), bytes([n + 1]) * 32, weight) for n, weight in sorted(members.items()))
    )


def number_of(validator: Validator) -> int:
    """Who signs for it."""
    return validator.node_id[0] - 1


def certify(
    kind: VoteKind, epoch: int, view: int, digest: bytes, validators: ValidatorSet, places: list[int]
) -> Certificate:
    count = len(validators.members)
    unsigned = Certificate(kind, epoch, view, digest, bitmap_of(places, count), ())
    message = unsigned.message(CHAIN)
    signatures = tuple(signature(number_of(validators.members[at]), message) for at in places)
    return attrs.evolve(unsigned, signatures=signatures)


def holds(certificate: Certificate, validators: ValidatorSet) -> bool:
    """What a driver answers to `Verify`: every signature is of the one whom the bitmap names."""
    message = certificate.message(CHAIN)
    named = [number_of(validators.members[at]) for at in numbers_of(certificate.bitmap)]
    return [signature(number, message) for number in named] == list(certificate.signatures)


@attrs.frozen
class Truth:
    """A final chain. `sets` by epoch; `blocks[h - 1]` is of height h; certificates by height."""

    sets: dict[int, ValidatorSet]
    blocks: list[Block]
    finalisations: dict[int, Certificate]
    views: dict[int, int]

    def block(self, height: int) -> Block:
        return self.blocks[height - 1]

    @property
    def height(self) -> int:
        return len(self.blocks)

    def digest(self, height: int) -> bytes:
        return self.block(height).digest() if height else GENESIS

    def epoch_after(self, height: int) -> int:
        if height == 0:
            return 1
        header = self.block(height).header
        return header.epoch + (header.next_validators_digest != ZERO)

    def batch(self, digest: bytes) -> Batch | None:
        for block in self.blocks:
            for batch in block.batches:
                if batch.digest() == digest:
                    return batch
        return None


def true_chain(seed: int, epochs: int = 3, length: int = 12, batches: int = 3) -> Truth:
    """A chain of some epochs, each with another set, each `length` blocks long; some blocks lack their own
    finalisation, as blocks do whose finalize votes came after those of a later one."""
    rng = random.Random(f"sets {seed}")
    members = {number: rng.randint(1, 3) for number in range(4)}
    sets = {1: set_of(members)}
    for epoch in range(2, epochs + 2):
        leaves = rng.choice(sorted(members))
        if len(members) > 4 and rng.random() < 0.5:
            del members[leaves]
        members[3 + epoch] = rng.randint(1, 3)
        members[rng.choice(sorted(members))] = rng.randint(1, 4)
        sets[epoch] = set_of(members)
    rng = random.Random(f"blocks {seed}")
    blocks: list[Block] = []
    finalisations: dict[int, Certificate] = {}
    views: dict[int, int] = {}
    parent, justification = GENESIS, b""
    for epoch in range(1, epochs + 1):
        view = 0
        validators = sets[epoch]
        for place in range(length):
            height = len(blocks) + 1
            view += rng.choice((1, 1, 1, 2))
            last = place == length - 1
            block = _block(rng, height, epoch, parent, justification, sets, last, rng.randint(0, batches))
            blocks.append(block)
            digest = block.digest()
            views[height] = view
            places = quorum(rng, validators)
            finalisation = certify(VoteKind.FINALIZE, epoch, view, digest, validators, places)
            if last or rng.random() < 0.7:
                finalisations[height] = finalisation
            notarisation = certify(VoteKind.NOTARIZE, epoch, view, digest, validators, places)
            justification = (finalisation if last else notarisation).encode()
            parent = digest
    return Truth(sets, blocks, finalisations, views)


def quorum(rng: random.Random, validators: ValidatorSet) -> list[int]:
    """Places of some validators that are a quorum."""
    places = list(range(len(validators.members)))
    rng.shuffle(places)
    chosen: list[int] = []
    while not validators.is_quorum(sum(validators.members[at].weight for at in chosen)):
        chosen.append(places.pop())
    return sorted(chosen)


def _block(
    rng: random.Random,
    height: int,
    epoch: int,
    parent: bytes,
    justification: bytes,
    sets: dict[int, ValidatorSet],
    last: bool,
    batches: int,
) -> Block:
    made = [_batch(rng, height, at, epoch) for at in range(batches)]
    count = len(sets[epoch].members)
    certificates = tuple(
        BatchCertificate(
            each.header,
            each.signature,
            bitmap_of(range(count), count),
            tuple(bytes(64) for _ in range(count)),
        )
        for each in made
    )
    body = BlockBody(justification, (), certificates)
    header = BlockHeader(
        chain_id=CHAIN,
        epoch=epoch,
        height=height,
        parent=parent,
        proposer=node_id(0),
        timestamp_ms=1_000 * height,
        root_height=max(height - 2, 0),
        state_root=hash32(b"state", height.to_bytes(8, "big")),
        receipts_root=ZERO,
        base_price=10_000,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=sets[epoch].digest(),
        next_validators_digest=sets[epoch + 1].digest() if last else ZERO,
    )
    return Block(header, body, tuple(made))


def _batch(rng: random.Random, height: int, at: int, epoch: int) -> Batch:
    transactions = tuple(rng.randbytes(rng.randint(40, 200)) for _ in range(rng.randint(1, 4)))
    header = batch_header(
        chain_id=CHAIN,
        epoch=epoch,
        builder=node_id(at),
        sequence=height,
        transactions=transactions,
        gas=1,
    )
    return Batch(header, rng.randbytes(64), transactions)
