"""How long a write waits for the disk, and what is said of it while it does (CONS-66)."""

from supervm.api import Context

SLOW_S = 5.0
"""A write that waits longer is told of in health: until it is through, nothing that rests on it is sent."""


class DiskWait:
    """The wait of a writer that writes one thing at a time. `so`: what doesn't happen meanwhile."""

    def __init__(self, ctx: Context, so: str) -> None:
        self._ctx = ctx
        self._so = so
        self._since_s: float | None = None
        self._full = ""

    def begins(self, since_s: float | None = None) -> None:
        """A write waits, from this moment of the monotonic clock on, or from now."""
        self._since_s = self._ctx.clock.monotonic() if since_s is None else since_s

    def is_full(self, error: Exception) -> None:
        """There was no room for it; it goes on waiting."""
        self._full = str(error)

    def ends(self) -> None:
        """It is through."""
        waited_s = self._waited_s
        if waited_s > SLOW_S:
            self._ctx.log.warning("disk_slow", waited_s=round(waited_s, 1), meanwhile=self._so)
        self._since_s = None
        self._full = ""

    @property
    def reason(self) -> str:
        """Why the writer stands still; empty if it doesn't, or not for long yet."""
        if self._full:
            return f"the disk is full, {self._so}: {self._full}"
        waited_s = self._waited_s
        if waited_s > SLOW_S:
            return f"the disk is slow, {self._so}: a write has waited for it for {waited_s:.0f} s"
        return ""

    @property
    def _waited_s(self) -> float:
        return 0.0 if self._since_s is None else self._ctx.clock.monotonic() - self._since_s
