"""The C block engine through cffi. Importing this raises ImportError where it was not built.

`NativeEngine` keeps a bounded part of the state in C; `open_block` decodes a block and says which entries are
not there; once they are supplied, `execute` gives receipts, their root and the changes. The global lock is
released in every call that takes long. One block at a time is open on an engine, and one thread at a time
calls either.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import attrs

from supervm.hardware._fastpath import ffi, lib

U64 = "Q"
assert array(U64).itemsize == 8, "offsets are 64-bit"


class Mode(IntEnum):
    """How a block is executed. The results are the same bytes."""

    AUTO = lib.SVM_MODE_AUTO
    SERIAL = lib.SVM_MODE_SERIAL
    PARTITIONED = lib.SVM_MODE_PARTITIONED
    BLOCK_STM = lib.SVM_MODE_BLOCK_STM


class Reason(IntEnum):
    """Why `Mode.AUTO` took the mode that it took."""

    ASKED = lib.SVM_REASON_ASKED
    ONE_THREAD = lib.SVM_REASON_ONE_THREAD
    SMALL = lib.SVM_REASON_SMALL
    INDEPENDENT = lib.SVM_REASON_INDEPENDENT
    CONNECTED = lib.SVM_REASON_CONNECTED
    HEAVY = lib.SVM_REASON_HEAVY
    CHEAP = lib.SVM_REASON_CHEAP


class EngineError(Exception):
    """The engine can't go on with this block. Nothing of the block is in its state."""


class BadTransaction(EngineError):
    """A transaction that the decoder refuses. `index` is its place in the block."""

    def __init__(self, index: int) -> None:
        super().__init__(f"transaction {index} of the block is not canonical")
        self.index = index


class BadEntry(EngineError):
    """A state entry that is none. `index` is its place in what was supplied."""

    def __init__(self, index: int) -> None:
        super().__init__(f"entry {index} of what was supplied is no state entry")
        self.index = index


class NotForC(EngineError):
    """Among transactions to apply is one that only the specification can judge."""


class InvariantBroken(EngineError):
    """Value was made or lost, or the state is damaged. The block must not be kept."""


@attrs.frozen(kw_only=True)
class Facts:
    """What holds for a block. `gas` are the numbers of a gas schedule by name; `price` is in micro base units
    of the native token per gas; `collector` is the address that fees go to, None where they are burned.
    `granted`: of each member of genesis its ed25519 key and weight u64, ascending by key."""

    height: int
    epoch: int
    chain_id: bytes
    inputs_max: int
    outputs_max: int
    payload_bytes_max: int
    transaction_bytes_max: int
    object_bytes_max: int
    gas: dict[str, int]
    price: int
    collector: bytes | None
    granted: bytes = b""


@attrs.frozen(kw_only=True)
class Stats:
    """Nanoseconds by phase, and counts, of one block."""

    decode_ns: int
    state_ns: int
    execute_ns: int
    receipts_ns: int
    changes_ns: int
    transactions: int
    committed: int
    failed: int
    voided: int
    skipped: int
    keys: int
    slots: int
    missed: int
    groups: int
    largest_group: int
    mode: Mode
    reason: Reason
    threads: int
    executions: int
    validations: int
    aborts: int
    gave_up: int
    gas_used: int
    fees: int


@attrs.frozen
class CacheStats:
    """What of the state is in memory. Sizes are in bytes; 0 as the bound is none."""

    entries: int
    bytes: int
    bytes_max: int
    evicted: int


@attrs.frozen
class Detail:
    """What the words for a transaction that didn't succeed are made of."""

    index: int
    code: str
    first: int
    second: int
    id: bytes
    other: bytes


@attrs.frozen
class PackedFacts:
    """Facts as C reads them, for who opens many blocks with the same."""

    pointer: Any
    granted: Any

    @classmethod
    def of(cls, facts: Facts) -> "PackedFacts":
        granted = ffi.from_buffer(facts.granted)
        return cls(_facts(facts, granted), granted)


GAS_FIELDS = tuple(name for name, _ in ffi.typeof("svm_gas_schedule").fields)


class Pool:
    """C threads that share the work of a call; the caller is one of them."""

    def __init__(self, threads: int) -> None:
        self.pointer = ffi.gc(lib.svm_pool_new(max(1, threads)), lib.svm_pool_free)
        if self.pointer == ffi.NULL:
            raise MemoryError("no memory for a pool of threads")

    @property
    def threads(self) -> int:
        """How many there are, the caller included; fewer than asked for where the system gave fewer."""
        return int(lib.svm_pool_threads(self.pointer))


