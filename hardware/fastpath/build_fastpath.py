"""Builds the C fast path: setup.py names this file in `cffi_modules`.

Paths are relative to the repository root, where setuptools runs. `optional` lets an install without a
compiler go through; the node then runs the pure-Python twins and says so. In a checkout:

    python setup.py build_ext --inplace
"""

from pathlib import Path

from cffi import FFI

FOLDER = "hardware/fastpath"
NAMES = ("scan", "cpu", "pool", "verify", "blake3", "rows")
ENGINE = ("decode", "state", "execute", "stm", "parallel", "receipt", "ahead", "engine")
PARTS = ("changes", "load", "work", "build", "crown", "pages", "evict")  # of the state tree
SOURCES = [f"{FOLDER}/svm_{name}.c" for name in NAMES + ENGINE]
SOURCES += [f"{FOLDER}/svm_tree{part}.c" for part in ("", *(f"_{name}" for name in PARTS))]
HEADERS = (
    "svm_scan.h",
    "svm_cpu.h",
    "svm_pool.h",
    "svm_verify.h",
    "svm_blake3.h",
    "svm_engine.h",
    "svm_tree.h",
    "svm_rows.h",
)


def declarations(header: str) -> str:
    """What cffi may read of a header: all but the preprocessor's lines."""
    return "\n".join(line for line in header.splitlines() if not line.startswith("#"))


ffibuilder = FFI()
for name in HEADERS:
    ffibuilder.cdef(declarations(Path(FOLDER, name).read_text(encoding="utf-8")))
ffibuilder.set_source(
    "supervm.hardware._fastpath",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    sources=SOURCES,
    depends=[str(path) for path in sorted(Path(FOLDER).glob("*.h"))],
    include_dirs=[FOLDER],
    optional=True,
)
