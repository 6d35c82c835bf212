"""What the state holds of who may validate: the stakes, in one system entry (CONS-50, CONS-83, GAS-19).

The members of genesis have their weight there without a stake, until they leave. Whoever stakes does so from
the account of his voting key, so nobody can put up another's key. The coins lie on an account that no key
opens, until they are paid back.
"""

import attrs

from supervm.types import digests
from supervm.types.address import Suite, address_of, node_id_of
from supervm.types.codec import Reader, Writer, check_ascending
from supervm.types.errors import DecodeError
from supervm.types.state import system_key

STAKES_KEY = system_key(b"stakes")
STAKES_MAX = 256
"""Records beside those of genesis' members (chosen)."""
RECORDS_MAX = STAKES_MAX + 8_192
ESCROW = digests.digest(digests.STAKE, b"escrow")
"""The account of staked coins: no key leads to this address."""


@attrs.frozen(kw_only=True)
class Stake:
    """Of one ed25519 voting key. `amount`: base units of the native token in escrow.

    `left_epoch`: the epoch in which it asked to leave, 0 where it didn't. `granted`: whether the weight that
    genesis gave this key still counts.
    """

    public_key: bytes
    amount: int
    left_epoch: int = 0
    granted: bool = False

    @property
    def node_id(self) -> bytes:
        return node_id_of(Suite.ED25519, self.public_key)

    @property
    def address(self) -> bytes:
        """The account that staked, and that gets the coins back."""
        return address_of(Suite.ED25519, self.public_key)


@attrs.frozen
class Stakes:
    """The records, strictly ascending by public key."""

    records: tuple[Stake, ...] = ()

    def __attrs_post_init__(self) -> None:
        if len(self.records) > RECORDS_MAX:
            raise DecodeError("TooMany", "stakes", len(self.records), f"at most {RECORDS_MAX}")
        check_ascending([each.public_key for each in self.records], "stakes")

    def of(self, public_key: bytes) -> Stake | None:
        return next((each for each in self.records if each.public_key == public_key), None)

    def put(self, stake: Stake) -> "Stakes":
        """With this record in place of what the key had."""
        others = [each for each in self.records if each.public_key != stake.public_key]
        return Stakes(tuple(sorted([*others, stake], key=lambda each: each.public_key)))

    def without(self, public_key: bytes) -> "Stakes":
        return Stakes(tuple(each for each in self.records if each.public_key != public_key))

    def encode(self) -> bytes:
        """`u8 1 || list of (bytes32 public key, u128 amount, u64 left epoch, bool granted)`."""
        writer = Writer().u8(1).count(len(self.records), "stakes")
        for each in self.records:
            writer.bytes32(each.public_key, "public_key").u128(each.amount, "amount")
            writer.u64(each.left_epoch, "left_epoch").boolean(each.granted)
        return writer.done()

    @classmethod
    def decode(cls, data: bytes) -> "Stakes":
        reader = Reader(data)
        reader.format_byte("stakes.format")
        count = reader.count("stakes", RECORDS_MAX, item_bytes_min=57)
        records = tuple(
            Stake(
                public_key=reader.bytes32("stake.public_key"),
                amount=reader.u128("stake.amount"),
                left_epoch=reader.u64("stake.left_epoch"),
                granted=reader.boolean("stake.granted"),
            )
            for _ in range(count)
        )
        reader.finish("stakes")
        return cls(records)


def stakes_of(entry: bytes | None) -> Stakes:
    """What the entry under `STAKES_KEY` says; no records where there is none."""
    return Stakes() if entry is None else Stakes.decode(entry)