class NativeEngine:
    """State in memory, and blocks executed on it.

    `bytes_max` bounds the state kept, 0 for none; `resident` says that what isn't in memory is absent.
    `seed`, 32 secret bytes, keeps others from choosing keys that fall on each other.
    """

    def __init__(self, pool: Pool, seed: bytes, *, bytes_max: int = 0, resident: bool = False) -> None:
        assert len(seed) == 32, len(seed)
        self._pool = pool
        made = lib.svm_engine_new(bytes_max, resident, seed, pool.pointer)
        if made == ffi.NULL:
            raise MemoryError("no memory for the engine")
        self.pointer = ffi.gc(made, lib.svm_engine_free)

    def load(self, packed: bytes, count: int) -> None:
        """Put `count` entries into memory: u8 key size, key, u32 value size, value. Raises `BadEntry`."""
        at = ffi.new("uint32_t *")
        _check(lib.svm_engine_load(self.pointer, ffi.from_buffer(packed), len(packed), count, at), at[0])

    def clear(self) -> None:
        """Forget the state in memory. No block may be open."""
        lib.svm_engine_clear(self.pointer)

    def stats(self) -> CacheStats:
        found = ffi.new("svm_cache_stats *")
        lib.svm_engine_stats(self.pointer, found)
        return CacheStats(found.entries, found.bytes, found.bytes_max, found.evicted)

    @contextmanager
    def open_block(
        self,
        facts: Facts | PackedFacts,
        data: bytes,
        offsets: "array[int]",
        digests: bytes | None,
        executed: Sequence[bytes],
    ) -> Iterator["NativeBlock"]:
        """Decode the transactions data[offsets[i]:offsets[i + 1]]. Raises `BadTransaction`.

        `digests`: theirs, 32 bytes each, or None to have them made. `executed`: of which of them earlier
        blocks have a receipt. The block ends with the context.
        """
        count = len(offsets) - 1
        assert offsets.typecode == U64 and count >= 0 and offsets[-1] <= len(data)
        assert digests is None or len(digests) == 32 * count
        made, at = ffi.new("svm_block **"), ffi.new("uint32_t *")
        packed = facts if isinstance(facts, PackedFacts) else PackedFacts.of(facts)
        held = (
            packed.pointer,
            ffi.from_buffer(data),
            ffi.from_buffer("uint64_t[]", offsets),
            ffi.NULL if digests is None else ffi.from_buffer(digests),
            ffi.from_buffer(b"".join(executed)),
            packed,
        )
        _check(
            lib.svm_block_new(
                self.pointer, held[0], held[1], held[2], count, held[3], held[4], len(executed), made, at
            ),
            at[0],
        )
        try:
            yield NativeBlock(made[0], held)
        finally:
            lib.svm_block_free(made[0])


