"""The state tree in C gives the root, pages and stale keys of the one in Python, whatever is in memory."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import attrs
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.hardware import fastpath
from supervm.storage import tree as twin
from tests import needs

pytestmark = needs.c_engine
if fastpath.BLOCKS_NATIVE:
    from supervm.hardware.fastpath.engine import Pool
    from supervm.hardware.fastpath.tree import NO_BOUND, BadChanges, NativeTree, PageRefused, pack_changes

Batch = dict[bytes, bytes | None]

CROWN_PARTS_AT = 2**15
"""Changes from which C begins its shares two pages below the root."""


def neighbours() -> list[bytes]:
    """Keys of which many share the first nibbles of their hash: their pages nest, and collapse."""
    by_prefix: dict[bytes, list[bytes]] = defaultdict(list)
    for number in range(40_000):
        key = number.to_bytes(3, "big")
        by_prefix[blake3(key).digest(2)[:1] + bytes((blake3(key).digest(2)[1] & 0xF0,))].append(key)
    crowded = sorted(by_prefix.values(), key=len, reverse=True)
    return [key for few in (*crowded[:3], *(each[:1] for each in crowded[3:20])) for key in few]


KEYS = neighbours()
Step = tuple[Batch, bool, bool]
"""Changes, whether they are given up, and whether all is forgotten before."""


def history(seed: int, steps: int = 60) -> Iterator[Step]:
    """Batches of all sizes; now and then a slot loses its only leaf and gets another in one of them."""
    chance = random.Random(seed)
    for _ in range(steps):
        keys = chance.sample(KEYS, chance.choice((0, 1, 2, 5, 30, len(KEYS))))
        batch: Batch = {key: chance.choice((None, b"a", b"bc" * 30)) for key in keys}
        yield batch, chance.random() < 0.3, chance.random() < 0.1


@attrs.define
class Twin:
    """The specification's tree, and all pages that it ever wrote."""

    pages: dict[bytes, bytes] = attrs.Factory(dict)
    root: bytes = bytes(32)
    height: int | None = None

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.pages.get(key) for key in keys]

    def grow(self, batch: Batch, height: int) -> twin.Update:
        changes = sorted(leaves_of(batch))
        loaded = {}
        if self.height is not None:
            loaded = twin.load(self.root, self.height, [path for path, _ in changes], self.read)
        return twin.update(loaded, self.height, changes, height)

    def keep(self, grown: twin.Update, height: int) -> None:
        self.pages.update(grown.written)
        self.root, self.height = grown.root, height


def leaves_of(batch: Batch) -> Iterator[tuple[bytes, bytes]]:
    for key, value in batch.items():
        path = blake3(key).digest()
        yield path, path + blake3(value).digest() if value else b""


def update(tree: "NativeTree", batch: Batch, height: int, **options: object) -> object:
    return tree.update(pack_changes(list(batch.items())), len(batch), height, **options)


def check(found: object, wanted: twin.Update) -> None:
    assert found.root == wanted.root
    assert list(found.written_pages()) == list(wanted.written.items())
    assert list(found.stale_keys()) == wanted.stale


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bytes_max", [0, 3_000, 20_000, None])
@pytest.mark.parametrize("seed", range(4))
def test_any_history_gives_the_twins_roots_pages_and_stale_keys(
    threads: int, bytes_max: int | None, seed: int
) -> None:
    """What is given up leaves no trace in what comes after it."""
    model, tree = Twin(), NativeTree(Pool(threads), NO_BOUND if bytes_max is None else bytes_max)
    for number, (batch, gives_up, forgets) in enumerate(history(seed)):
        height = 3 * number
        if forgets and model.height is not None:
            tree.forget(model.root, model.height)
        wanted = model.grow(batch, height)
        check(update(tree, batch, height, read=model.read), wanted)
        if gives_up:
            tree.abort()
        else:
            tree.commit()
            model.keep(wanted, height)


@pytest.mark.parametrize("seed", range(4))
def test_a_lean_tree_gives_the_twins_roots(seed: int) -> None:
    model, tree = Twin(), NativeTree(Pool(1), lean=True)
    for height, (batch, gives_up, _) in enumerate(history(seed)):
        wanted = model.grow(batch, height)
        assert update(tree, batch, height, emit=False).root == wanted.root
        if gives_up:
            tree.abort()
        else:
            tree.commit()
            model.keep(wanted, height)


def test_a_lean_tree_is_never_read_nor_written_down() -> None:
    tree = NativeTree(Pool(1), lean=True)
    with pytest.raises(AssertionError, match="written"):
        update(tree, {b"key": b"value"}, 0)
    with pytest.raises(AssertionError, match="read"):
        tree.forget(bytes(32), 1)
    tree.forget()
    assert update(tree, {}, 0, emit=False).root == bytes(32)


def large(chance: random.Random, count: int) -> Batch:
    return {chance.randbytes(8): chance.randbytes(33) for _ in range(count)}


