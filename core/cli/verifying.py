"""Executing a data folder's chain again, beside it."""

import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import Any

import attrs

from supervm.cli.folders import (
    check_chain,
    check_persistent,
    finality_of,
    opened_storage,
    planned_storage,
    scratch_storage,
)
from supervm.contracts.gas import GasPolicy
from supervm.contracts.storage import KeyValueStore
from supervm.execution import BlockInput, BlockResult, block_keys, execute_block
from supervm.execution.working import GAS_STATE_KEY, Fetched
from supervm.node.assembly import INSIDE
from supervm.node.chain import open_chain
from supervm.node.compose import prepare
from supervm.node.options import NodeOptions
from supervm.storage.folder import open_folder
from supervm.storage.ledger import open_ledger
from supervm.storage.verify import Replay, verify_chain, verify_kept, verify_tree
from supervm.telemetry.logs import LogConfig, open_logs
from supervm.types.block import Block
from supervm.types.genesis import Genesis
from supervm.types.transaction import Transaction

Progress = Callable[[str, int], AbstractContextManager[Any]]


async def verify_folder(options: NodeOptions, genesis: Path | None, progress: Progress) -> dict[str, Any]:
    """Verify the chain of the options' data folder; what was checked. Raises Failure, StorageError."""
    prepared = await prepare(options, inside=INSIDE)
    check_chain(prepared.data)
    with (
        open_logs(LogConfig(level="warning")) as logs,
        open_folder(prepared.data, prepared.storage) as folder,
        tempfile.TemporaryDirectory(prefix="supervm-verify-") as scratch,
    ):
        chain = open_chain(folder.path, genesis, prepared.node.name).genesis
        planned = planned_storage(prepared, chain)
        async with (
            opened_storage(prepared, planned, folder.path, logs) as (store, gas),
            opened_storage(prepared, scratch_storage(prepared, chain), Path(scratch), logs) as (copy, _),
        ):
            return await _verify(store, copy, chain, gas, progress)


async def _verify(
    store: KeyValueStore, copy: KeyValueStore, genesis: Genesis, gas: GasPolicy, progress: Progress
) -> dict[str, Any]:
    check_persistent(store)
    gas_state = gas.initial_state()
    async with open_ledger(store, genesis, gas_state, gas.base_price(gas_state)) as ledger:
        tip = ledger.tip
        # Without the first blocks there is nothing to execute from: what is kept is checked as it lies.
        pruned = ledger.horizon.blocks > 1
        final = finality_of(genesis)
        replay = _ReplayRules(genesis, gas, gas_state)
        transactions = 0
        with progress("checking" if pruned else "executing", tip.height) as bar:
            chain = (
                verify_kept(ledger, tip, ledger.horizon.blocks, final)
                if pruned
                else verify_chain(
                    ledger,
                    copy,
                    genesis,
                    gas,
                    Replay(touched=replay.touched, execute=replay.execute, check_certificate=final),
                )
            )
            async with aclosing(chain) as steps:
                async for step in steps:
                    transactions = step.transactions
                    if pruned and step.height >= ledger.horizon.blocks:
                        await ledger.check_index(step.height)
                    bar.update(1 if step.height else 0)
        with progress("hashing the state", 0):
            entries = await verify_tree(ledger)
    return {
        "verified": True,
        "executed": not pruned,
        "oldest_block": str(ledger.horizon.blocks),
        "chain_id": f"0x{genesis.chain_id.hex()}",
        "height": str(tip.height),
        "transactions": transactions,
        "state_entries": entries,
        "state_root": f"0x{tip.state_root.hex()}",
    }


@attrs.define
class _ReplayRules:
    """How this chain executes and judges a block. Blocks come in order, one at a time."""

    genesis: Genesis
    gas: GasPolicy
    gas_state: bytes

    def touched(self, block: Block) -> Collection[bytes]:
        return block_keys(_decoded(block, self.genesis), self.gas, self.gas_state)

    def execute(self, state: Mapping[bytes, bytes], block: Block) -> BlockResult:
        transactions = _decoded(block, self.genesis)
        # Absent keys are given as such, so that a key that wasn't fetched is still told from them.
        keys = block_keys(transactions, self.gas, self.gas_state)
        header = block.header
        given = BlockInput(
            height=header.height,
            epoch=header.epoch,
            timestamp_ms=header.timestamp_ms,
            proposer=header.proposer,
            chain_id=header.chain_id,
            limits=self.genesis.limits,
            transactions=transactions,
        )
        result = execute_block(Fetched({key: state.get(key) for key in keys}), given, self.gas)
        self.gas_state = result.changes.get(GAS_STATE_KEY) or self.gas_state
        return result


def _decoded(block: Block, genesis: Genesis) -> tuple[Transaction, ...]:
    return tuple(Transaction.decode(data, genesis.limits) for data in block.transactions)
