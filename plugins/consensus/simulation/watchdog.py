"""A limit of real time for what can't be counted: a step of a task that never yields.

A loop that awaits nothing stops the whole run, and with it all that could look. So a thread looks, beside it.
"""

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

EXIT_CODE = 1


@contextmanager
def ends_within(seconds: float, name: str) -> Iterator[None]:
    """What isn't done after so many real seconds ends the process, with `name` and all stacks on stderr.

    It can't be ended gently: it never comes to where it would see that. Code in C that keeps the interpreter
    to itself isn't ended.
    """

    def end() -> None:
        try:
            print(f"{name}: no end within {seconds:g} s; it is here:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback()
        finally:
            os._exit(EXIT_CODE)

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
