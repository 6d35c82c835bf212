"""Packs blocks with the state that they need, as `case.h` says, for programs in C."""

import struct
from collections.abc import Mapping, Sequence

from supervm.contracts.gas import FixedRule, GasSchedule
from supervm.execution import GAS_STATE_KEY, BlockInput, BlockResult
from supervm.plugins.gas.flat import FlatPolicy
from supervm.types.digests import plain_digest
from tests.sanitizers.building import SOURCES


def gas_fields() -> tuple[str, ...]:
    """The numbers of a schedule in the order of `svm_gas_schedule`; needs no library."""
    text = (SOURCES / "svm_engine.h").read_text("utf-8")
    inside = text.split("typedef struct {")[1].split("} svm_gas_schedule;")[0]
    return tuple(inside.replace("uint64_t", "").replace(";", ",").replace(",", " ").split())


GAS_FIELDS = gas_fields()
_FACTS = struct.Struct(f"<QQ32s5I{len(GAS_FIELDS)}QQB32s")


def pack_case(block: BlockInput, gas: FlatPolicy, state: Mapping[bytes, bytes]) -> bytes:
    """One block over a whole state."""
    rule = gas.fixed_rule(state[GAS_STATE_KEY])
    entries = [
        bytes((len(key),)) + key + struct.pack("<I", len(value)) + value
        for key, value in state.items()
        if key != GAS_STATE_KEY
    ]
    packed = b"".join(entries)
    parts = [_facts(block, gas.schedule, rule), struct.pack("<II", len(entries), len(packed)), packed]
    parts.append(struct.pack("<I", len(block.transactions)))
    parts += [struct.pack("<I", len(each.data)) + each.data for each in block.transactions]
    parts += [struct.pack("<I", len(block.executed)), *sorted(block.executed)]
    return b"".join(parts)


def _facts(block: BlockInput, schedule: GasSchedule, rule: FixedRule) -> bytes:
    limits = block.limits
    return _FACTS.pack(
        block.height,
        block.epoch,
        block.chain_id,
        limits.inputs_max,
        limits.outputs_max,
        limits.payload_bytes_max,
        limits.transaction_bytes_max,
        limits.object_bytes_max,
        *(getattr(schedule, name) for name in GAS_FIELDS),
        rule.price,
        rule.collector is not None,
        rule.collector or bytes(32),
    )


def expected(result: BlockResult) -> str:
    """What `life FILE ways` prints of a block with this result."""
    changed = bytes(32)
    changes = [(key, value) for key, value in result.changes.items() if key != GAS_STATE_KEY]
    for key, value in changes:
        one = plain_digest(bytes((len(key),)) + key + struct.pack("<I", len(value or b"")) + (value or b""))
        changed = bytes(map(int.__xor__, changed, one))
    gas_used = sum(receipt.gas_used for receipt in result.receipts)
    counts: Sequence[object] = (0, len(result.receipts), len(changes), gas_used)
    return " ".join([*map(str, counts), result.receipts_root.hex(), changed.hex()])
