"""From operations to a body that a node will take: gas limit, prices, inputs.

The gas limit is an upper bound, reckoned from the schedule without the state; what isn't used returns to
the payer (GAS-7), so a generous limit costs nothing but a larger reserve.
"""

from collections.abc import Sequence

import attrs

from supervm.contracts.gas import GasSchedule
from supervm.types.address import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from supervm.types.operations import (
    Mint,
    ObjectCreate,
    ObjectMutate,
    Operation,
    TokenCreate,
    Transfer,
    encode_operations,
)
from supervm.types.transaction import Body, Input, Lane

ENTRY_BYTES_MAX = 128
"""No state entry of an operation is larger, beside an object's data."""
PRICE_MARGIN = 2
"""`max_price` over the base price of the last block; the price paid is the block's, never more."""


def body_of(
    operations: Sequence[Operation],
    *,
    chain_id: bytes,
    sender: bytes,
    suite: int,
    nonce: int,
    base_price: int,
    inputs: Sequence[Input] = (),
    lane: Lane = Lane.AUTO,
    expiry_epoch: int = 0,
    schedule: GasSchedule | None = None,
    input_bytes: int = 0,
) -> Body:
    """The body of a native transaction, with a gas limit that it can't run out of.

    `input_bytes`: the data that its inputs hold now, together; owned ones are written anew.
    """
    schedule = schedule if schedule is not None else GasSchedule()
    draft = Body(
        chain_id=chain_id,
        sender=sender,
        nonce=nonce,
        expiry_epoch=expiry_epoch,
        lane=lane,
        gas_limit=0,
        max_price=base_price * PRICE_MARGIN,
        max_fee=0,
        inputs=tuple(sorted(inputs, key=lambda each: each.id)),
        payload=encode_operations(operations),
    )
    # u16 count, u8 suite, two u32 lengths.
    size = len(draft.encode()) + 2 + 1 + 4 + PUBLIC_KEY_BYTES[suite] + 4 + SIGNATURE_BYTES
    limit = (
        gas_bound(operations, len(inputs), size, suite, schedule) + schedule.entry_write_byte * input_bytes
    )
    return attrs.evolve(draft, gas_limit=min(limit, schedule.transaction_gas_max))


def gas_bound(
    operations: Sequence[Operation], inputs: int, size_bytes: int, suite: int, schedule: GasSchedule
) -> int:
    """Gas that a transaction of these operations can't exceed, but for the data of its inputs (GAS-2)."""
    entry = _entry(schedule, ENTRY_BYTES_MAX)
    gas = schedule.transaction + schedule.transaction_byte * size_bytes + schedule.signature(suite) + entry
    # Every input is read, and an owned one gets a new version even where the transaction fails.
    gas += inputs * (schedule.entry_read + schedule.entry_write + schedule.object_mutate)
    for operation in operations:
        gas += 2 * entry + schedule.object_share + schedule.event + schedule.event_byte * ENTRY_BYTES_MAX
        match operation:
            case Transfer():
                gas += schedule.credit * len(operation.outputs)
            case TokenCreate() | Mint():
                gas += schedule.credit + entry
            case ObjectCreate() | ObjectMutate():
                gas += _entry(schedule, len(operation.data))
            case _:
                pass
    return gas


def _entry(schedule: GasSchedule, size_bytes: int) -> int:
    each_byte = schedule.entry_write_byte + schedule.entry_new_byte
    return schedule.entry_read + schedule.entry_write + schedule.entry_new + each_byte * size_bytes
