"""An observer that asks the interpreter to exit."""

import sys

from supervm.api import Block, hookimpl


@hookimpl
def supervm_block_committed(block: Block) -> None:
    sys.exit(3)
