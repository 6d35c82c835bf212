"""Running the probes: each in a thread with 2 s, all within 5 s, and none can stop the node (TIER-3)."""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import trio

from supervm.hardware.facts import (
    FACT_NAMES,
    HardwareFacts,
    Known,
    Probe,
    ProbeContext,
    Reading,
    Unknown,
)
from supervm.hardware.probes import BUILTIN

PROBES_MAX = 64
EXTRA_CHARS_MAX = 4096
_FIELDS = attrs.fields_dict(HardwareFacts)


@attrs.frozen(kw_only=True)
class ProbeLimits:
    """Seconds a probe may take, and all of them together."""

    each_s: float = 2.0
    together_s: float = 5.0


@attrs.frozen(kw_only=True)
class ProbeReport:
    """What probing found.

    `sources`: fact -> where it was read. `unknown`: fact -> why it is None. `extra`: facts of plugins'
    probes and measurements of `--deep`, JSON values. `failures`: probe -> why it failed. `seconds`:
    probe -> how long it took.
    """

    facts: HardwareFacts
    extra: Mapping[str, Any] = MappingProxyType({})
    sources: Mapping[str, str] = MappingProxyType({})
    unknown: Mapping[str, str] = MappingProxyType({})
    failures: Mapping[str, str] = MappingProxyType({})
    seconds: Mapping[str, float] = MappingProxyType({})


@attrs.define
class _Gathered:
    """The report in the making. A fact's first giver keeps it."""

    values: dict[str, Any] = attrs.Factory(dict)
    extra: dict[str, Any] = attrs.Factory(dict)
    sources: dict[str, str] = attrs.Factory(dict)
    unknown: dict[str, str] = attrs.Factory(dict)
    failures: dict[str, str] = attrs.Factory(dict)
    seconds: dict[str, float] = attrs.Factory(dict)

    def done(self) -> ProbeReport:
        unknown = {
            name: self.unknown.get(name, "no probe gives it")
            for name in FACT_NAMES
            if name not in self.sources
        } | {name: reason for name, reason in self.unknown.items() if name not in _FIELDS}
        return ProbeReport(
            facts=HardwareFacts(**self.values),
            extra=MappingProxyType(self.extra),
            sources=MappingProxyType(self.sources),
            unknown=MappingProxyType(unknown),
            failures=MappingProxyType(self.failures),
            seconds=MappingProxyType(self.seconds),
        )


async def probe(
    probes: Iterable[Probe],
    context: ProbeContext,
    *,
    ours: Iterable[Probe] = BUILTIN,
    limits: ProbeLimits = ProbeLimits(),
) -> ProbeReport:
    """Run every probe and give what they found; takes at most `limits.together_s` and never raises.

    Only a probe in `ours` may give the fields of `HardwareFacts`; any other adds to `extra`. A probe that
    raises, stalls or gives nonsense leaves its facts unknown, with the reason. One that stalls is
    abandoned: its thread ends when it ends. Cancelling abandons them all.
    """
    trusted = tuple(ours)
    accepted: list[Probe] = []
    gathered = _Gathered()
    for each in probes:
        if any(each.name == other.name for other in accepted):
            gathered.failures[each.name] = "another probe has this name; the first one counts"
        elif len(accepted) == PROBES_MAX:
            gathered.failures[each.name] = f"there are more than {PROBES_MAX} probes"
        else:
            accepted.append(each)
    # Ours first, so that a stranger's name never wins by being early.
    accepted.sort(key=lambda each: not _is_in(each, trusted))
    readings: dict[str, Reading | BaseException] = {}

    async def run(each: Probe) -> None:
        started = trio.current_time()
        with trio.move_on_after(limits.each_s):
            readings[each.name] = await trio.to_thread.run_sync(
                _read, each, context, abandon_on_cancel=True, limiter=threads
            )
        gathered.seconds[each.name] = trio.current_time() - started

    threads = trio.CapacityLimiter(PROBES_MAX)
    with trio.move_on_after(limits.together_s):
        async with trio.open_nursery() as nursery:
            for each in accepted:
                if not each.alone:
                    nursery.start_soon(run, each)
        for each in accepted:
            if each.alone:
                await run(each)
    for each in accepted:
        _take(gathered, each, readings.get(each.name), trusted=_is_in(each, trusted), limits=limits)
    return gathered.done()


def _is_in(each: Probe, probes: tuple[Probe, ...]) -> bool:
    return any(each is other for other in probes)


def _read(each: Probe, context: ProbeContext) -> Reading | BaseException:
    # A stranger's code: even SystemExit, or no mapping at all, is only an answer here.
    try:
        answer: Any = each.read(context)
        return answer if isinstance(answer, Mapping) else TypeError(f"gave {answer!r:.80}, not a mapping")
    except BaseException as error:
        return error


def _take(
    gathered: _Gathered,
    each: Probe,
    reading: Reading | BaseException | None,
    *,
    trusted: bool,
    limits: ProbeLimits,
) -> None:
    """Judge one probe's answer, fact by fact."""
    failure = ""
    if reading is None:
        failure = f"no answer within {limits.each_s:g} s (or {limits.together_s:g} s for all); abandoned"
    elif isinstance(reading, BaseException):
        failure = _one_line(f"{type(reading).__name__}: {reading}")
    answer: Reading = {} if reading is None or isinstance(reading, BaseException) else reading
    undeclared = sorted(str(name) for name in answer if name not in each.facts)
    if undeclared:
        failure = f"gave facts that it didn't declare: {', '.join(undeclared)[:200]}"
    for name in each.facts:
        if name in _FIELDS and not trusted:
            failure = f"{name} is a fact of the node's own; a plugin can't give it"
        elif name in gathered.sources or name in gathered.unknown:
            failure = f"another probe gives {name} already"
        elif name not in answer:
            gathered.unknown[name] = f"probe {each.name}: {failure or 'did not give it'}"
        else:
            failure = _take_fact(gathered, each, name, answer[name]) or failure
    if failure:
        gathered.failures[each.name] = failure


def _take_fact(gathered: _Gathered, each: Probe, name: str, given: Any) -> str:
    """Take one fact, known or not; give the failure where it is nonsense."""
    value, source = given, f"probe {each.name}"
    if isinstance(given, Known):
        value, source = given.value, given.source
    elif value is None:
        given = Unknown("the probe gave nothing")
    if isinstance(given, Unknown):
        gathered.unknown[name] = _one_line(given.reason)
        return ""
    try:
        if name in _FIELDS:
            _FIELDS[name].validator(None, _FIELDS[name], value)  # type: ignore[misc]
        elif len(json.dumps(value, allow_nan=False)) > EXTRA_CHARS_MAX:
            raise ValueError(f"{name} takes more than {EXTRA_CHARS_MAX} characters as JSON")
    except Exception as error:
        reason = _one_line(f"nonsense: {error}")
        gathered.unknown[name] = reason
        return reason
    (gathered.values if name in _FIELDS else gathered.extra)[name] = value
    gathered.sources[name] = _one_line(source)
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
