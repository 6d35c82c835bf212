"""Goodput: committed, successful transactions a second (OBS-6, OBS-7)."""

WINDOW_S = 10


class Goodput:
    """Overall, over the last complete 10 s, and the best complete 10 s since the start. Pure.

    `now_s` is monotonic seconds and never goes back between calls. Every window is seen, also one that
    nobody looked at while it lasted: the seconds since the last call are closed one by one.
    """

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._second = int(now_s)
        # One bucket a second: the window's, and the one that runs.
        self._counts = [0] * (WINDOW_S + 1)
        self._in_window = 0
        self._complete_s = 0
        self._total = 0
        self._peak = 0.0

    def add(self, count: int, now_s: float) -> None:
        self._turn(now_s)
        self._counts[self._second % len(self._counts)] += count
        self._total += count

    def window(self, now_s: float) -> float:
        """Of the last ten whole seconds, or of as many as there were since the start."""
        self._turn(now_s)
        return self._in_window / min(self._complete_s, WINDOW_S) if self._complete_s else 0.0

    def peak(self, now_s: float) -> float:
        """Of the best ten whole seconds since the start."""
        self._turn(now_s)
        return self._peak

    def overall(self, now_s: float) -> float:
        """Since the start."""
        return self._total / max(now_s - self._began_s, 1.0)

    def _turn(self, now_s: float) -> None:
        """Close the seconds that have ended; a long silence costs one pass over the ring."""
        ended = int(now_s) - self._second
        size = len(self._counts)
        for _ in range(min(ended, size)):
            self._in_window += self._counts[self._second % size]
            self._second += 1
            self._complete_s += 1
            oldest = self._second % size
            self._in_window -= self._counts[oldest]
            self._counts[oldest] = 0
            if self._complete_s >= WINDOW_S:
                self._peak = max(self._peak, self._in_window / WINDOW_S)
        if ended > size:
            assert self._in_window == 0, "a whole turn empties the window"
            self._second += ended - size
            self._complete_s += ended - size
