"""Size limits of transactions and blocks (EXEC-7); a chain's are fixed in its genesis."""

import attrs

from supervm.types.codec import U16_MAX, U32_MAX, Reader, Writer
from supervm.types.errors import InvalidInput

OPERATIONS_MAX = 64
RELAYS_MAX = 2
AUTHORIZATIONS_MAX = 2


@attrs.frozen(kw_only=True)
class Limits:
    """Counts and byte sizes, each inclusive. `outputs_max` counts a transaction's outputs together."""

    inputs_max: int = 256
    outputs_max: int = 256
    payload_bytes_max: int = 131_072
    transaction_bytes_max: int = 262_144
    object_bytes_max: int = 262_144
    events_per_tx_max: int = 256
    event_bytes_max: int = 4_096
    block_transactions_max: int = 200_000
    block_bytes_max: int = 32 * 1024 * 1024

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Limits):
            # Counts that are encoded as u16 must fit one.
            maximum = U16_MAX if field.name in _COUNTED_U16 else U32_MAX
            value = getattr(self, field.name)
            if not 1 <= value <= maximum:
                raise InvalidInput(
                    "OutOfRange", f"limits.{field.name}: out of range", value, f"1 to {maximum}"
                )

    def encode(self) -> bytes:
        """Return the nine limits in their order, each a u32."""
        writer = Writer()
        for field in attrs.fields(Limits):
            writer.u32(getattr(self, field.name), field.name)
        return writer.done()

    @classmethod
    def read(cls, reader: Reader) -> "Limits":
        return cls(**{field.name: reader.u32(f"limits.{field.name}") for field in attrs.fields(cls)})


_COUNTED_U16 = frozenset({"inputs_max", "outputs_max", "events_per_tx_max"})

DEFAULT_LIMITS = Limits()
