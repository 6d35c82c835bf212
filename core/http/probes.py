"""/healthz, /readyz, /metrics, /summary: for supervisors, scrapers and people. They never wait long."""

import trio
from starlette.requests import Request
from starlette.responses import Response

from supervm.http.api import HEARTBEAT_MISSED_S, SCRAPE_AGE_MAX_S, Api, api_of
from supervm.http.parameters import no_query
from supervm.http.problems import Problem
from supervm.http.responses import JsonResponse, TextResponse
from supervm.telemetry.metrics import CONTENT_TYPE, QUANTILES, Registry, Summary, exposition

# A busy ledger may not keep a scrape waiting: the last known height does (OBS-35).
STATUS_S = 0.5
ENDPOINTS = "/metrics (Prometheus), /healthz, /readyz, /summary (this)"


async def healthz(request: Request) -> Response:
    """Whether the event loop turns; no dependency is asked (OBS-31)."""
    no_query(request)
    api = api_of(request)
    silent_s = api.clock.monotonic() - api.beat_s
    if silent_s > HEARTBEAT_MISSED_S:
        raise Problem(
            status=503,
            code="Stalled",
            detail=f"the event loop last turned {silent_s:.1f} s ago",
            value=f"{silent_s:.1f} s",
            mend="look for a component that blocks the loop; restart the node if it lasts",
            retry_after_s=1.0,
        )
    return JsonResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether the node can do its work now, and if not, every reason."""
    no_query(request)
    api = api_of(request)
    reasons = list(api.facts.not_ready())
    if api.closing.is_set():
        reasons.append("the node is draining")
    if reasons:
        raise Problem(
            status=503,
            code="NotReady",
            detail="; ".join(reasons),
            mend="wait, or see /v1/plugins and the log for the cause",
            retry_after_s=1.0,
            extra={"reasons": reasons},
        )
    return JsonResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Every family of this node, at most a second old (OBS-4, OBS-9)."""
    no_query(request)
    api = api_of(request)
    now = api.clock.monotonic()
    if api.scrape is None or now - api.scrape[0] >= SCRAPE_AGE_MAX_S:
        api.scrape = (now, exposition(api.facts.metrics))
    taken_s, text = api.scrape
    return TextResponse(text, CONTENT_TYPE, {"age": str(int(now - taken_s))})


async def summary(request: Request) -> Response:
    """The same for people (OBS-33)."""
    no_query(request)
    api = api_of(request)
    with trio.move_on_after(STATUS_S):
        api.height = (await api.ledger.queries.status()).height
    return TextResponse(_summary(api, api.height), "text/plain; charset=utf-8")


def _summary(api: Api, height: int) -> str:
    registry = api.facts.metrics
    registry.collect()
    p50, p90, p99, _ = _quantiles(registry, "mvcc_txn_latency_ms")
    ratio = {
        lane: 100 * registry.value(f"vm_routing_{lane}_ratio", default=0)
        for lane in ("fast", "consensus", "privacy", "fast_fallback")
    }
    number = {
        name: registry.value(name, default=0)
        for name in (
            "mvcc_tps",
            "mvcc_tps_window",
            "mvcc_tps_peak",
            "mvcc_success_rate",
            "mvcc_gc_runs_total",
            "mvcc_gc_versions_cleaned_total",
            "mvcc_flush_keys_total",
            "mvcc_flush_last_block",
        )
    }
    return "\n".join(
        (
            "=== MVCC Metrics Summary ===",
            f"TPS(overall): {number['mvcc_tps']:.0f}",
            f"TPS(window):  {number['mvcc_tps_window']:.0f}",
            f"TPS(peak):    {number['mvcc_tps_peak']:.0f}",
            f"Success Rate: {100 * number['mvcc_success_rate']:.2f}%",
            f"Latency(ms):  P50={p50:.2f} P90={p90:.2f} P99={p99:.2f}",
            f"Routing:      fast={ratio['fast']:.1f}% consensus={ratio['consensus']:.1f}% "
            f"privacy={ratio['privacy']:.1f}% fallback={ratio['fast_fallback']:.1f}%",
            f"GC/Flush:     runs={number['mvcc_gc_runs_total']:.0f} "
            f"cleaned={number['mvcc_gc_versions_cleaned_total']:.0f} / "
            f"flushed={number['mvcc_flush_keys_total']:.0f} last_block={number['mvcc_flush_last_block']:.0f}",
            f"Node:         tier={api.facts.tier()} height={height} peers={api.facts.peers()} "
            f"health={api.facts.health()}",
            f"Endpoints: {ENDPOINTS}",
            "",
        )
    )


def _quantiles(registry: Registry, name: str) -> list[float]:
    for family in registry.families():
        if family.name == name and not family.labels:
            series = family.series()
            return series.quantiles() if isinstance(series, Summary) else [0.0] * len(QUANTILES)
    return [0.0] * len(QUANTILES)
