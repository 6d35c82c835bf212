"""The C driver of signature checks under the sanitizers, over made-up libraries that also slip."""

import random
import struct
import subprocess
from array import array
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from supervm.crypto import ed25519_rule, packed, secp256k1_rule
from supervm.crypto.driver import Chosen
from supervm.crypto.packed import verify_packed
from supervm.crypto.suites import SignatureItem
from supervm.types.digests import plain_digest
from tests import needs
from tests.crypto.test_packed import POOL

HERE = Path(__file__).parent
FASTPATH = HERE.parents[1] / "hardware/fastpath"
SOURCES = [FASTPATH / f"svm_{name}.c" for name in ("verify", "scan", "pool", "blake3", "cpu")]
FLAGS = ["-std=c11", "-g", "-O1"]


def batches(seed: int) -> list[list[bytes]]:
    """Some of the transactions of `test_packed`, whole and mutated."""
    chance = random.Random(seed)
    small = [data for data in POOL if len(data) < 2_000]
    found: list[list[bytes]] = [[], [b""], POOL]
    for _ in range(60):
        batch = []
        for data in chance.choices(small, k=chance.randrange(1, 200)):
            changed = bytearray(data)
            for _ in range(chance.choice((0, 0, 1, 2)) if changed else 0):
                changed[chance.randrange(len(changed))] = chance.choice((0, 1, 2, 128, 255))
            batch.append(bytes(changed[: chance.choice((len(changed), len(changed), len(changed) // 2))]))
        found.append(batch)
    return found


def made_up(items: Sequence[SignatureItem], *, threads: int) -> list[bool]:
    """The answers of the libraries of `verify_driver.c`, behind the rule of each suite."""
    found = []
    for number, key, message, signature in items:
        even = (sum(key) + sum(message) + sum(signature)) % 2 == 0
        if number == 1:
            found.append(even and ed25519_rule.in_form(key, signature))
        else:
            found.append(even and secp256k1_rule.signature_numbers(key, message, signature) is not None)
    return found


def expected(batch: list[bytes], monkeypatch: pytest.MonkeyPatch) -> str:
    nobody = Chosen(None, frozenset(), {}, "a test")
    monkeypatch.setattr(packed, "chosen", lambda: nobody)
    monkeypatch.setattr(packed, "verify_many", made_up)
    found = verify_packed(b"".join(batch), array("Q", [0, *accumulate(map(len, batch))]))
    # Suite 3 isn't for the driver, so it says 5 where nothing else comes first.
    verdicts = "".join(
        "5" if verdict in (0, 1, 2) and _has_suite_3(data) else str(verdict)
        for data, verdict in zip(batch, found.verdicts, strict=True)
    )
    fingerprints = sum(sum(plain_digest(data)) for data in batch)
    return f"v{verdicts} {sum(found.digests)} {fingerprints}"


def _has_suite_3(data: bytes) -> bool:
    """Of a transaction that the scan takes: whether one of its keys is of sm2."""
    asked = packed._Asked(data, [0], [len(data)], packed._scan_limits(packed.DEFAULT_LIMITS), None)
    return any(number == 3 for number, _, _ in asked._authorizations(0, asked._scan(0)))


@needs.c_compiler
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing_and_the_verdicts_are_the_twins(
    sanitizers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "driver"
    built = subprocess.run(
        [
            str(needs.COMPILER),
            *FLAGS,
            f"-fsanitize={sanitizers}",
            "-fno-sanitize-recover=all",
            f"-I{FASTPATH}",
            str(HERE / "verify_driver.c"),
            *map(str, SOURCES),
            "-pthread",
            "-o",
            str(program),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if built.returncode and any(word in built.stderr for word in ("fsanitize", "libasan", "libtsan")):
        pytest.skip(f"the compiler has no such sanitizer: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    cases = batches(seed=3)
    (tmp_path / "batches").write_bytes(
        b"".join(
            struct.pack("<I", len(batch)) + b"".join(struct.pack("<I", len(one)) + one for one in batch)
            for batch in cases
        )
    )
    done = subprocess.run(
        [str(program), str(tmp_path / "batches")], capture_output=True, text=True, timeout=240, check=False
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer can't run on this kernel's address layout")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for at, batch in enumerate(cases):
        assert lines[4 * at : 4 * at + 4] == [expected(batch, monkeypatch)] * 4


@needs.c_compiler
def test_the_driver_compiles_without_a_warning(tmp_path: Path) -> None:
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]
    source = str(FASTPATH / "svm_verify.c")
    done = subprocess.run(
        [str(needs.COMPILER), "-std=c11", "-O2", *warnings, "-c", source, "-o", str(tmp_path / "out.o")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
