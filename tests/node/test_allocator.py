"""Large blocks are mappings of their own, however many came and went before."""

import ctypes
import subprocess
import sys

import pytest

CHILD = """
import ctypes, sys
from supervm.node.allocator import fix_mapped_size

class Facts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

c = ctypes.CDLL(None)
c.mallinfo2.restype = Facts
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "fixed":
    assert fix_mapped_size() and fix_mapped_size()
before = c.mallinfo2().hblks
for _ in range(3):
    c.free(c.malloc(2**20))
held = [c.malloc(2**20) for _ in range(10)]
print(c.mallinfo2().hblks - before)
"""


@pytest.mark.parametrize(("how", "mapped"), [("fixed", 10), ("as it is", 0)])
def test_a_large_block_is_mapped_also_after_others_were_freed(how: str, mapped: int) -> None:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library isn't a glibc that tells what it mapped")
    done = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, check=True)
    assert int(done.stdout) == mapped
