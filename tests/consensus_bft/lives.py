"""Watching which lives the engines of a test begin: a validator's, or a follower's."""

from typing import Any

import pytest
import trio

from supervm.plugins.consensus.bft.driver.component import Bft

from .network import WAIT_S


class Lives:
    """The lives that engines begin, while one watches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._kinds: list[tuple[Bft, type]] = []
        self._more = trio.Event()
        original = Bft.__setattr__

        def note(bft: Bft, name: str, value: Any) -> None:
            original(bft, name, value)
            if name == "life":
                self._kinds.append((bft, type(value)))
                self._more.set()
                self._more = trio.Event()

        monkeypatch.setattr(Bft, "__setattr__", note)

    async def wait_for(self, engine: Bft, *kinds: type) -> None:
        """Wait until a node has had lives of these kinds, the last of them now."""
        with trio.fail_after(WAIT_S):
            while True:
                had = [kind for bft, kind in self._kinds if bft is engine]
                if set(kinds) <= set(had) and had[-1] is kinds[-1]:
                    return
                await self._more.wait()
