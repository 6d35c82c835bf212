"""Random changes of valid input, each a function of the seed, the target's name and its own number.

FUZZ_SECONDS bounds each target (3 unless set); FUZZ_SEED is the seed (1 unless set). A failure names the
case, and FUZZ_CASE=N runs that one alone.
"""

import os
import random
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))
SEED = os.environ.get("FUZZ_SEED", "1")
CASE = os.environ.get("FUZZ_CASE", "")

CHANGES_MAX = 6
SHOWN_BYTES_MAX = 4096
EDGES = (0, 1, 2, 3, 4, 5, 10, 127, 128, 254, 255)
WORDS = (0, 1, 2, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
TOKENS = tuple(
    word.encode()
    for word in (
        *(
            "{",
            "}",
            "[",
            "]",
            '"',
            "'",
            ",",
            ":",
            "=",
            "#",
            "\n",
            "\\",
            "null",
            "true",
            "false",
            "nan",
            "inf",
        ),
        *("-1", "0", "00", "1e9", "1.5", "0x", "0xff", "1" * 5000, "-0", "[" * 3000, '{"a":' * 3000),
        *("\ufeff", "\x00", "\ud7ff", "é", "\U0001f512", "1979-05-27T07:32:00Z", '"""', "a.b.c", "[[a]]"),
    )
)

Item = TypeVar("Item")


def examples(strategy: SearchStrategy[Item], count: int = 40) -> list[Item]:
    """The same `count` values of a strategy on every run."""
    found: list[Item] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Item) -> None:
        found.append(value)

    collect()
    return found


def changed(chance: random.Random, corpus: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of the corpus with a few changes; now and then as it is, or nothing but random bytes.

    `tokens` are put in whole, for formats that are text.
    """
    if chance.random() < 0.02:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randrange(CHANGES_MAX)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(9 if tokens else 8):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice(EDGES)
            case 2:
                data[at : at + 4] = chance.choice(WORDS).to_bytes(4, "little")
            case 3:
                del data[at : at + chance.randrange(1, 40)]
            case 4:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 5:
                del data[at:]
            case 6:
                start = chance.randrange(len(data) + 1)
                data[at:at] = data[start : start + chance.randrange(1, 80)]
            case 7:
                other = chance.choice(corpus)
                data[at:] = other[chance.randrange(len(other) + 1) :]
            case _ if tokens:
                data[at : at + chance.randrange(3)] = chance.choice(tokens)
    return bytes(data)


def fuzz(target: str, make: Callable[[random.Random], Any], judge: Callable[[Any], None]) -> int:
    """Judge what `make` gives, again and again until the time is over; how many cases that was.

    `judge` raises for a case that fails; the failure is told with all that it takes to see it again.
    """
    end, number = monotonic() + SECONDS, int(CASE or 0)
    while True:
        case = make(random.Random(f"{SEED}/{target}/{number}"))
        try:
            judge(case)
        except Exception as error:
            again = f"FUZZ_SEED={SEED} FUZZ_CASE={number}"
            raise AssertionError(f"{target}: {again}: {error!r}: {_shown(case)}") from error
        number += 1
        if CASE or monotonic() >= end:
            return number


def _shown(case: Any) -> str:
    text = case.hex() if isinstance(case, bytes) else repr(case)
    return text if len(text) <= SHOWN_BYTES_MAX else f"{text[:SHOWN_BYTES_MAX]}... ({len(text)} characters)"
