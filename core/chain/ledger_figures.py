"""What the ledger and the gas policy show as metrics (OBS-14, OBS-18, TIER-80, GAS-24)."""

from collections.abc import Sequence
from typing import Any

import attrs

from supervm.chain.figures import LANE_WORDS
from supervm.contracts.gas import GasError
from supervm.execution.errors import Code
from supervm.kernel.component import Metrics
from supervm.storage.ledger import LedgerStats
from supervm.types.packed_receipts import ReceiptHead
from supervm.types.receipt import Receipt
from supervm.types.state import NATIVE_TOKEN
from supervm.types.wrongs import OFFENCES

CACHES = ("pages", "state")
NATIVE, OTHER = "native", "other"
BEYOND_F = frozenset((Code.NONCE_USED, Code.NONCE_GAP, Code.FEE_UNFUNDED))
"""What becomes of no certified transaction while at most f are hostile (CONS-45)."""


def gas_codes() -> tuple[str, ...]:
    """The code of every refusal that is the gas policy's."""
    return tuple(sorted(each.__name__ for each in GasError.__subclasses__()))


@attrs.define
class LedgerFigures:
    """See the module; every series is there from the start, at 0 (OBS-5)."""

    _height: Any
    _hits: Any
    _misses: Any
    _cache_bytes: Any
    _cache_limit: Any
    _price: Any
    _fullness: Any
    _gas_used: Any
    _fees: Any
    _refused: Any
    slashed: Any
    _beyond_f: Any
    _codes: frozenset[str] = attrs.field(factory=lambda: frozenset(gas_codes()))
    _counted: dict[str, tuple[int, int]] = attrs.field(factory=lambda: dict.fromkeys(CACHES, (0, 0)))

    @classmethod
    def declare(cls, metrics: Metrics) -> "LedgerFigures":
        counter, gauge, cache = metrics.counter, metrics.gauge, ("cache",)
        made = cls(
            gauge("supervm_storage_commit_height", "Height of the last durable block"),
            counter("supervm_storage_cache_hits_total", "Answered from a cache of the ledger", cache),
            counter("supervm_storage_cache_misses_total", "Not in a cache of the ledger", cache),
            gauge("supervm_cache_bytes", "Bytes in a cache of the ledger", cache),
            gauge("supervm_cache_bytes_limit", "The bound of supervm_cache_bytes", cache),
            gauge("supervm_gas_base_price", "Micro base units per gas that the next block asks"),
            gauge("supervm_gas_block_fullness", "Gas used by the last block, of what a block may use"),
            counter("supervm_gas_used_total", "Gas used in blocks, by lane", ("lane",)),
            counter("supervm_fees_charged_total", "Fees charged, in base units of the token", ("token",)),
            counter("supervm_gas_refused_total", "Transactions refused by the gas policy", ("reason",)),
            counter("supervm_slashed_total", "Offences for which a validator was punished", ("offence",)),
            counter(
                "supervm_certified_wrong_total",
                "Certified transactions in blocks that more than f hostile validators let pass",
                ("code",),
            ),
        )
        for word in LANE_WORDS.values():
            made._gas_used.inc(0, lane=word)
        for offence in OFFENCES.values():
            made.slashed.inc(0, offence=offence)
        for wrong in BEYOND_F:
            made._beyond_f.inc(0, code=wrong)
        for token in (NATIVE, OTHER):
            made._fees.inc(0, token=token)
        for code in made._codes:
            made._refused.inc(0, reason=code)
        return made

    def refused(self, code: str) -> None:
        """A refusal at admission, of any kind."""
        if code in self._codes:
            self._refused.inc(reason=code)

    def committed(self, receipts: Sequence[Receipt | ReceiptHead], gas_max: int) -> None:
        """A block is durable; `gas_max` is the gas that a block may use."""
        gas = dict.fromkeys(LANE_WORDS, 0)
        fees = dict.fromkeys((NATIVE, OTHER), 0)
        for receipt in receipts:
            gas[receipt.lane] += receipt.gas_used
            fees[NATIVE if receipt.gas_token == NATIVE_TOKEN else OTHER] += receipt.fee
        for lane, used in gas.items():
            self._gas_used.inc(used, lane=LANE_WORDS[lane])
        for token, fee in fees.items():
            self._fees.inc(fee, token=token)
        self._fullness.set(sum(gas.values()) / gas_max)

    def beyond_f(self, receipts: Sequence[Receipt | ReceiptHead]) -> list[Receipt | ReceiptHead]:
        """Count and give, of a block whose batches were certified, what no honest quorum accepts."""
        found = [receipt for receipt in receipts if receipt.code in BEYOND_F]
        for receipt in found:
            self._beyond_f.inc(code=receipt.code)
        return found

    def refresh(self, stats: LedgerStats, base_price: int) -> None:
        """Bring the gauges up to date, and count what the caches answered since the last time."""
        self._height.set(stats.height)
        self._price.set(base_price)
        for cache in CACHES:
            now = getattr(stats, cache)
            hits, misses = self._counted[cache]
            self._hits.inc(now.hits - hits, cache=cache)
            self._misses.inc(now.misses - misses, cache=cache)
            self._counted[cache] = (now.hits, now.misses)
            self._cache_bytes.set(now.bytes, cache=cache)
            self._cache_limit.set(now.bytes_max, cache=cache)
