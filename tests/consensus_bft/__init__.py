"""Consensus without I/O. `CONSENSUS_SCALE` multiplies seeds, runs and examples: 1 in CI, more in a search."""

import os

SCALE = int(os.environ.get("CONSENSUS_SCALE", "1"))
