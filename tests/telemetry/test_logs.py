"""Log lines: their form, what is hidden in them, and what happens when nobody reads them."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.telemetry.logs import LEVELS, LogConfig, Logs, Queue, open_logs
from supervm.telemetry.metrics import Registry, exposition

NOW_MS = 1_700_000_000_123
ADDRESS = "0x" + "1234abcd" + "0" * 52 + "beef"


@contextmanager
def logging(**config: Any) -> Iterator[tuple[Logs, io.StringIO]]:
    stream = io.StringIO()
    with open_logs(LogConfig(**{"format": "json", **config}), stream, lambda: NOW_MS) as logs:
        yield logs, stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_utc_time_level_component_event_and_fields() -> None:
    with logging() as (logs, stream):
        logs.logger("storage", backend="sqlite").info("opened", height=3, key=b"\x01\x02")
    assert lines(stream) == [
        {
            "time": "2023-11-14T22:13:20.123Z",
            "level": "info",
            "component": "storage",
            "event": "opened",
            "backend": "sqlite",
            "height": 3,
            "key": "0x0102",
        }
    ]


def test_a_text_line_reads_as_words_and_quotes_what_would_break_it() -> None:
    with logging(format="text") as (logs, stream):
        logs.logger("http").warning("slow_client", path="/v1/x", note='two\nlines "quoted" \x1b[31m', n=1)
    assert stream.getvalue() == (
        "2023-11-14T22:13:20.123Z warning http: slow_client path=/v1/x "
        'note="two\\nlines \\"quoted\\" \\u001b[31m" n=1\n'
    )


def test_a_field_cannot_pass_for_the_time_or_the_component() -> None:
    with logging() as (logs, stream):
        logs.logger("http").info("x", time="never", level="debug", component="storage")
    (line,) = lines(stream)
    assert (line["component"], line["level"], line["time"][:4]) == ("http", "info", "2023")


def test_levels_hold_per_component_and_change_at_run_time() -> None:
    with logging(level="warning", levels={"consensus": "debug"}) as (logs, stream):
        storage, consensus = logs.logger("storage"), logs.logger("consensus")
        storage.info("1")
        consensus.debug("2")
        logs.set_level("info", "storage")
        storage.info("3")
        logs.set_level("error")
        logs.logger("http").warning("4")
    assert [line["event"] for line in lines(stream)] == ["2", "3"]


def test_a_roles_level_holds_for_its_components_that_have_none_of_their_own() -> None:
    with logging(levels={"storage": "error", "storage.sqlite": "debug"}) as (logs, stream):
        logs.logger("storage.rocksdb").warning("1")
        logs.logger("storage.sqlite").debug("2")
        logs.logger("http").info("3")
    assert [line["event"] for line in lines(stream)] == ["2", "3"]


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'loud'"):
        LogConfig(level="loud")
    with pytest.raises(ValueError, match="'loud'"):
        LogConfig(levels={"storage": "loud"})
    with logging() as (logs, _), pytest.raises(ValueError, match="'loud'"):
        logs.set_level("loud")


def test_secrets_are_hidden_by_field_name_at_any_depth() -> None:
    with logging() as (logs, stream):
        logs.logger("keys").info(
            "made", private_key="k", options={"passphrase": "p", "list": [{"Seed": "s"}]}
        )
    (line,) = lines(stream)
    assert line["private_key"] == line["options"]["passphrase"] == line["options"]["list"][0]["Seed"]
    assert line["private_key"] == "[redacted]"


def test_a_protected_secret_is_hidden_wherever_it_appears() -> None:
    with logging() as (logs, stream):
        logs.protect("swordfish")
        log = logs.logger("http")
        log.info("asked", url="/metrics?token=swordfish", headers=["Bearer swordfish"])
        try:
            raise RuntimeError("bad header: swordfish")
        except RuntimeError:
            log.exception("failed")
    assert "swordfish" not in stream.getvalue()


def test_addresses_are_shortened_unless_the_operator_says_otherwise() -> None:
    for on, expected in ((True, "0x1234abcd..beef"), (False, ADDRESS)):
        with logging(pii_redaction=on) as (logs, stream):
            log = logs.logger("chain")
            log.info("refused", sender=ADDRESS, digest=ADDRESS)
            log.error("failed", exc_info=ValueError(f"no account {ADDRESS}"))
        first, second = lines(stream)
        assert (first["sender"], first["digest"]) == (expected, ADDRESS)
        assert second["cause"]["chain"][0]["message"] == f"no account {expected}"


def test_a_crash_is_told_once_with_its_chain() -> None:
    def fail() -> None:
        try:
            raise KeyError("disk")
        except KeyError as cause:
            raise RuntimeError("could not open") from cause

    with logging() as (logs, stream):
        try:
            fail()
        except RuntimeError as error:
            logs.logger("storage").exception("crashed")
            logs.logger("kernel").error("component_failed", exc_info=error)
            outer = ExceptionGroup("nursery", [error, ValueError("other")])
            logs.logger("kernel").error("node_failed", exc_info=outer)
    first, second, third = lines(stream)
    chain = first["cause"]["chain"]
    assert [(one["type"], one["message"]) for one in chain] == [
        ("RuntimeError", "could not open"),
        ("KeyError", "'disk'"),
    ]
    assert all(" fail" in one["at"][-1] for one in chain)
    number = first["cause"]["crash"]
    assert second["cause"] == f"RuntimeError, told as crash {number}"
    assert [one["message"] for one in third["cause"]["chain"]] == [
        "nursery (2 sub-exceptions)",
        f"told as crash {number}",
        "other",
    ]


def test_a_very_long_chain_of_causes_is_cut() -> None:
    error: Exception = ValueError("first")
    for n in range(1000):
        following = ValueError(str(n))
        following.__cause__ = error
        error = following
    with logging() as (logs, stream):
        logs.logger("a").error("x", exc_info=error)
    assert len(lines(stream)[0]["cause"]["chain"]) == 12


def test_a_value_that_cannot_be_shown_does_not_break_the_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    endless: list[Any] = []
    endless.append(endless)
    with logging() as (logs, stream):
        logs.logger("a").info("x", broken=Broken(), endless=endless, long="y" * 100_000, big=b"z" * 100_000)
    (line,) = lines(stream)
    assert "RuntimeError in __str__" in line["broken"]
    assert len(stream.getvalue()) < 6000


def test_at_the_bound_the_oldest_debug_line_goes_first_then_info() -> None:
    queue = Queue(4)
    for n, level in enumerate((1, 0, 2, 0, 3, 1)):
        queue.put(level, f"{n}")
    assert queue.dropped == 2
    assert queue.take() == ["0", "2", "4", "5"]
    for n in range(6):
        queue.put(1 if n < 5 else 3, f"{n}")
    assert queue.take() == ["2", "3", "4", "5"]


@given(st.lists(st.integers(0, 3), max_size=60))
def test_the_queue_never_exceeds_its_bound_and_counts_what_it_loses(levels: list[int]) -> None:
    queue = Queue(16)
    for n, level in enumerate(levels):
        queue.put(level, f"{n:03}")
    queue.close()
    kept = queue.take() or []
    assert len(kept) == min(16, len(levels))
    assert queue.dropped == len(levels) - len(kept)
    assert kept == sorted(kept)
    model: list[tuple[int, str]] = []
    for n, level in enumerate(levels):
        model.append((level, f"{n:03}"))
        if len(model) > 16:
            model.remove(min(model))
    assert kept == [line for _, line in model]


class BlockedStream(io.StringIO):
    """A stderr that nobody reads until `opened`."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.reached = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.opened.wait(120)
        return super().write(text)