@pytest.mark.parametrize("lean", [False, True])
def test_large_updates_are_those_of_many_small_ones(lean: bool) -> None:
    """Over the sizes at which C shares the work out in other ways, on more threads than there are cores."""
    chance = random.Random(5)
    first = large(chance, CROWN_PARTS_AT + 2_000)
    kept = list(first)
    chance.shuffle(kept)
    second: Batch = {key: None if at % 3 else chance.randbytes(9) for at, key in enumerate(kept)}
    second |= large(chance, 1_000)
    third: Batch = dict.fromkeys(second)
    one, many = NativeTree(Pool(4), lean=lean), NativeTree(Pool(1))
    height = 0
    for batch in (first, second, third):
        height += 100
        root = update(one, batch, height, emit=not lean).root
        one.abort()
        assert update(one, batch, height, emit=not lean).root == root, "given up and made again"
        one.commit()
        for part in range(0, len(batch), 900):
            some = dict(list(batch.items())[part : part + 900])
            small = update(many, some, height + part // 900, emit=False).root
            many.commit()
        assert root == small
    assert root == bytes(32), "all of it was removed"


def test_a_large_tree_has_the_twins_pages() -> None:
    model, tree, chance = Twin(), NativeTree(Pool(3)), random.Random(6)
    first = large(chance, CROWN_PARTS_AT)
    changed: Batch = {key: None if at % 5 == 0 else b"other" for at, key in enumerate(list(first)[:1_500])}
    for height, batch in enumerate((first, changed | large(chance, 50))):
        wanted = model.grow(batch, height)
        check(update(tree, batch, height), wanted)
        tree.commit()
        model.keep(wanted, height)


@pytest.mark.parametrize("bytes_max", [100_000, 1_000_000])
def test_memory_stays_below_its_bound_and_pages_come_again(bytes_max: int) -> None:
    chance, model, tree = random.Random(7), Twin(), NativeTree(Pool(2), bytes_max)
    keys = [chance.randbytes(8) for _ in range(9_000)]
    first: Batch = {key: chance.randbytes(33) for key in keys}
    final: Batch = {}
    for height, batch in enumerate(
        [first, *({k: chance.randbytes(5) for k in chance.sample(keys, 200)} for _ in range(12))]
    ):
        grown = update(tree, batch, height, read=model.read)
        model.pages.update(grown.written_pages())
        for stale in grown.stale_keys():
            del model.pages[stale]
        tree.commit()
        stats = tree.stats()
        assert max(stats.bytes, stats.held) <= bytes_max
        model.root, model.height = grown.root, height
        final |= batch
    assert stats.evicted > 0 < stats.misses
    whole = NativeTree(Pool(1))
    assert update(whole, final, 0, emit=False).root == grown.root


def grown_pages(count: int = 300) -> tuple[Twin, Batch]:
    model, chance = Twin(), random.Random(8)
    batch = large(chance, count)
    model.keep(model.grow(batch, 0), 0)
    return model, batch


def spoilt(of: Twin, page: bytes, with_: bytes | None) -> Callable[[Sequence[bytes]], list[bytes | None]]:
    return lambda keys: [with_ if key == page else of.pages.get(key) for key in keys]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_page_with_any_bit_flipped_or_none_is_refused_by_name_and_the_tree_goes_on(
    data: st.DataObject,
) -> None:
    model, batch = grown_pages()
    page = data.draw(st.sampled_from(sorted(model.pages)))
    wrong = bytearray(model.pages[page])
    wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    tree = NativeTree(Pool(1))
    tree.forget(model.root, 0)
    changes: Batch = dict.fromkeys(batch, b"new")
    given = data.draw(st.sampled_from([None, bytes(wrong), bytes(wrong[:-1]), b""]))
    with pytest.raises(PageRefused) as caught:
        update(tree, changes, 1, read=spoilt(model, page, given))
    # A flipped height of a child leads to a page that is not there: the child is named, not the parent.
    assert caught.value.key == page or caught.value.key not in model.pages
    if caught.value.key == page:
        check(update(tree, changes, 1, read=model.read), model.grow(changes, 1))


def test_a_page_that_can_not_be_read_leaves_the_tree_as_it_was() -> None:
    model, batch = grown_pages()
    tree = NativeTree(Pool(1))
    tree.forget(model.root, 0)

    def fails(keys: Sequence[bytes]) -> list[bytes | None]:
        if len(keys) > 1:
            raise OSError("the disk")
        return model.read(keys)

    changes: Batch = dict.fromkeys(batch, b"new")
    with pytest.raises(OSError, match="the disk"):
        update(tree, changes, 1, read=fails)
    check(update(tree, changes, 1, read=model.read), model.grow(changes, 1))


def test_changes_that_are_none_are_refused_and_leave_the_tree_as_it_was() -> None:
    tree = NativeTree(Pool(1))
    good = pack_changes([(b"one", b"1"), (b"two", b"2")])
    for packed, count in (
        (good[:-1], 2),
        (good + b"\0", 2),
        (good, 1),
        (good, 3),
        (good + good, 4),
        (b"", 1),
    ):
        with pytest.raises(BadChanges):
            tree.update(packed, count, 0)
    wanted = Twin().grow({b"one": b"1", b"two": b"2"}, 0)
    check(tree.update(good, 2, 0), wanted)
