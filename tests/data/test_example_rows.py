"""The order of examples, and the loader of steps: what must hold of every epoch and step, whatever the lengths, weights and sizes."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.data.order.example_rows import ExampleBatch, ExampleRows
from tfkit.data.order.loader import Loader
from tfkit.data.store.example_sets import ExampleSet

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=120)
SIZES = st.sampled_from([1, 2, 3, 5, 8, 32])


def example_set(lengths: list[int], first: int = 0, name: str = "set") -> ExampleSet:
    """Examples of these lengths; every id is the number of its example, counted from `first`."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.repeat(np.arange(first, first + len(lengths), dtype=np.int32), lengths)
    places = [f"{name}:{i}".encode() for i in range(len(lengths))]
    ends = np.concatenate([[0], np.cumsum([len(place) for place in places])]).astype(np.int64)
    said = (np.frombuffer(b"".join(places), np.uint8), ends)
    texts = np.zeros(len(lengths), np.uint64)
    return ExampleSet(name, {"ids": (ids, starts)}, np.array(lengths, np.int32), texts, said, int(ids.max()), "", False)


def rows_of(lengths: list[int], batch_size: int = 4, seed: int = 5, weight: float = 1.0, **settings: Any) -> ExampleRows:
    return ExampleRows([(example_set(lengths), weight)], seed, batch_size=batch_size, **settings)


def owners(batch: ExampleBatch) -> list[list[int]]:
    """The numbers of the examples in each row, read off their ids."""
    for row in batch.rows:
        assert all(len(set(example["ids"].tolist())) == 1 for example in row)
    return [[int(example["ids"][0]) for example in row] for row in batch.rows]


def collect(batch: ExampleBatch) -> ExampleBatch:
    return batch


