"""No skip hides a broken build: where the C library can be built, every test of it runs."""

import os
import sysconfig
from pathlib import Path

import pytest

from supervm.hardware import fastpath
from tests.needs import COMPILER

HEADERS = Path(sysconfig.get_path("include"), "Python.h")
OFF = [
    name
    for name in ("SUPERVM_BUILD_NATIVE", "SUPERVM_NATIVE")
    if os.environ.get(name, "on").strip().lower() == "off"
]


@pytest.mark.skipif(bool(OFF), reason=f"the twins alone were asked for by {' and '.join(OFF)}")
@pytest.mark.skipif(COMPILER is None or not HEADERS.exists(), reason="no C compiler, or no headers of Python")
def test_where_a_compiler_is_the_c_library_is_there_too() -> None:
    reasons = {name: path.reason for name, path in fastpath.report().items() if not path.native}
    assert fastpath.NATIVE and fastpath.BLOCKS_NATIVE, f"install the project again; it said: {reasons}"
