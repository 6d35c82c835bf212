"""Whether a validator's log is whole: founded with its key, and never lost (CONS-67).

Whoever makes a node's key puts a file beside it that says that nothing was ever said with it. Who first keeps
a log for the key writes so into the log, and removes the file. From then on a store without that row is one
whose log was lost, however new it looks: it may be the second that the key votes with. So is one whose rows
can't be read. Such a validator is silent, and the row says until which epoch, once a quorum has told it.

The row stands in both spaces of the log (STO-30: 0b, 0d): losing either is losing the log.
"""

from contextlib import aclosing
from pathlib import Path

import attrs
import trio

from supervm.api import Context
from supervm.contracts.application import CertifyingApplication
from supervm.contracts.consensus import ConsensusError
from supervm.contracts.storage import Durability, KeyValueStore, Put, StoreCorrupt
from supervm.plugins.consensus.bft.driver.epoch import epoch_after, lowest_recalled
from supervm.plugins.consensus.bft.driver.journal import CLOSING, LOCKS, ORDERING, cause_of, scan_records
from supervm.plugins.consensus.bft.driver.kept import Kept, KeptBlocks
from supervm.storage.folder import remove_synced
from supervm.storage.spaces import seal, unseal
from supervm.types.codec import Reader, Writer
from supervm.types.errors import DecodeError
from supervm.types.finality import FinalityProof

ROW = b"v"


class LogMissing(ConsensusError):
    """A validator's chain is here without its log: nothing here can be voted on, or followed from."""


@attrs.frozen
class Standing:
    """From which epoch on a validator votes: 0 where its log is whole, None where it doesn't know yet."""

    votes_from: int | None

    def silent_in(self, epoch: int) -> bool:
        return self.votes_from is None or epoch < self.votes_from

    @property
    def reason(self) -> str:
        """Why it is silent, for people."""
        if self.votes_from is None:
            return (
                "this validator's log was lost or damaged, and it may have voted: it follows, says nothing, "
                "and asks the others until when"
            )
        return f"this validator's log isn't whole: it follows, and votes from epoch {self.votes_from} on"

    def encode(self) -> bytes:
        known = self.votes_from is not None
        return Writer().u8(1).boolean(known).u64(self.votes_from or 0, "votes_from").done()

    @classmethod
    def decode(cls, data: bytes) -> "Standing":
        reader = Reader(data)
        reader.format_byte("standing.format", 1)
        known, epoch = reader.boolean("standing.known"), reader.u64("standing.votes_from")
        reader.finish("standing")
        return cls(epoch if known else None)


WHOLE, LOST = Standing(0), Standing(None)


async def write_standing(store: KeyValueStore, standing: Standing) -> None:
    """Durably, in both spaces."""
    keys = (LOCKS + ROW, ORDERING + ROW)
    await store.write([Put(key, seal(key, standing.encode())) for key in keys], Durability.DURABLE)


async def read_standing(store: KeyValueStore, founding: Path | None, *, keeps_log: bool) -> Standing:
    """How this validator stands; founds its log where its key was never used.

    `founding`: the file beside the key; None where nobody can know of one, as in tests of one process: an
    empty store is then taken for a new one. `keeps_log`: whether the store holds a log, or nothing at all
    where there is no `founding`. Of a version that knew no founding it is taken as whole. Raises OSError.
    """
    rows = [await _read(store, space + ROW) for space in (LOCKS, ORDERING)]
    found = [each for each in rows if each is not None]
    if len(found) == len(rows) and len(set(found)) == 1:
        if founding is not None:
            # A crash came between the row and the file's removal.
            await trio.to_thread.run_sync(remove_synced, founding)
        return found[0]
    is_new = not found and founding is not None and await trio.Path(founding).exists()
    standing = WHOLE if is_new or (keeps_log and not found) else LOST
    await write_standing(store, standing)
    if is_new:
        assert founding is not None, "it was there"
        await trio.to_thread.run_sync(remove_synced, founding)
    return standing