class NativeBlock:
    """An open block. Use it inside its context only; what it gives are copies."""

    def __init__(self, pointer: Any, held: tuple[Any, ...]) -> None:
        self._pointer = pointer
        self._held = held  # what C reads must stay

    def missing(self) -> list[bytes]:
        """State keys that are not in memory."""
        bytes_, size, count = ffi.new("uint8_t **"), ffi.new("size_t *"), ffi.new("uint32_t *")
        lib.svm_block_missing(self._pointer, bytes_, size, count)
        if count[0] == 0:
            return []
        packed = ffi.buffer(bytes_[0], size[0])[:]
        keys, at = [], 0
        for _ in range(count[0]):
            end = at + 1 + packed[at]
            keys.append(packed[at + 1 : end])
            at = end
        return keys

    def supply(self, values: Sequence[bytes | None]) -> None:
        """Answer `missing`, in its order; None where there is no entry. Raises `BadEntry`."""
        packed = b"".join([b"\0\0\0\0" if v is None else len(v).to_bytes(4, "little") + v for v in values])
        at = ffi.new("uint32_t *")
        _check(
            lib.svm_block_supply(self._pointer, ffi.from_buffer(packed), len(packed), len(values), at), at[0]
        )

    def execute(self, mode: Mode = Mode.AUTO) -> None:
        """Execute, make receipts, gather changes. Raises `InvariantBroken`."""
        _check(lib.svm_block_execute(self._pointer, mode), 0)

    def apply(self) -> bytes:
        """In place of `execute`: apply the transactions ahead of their block, and what came of each, as
        `svm_engine.h` says. Raises `NotForC`, `InvariantBroken`."""
        bytes_, size = ffi.new("uint8_t **"), ffi.new("size_t *")
        _check(lib.svm_block_apply(self._pointer, bytes_, size), 0)
        return bytes(ffi.buffer(bytes_[0], size[0])) if size[0] else b""

    def receipts(self) -> list[bytes]:
        """The encoded receipts, in block order."""
        bytes_, starts, count, _ = self._receipts()
        ends = ffi.unpack(starts, count + 1)
        packed = ffi.buffer(bytes_, ends[-1])[:]
        return [packed[ends[i] + 1 : ends[i + 1]] for i in range(count)]

    def receipts_root(self) -> bytes:
        """The root of the tree over the receipts."""
        return self._receipts()[3]

    def _receipts(self) -> tuple[Any, Any, int, bytes]:
        bytes_, starts = ffi.new("uint8_t **"), ffi.new("uint64_t **")
        count, root = ffi.new("uint32_t *"), ffi.new("uint8_t[32]")
        lib.svm_block_receipts(self._pointer, bytes_, starts, count, root)
        return bytes_[0], starts[0], count[0], ffi.buffer(root)[:]

    def packed_changes(self) -> tuple[bytes, int]:
        """Changed entries and their number: u8 key size, key, u32 value size (0: removed), value."""
        view, count = self.view_changes()
        return bytes(view), count

    def view_changes(self) -> tuple[memoryview, int]:
        """The same where it lies: good until this block is closed, and not to be looked at afterwards."""
        bytes_, size, count = ffi.new("uint8_t **"), ffi.new("size_t *"), ffi.new("uint32_t *")
        _check(lib.svm_block_changes(self._pointer, bytes_, size, count), 0)
        return memoryview(ffi.buffer(bytes_[0], size[0])).toreadonly(), count[0]

    def changes(self) -> dict[bytes, bytes | None]:
        """Changed entries by key, None where one was removed; keys ascending."""
        packed, count = self.packed_changes()
        found: list[tuple[bytes, bytes | None]] = []
        at = 0
        for _ in range(count):
            value_at = at + 1 + packed[at] + 4
            end = value_at + int.from_bytes(packed[value_at - 4 : value_at], "little")
            found.append((packed[at + 1 : value_at - 4], packed[value_at:end] if end > value_at else None))
            at = end
        return dict(sorted(found))

    def details(self) -> list[Detail]:
        """Of each transaction that didn't succeed, in block order."""
        room = lib.svm_block_details(self._pointer, ffi.NULL, 0)
        found = ffi.new("svm_detail[]", room + 1)
        lib.svm_block_details(self._pointer, found, room)
        return [_detail(found[i]) for i in range(room)]

    def stats(self) -> Stats:
        found = ffi.new("svm_block_stats *")
        lib.svm_block_stats_of(self._pointer, found)
        plain = {name: getattr(found, name) for name in _PLAIN_STATS}
        fees = found.fees_high << 64 | found.fees_low
        return Stats(**plain, mode=Mode(found.mode), reason=Reason(found.reason), fees=fees)

    def commit(self) -> None:
        """Make the changes the engine's state. Once, after `execute`."""
        _check(lib.svm_block_commit(self._pointer), 0)


_PLAIN_STATS = {field.name for field in attrs.fields(Stats)} - {"mode", "reason", "fees"}


def _detail(found: Any) -> Detail:
    name: bytes = ffi.string(lib.svm_code_name(found.code))
    first = found.first[0] | found.first[1] << 64 | found.first[2] << 128
    second = found.second[0] | found.second[1] << 64
    return Detail(
        found.index, name.decode("ascii"), first, second, ffi.buffer(found.id)[:], ffi.buffer(found.other)[:]
    )


GRANTED_BYTES = 40


def _facts(facts: Facts, granted: Any) -> Any:
    made = ffi.new("svm_block_facts *")
    for name in (
        "height",
        "epoch",
        "inputs_max",
        "outputs_max",
        "payload_bytes_max",
        "transaction_bytes_max",
        "object_bytes_max",
        "price",
    ):
        setattr(made, name, getattr(facts, name))
    for name in GAS_FIELDS:
        setattr(made.gas, name, facts.gas[name])
    made.chain_id = facts.chain_id
    made.collects = facts.collector is not None
    made.collector = facts.collector or bytes(32)
    made.granted = ffi.cast("uint8_t *", granted)
    made.granted_count = len(facts.granted) // GRANTED_BYTES
    return made


def _check(error: int, at: int) -> None:
    if error == lib.SVM_ENGINE_OK:
        return
    if error == lib.SVM_ENGINE_NO_MEMORY:
        raise MemoryError("the block engine got no memory")
    if error == lib.SVM_ENGINE_BAD_TRANSACTION:
        raise BadTransaction(at)
    if error == lib.SVM_ENGINE_BAD_STATE:
        raise BadEntry(at)
    if error == lib.SVM_ENGINE_INVARIANT:
        raise InvariantBroken("executing the block would make or lose value")
    if error == lib.SVM_ENGINE_UNKNOWN:
        raise NotForC("a transaction pays in another token")
    assert error != lib.SVM_ENGINE_ORDER, "the engine was called out of order"
    raise EngineError("the block is larger than the engine counts")
