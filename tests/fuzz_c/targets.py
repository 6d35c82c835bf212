"""What is fuzzed in C: the programs, the inputs to begin with, and what Python says of an input.

An input's line, as `replay.c` prints it, must be the one that `judge` gives; None where it has no opinion.
"""

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from supervm.execution import GAS_STATE_KEY, BlockInput, execute_block
from supervm.execution.footprint import block_keys
from supervm.hardware.fastpath import ScanError, ScanLimits, twin
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy
from supervm.types.codec import pack_transactions
from supervm.types.errors import DecodeError
from supervm.types.smt import root_of
from supervm.types.state import Account, Object, OwnerKind, Token, encode_balance, shared_owner
from supervm.types.transaction import Transaction
from tests.differential.generate import ORDINARY_LIMITS, World, world
from tests.differential.making import CHAIN, EPOCH
from tests.differential.profiles import ORDINARY
from tests.sanitizers.building import Variant, build_program
from tests.sanitizers.cases import expected, pack_case

HERE = Path(__file__).parent
CASE = HERE.parent / "sanitizers"
INPUT_BYTES_MAX = 8_192
TRANSACTIONS_MAX = 64
PRICE_0 = FlatPolicy(FlatConfig(price=0))
OWNER = b"P" * 32
THERE = b"isit"
SCAN_LIMITS = ScanLimits(
    transactions_max=TRANSACTIONS_MAX,
    transaction_bytes_max=ORDINARY_LIMITS.transaction_bytes_max,
    payload_bytes_max=ORDINARY_LIMITS.payload_bytes_max,
    inputs_max=ORDINARY_LIMITS.inputs_max,
    relays_max=2,
)


def empty_block(transactions: Sequence[Transaction] = ()) -> BlockInput:
    return BlockInput(
        height=1,
        epoch=EPOCH,
        timestamp_ms=1,
        chain_id=CHAIN,
        limits=ORDINARY_LIMITS,
        transactions=tuple(transactions),
        executed=frozenset(),
    )


def facts_header() -> str:
    """A case without a transaction, in C: the facts of a block."""
    packed = pack_case(empty_block(), PRICE_0, {GAS_STATE_KEY: PRICE_0.initial_state()})
    return f"static const uint8_t EMPTY_CASE[] = {{{', '.join(map(str, packed))}}};\n"


def entry_of(key: bytes) -> bytes | None:
    """The state that decode.c executes on: each key has the entry that it says itself.

    Ids that transactions make are of none: those that are there have `THERE` in them.
    """
    space, id_, token = key[0], key[1:33], key[33:]
    if space == 1:
        return None if id_[31] % 4 == 3 else Account(0, 0, 10**12).encode()
    if space == 2:
        return encode_balance(1_000) if token[2:6] == THERE and id_[0] % 2 == 0 else None
    if space == 3 and (id_[2:6] == THERE or not any(id_)):
        return Token(b"GOLD", 6, OWNER, bool(id_[1] % 2), 10**18).encode()
    if space == 4 and id_[2:6] == THERE and id_[0] % 4 < 3:
        kind = OwnerKind(id_[0] % 4)
        owner = {OwnerKind.OWNED: OWNER, OwnerKind.SHARED: shared_owner(1), OwnerKind.IMMUTABLE: bytes(32)}
        return Object(1 + id_[1] % 2, kind, owner[kind], 7, False, b"data").encode()
    return None


def judge_decode(data: bytes) -> str | None:
    """The scan by its twin, the first transaction that the decoder refuses, or what the block comes to."""
    if not data:
        return ""
    packed = data[1:]
    limits = ORDINARY_LIMITS
    scan = twin.scan_transactions(packed, SCAN_LIMITS)
    records = list(scan.records())
    said = f"{int(scan.error)} {len(records)} "
    transactions = []
    for index, record in enumerate(records):
        try:
            transactions.append(Transaction.decode(packed[record.start : record.start + record.size], limits))
        except DecodeError:
            return f"{said}refused {index}"
        assert record.error is ScanError.OK, "the scan refuses what the decoder takes"
    block = empty_block(transactions)
    gas_state = PRICE_0.initial_state()
    state = {key: value for key in block_keys(transactions, PRICE_0, gas_state) if (value := entry_of(key))}
    return said + expected(execute_block({**state, GAS_STATE_KEY: gas_state}, block, PRICE_0))


def judge_tree(data: bytes) -> str | None:
    """The root after each update that isn't dropped, by the reference functions over the whole mapping."""
    state: dict[bytes, bytes] = {}
    changes: dict[int, int] = {}
    twice, updates, roots = False, 0, ""
    for at in range(1, len(data) - 1, 2):
        number, value = data[at : at + 2]
        if updates == 24 or number == 252:
            break
        if number >= 254:
            if number == 255 and not twice:
                for each, size in changes.items():
                    state[b"\x01" + bytes((each,))] = bytes((size,)) * (size % 64)
                state = {key: entry for key, entry in state.items() if entry}
                roots += root_of(state).hex() + " "
            changes, twice, updates = {}, False, updates + 1
        elif number != 253 and len(changes) < 252:
            twice = twice or number in changes
            changes[number] = value
    return roots


