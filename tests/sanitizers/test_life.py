"""The engine and its blocks from their beginning to their end, as a sanitizer sees them (EXEC-33..39).

Programs in C stand alone, so that the address sanitizer also sees what is never given back.
"""

import subprocess
from pathlib import Path

import pytest

from supervm.execution import execute_block
from supervm.types.operations import ObjectMutate
from supervm.types.state import Account, Object, OwnerKind, account_key, object_key
from supervm.types.transaction import Access, Input
from tests.differential.generate import world
from tests.differential.making import FUNDS, Maker
from tests.differential.profiles import ORDINARY
from tests.sanitizers.building import ADDRESS, THREAD, CannotBuild, Variant, build_program, yielding
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


def run(program: Path, path: Path, what: str) -> list[str]:
    done = subprocess.run(
        [str(program), str(path), what],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer can't run on this kernel's address layout")
    assert done.returncode == 0, done.stderr[-8_000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("variant", [ADDRESS, THREAD], ids=lambda variant: variant.name)
def test_a_sanitizer_finds_nothing_in_any_way_of_executing(
    variant: Variant, programs: dict[str, Path], tmp_path: Path
) -> None:
    lines = some_blocks(tmp_path / "cases", range(12), 80)
    assert len(lines) > 40
    assert run(programs[variant.name], tmp_path / "cases", "ways") == lines


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
