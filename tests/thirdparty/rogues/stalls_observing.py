"""An observer that never comes back."""

import threading
from collections.abc import Sequence

from supervm.api import Block, Receipt, hookimpl


@hookimpl
def supervm_block_committed(block: Block, receipts: Sequence[Receipt]) -> None:
    threading.Event().wait()
