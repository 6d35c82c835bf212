"""What a soak watches: the event stream from outside, and the node's memory and files."""

import threading
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from supervm.client.http import NodeClient, NodeUnreachable, RequestRefused

RETRY_S = 0.1


@attrs.define
class Stream:
    """A reader of /v1/events that comes back with its last id, and judges what it is given.

    Pure but for `read`. `problems` holds every break that no `gap` event told of.
    """

    last_id: str = "0"
    run: str = ""
    number: int = 0
    height: int | None = None
    after_gap: bool = True
    events: int = 0
    gaps: int = 0
    blocks_missed: int = 0
    ended: int = 0
    problems: list[str] = attrs.Factory(list)

    def saw(self, event_id: str, kind: str, data: Any) -> None:
        run, _, text = event_id.partition("-")
        number = int(text)
        if kind == "gap":
            self.gaps += 1
            self.after_gap = True
        else:
            self.events += 1
            if run != self.run and not self.after_gap:
                self.problems.append(f"{event_id} after {self.last_id}: another run, and no gap was told")
            elif run == self.run and number != self.number + 1:
                self.problems.append(f"{event_id} after {self.last_id}: events are missing or doubled")
            if kind == "block":
                self._block(int(data["height"]), event_id)
        self.run, self.number, self.last_id = run, number, event_id

    def _block(self, height: int, event_id: str) -> None:
        expected = height if self.height is None else self.height + 1
        if height < expected or (height > expected and not self.after_gap):
            self.problems.append(f"{event_id} is block {height}, due was {expected}")
        self.blocks_missed += max(0, height - expected)
        self.height, self.after_gap = height, False

    def read(self, url: str, stop: threading.Event) -> None:
        """Read until `stop`, and come back whenever the stream ends."""
        pause = threading.Event()
        with NodeClient(url) as client:
            while not stop.is_set():
                try:
                    for event_id, kind, data in client.events(self.last_id):
                        self.saw(event_id, kind, data)
                except (NodeUnreachable, RequestRefused):
                    pause.wait(RETRY_S)
                self.ended += 1


@attrs.frozen
class Sample:
    """The node's process at one moment: seconds since the soak began and since it was ready."""

    at_s: float
    age_s: float
    life: int
    rss_bytes: int
    files: int


def sample(pid: int, at_s: float, age_s: float, life: int) -> Sample:
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text().splitlines()
    rss_bytes = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return Sample(at_s, age_s, life, rss_bytes, sum(1 for _ in (process / "fd").iterdir()))


def first_and_last(values: list[float]) -> tuple[float, float]:
    """The medians of the first and the last quarter."""
    quarter = max(1, len(values) // 4)
    return median(values[:quarter]), median(values[-quarter:])


def settled(samples: list[Sample]) -> list[Sample]:
    """The second half of the longest life: its caches are full by then, if they ever are."""
    lives: dict[int, list[Sample]] = {}
    for one in samples:
        lives.setdefault(one.life, []).append(one)
    longest = max(lives.values(), key=lambda each: each[-1].age_s)
    return longest[len(longest) // 2 :]