def test_a_blocked_stderr_stops_nobody_and_the_drops_are_told() -> None:
    stream = BlockedStream()
    registry = Registry()
    with open_logs(LogConfig(format="json", queue_lines_max=100), stream, lambda: NOW_MS) as logs:
        logs.register(registry)
        log = logs.logger("a")
        log.info("first")
        assert stream.reached.wait(120)
        for n in range(250):
            log.info("line", n=n)
        log.error("last")
        assert logs.dropped == 151
        assert "supervm_log_queue_dropped_total 151" in exposition(registry)
        assert 'supervm_log_lines_total{level="info"} 251' in exposition(registry)
        assert "supervm_log_queue_depth 100" in exposition(registry)
        stream.opened.set()
    told = [line for line in lines(stream) if line["event"] == "lines_dropped"]
    assert told[0]["lines"] == 151
    assert lines(stream)[-1]["event"] == "last"


def test_a_closed_stderr_ends_nothing() -> None:
    stream = io.StringIO()
    with open_logs(LogConfig(), stream, lambda: NOW_MS) as logs:
        stream.close()
        logs.logger("a").info("into the void")
    assert logs.dropped == 1


def test_bound_fields_stay_with_the_logger() -> None:
    with logging() as (logs, stream):
        logs.logger("a").bind(peer="p1").info("x")
    assert lines(stream)[0]["peer"] == "p1"
    assert len(LEVELS) == 4
