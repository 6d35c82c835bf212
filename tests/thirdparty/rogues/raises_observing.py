"""An observer that raises whenever it is told anything."""

from supervm.api import Block, hookimpl


@hookimpl
def supervm_block_committed(block: Block) -> None:
    raise RuntimeError(f"block {block.header.height} is not to my taste")
