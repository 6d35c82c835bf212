"""Executing a data folder's chain again, beside it."""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from pathlib import Path
from typing import Any

import attrs

from supervm.chain.validator_sets import sets_by_digest
from supervm.cli.folders import (
    check_chain,
    check_persistent,
    opened_storage,
    planned_storage,
    scratch_storage,
)
from supervm.contracts.gas import GasPolicy
from supervm.contracts.storage import KeyValueStore
from supervm.crypto.votes import verify_certificate
from supervm.execution import BlockInput, BlockResult, block_keys, execute_block
from supervm.execution.election import elect
from supervm.execution.punishing import owing_in, wrong_keys
from supervm.execution.working import GAS_STATE_KEY, Fetched
from supervm.node.assembly import INSIDE
from supervm.node.chain import open_chain
from supervm.node.compose import prepare
from supervm.node.options import NodeOptions
from supervm.storage.errors import ChainMismatch
from supervm.storage.folder import open_folder
from supervm.storage.ledger import open_ledger
from supervm.storage.verify import Replay, verify_chain, verify_kept, verify_tree
from supervm.telemetry.logs import LogConfig, open_logs
from supervm.types.block import Block, BlockHeader
from supervm.types.digests import ZERO
from supervm.types.errors import ProofInvalid
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.stakes import STAKES_KEY, stakes_of
from supervm.types.transaction import Transaction
from supervm.types.validators import ValidatorSet
from supervm.types.wrongs import DOUBLES_KEY, Wrongs, wrongs_in

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
        final = Finality(genesis, await sets_by_digest(store)).check
        replay = ReplayRules(genesis, gas, gas_state)
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


class Finality:
    """Judges the certificates of a chain's blocks, in their order, each by the set of its epoch.

    The first set is that of genesis; each other one is named by the last block of the epoch before, which the
    set before signed. `known`: sets by digest, which is their proof.
    """

    def __init__(self, genesis: Genesis, known: Mapping[bytes, ValidatorSet]) -> None:
        self._chain_id = genesis.chain_id
        self._known = known
        self._validators = genesis.validators
        self._epoch = 1

    def check(self, header: BlockHeader, certificate: bytes) -> None:
        """Raises `InvalidInput`."""
        proof = FinalityProof.decode(certificate)
        proof.check_of(header.digest())
        for each in (header, *proof.headers):
            named = (each.epoch, each.validators_digest)
            if named != (self._epoch, self._validators.digest()):
                raise ProofInvalid("ProofInvalid", "of another epoch or set", each.epoch, f"{self._epoch}")
        if proof.finalisation.epoch != self._epoch:
            raise ProofInvalid("ProofInvalid", "signed in another epoch", proof.finalisation.epoch)
        verify_certificate(proof.finalisation, self._chain_id, self._validators)
        if header.next_validators_digest != ZERO:
            following = self._validators
            if header.next_validators_digest != following.digest():
                found = self._known.get(header.next_validators_digest)
                if found is None:
                    raise ProofInvalid("ProofInvalid", "no such set is kept", header.next_validators_digest)
                following = found
            self._validators = following
            self._epoch += 1


@attrs.define
class ReplayRules:
    """How this chain executes and judges a block. Blocks come in order, one at a time."""

    genesis: Genesis
    gas: GasPolicy
    gas_state: bytes
    sets: list[tuple[int, ValidatorSet]] = attrs.Factory(list)
    """The sets that stakes elect, by the height from which on."""
    validators: ValidatorSet | None = None
    """Of the epoch, where it isn't that of genesis."""
    owing: tuple[bytes, ...] = ()
    """The accounts that pay when the epoch ends (CONS-17)."""

    def touched(self, block: Block) -> Collection[bytes]:
        return self._keys(_decoded(block, self.genesis), self._wrongs(block))

    def _keys(self, transactions: Sequence[Transaction], wrongs: Wrongs) -> Collection[bytes]:
        return block_keys(transactions, self.gas, self.gas_state) | wrong_keys(wrongs)

    def _wrongs(self, block: Block) -> Wrongs:
        """Raises `InvalidInput`."""
        owing = self.owing if block.header.next_validators_digest != ZERO else None
        validators = self.validators or self.genesis.validators
        return wrongs_in(block.body.system_operations, validators, self.genesis.limits, owing)

    def execute(self, state: Mapping[bytes, bytes], block: Block) -> BlockResult:
        transactions = _decoded(block, self.genesis)
        wrongs = self._wrongs(block)
        # Absent keys are given as such, so that a key that wasn't fetched is still told from them.
        keys = self._keys(transactions, wrongs)
        header = block.header
        given = BlockInput(
            height=header.height,
            epoch=header.epoch,
            timestamp_ms=header.timestamp_ms,
            proposer=header.proposer,
            chain_id=header.chain_id,
            limits=self.genesis.limits,
            transactions=transactions,
            granted=self.genesis.validators,
            wrongs=wrongs,
        )
        result = execute_block(Fetched({key: state.get(key) for key in keys}), given, self.gas)
        self.gas_state = result.changes.get(GAS_STATE_KEY) or self.gas_state
        if STAKES_KEY in result.changes:
            stakes = stakes_of(result.changes[STAKES_KEY])
            elected = elect(self.genesis.validators, stakes, self.genesis.native_decimals)
            if elected.members:
                self.sets.append((header.height, elected))
        if DOUBLES_KEY in result.changes:
            self.owing = owing_in(result.changes[DOUBLES_KEY])
        self._check_next_set(header)
        return result

    def _check_next_set(self, header: BlockHeader) -> None:
        """The last block of an epoch names the set that its root height's state elects (CONS-54)."""
        if header.next_validators_digest == ZERO:
            return
        elected = [found for height, found in self.sets if height <= header.root_height]
        following = elected[-1] if elected else self.genesis.validators
        digest = following.digest()
        if digest != header.next_validators_digest:
            shown = header.next_validators_digest.hex()
            raise ChainMismatch(header.height, "next validator set", digest.hex(), shown)
        self.validators = following


def _decoded(block: Block, genesis: Genesis) -> tuple[Transaction, ...]:
    return tuple(Transaction.decode(data, genesis.limits) for data in block.transactions)
