"""A validator's log is founded once, with its key; one that isn't whole is a lost one (CONS-67)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervm.contracts.storage import Delete, KeyValueStore, Put
from supervm.node.chain import FOUNDING, make_identity, open_chain
from supervm.plugins.consensus.bft.driver.founding import (
    LOST,
    ROW,
    WHOLE,
    Standing,
    damage_of,
    read_standing,
    write_standing,
)
from supervm.plugins.consensus.bft.driver.journal import LOCKS, ORDERING, record_key
from supervm.plugins.storage import supervm_components as stores
from supervm.storage.spaces import seal
from supervm.testing.context import opened

SPACES = (LOCKS, ORDERING)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[KeyValueStore]:
    memory = next(each for each in stores() if each.name == "memory")
    async with opened(memory, tmp_path / "store") as made:
        yield made


async def test_the_log_of_a_key_that_was_never_used_is_founded_once(
    store: KeyValueStore, tmp_path: Path
) -> None:
    founding = tmp_path / "unused"
    founding.touch()
    assert await read_standing(store, founding, keeps_log=False) == WHOLE
    assert not founding.exists()
    assert await read_standing(store, founding, keeps_log=False) == WHOLE
    await _empty(store, *SPACES)
    assert await read_standing(store, founding, keeps_log=False) == LOST, "a new disk, and an old key"
    founding.touch()
    assert await read_standing(store, founding, keeps_log=False) == LOST, "what is lost isn't founded again"


@pytest.mark.parametrize("space", SPACES)
async def test_a_log_of_which_one_space_is_gone_is_lost(
    store: KeyValueStore, tmp_path: Path, space: bytes
) -> None:
    await write_standing(store, WHOLE)
    await _empty(store, space)
    (tmp_path / "unused").touch()
    assert await read_standing(store, tmp_path / "unused", keeps_log=True) == LOST
    assert await read_standing(store, None, keeps_log=True) == LOST, "and stays so"


async def test_a_damaged_row_is_a_lost_log_and_a_crash_before_the_files_removal_isnt(
    store: KeyValueStore, tmp_path: Path
) -> None:
    founding = tmp_path / "unused"
    founding.touch()
    await write_standing(store, Standing(7))
    assert await read_standing(store, founding, keeps_log=True) == Standing(7)
    assert not founding.exists()
    await store.write([Put(LOCKS + ROW, b"damaged")])
    assert await read_standing(store, founding, keeps_log=True) == LOST


@pytest.mark.parametrize("known", [True, False])
async def test_a_log_of_before_founding_was_known_is_whole_and_a_chain_without_one_isnt(
    store: KeyValueStore, tmp_path: Path, known: bool
) -> None:
    founding = tmp_path / "unused" if known else None
    assert await read_standing(store, founding, keeps_log=True) == WHOLE
    await _empty(store, *SPACES)
    assert await read_standing(store, founding, keeps_log=False) == LOST


async def test_records_that_cant_be_read_are_told_and_whole_ones_arent(store: KeyValueStore) -> None:
    assert await damage_of(store, 3, 0) == ""
    key = record_key(LOCKS, 3, 1)
    await store.write([Put(key, seal(key, b"\xff no record"))])
    assert "record.kind" in await damage_of(store, 3, 0)
    assert await damage_of(store, 4, 0) == "", "of another epoch"
    await store.write([Put(key, b"no seal")])
    assert "damaged" in await damage_of(store, 3, 0)


def test_whoever_makes_a_key_says_beside_it_that_it_was_never_used(tmp_path: Path) -> None:
    make_identity(tmp_path, "one")
    assert (tmp_path / FOUNDING).exists()
    chain = open_chain(tmp_path, None, "one")
    assert chain.identity.founding == tmp_path / FOUNDING
    (tmp_path / FOUNDING).unlink()
    make_identity(tmp_path, "one")
    assert not (tmp_path / FOUNDING).exists(), "the key was there"


def test_only_whoever_lost_its_log_is_silent_and_not_longer_than_it_must_be() -> None:
    assert [WHOLE.silent_in(1), LOST.silent_in(10**9)] == [False, True]
    assert [Standing(5).silent_in(epoch) for epoch in (4, 5)] == [True, False]
    assert [Standing.decode(each.encode()) for each in (WHOLE, LOST, Standing(5))] == [
        WHOLE,
        LOST,
        Standing(5),
    ]


async def _empty(store: KeyValueStore, *spaces: bytes) -> None:
    await store.write([Delete(space + ROW) for space in spaces])
