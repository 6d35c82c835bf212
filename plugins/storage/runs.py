"""A batch as runs of operations of one kind, the puts of a run in the order of their keys.

Neighbours in a batch are seldom neighbours in a tree: in order they meet pages, and nodes of a memtable,
that the one before has just brought into the processor's cache. That saves more than sorting costs.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import TypeAlias, cast

import attrs

from supervm.contracts.storage import Delete, DeleteRange, Operation, Put

# Sorting holds Python's global lock: 10,000 rows are some 3 ms.
SORTED_ROWS_MAX = 10_000
_key = itemgetter(0)


@attrs.frozen
class Puts:
    """Puts that stand together, at most 10,000, by ascending key. Of two of one key the later is later."""

    rows: list[Put]


@attrs.frozen
class Deletes:
    """Keys to remove, whose order doesn't matter."""

    keys: list[bytes]


Run: TypeAlias = Puts | Deletes | DeleteRange


def runs_of(operations: Sequence[Operation]) -> Iterator[Run]:
    """The batch in parts: applied one after the other they leave the same rows."""
    kinds = set(map(type, operations))
    for kind, run in [(Put, iter(operations))] if kinds == {Put} else groupby(operations, type):
        if kind is Put:
            while rows := list(islice(cast(Iterator[Put], run), SORTED_ROWS_MAX)):
                rows.sort(key=_key)
                yield Puts(rows)
        elif kind is Delete:
            yield Deletes([operation.key for operation in run if isinstance(operation, Delete)])
        else:
            for operation in run:
                assert isinstance(operation, DeleteRange)
                yield operation
