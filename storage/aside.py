"""Rows that are known to be damaged: set aside, never served, until what belongs there is back (STO-43).

Whoever reads a damaged row of the ledger raises `RowDamaged`, and it is noted here. The row stays where it
lies, for whoever inspects the disk, and reading it fails from then on also where its seal would hold. A note
in the store keeps that over a restart.
"""

from collections.abc import Iterable

import attrs
import trio

from supervm.storage.errors import RowDamaged
from supervm.storage.spaces import ASIDE, LEDGER_END, STATE, corrupt

ROWS_MAX = 1_000
"""Rows kept in mind. Beyond it a damaged row is still never served, and noted when it is met again."""


@attrs.frozen
class Damage:
    """A row by its key in the store, and what was wrong with it."""

    key: bytes
    why: str


class Aside:
    """The damaged rows of one ledger, the first found first."""

    def __init__(self, known: Iterable[Damage] = ()) -> None:
        self._rows = {each.key: each for each in known}
        self._changed = trio.Event()

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> tuple[Damage, ...]:
        return tuple(self._rows.values())

    def notice(self, error: RowDamaged) -> None:
        """Note what a read met. Metadata and whole spaces are no rows that anyone could bring back."""
        key = error.key
        if STATE <= key < LEDGER_END and len(key) > 1 and key not in self._rows and len(self) < ROWS_MAX:
            self._rows[key] = Damage(key, error.subject)
            self._tell()

    def release(self, keys: Iterable[bytes]) -> None:
        """These are good again, or needed no more."""
        for key in keys:
            self._rows.pop(key, None)
        self._tell()

    def check(self, keys: Iterable[bytes]) -> None:
        """Raises `RowDamaged` for a row that is set aside."""
        for key in keys:
            if key in self._rows:
                raise corrupt(key, "it was found damaged, and is set aside until it is back")

    async def changed(self) -> None:
        """Wait until a row is noted or released."""
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


def note_key(key: bytes) -> bytes:
    """Where the note of a damaged row lies."""
    return ASIDE + key
