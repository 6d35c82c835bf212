"""The validator set of an epoch: who votes, with which key and weight (CONS-38)."""

from functools import cached_property

import attrs

from supervm.types import digests
from supervm.types.codec import Reader, Writer, check_ascending
from supervm.types.digests import Digest, digest
from supervm.types.errors import DecodeError

VALIDATORS_MAX = 8192


@attrs.frozen
class Validator:
    """A validator: node id, ed25519 voting key (32 bytes), weight above zero."""

    node_id: bytes
    public_key: bytes
    weight: int


@attrs.frozen(slots=False)
class ValidatorSet:
    """Validators strictly ascending by node id; a validator's number is its place. At most 8192."""

    members: tuple[Validator, ...]

    def __attrs_post_init__(self) -> None:
        if len(self.members) > VALIDATORS_MAX:
            raise DecodeError("TooMany", "validators", len(self.members), f"at most {VALIDATORS_MAX}")
        check_ascending([each.node_id for each in self.members], "validators")
        for each in self.members:
            if each.weight == 0:
                raise DecodeError("OutOfRange", "validator.weight", 0, "at least 1")
        if self.total_weight >= 1 << 64:
            raise DecodeError("OutOfRange", "validators.weight", self.total_weight, "below 2^64 in all")

    @cached_property
    def total_weight(self) -> int:
        return sum(each.weight for each in self.members)

    def is_quorum(self, weight: int) -> bool:
        """Whether a weight is more than two thirds of the set's."""
        return 3 * weight > 2 * self.total_weight

    def number_of(self, node_id: bytes) -> int | None:
        """Return a validator's number, or None for a node that is not in the set."""
        return self._numbers.get(node_id)

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        return {each.node_id: number for number, each in enumerate(self.members)}

    def encode(self) -> bytes:
        writer = Writer().count(len(self.members), "validators")
        for each in self.members:
            writer.bytes32(each.node_id, "node_id").bytes32(each.public_key, "public_key")
            writer.u64(each.weight, "weight")
        return writer.done()

    def digest(self) -> Digest:
        """Return digest("supervm/validators/v1", encoding), as block headers name the set."""
        return digest(digests.VALIDATORS, self.encode())

    @classmethod
    def read(cls, reader: Reader) -> "ValidatorSet":
        count = reader.count("validators", VALIDATORS_MAX, item_bytes_min=72)
        return cls(
            tuple(
                Validator(
                    reader.bytes32("validator.node_id"),
                    reader.bytes32("validator.public_key"),
                    reader.u64("validator.weight"),
                )
                for _ in range(count)
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> "ValidatorSet":
        reader = Reader(data)
        found = cls.read(reader)
        reader.finish("validators")
        return found


NOBODY = ValidatorSet(())
"""For who knows of no set."""
