"""Structured logs: one line an event, with UTC time, level, component, event name and fields.

    with open_logs(LogConfig(format="json")) as logs:
        log = logs.logger("storage")
        log.info("opened", backend="rocksdb", height=12)

A line is made where it is logged and written by a thread of its own, so a slow or blocked stderr
never stops the node: the queue holds 10,000 lines, at the bound the oldest DEBUG line goes first, then
the oldest INFO and so on, and drops are counted and told (OBS-40). Levels change while the node runs.
"""

import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

import attrs
import structlog
from attrs import validators

from supervm.telemetry.crashes import describe_crash
from supervm.telemetry.metrics import Registry
from supervm.telemetry.redact import Redactor

LEVELS = ("debug", "info", "warning", "error")
CLOSE_WAIT_S = 2.0
COMPONENTS_MAX = 256


def _level(_instance: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if value not in LEVELS:
        raise ValueError(f"{attribute.name}: {value!r} is not a level; use one of {', '.join(LEVELS)}")


@attrs.frozen(kw_only=True)
class LogConfig:
    """`format` is `text` for people or `json`; `levels` maps a component, or its role, to its own level."""

    format: str = attrs.field(default="text", validator=validators.in_(("text", "json")))
    level: str = attrs.field(default="info", validator=_level)
    levels: dict[str, str] = attrs.field(
        factory=dict, validator=validators.deep_mapping(validators.instance_of(str), _level)
    )
    queue_lines_max: int = attrs.field(default=10_000, validator=validators.ge(16))
    pii_redaction: bool = True


class Queue:
    """Lines waiting to be written: one bounded whole, dropped from the least important level first."""

    def __init__(self, lines_max: int) -> None:
        self._lines_max = lines_max
        self._lines: tuple[deque[tuple[int, str]], ...] = tuple(deque() for _ in LEVELS)
        self._arrived = 0
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return sum(map(len, self._lines))

    def put(self, level: int, line: str) -> None:
        with self._changed:
            if self._closed:
                self.dropped += 1
                return
            self._lines[level].append((self._arrived, line))
            self._arrived += 1
            if len(self) > self._lines_max:
                next(lines for lines in self._lines if lines).popleft()
                self.dropped += 1
            self._changed.notify()

    def take(self) -> list[str] | None:
        """Every line that waits, in order of arrival; waits for the first; None when closed and empty."""
        with self._changed:
            while not len(self):
                if self._closed:
                    return None
                self._changed.wait()
            taken = sorted(line for lines in self._lines for line in lines)
            for lines in self._lines:
                lines.clear()
        return [line for _, line in taken]

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


class Logs:
    """The logs of one node: hands out loggers, keeps their levels. `wall_ms` is UTC milliseconds."""

    def __init__(self, config: LogConfig, stream: TextIO, wall_ms: Callable[[], int]) -> None:
        self._stream = stream
        self._wall_ms = wall_ms
        self._level = LEVELS.index(config.level)
        self._levels = {name: LEVELS.index(level) for name, level in config.levels.items()}
        self._render = _json_line if config.format == "json" else _text_line
        self._queue = Queue(config.queue_lines_max)
        self._queue_lines_max = config.queue_lines_max
        self._redactor = Redactor(config.pii_redaction)
        self._lines = [0] * len(LEVELS)
        self._told_dropped = 0
        self._writer = threading.Thread(target=self._write, name="supervm-log-writer", daemon=True)

    def logger(self, component: str, **fields: Any) -> Any:
        """A structlog bound logger: `.debug .info .warning .error(event, **fields)`, `.bind(**fields)`."""
        return structlog.wrap_logger(
            _Sink(self, component), processors=[], wrapper_class=_Logger, context_class=dict, **fields
        )

    def set_level(self, level: str, component: str | None = None) -> None:
        """Change a component's level, or everyone's, from the next event on."""
        if level not in LEVELS:
            raise ValueError(f"{level!r} is not a level; use one of {', '.join(LEVELS)}")
        if component is None:
            self._level = LEVELS.index(level)
            return
        if component not in self._levels and len(self._levels) >= COMPONENTS_MAX:
            raise ValueError(f"{component!r}: {COMPONENTS_MAX} components have levels of their own already")
        self._levels[component] = LEVELS.index(level)

    def protect(self, secret: str) -> None:
        """Hide this text wherever it would appear in a line."""
        self._redactor.protect(secret)

    @property
    def dropped(self) -> int:
        """Lines that were never written."""
        return self._queue.dropped

    def register(self, registry: Registry) -> None:
        """Show the queue, its bound and its drops as metrics (OBS-23)."""
        lines = registry.counter("supervm_log_lines_total", "Log lines, by level", {"level": LEVELS})
        dropped = registry.counter("supervm_log_queue_dropped_total", "Log lines dropped: the queue was full")
        registry.gauge("supervm_log_queue_depth", "Log lines waiting", call=lambda: len(self._queue))
        registry.gauge("supervm_log_queue_limit", "Most log lines waiting").set(self._queue_lines_max)

        def collect() -> None:
            for level, count in zip(LEVELS, self._lines, strict=True):
                series = lines.series(level=level)
                series.inc(count - series.value)
            dropped.inc(self.dropped - dropped.series().value)

        registry.before_scrape(collect)

    def enabled(self, component: str, level: int) -> bool:
        """Whether a component's event is written: its own level, else its role's, else everyone's."""
        own = self._levels.get(component)
        if own is None:
            own = self._levels.get(component.partition(".")[0], self._level)
        return level >= own

    def emit(self, component: str, level: int, event: str, fields: dict[str, Any]) -> None:
        """Queue one line. Never blocks and never raises."""
        crash = fields.pop("exc_info", None)
        plain = self._redactor.fields(fields)
        if crash is not None and crash is not False:
            error = crash if isinstance(crash, BaseException) else sys.exc_info()[1]
            if error is not None:
                plain["cause"] = describe_crash(error, self._redactor.message)
        stamp = datetime.fromtimestamp(self._wall_ms() / 1000, UTC)
        time = f"{stamp:%Y-%m-%dT%H:%M:%S}.{stamp.microsecond // 1000:03d}Z"
        self._lines[level] += 1
        self._queue.put(level, self._render(time, LEVELS[level], component, event, plain))

    def start(self) -> None:
        self._writer.start()

    def close(self) -> None:
        """Write what waits, for at most two seconds: a blocked stderr doesn't keep the node from ending."""
        self._queue.close()
        self._writer.join(CLOSE_WAIT_S)

    def _write(self) -> None:
        while (lines := self._queue.take()) is not None:
            dropped = self._queue.dropped
            if dropped > self._told_dropped:
                fields = {"lines": dropped - self._told_dropped}
                self._told_dropped = dropped
                stamp = datetime.fromtimestamp(self._wall_ms() / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                lines.insert(0, self._render(stamp, "warning", "logs", "lines_dropped", fields))
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads stderr any more (closed pipe, closed file): that must not end the node.
                self._queue.dropped += len(lines)


@attrs.frozen
class _Sink:
    """What a bound logger writes to."""

    logs: Logs
    component: str


class _Logger(structlog.BoundLoggerBase):
    """A bound logger whose level is looked up at each event, so that it can change."""

    def debug(self, event: str, **fields: Any) -> None:
        self._emit(0, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._emit(1, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._emit(2, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._emit(3, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        self._emit(3, event, {"exc_info": True, **fields})

    def _emit(self, level: int, event: str, fields: dict[str, Any]) -> None:
        sink: _Sink = self._logger
        if sink.logs.enabled(sink.component, level):
            sink.logs.emit(sink.component, level, event, {**self._context, **fields})


@contextmanager
def open_logs(
    config: LogConfig | None = None,
    stream: TextIO | None = None,
    wall_ms: Callable[[], int] | None = None,
) -> Iterator[Logs]:
    """Logs that are written while the scope lasts; what waits at its end is written first."""
    logs = Logs(config or LogConfig(), stream or sys.stderr, wall_ms or _wall_ms)
    logs.start()
    try:
        yield logs
    finally:
        logs.close()


def _wall_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def _json_line(time: str, level: str, component: str, event: str, fields: dict[str, Any]) -> str:
    head = {"time": time, "level": level, "component": component, "event": event}
    return json.dumps({**fields, **head}, default=str, ensure_ascii=True, separators=(",", ":"))


def _text_line(time: str, level: str, component: str, event: str, fields: dict[str, Any]) -> str:
    words = [time, f"{level:<7}", f"{component}:", _word(event)]
    words += [f"{name}={_text_value(value)}" for name, value in fields.items()]
    return " ".join(words)


def _text_value(value: Any) -> str:
    return _word(value) if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))


def _word(text: str) -> str:
    """As it is when it can be read as one word, else quoted; control characters never reach a terminal."""
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(" \"'=")
    return text if plain else json.dumps(text)
