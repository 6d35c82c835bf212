"""The engine and its blocks from their beginning to their end, as a sanitizer sees them (EXEC-33..39).

Programs in C stand alone, so that the address sanitizer also sees what is never given back.
"""

import subprocess
from pathlib import Path

import attrs
import pytest

from supervm.execution import BlockInput, execute_block
from supervm.types.operations import ObjectMutate, ObjectTransfer
from supervm.types.state import Account, Object, OwnerKind, account_key, object_key
from supervm.types.transaction import Access, Input, Lane
from tests.differential.generate import world
from tests.differential.making import FUNDS, Maker
from tests.differential.profiles import ORDINARY
from tests.sanitizers.building import (
    ADDRESS,
    THREAD,
    CannotBuild,
    Variant,
    build_program,
    planted,
    sources,
    yielding,
)
from tests.sanitizers.cases import expected, pack_case

HERE = Path(__file__).parent
WRAPPED = tuple(
    f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "posix_memalign", "pthread_create")
)
OWN = (HERE / "life.c", HERE / "case.c", HERE / "case.h")
RUN_SECONDS = 300


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    try:
        return {
            variant.name: build_program(
                variant, tmp_path_factory.mktemp(variant.name), OWN, *WRAPPED, changed=changed
            )
            for variant, changed in ((ADDRESS, {}), (THREAD, yielding()))
        }
    except CannotBuild as error:
        pytest.skip(str(error))


def some_blocks(path: Path, seeds: range, largest: int) -> list[str]:
    """Writes a few blocks of each seed's world; gives what is to be printed of them."""
    packed, lines = [], []
    for seed in seeds:
        of = world(seed)
        for _ in range(6):
            block = of.block()
            result = execute_block(of.state, block, of.gas)
            if 0 < len(block.transactions) <= largest:
                packed.append(pack_case(block, of.gas, of.state))
                lines.append(expected(result))
            of.follow(block, result.changes)
    path.write_bytes(b"".join(packed))
    return lines


def half_there() -> bytes:
    """A transaction whose first input is there and whose second isn't: memory may end between them."""
    of = world(1)
    sender = of.people[0]
    first, second = b"\x01" * 32, b"\x02" * 32
    of.state[object_key(first)] = Object(1, OwnerKind.OWNED, sender, 0, False, b"data").encode()
    of.state[account_key(sender)] = Account(0, 0, FUNDS).encode()
    maker = Maker(of.chance, of.state, of.people, of.limits, ORDINARY[0])
    inputs = (Input(first, 1, Access.WRITE), Input(second, 1, Access.WRITE))
    body = maker.body(sender, inputs, [ObjectMutate(first, b"other")])
    return pack_case(of.block_of([maker.signed(body)]), of.gas, of.state)


def chained(path: Path) -> list[str]:
    """Writes blocks that follow each other: an object is given other data of the same size, then changes
    hands, again and again; then ordinary ones. Gives what is to be printed of them."""
    # Nobody stakes there: what the state grants a validator of genesis isn't in a packed case.
    of = world(2)
    people, object_id = of.people[:2], b"\x01" * 32
    for person in people:
        of.state[account_key(person)] = Account(0, 0, FUNDS).encode()
    of.state[object_key(object_id)] = Object(1, OwnerKind.OWNED, people[0], 0, False, bytes(40)).encode()
    packed, lines = [], []

    def add(block: BlockInput) -> None:
        result = execute_block(of.state, block, of.gas)
        packed.append(pack_case(block, of.gas, of.state))
        lines.append(expected(result))
        of.follow(block, result.changes)

    for turn in range(6):
        owner, other = people[turn // 2 % 2], people[1 - turn // 2 % 2]
        held = Object.decode(of.state[object_key(object_id)])
        assert held.owner == owner, "the one before was done"
        access = Access.TRANSFER if turn % 2 else Access.WRITE
        change = (
            ObjectTransfer(object_id, other) if turn % 2 else ObjectMutate(object_id, bytes([turn + 1]) * 40)
        )
        maker = Maker(of.chance, of.state, of.people, of.limits, ORDINARY[0])
        body = maker.body(owner, (Input(object_id, held.version, access),), [change])
        body = attrs.evolve(body, gas_limit=10**6, max_price=10**6, expiry_epoch=0, lane=Lane.AUTO, relays=())
        add(of.block_of([maker.signed(body)]))
    for _ in range(24):
        add(of.block())
    path.write_bytes(b"".join(packed))
    return lines


def run(program: Path, path: Path, what: str) -> list[str]:
    done = start(program, path, what)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer can't run on this kernel's address layout")
    assert done.returncode == 0, done.stderr[-8_000:]
    return done.stdout.splitlines()


def start(program: Path, path: Path, what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), str(path), what],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    )


@pytest.mark.parametrize("variant", [ADDRESS, THREAD], ids=lambda variant: variant.name)
def test_a_sanitizer_finds_nothing_in_any_way_of_executing(
    variant: Variant, programs: dict[str, Path], tmp_path: Path
) -> None:
    lines = some_blocks(tmp_path / "cases", range(12), 80)
    assert len(lines) > 40
    assert run(programs[variant.name], tmp_path / "cases", "ways") == lines


def test_a_sanitizer_finds_nothing_where_transactions_are_applied_ahead_of_their_block(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    some_blocks(tmp_path / "cases", range(24), 80)
    said = [line.split() for line in run(programs["address"], tmp_path / "cases", "ahead")]
    # A transaction that pays in another token is the specification's.
    assert {error for error, *_ in said} == {"0", "7"}
    assert sum(int(size) for error, size, *_ in said if error == "0") > 10_000


@pytest.mark.parametrize("variant", [ADDRESS, THREAD], ids=lambda variant: variant.name)
def test_what_a_block_committed_is_whole_when_its_memory_is_given_back(
    variant: Variant, programs: dict[str, Path], tmp_path: Path
) -> None:
    lines = chained(tmp_path / "cases")
    assert run(programs[variant.name], tmp_path / "cases", "chain") == lines


def test_an_object_rewritten_in_place_that_still_points_into_its_block_is_found(tmp_path: Path) -> None:
    """A fault that no comparison sees, since what was given back mostly stays as it was."""
    right = "    *to = *from;\n    to->data = data;\n    return true;\n"
    text = planted(sources()["svm_engine.c"], right, right.replace("    to->data = data;\n", ""))
    try:
        program = build_program(ADDRESS, tmp_path / "planted", OWN, *WRAPPED, changed={"svm_engine.c": text})
    except CannotBuild as error:
        pytest.skip(str(error))
    chained(tmp_path / "cases")
    done = start(program, tmp_path / "cases", "chain")
    assert done.returncode != 0 and "heap-use-after-free" in done.stderr


def test_memory_that_ends_anywhere_is_told_and_nothing_is_lost(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    lines = some_blocks(tmp_path / "cases", range(4), 5)
    with (tmp_path / "cases").open("ab") as cases:
        cases.write(half_there())
    counts = run(programs["address"], tmp_path / "cases", "memory")
    assert len(counts) == len(lines) + 1
    assert min(map(int, counts)) > 100, "few requests for memory were refused"


def test_calls_out_of_order_are_refused_and_blocks_may_end_at_any_step(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    some_blocks(tmp_path / "cases", range(4), 40)
    run(programs["address"], tmp_path / "cases", "order")
