"""Read and write sets, conflicts, and the order that dependencies leave open (EXEC-53, EXEC-54)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.mvcc import BadOperand, MvccStore, batch_write
from supervm.mvcc.dependencies import Access, DependencyGraph, access_of, graph_of

KEYS = st.frozensets(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=3)
RANGES = st.lists(st.sampled_from([(b"a", b"c"), (b"b", None), (b"c", b"d")]), max_size=1).map(tuple)
ACCESSES = st.builds(Access, KEYS, KEYS, RANGES)


def test_alice_is_read_after_she_was_written_and_bob_can_be_written_meanwhile() -> None:
    graph = graph_of(
        [Access(writes=[b"alice_balance"]), Access(writes=[b"bob_balance"]), Access([b"alice_balance"])]
    )
    assert list(graph.waves()) == [[0, 1], [2]]


def test_a_chain_becomes_ready_one_at_a_time() -> None:
    graph: DependencyGraph[int] = DependencyGraph()
    graph.add(1)
    graph.add(2, [1])
    graph.add(3, [1, 2])
    assert [graph.ready(done) for done in ([], [1], [1, 2], [1, 2, 3])] == [[1], [2], [3], []]
    assert list(graph.waves()) == [[1], [2], [3]]


def test_what_is_depended_on_before_it_is_added_is_part_of_the_graph() -> None:
    graph: DependencyGraph[str] = DependencyGraph()
    graph.add("later", ["earlier"])
    assert len(graph) == 2 and graph.ready([]) == ["earlier"] and graph.ready({"earlier"}) == ["later"]


def test_dependencies_that_can_t_be_met_are_refused() -> None:
    graph: DependencyGraph[int] = DependencyGraph()
    with pytest.raises(BadOperand):
        graph.add(1, [1])
    graph.add(1, [2])
    graph.add(2, [1])
    graph.add(3)
    with pytest.raises(BadOperand, match="cycle"):
        list(graph.waves())


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (Access(writes=[b"k"]), Access(writes=[b"k"]), True),
        (Access([b"k"]), Access(writes=[b"k"]), True),
        (Access(writes=[b"k"]), Access([b"k"]), True),
        (Access([b"k"]), Access([b"k"]), False),
        (Access(writes=[b"k"]), Access(writes=[b"l"]), False),
        (Access(ranges=((b"a", b"m"),)), Access(writes=[b"k"]), True),
        (Access(ranges=((b"a", b"k"),)), Access(writes=[b"k"]), False),
        (Access(ranges=((b"a", None),)), Access([b"k"]), False),
        (Access(ranges=((b"a", None),)), Access(ranges=((b"a", None),)), False),
    ],
)
def test_two_conflict_where_one_writes_what_the_other_touches(
    one: Access, other: Access, conflict: bool
) -> None:
    assert one.conflicts_with(other) is other.conflicts_with(one) is conflict


def test_the_store_records_what_a_transaction_touches() -> None:
    store = MvccStore()
    batch_write(store, {b"a": b"1"})
    txn = store.begin()
    txn.read(b"a")
    txn.scan(b"p")
    txn.write(b"w", b"1")
    txn.delete(b"d")
    assert access_of(txn) == Access([b"a"], [b"w", b"d"], ((b"p", b"q"),))


@given(st.lists(ACCESSES, max_size=12))
def test_waves_keep_the_order_of_all_that_conflict_and_mix_nothing_that_does(
    accesses: list[Access],
) -> None:
    waves = list(graph_of(accesses).waves())
    wave_of = {at: number for number, wave in enumerate(waves) for at in wave}
    assert sorted(wave_of) == list(range(len(accesses)))
    for at, access in enumerate(accesses):
        for before in range(at):
            if access.conflicts_with(accesses[before]):
                assert wave_of[before] < wave_of[at]


@given(st.lists(ACCESSES, max_size=12))
def test_a_transaction_runs_as_soon_as_what_it_conflicts_with_is_done(accesses: list[Access]) -> None:
    """Its wave is the longest chain of conflicts that leads to it, and no later."""
    depth: list[int] = []
    for at, access in enumerate(accesses):
        depth.append(1 + max((depth[b] for b in range(at) if access.conflicts_with(accesses[b])), default=-1))
    waves = list(graph_of(accesses).waves())
    assert {at: number for number, wave in enumerate(waves) for at in wave} == dict(enumerate(depth))
