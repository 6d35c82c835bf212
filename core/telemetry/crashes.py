"""An exception as log fields: its causes from the outermost in, bounded, each one told once (OBS-40)."""

import itertools
import traceback
from collections.abc import Callable
from typing import Any

FRAMES_MAX = 8
CAUSES_MAX = 12
_MARK = "_supervm_crash"
_numbers = itertools.count(1)


def describe_crash(error: BaseException, message: Callable[[str], str] = str) -> dict[str, Any] | str:
    """`{"crash": number, "chain": [{"type", "message", "at"}, ...]}`, outermost first.

    `at` is where it was raised, innermost frame last. Causes, contexts and the members of a group follow.
    An exception told before is not told again: then this is one line that points at its number. Whoever
    passes a crash on may log it too, and the log still holds its cause once.
    """
    known = getattr(error, _MARK, None)
    if known is not None:
        return f"{type(error).__name__}, told as crash {known}"
    number = next(_numbers)
    chain: list[dict[str, Any]] = []
    waiting: list[BaseException] = [error]
    while waiting and len(chain) < CAUSES_MAX:
        one = waiting.pop(0)
        told = getattr(one, _MARK, None)
        if told is not None:
            if told != number:
                chain.append({"type": type(one).__name__, "message": f"told as crash {told}", "at": []})
            continue
        _mark(one, number)
        chain.append({"type": type(one).__name__, "message": message(_message(one)), "at": _frames(one)})
        waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        if one.__cause__ is not None:
            waiting.append(one.__cause__)
        elif one.__context__ is not None and not one.__suppress_context__:
            waiting.append(one.__context__)
    return {"crash": number, "chain": chain}


def _mark(error: BaseException, number: int) -> None:
    try:
        setattr(error, _MARK, number)
    except AttributeError:
        # An exception with slots: it may be told twice, which hurts nobody.
        return


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<{type(broken).__name__} in __str__>"


def _frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