@given(LENGTHS, SIZES, st.booleans())
def test_every_row_is_read_once_an_epoch(lengths: list[int], batch_size: int, groups: bool) -> None:
    rows = rows_of(lengths, batch_size, length_groups=groups)
    loader = Loader(rows, collect, batch_size, 1)
    steps = -(-3 * len(lengths) // batch_size)
    batches = [batch for n in range(steps) for batch in loader.step(n)]
    read = [row[0] for batch in batches for row in owners(batch)]
    epochs = np.concatenate([batch.epochs for batch in batches])
    for epoch in range(3):
        here = slice(epoch * len(lengths), (epoch + 1) * len(lengths))
        assert sorted(read[here]) == list(range(len(lengths)))
        assert set(epochs[here]) == {epoch}
    assert len(rows) == len(lengths)


@given(st.integers(1, 120), SIZES, st.integers(0, 1000))
def test_the_first_batch_holds_the_longest_row(count: int, batch_size: int, seed: int) -> None:
    """So that what does not fit into the memory shows at once."""
    lengths = (np.random.default_rng(seed).permutation(count) + 1).tolist()
    rows = rows_of(lengths, batch_size, seed)
    assert rows.longest == count
    first = Loader(rows, collect, batch_size, batch_size).step(0)[0]
    assert max(lengths[row[0]] for row in owners(first)) == count


@settings(max_examples=60)
@given(st.integers(2, 100), st.sampled_from([2, 4, 8]), st.integers(0, 4))
def test_the_rows_of_a_step_are_neighbours_by_length(count: int, batch_size: int, epoch: int) -> None:
    """Also where the rows of an epoch do not fill whole steps: the ends of the epoch, which do not, are all that may lie between."""
    lengths = np.random.default_rng(count).permutation(count) + 1
    rows = rows_of(lengths.tolist(), batch_size)
    loader = Loader(rows, collect, batch_size, batch_size)
    for n in range(-(-epoch * count // batch_size), (epoch + 1) * count // batch_size):  # the steps that lie within the epoch
        here = lengths[loader.numbers(n)]
        assert here.max() - here.min() < batch_size + 2 * (batch_size - 1)


def test_groups_save_most_of_the_padding_and_leave_the_order_random() -> None:
    lengths = np.random.default_rng(1).integers(1, 200, 1000).tolist()

    def padding(groups: bool) -> float:
        loader = Loader(rows_of(lengths, 16, length_groups=groups), collect, 16, 16)
        steps = [[lengths[number] for number in loader.numbers(n)] for n in range(5, 60)]
        return 1 - sum(map(sum, steps)) / sum(16 * max(step) for step in steps)

    assert padding(False) > 0.4
    assert padding(True) < 0.1
    rows = rows_of(lengths, 16)
    means = [np.mean([lengths[number] for number in rows.order(1)[start : start + 16]]) for start in range(8, 900, 16)]
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.5, "long batches do not follow each other"


@given(st.floats(0.1, 3.5), st.integers(0, 5), st.booleans())
def test_weights_are_copies_and_a_random_part(weight: float, epoch: int, groups: bool) -> None:
    sets = [(example_set([3] * 100), weight), (example_set([7] * 20, 1000), 1.0)]
    rows = ExampleRows(sets, 3, batch_size=8, length_groups=groups)
    counts = Counter(owner for pack in owners(rows.gather(np.zeros(len(rows)), rows.order(epoch))) for owner in pack)
    weighted = [counts[i] for i in range(100)]
    assert set(weighted) <= {int(weight), int(weight) + 1}
    assert sum(weighted) == int(weight) * 100 + round(weight % 1 * 100)
    assert [counts[1000 + i] for i in range(20)] == [1] * 20
    assert rows.mean_tokens == pytest.approx((3 * sum(weighted) + 7 * 20) / len(rows))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=120), st.integers(20, 50), st.sampled_from([1.0, 2.0, 0.5, 1.25]))
def test_packed_rows_hold_every_example_and_are_never_too_long(lengths: list[int], length: int, weight: float) -> None:
    if weight < 1 and len(lengths) == 1:
        return
    rows = rows_of(lengths, weight=weight, packed_length=length)
    for epoch in range(2):
        batch = rows.gather(np.full(len(rows), epoch), rows.order(epoch))
        assert max(sum(len(example["ids"]) for example in row) for row in batch.rows) == rows.longest <= length
        counts = Counter(owner for pack in owners(batch) for owner in pack)
        assert counts.total() == int(weight) * len(lengths) + round(weight % 1 * len(lengths))
        assert set(counts.values()) <= {int(weight), int(weight) + 1}
        assert rows.mean_tokens == pytest.approx(sum(len(example["ids"]) for row in batch.rows for example in row) / len(rows))
        assert rows.place(int(rows.order(epoch)[0])) == f"set:{owners(batch)[0][0]}"


def test_packing_leaves_little_room() -> None:
    lengths = np.random.default_rng(1).integers(1, 100, 2000).tolist()
    rows = rows_of(lengths, packed_length=128)
    assert rows.mean_tokens > 0.95 * 128
    assert len(rows) < sum(lengths) / 128 * 1.05


@settings(max_examples=60)
@given(LENGTHS, st.sampled_from([(1, 1), (4, 2), (6, 3)]), st.permutations(range(12)), st.booleans(), st.sampled_from([None, 30]))
def test_a_step_is_a_function_of_its_number(
    lengths: list[int], sizes: tuple[int, int], visits: list[int], groups: bool, packed: int | None
) -> None:
    def loader() -> Loader[Any]:
        return Loader(rows_of(lengths, sizes[0], weight=1.5, length_groups=groups, packed_length=packed), collect, *sizes)

    in_order, jumping = loader(), loader()
    expected = [[owners(batch) for batch in in_order.step(n)] for n in range(12)]
    for n in visits:
        assert [owners(batch) for batch in jumping.step(n)] == expected[n]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=12, max_size=120), st.sampled_from([None, 30]))
def test_micro_batches_are_the_step_in_parts(lengths: list[int], packed: int | None) -> None:
    loaders = [Loader(rows_of(lengths, 8, packed_length=packed), collect, 8, size) for size in (8, 4, 2, 1)]
    whole, *parts = ([[row for batch in loader.step(n) for row in owners(batch)] for n in range(3)] for loader in loaders)
    assert parts == [whole] * 3


@pytest.mark.parametrize("packed", [None, 40])
def test_epochs_and_seeds_have_their_own_order(packed: int | None) -> None:
    lengths = list(range(1, 31)) * 4
    orders = [tuple(rows_of(lengths, seed=seed, packed_length=packed).order(epoch).tolist()) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(rows_of(lengths, seed=1, packed_length=packed).order(0).tolist())


def test_the_order_is_the_same_on_every_machine() -> None:
    lengths = [5, 1, 9, 3, 7, 2, 8, 4, 6, 10]
    assert rows_of(lengths, 3).order(0).tolist() == [9, 2, 6, 4, 8, 0, 7, 5, 1, 3]
    assert rows_of(lengths, 3, length_groups=False).order(1).tolist() == [3, 6, 7, 8, 4, 2, 5, 9, 0, 1]
    packed = rows_of(lengths, 3, packed_length=12)
    assert owners(packed.gather(np.zeros(len(packed)), packed.order(0))) == [[4, 3], [0, 8], [2, 5], [9, 1], [6, 7]]
