"""One transaction's turn in a block: what its operations may use, what they cost, what they did."""

import attrs

from supervm.contracts.gas import GasSchedule
from supervm.execution.errors import Code, Failed
from supervm.execution.working import WorkingState
from supervm.types.limits import Limits
from supervm.types.receipt import Event, ObjectVersion
from supervm.types.transaction import Input, Transaction
from supervm.types.validators import NOBODY, ValidatorSet


class Meter:
    """Counts gas up to a limit. What would pass the limit uses all of it and fails (GAS-3)."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def use(self, gas: int) -> None:
        used = self.used + gas
        if used > self.limit:
            self.used = self.limit
            raise Failed(Code.OUT_OF_GAS, f"{used} gas are needed so far, gas_limit is {self.limit}")
        self.used = used


@attrs.define
class Turn:
    """What the operations of one transaction share.

    `ended` are inputs whose declared access was used: transferred, shared, frozen or deleted. `written`
    holds the new version of every input that got one, by id. `epoch` is the block's, `granted` the set that
    genesis named.
    """

    transaction: Transaction
    state: WorkingState
    schedule: GasSchedule
    limits: Limits
    meter: Meter
    inputs: dict[bytes, Input]
    written: dict[bytes, int] = attrs.Factory(dict)
    created: list[ObjectVersion] = attrs.Factory(list)
    deleted: list[ObjectVersion] = attrs.Factory(list)
    events: list[Event] = attrs.Factory(list)
    ended: set[bytes] = attrs.Factory(set)
    epoch: int = 0
    granted: ValidatorSet = NOBODY

    @property
    def sender(self) -> bytes:
        return self.transaction.body.sender

    @property
    def refund_gas(self) -> int:
        """What deletions give back, before the cap of GAS-7."""
        return self.schedule.refund_delete * len(self.deleted)

    def use_entry(self) -> None:
        """Pay for reading and rewriting an account, a balance or a token's record."""
        self.meter.use(self.schedule.entry_read + self.schedule.entry_write)

    def emit(self, emitter: bytes, topic: bytes, data: bytes) -> None:
        """Say in the receipt what happened, and pay for its bytes. Undone with the transaction."""
        size_bytes = len(topic) + len(data)
        self.meter.use(self.schedule.event + self.schedule.event_byte * size_bytes)
        self.events.append(Event(emitter, topic, data))

    def use_new_entry(self, value_bytes: int) -> None:
        """Pay for an entry that wasn't there, with `value_bytes` of an object's data or a token's symbol."""
        schedule = self.schedule
        each_byte = schedule.entry_write_byte + schedule.entry_new_byte
        self.meter.use(schedule.entry_write + schedule.entry_new + each_byte * value_bytes)
