"""A plugin that ends the interpreter when it is asked for its components."""

import sys
from typing import Any

from supervm.api import hookimpl


@hookimpl
def supervm_components() -> Any:
    sys.exit(3)
