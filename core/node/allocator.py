"""Large memory given back to the system once it is free, on glibc.

Its allocator raises the size from which a block is a mapping of its own with each such block that is freed. A
store's write buffers come and go in blocks of 1 MiB: after the first they lie on the heap between what
stays, and what is free there is never the system's again: a node grows for hours without holding more.
With the size fixed, such a block is mapped and unmapped, whatever came before.
"""

import ctypes
import sys

MAPPED_BYTES_MIN = 256 * 1024
_M_MMAP_THRESHOLD = -3


def fix_mapped_size() -> bool:
    """Fix it for this process; whether the C library knows how to."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(ctypes.c_int(_M_MMAP_THRESHOLD), ctypes.c_int(MAPPED_BYTES_MIN)))
