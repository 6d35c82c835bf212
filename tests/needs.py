"""What a test needs of its machine beyond Python: marks that skip it where that is missing, with the reason.

A skip must not hide a build that broke: test_needs.py fails where the C library could be there and isn't.
"""

import os
import shutil
import signal
import sys

import pytest

from supervm.hardware import fastpath

COMPILER = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)

c_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc, gcc, clang) on PATH")
# The scanner, hashing and signatures in C need any compiler; the block engine one of the GNU kind.
c_library = pytest.mark.skipif(not fastpath.NATIVE, reason=fastpath.report()["scan_transactions"].reason)
c_engine = pytest.mark.skipif(not fastpath.BLOCKS_NATIVE, reason=fastpath.report()["execute_block"].reason)

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="reads what only Linux has: /proc, its library names"
)
root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become nobody")
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
interval_timers = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="the system has no interval timers"
)
