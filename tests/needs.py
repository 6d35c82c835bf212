"""What a test needs of its machine beyond Python: marks that skip it where that is missing, with the reason.

A skip must not hide a build that broke: test_needs.py fails where the C library could be there and isn't.
"""

import os
import shutil
import signal
import subprocess
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


def _may_mount() -> bool:
    """Whether this user may have a mount namespace of his own."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


mounts = pytest.mark.skipif(not _may_mount(), reason="this system lets the user mount nothing")