async def _read(store: KeyValueStore, key: bytes) -> Standing | None:
    """None where the row is missing, or can't be read."""
    stored = await store.get(key)
    if stored is None:
        return None
    try:
        return Standing.decode(unseal(key, stored))
    except (StoreCorrupt, DecodeError):
        return LOST


async def damage_of(store: KeyValueStore, epoch: int, height: int) -> str:
    """Why the log of an epoch, up to the tip's height, can't be trusted; empty where each row can be read."""
    for space in (LOCKS, ORDERING, CLOSING):
        try:
            async with aclosing(scan_records(store, space, epoch)) as records:
                async for _ in records:
                    pass
        except (StoreCorrupt, DecodeError) as error:
            return cause_of(error)
    return await KeptBlocks(store).damage(epoch, height)


async def _remake_tip(ctx: Context, application: CertifyingApplication, kept: KeptBlocks) -> None:
    """Write the tip's row anew where it can't be read and the ledger has all of it: the roots, and a
    finalisation of the block itself, which names the view."""
    tip = application.tip()
    _, lost = await kept.facts_of(tip.height, tip.height) if tip.height else ([], {})
    if not lost or tip.height == application.restored_height:
        return
    try:
        proof = FinalityProof.decode(await application.certificate(tip.height))
    except (StoreCorrupt, DecodeError):
        # That is damaged, too: the facts stay lost.
        return
    finalisation = proof.finalisation
    if not proof.headers and finalisation.digest == tip.digest:
        await kept.remake(Kept(finalisation.view, application.facts(tip.height), finalisation))
        ctx.log.warning("facts_made_again", height=tip.height, cause=lost[tip.height])


async def _lost_facts(application: CertifyingApplication, kept: KeptBlocks) -> str:
    """Why the facts of a block that later headers show can't be read: a vote for these would be a guess."""
    height = application.tip().height
    _, lost = await kept.facts_of(lowest_recalled(application), height) if height else ([], {})
    return next(iter(lost.values()), "")


async def judge_log(ctx: Context, application: CertifyingApplication, store: KeyValueStore) -> Standing:
    """How this node stands in the epoch of the next block. What is found lost is written down as lost.

    Raises `LogMissing` where the chain can't even be followed without what is gone, `StoreCorrupt`, OSError.
    """
    founding, tip = application.identity.founding, application.tip()
    kept = KeptBlocks(store)
    is_founded = await kept.is_founded()
    keeps_log = is_founded or (founding is None and tip.height == 0)
    standing = await read_standing(store, founding, keeps_log=keeps_log)
    epoch = await epoch_after(application)
    if application.restored_height and not is_founded:
        # Its log begins in the middle of an epoch, of which it knows neither what is ordered nor, for sure,
        # the set; in the second after that it knows both, of that epoch and of the one before.
        standing = standing if standing.votes_from is None else Standing(max(standing.votes_from, epoch + 2))
        await write_standing(store, standing)
        await kept.found()
        is_founded = True
    is_indexed = await kept.is_indexed()
    damage = "" if is_indexed else await kept.index_batches()
    if not standing.silent_in(epoch):
        damage = damage or await damage_of(store, epoch, tip.height)
        await _remake_tip(ctx, application, kept)
        damage = damage or await _lost_facts(application, kept)
        if damage:
            ctx.log.error("log_damaged", epoch=epoch, cause=damage)
            standing = LOST
            await write_standing(store, standing)
    if not is_indexed:
        await kept.indexed()
    if standing.silent_in(epoch):
        await kept.forget_damaged_lives()
    if standing.silent_in(epoch) and tip.height and not is_founded:
        raise LogMissing(
            "the folder has a chain, and nothing of what this validator said on it",
            f"height {tip.height}",
            "put the whole folder back; or take the store away and keep the key: the node follows from the "
            "others, and votes again when it can't contradict itself",
        )
    return standing
