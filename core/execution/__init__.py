"""Execution: what a block does to the state, as a pure function; and what a transaction may do (EXEC-33).

This is the executable specification. It is written to be read, top-down from `execute_block`; faster
paths give the same bytes or are wrong.
"""

from supervm.execution.block import BlockInput, BlockResult, execute_block
from supervm.execution.errors import AcceptRefused, Code, ExecutionError, LaneRefused
from supervm.execution.footprint import block_keys, fee_terms, locks_of, max_spend, touched_keys
from supervm.execution.lanes import check_kind, classify
from supervm.execution.supply import recorded_supply, supply
from supervm.execution.working import GAS_STATE_KEY, Fetched, StateReader

__all__ = [
    "GAS_STATE_KEY",
    "AcceptRefused",
    "BlockInput",
    "BlockResult",
    "Code",
    "ExecutionError",
    "Fetched",
    "LaneRefused",
    "StateReader",
    "block_keys",
    "check_kind",
    "classify",
    "execute_block",
    "fee_terms",
    "locks_of",
    "max_spend",
    "recorded_supply",
    "supply",
    "touched_keys",
]
