"""Runs a module with another build of the C library in place of the installed one.

python -m tests.sanitizers.library LIBRARY MODULE [ARGUMENT...]
"""

import os
import runpy
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location

from tests.sanitizers.building import MODULE


def load_library(path: str) -> None:
    """Make `import supervm.hardware._fastpath` give the library at `path`. Before anything imports it."""
    assert MODULE not in sys.modules, "the installed library is loaded already"
    spec = spec_from_file_location(MODULE, path, loader=ExtensionFileLoader(MODULE, path))
    assert spec is not None and spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    sys.modules[MODULE] = made
    # A sanitizer's runtime is in this process by now; programs that tests start have their own, or none.
    os.environ.pop("LD_PRELOAD", None)


if __name__ == "__main__":
    load_library(sys.argv[1])
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