def change_anywhere(chance: random.Random, data: bytes) -> bytes:
    """A few bytes are others, more or fewer."""
    made = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(made) + 1)
        made[at : at + chance.randrange(2)] = chance.randbytes(chance.randrange(2))
    return bytes(made)


def change_payload(chance: random.Random, data: bytes) -> bytes:
    """A transaction's payload is changed, and the sizes before it say so; at times anything is."""
    packed = data[1:]
    records = [each for each in twin.scan_transactions(packed, SCAN_LIMITS).records() if not each.error]
    if not records or chance.random() < 0.3:
        return change_anywhere(chance, data)
    one = chance.choice(records)
    payload = change_anywhere(chance, packed[one.payload : one.payload + one.payload_size])
    size = one.size + len(payload) - one.payload_size
    return b"".join(
        (
            data[:1],
            packed[: one.start - 4],
            struct.pack("<I", size),
            packed[one.start : one.payload - 4],
            struct.pack("<I", len(payload)),
            payload,
            packed[one.payload + one.payload_size :],
        )
    )


def no_opinion(data: bytes) -> str | None:
    """The ways to execute are compared with each other; tests/differential has Python's word on blocks."""
    return None


def decode_inputs() -> list[bytes]:
    made = []
    for seed in range(40):
        of = settled_world(seed)
        for choices in range(8):
            transactions = of.block().transactions[:12]
            packed = len(transactions).to_bytes(2, "little")
            made.append(bytes((choices,)) + packed + pack_transactions([t.data for t in transactions]))
    return made


def settled_world(seed: int) -> World:
    """People and objects that have what `entry_of` says."""
    chance = random.Random(seed)
    people = [OWNER, *(chance.randbytes(31) + b"\x00" for _ in range(3))]
    ids = [chance.randbytes(2) + THERE + chance.randbytes(26) for _ in range(12)]
    keys = [b"\x01" + each for each in people] + [b"\x04" + each for each in ids]
    keys += [b"\x03" + each for each in (bytes(32), ids[0], ids[1])]
    keys += [b"\x02" + person + token for person in people for token in ids[:2]]
    state = {key: value for key in keys if (value := entry_of(key))}
    state[GAS_STATE_KEY] = PRICE_0.initial_state()
    few = tuple(attrs.evolve(each, counts=(1, 2, 5), operations=(1, 1, 2, 3)) for each in ORDINARY)
    return World(chance, PRICE_0, ORDINARY_LIMITS, few, state, people)


def block_inputs() -> list[bytes]:
    made = []
    for seed in range(120):
        of = world(seed, crowded=False)
        for _ in range(4):
            block = of.block()
            touched = {GAS_STATE_KEY, *block_keys(block.transactions, of.gas, of.state[GAS_STATE_KEY])}
            made.append(pack_case(block, of.gas, {k: v for k, v in of.state.items() if k in touched}))
            of.follow(block, execute_block(of.state, block, of.gas).changes)
    return made


def tree_inputs() -> list[bytes]:
    chance = random.Random(1)
    made = []
    for _ in range(60):
        steps = b"".join(
            bytes((chance.choice((254, 255, 255)), 0))
            if chance.random() < 0.1
            else bytes((chance.choice((chance.randrange(254), 253)), chance.choice((0, 0, 5, 63))))
            for _ in range(chance.choice((5, 40, 200)))
        )
        made.append(bytes((chance.choice((0, 1, 2, 255)),)) + steps + b"\xff\x00")
    return [*made, b"\x01\xfc\x00\x01\x02\x01\x05\x01\x00\x00\x00Z"]


@attrs.frozen
class Target:
    """`own`: files beside the target's own."""

    name: str
    inputs: Callable[[], Sequence[bytes]]
    judge: Callable[[bytes], str | None]
    own: tuple[Path, ...] = ()
    change: Callable[[random.Random, bytes], bytes] = change_anywhere

    def beginnings(self) -> list[bytes]:
        """What a generator makes, as far as it isn't too long."""
        return [each for each in self.inputs() if len(each) <= INPUT_BYTES_MAX]

    @property
    def corpus(self) -> list[bytes]:
        """Inputs that reached what no other did, or failed once."""
        return [path.read_bytes() for path in sorted((HERE / "corpus" / self.name).iterdir())]

    def build(self, variant: Variant, folder: Path, entry: str, changed: Mapping[str, str] = {}) -> Path:
        """The target with `covered.c` or `replay.c`. Raises `CannotBuild`."""
        own = (HERE / f"{self.name}.c", HERE / "target.h", HERE / entry, *self.own)
        return build_program(variant, folder, own, changed={"facts.h": facts_header(), **changed})


ENGINE = (CASE / "case.c", CASE / "case.h")
TARGETS = {
    each.name: each
    for each in (
        Target("decode", decode_inputs, judge_decode, ENGINE, change_payload),
        Target("block", block_inputs, no_opinion, ENGINE),
        Target("tree", tree_inputs, judge_tree),
    )
}


def pack_inputs(inputs: Sequence[bytes]) -> bytes:
    """As replay.c takes them."""
    return b"".join(struct.pack("<I", len(each)) + each for each in inputs)
