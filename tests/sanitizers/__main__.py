"""Runs tests, or another module, against a build of the C sources under a sanitizer.

    python -m tests.sanitizers {address,thread} [PYTEST ARGUMENT...]
    python -m tests.sanitizers {address,thread} -m MODULE [ARGUMENT...]

Anything that the sanitizer finds ends the run with an error. Under `thread` Block-STM lets other threads go
first more often than they would by themselves. Exit status 77: it can't be had here.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.sanitizers.building import (
    OWN,
    THREAD,
    VARIANTS,
    CannotBuild,
    build_library,
    find_compiler,
    yielding,
)

SKIPPED = 77
# A sanitizer makes C several times slower: a test that takes longer than others may isn't hanging yet.
PATIENCE = ("-o", "faulthandler_timeout=1500")
OPTIONS = {
    # Python itself keeps memory to its end: leaks are looked for by the programs of this folder.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": f"halt_on_error=1:second_deadlock_stack=1:exitcode=66:suppressions={OWN}/tsan.supp",
    # Each object that is handed to C has memory of its own, with its end guarded.
    "PYTHONMALLOC": "malloc",
}


def runtime_path(name: str) -> str:
    """Where the compiler keeps a sanitizer's library. Raises `CannotBuild`."""
    said = subprocess.run(
        [find_compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(said).is_absolute():
        raise CannotBuild(f"the compiler has no {name}")
    return said


def without_random_layout() -> list[str]:
    """What starts a program at fixed addresses, which the thread sanitizer of some kernels needs."""
    command = [shutil.which("setarch") or "", platform.machine(), "-R"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return command


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ("address", "thread"):
        sys.exit(__doc__)
    variant = VARIANTS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        try:
            changed = yielding() if variant is THREAD else {}
            library = build_library(variant, Path(folder), changed)
            preloaded = runtime_path(variant.runtime)
        except CannotBuild as error:
            print(f"skipped: {error}", file=sys.stderr)
            return SKIPPED
        start = without_random_layout() if variant is THREAD else []
        asked = sys.argv[3:] if sys.argv[2:3] == ["-m"] else ["pytest", *PATIENCE, *sys.argv[2:]]
        run = [sys.executable, "-m", "tests.sanitizers.library", str(library), *asked]
        environment = {**os.environ, **OPTIONS, "LD_PRELOAD": preloaded}
        return subprocess.run([*start, *run], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
