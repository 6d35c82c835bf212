"""What pyproject.toml can't say: packages from four source folders, and a C extension that may be missing.

The four top folders are one import package (`package-dir` in pyproject.toml). A machine without a C
compiler still installs: the extension is optional, and the pure-Python twins run in its place.
"""

import os

from setuptools import find_packages, setup

ROOTS = {
    "core": "supervm",
    "plugins": "supervm.plugins",
    "hardware": "supervm.hardware",
    "storage": "supervm.storage",
}


def packages() -> list[str]:
    found = []
    for folder, package in ROOTS.items():
        found.append(package)
        found += [f"{package}.{name}" for name in find_packages(folder)]
    return found


# SUPERVM_BUILD_NATIVE=off installs without compiling, which is how CI proves the twins.
native = os.environ.get("SUPERVM_BUILD_NATIVE", "on").lower() != "off"

setup(
    packages=packages(),
    cffi_modules=["hardware/fastpath/build_fastpath.py:ffibuilder"] if native else [],
)
