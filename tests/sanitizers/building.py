"""Builds the C sources in other ways than a release: under sanitizers, with counters, with a fault planted.

Objects are kept in `build/c` by what they are made of, so that what didn't change isn't compiled again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "hardware/fastpath"
KEPT = ROOT / "build/c"
COMPILE_SECONDS = 300
NO_SANITIZER = ("fsanitize", "libclang_rt", "libasan", "libtsan", "libubsan", "-lasan", "-ltsan", "-lubsan")
MODULE = "supervm.hardware._fastpath"
OWN = Path(__file__).parent


class CannotBuild(Exception):
    """What was asked for can't be built on this machine. Says why."""


class BuildFailed(Exception):
    """The compiler refuses the sources. Says what it said."""


@attrs.frozen
class Variant:
    """A way to compile. `runtime` is the library that a program not built so must load first; `compiler` is
    the only one that can, where there is one."""

    name: str
    flags: tuple[str, ...]
    runtime: str = ""
    compiler: str = ""

    def defining(self, *names: str) -> "Variant":
        """The same with macros defined."""
        return attrs.evolve(self, flags=(*self.flags, *(f"-D{name}" for name in names)))


# Few entries at once, so that a small state has many such blocks.
SMALL_BLOCKS = "-DSVM_ENTRIES=64u"
SANITIZED = ("-O1", "-g", "-fno-omit-frame-pointer", SMALL_BLOCKS)
PLAIN = Variant("plain", ("-O2",))
ADDRESS = Variant(
    "address", (*SANITIZED, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"), "libasan.so"
)
THREAD = Variant("thread", (*SANITIZED, "-fsanitize=thread"), "libtsan.so")
FUZZED = Variant(
    "fuzzed",
    (*SANITIZED, "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-DSVM_COVERED"),
    compiler=os.environ.get("CLANG", "clang"),
)
COUNTED = Variant("counted", ("-O0", "-g", "--coverage", SMALL_BLOCKS))
VARIANTS = {each.name: each for each in (PLAIN, ADDRESS, THREAD, COUNTED)}


def find_compiler(variant: Variant | None = None) -> str:
    """The C compiler: the variant's own, else `CC`, else what is on the path. Raises `CannotBuild`."""
    if variant is not None and variant.compiler:
        if found := shutil.which(variant.compiler):
            return found
        raise CannotBuild(
            f"{variant.compiler} is not on the path, and only clang can build this (CLANG names it)"
        )
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise CannotBuild("no C compiler (CC, cc, gcc, clang) is on the path")


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def sources(root: Path = SOURCES) -> dict[str, str]:
    """Our C files and headers by name; `_fastpath.c`, what cffi makes of the headers, is among them."""
    found = {each.name: each.read_text("utf-8") for each in sorted(root.glob("svm_*.[ch]"))}
    found["_fastpath.c"] = _binding()
    return found


@cache
def _binding() -> str:
    """cffi's part of the extension. Another process makes it, since cffi keeps what it has read."""
    program = (
        "import runpy, sys;"
        "runpy.run_path('hardware/fastpath/build_fastpath.py')['ffibuilder'].emit_c_code(sys.argv[1])"
    )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "_fastpath.c")
        _run([sys.executable, "-c", program, str(made)])
        return made.read_text("utf-8")


def yielding(stm: str | None = None) -> dict[str, str]:
    """Block-STM with its yield points, where other threads are let go first at times; see shake.c.

    `stm` stands for svm_stm.c, to have a fault planted in it.
    """
    text = sources()["svm_stm.c"] if stm is None else stm
    return {
        "svm_stm.c": f"#define SVM_TEST_YIELD\n{text}",
        "shake.c": (OWN / "shake.c").read_text("utf-8"),
    }


def in_turns(stm: str | None = None, refuted_max: int | None = None) -> dict[str, str]:
    """The same with threads that take turns by a seed; see turns.h. `refuted_max` is EXEC-37's bound."""
    made = yielding(stm)
    del made["shake.c"]
    # All threads are one of the system's here: it would go to the end of the machine's queue for nothing.
    made["svm_stm.c"] = planted(made["svm_stm.c"], "sched_yield();", "svm_test_yield();")
    if refuted_max is not None:
        made["svm_stm.c"] = f"#define SVM_REFUTED_MAX {refuted_max}\n{made['svm_stm.c']}"
    return made | {
        "svm_pool.c": "",
        "turns.c": (OWN / "turns.c").read_text("utf-8"),
        "turns.h": (OWN / "turns.h").read_text("utf-8"),
    }


def planted(text: str, right: str, wrong: str) -> str:
    """The text with a fault in place of what is right, which is there once."""
    assert text.count(right) == 1, f"{text.count(right)} times in the text: {right!r}"
    return text.replace(right, wrong)


def build_library(variant: Variant, folder: Path, changed: Mapping[str, str] = {}) -> Path:
    """The extension, in `folder`. `changed` replaces whole files by name, or adds them.

    Raises `CannotBuild` where the machine lacks something, `BuildFailed` where the sources are wrong.
    """
    texts = sources() | dict(changed)
    objects = compile_all(variant, texts, folder)
    library = folder / "_fastpath.so"
    _run(
        [
            find_compiler(variant),
            *variant.flags,
            "-shared",
            *map(str, objects),
            "-pthread",
            "-o",
            str(library),
        ]
    )
    return library


def build_program(
    variant: Variant, folder: Path, own: Sequence[Path], *flags: str, changed: Mapping[str, str] = {}
) -> Path:
    """A program of our C files and its `own`, in `folder`; `flags` are for linking."""
    texts = sources() | dict(changed)
    del texts["_fastpath.c"]
    texts |= {each.name: each.read_text("utf-8") for each in own}
    objects = compile_all(variant, texts, folder)
    program = folder / own[0].stem
    _run(
        [find_compiler(variant), *variant.flags, *flags, *map(str, objects), "-pthread", "-o", str(program)],
    )
    return program


def compile_all(variant: Variant, texts: Mapping[str, str], folder: Path) -> list[Path]:
    """An object for each C file of `texts`, which are written to `folder`: for a program or a library."""
    compiler = find_compiler(variant)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    headers = {name: text for name, text in sorted(texts.items()) if name.endswith(".h")}
    ours = [text for name, text in headers.items() if name.startswith("svm_")]
    python = f"-I{sysconfig.get_paths()['include']}"
    all_flags = ["-std=c11", "-fPIC", *variant.flags, python, f"-I{folder}"]
    # What counts its lines writes beside the object where it was compiled: it isn't shared.
    kept = folder if "--coverage" in variant.flags else KEPT
    kept.mkdir(parents=True, exist_ok=True)

    def compile_one(name: str) -> Path:
        # Our own sources include our own headers alone.
        read = ours if name.startswith("svm_") else headers.values()
        parts = [_version(compiler), *all_flags[:-1], *read, texts[name]]
        key = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
        made = kept / f"{Path(name).stem}-{key}.o"
        if not made.exists():
            part = made.with_suffix(f".{os.getpid()}.o") if kept is KEPT else made
            _run([compiler, *all_flags, "-c", str(folder / name), "-o", str(part)])
            part.replace(made)
        return made

    names = [name for name in texts if name.endswith(".c")]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        return list(threads.map(compile_one, names))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
    )
    if done.returncode == 0:
        return
    if any(word in done.stderr for word in NO_SANITIZER):
        raise CannotBuild(f"the compiler has no such sanitizer: {done.stderr.splitlines()[-1]}")
    raise BuildFailed(f"{' '.join(command)}\n{done.stderr}")
