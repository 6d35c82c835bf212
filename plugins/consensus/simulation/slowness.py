"""A disk or a processor that is slow for a spell (CONS-95, slow validator)."""

import random

import attrs


@attrs.define(eq=False)
class Slowness:
    """How much longer something takes at one validator now. While `by_ms` is 0 nothing is drawn, either."""

    rng: random.Random = attrs.Factory(random.Random)
    by_ms: float = 0.0

    def extra_s(self) -> float:
        """Seconds to add to one use: half to one and a half times `by_ms`."""
        return self.rng.uniform(0.5, 1.5) * self.by_ms / 1000 if self.by_ms else 0.0
