"""Index parsing against NumPy: applying the entries one by one gives what NumPy gives, and errors are NumPy's."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from tilework.base.errors import UnknownChunksError
from tilework.plan.indexing import normalize_index

SHAPE = (4, 5, 6)
X = np.arange(120).reshape(SHAPE)


def apply(entries: list[Any], x: np.ndarray) -> np.ndarray:
    """The entries mean the same to NumPy once a stop of -1 is written as None."""
    return x[tuple(slice(e.start, None, e.step) if isinstance(e, slice) and e.stop < 0 else e for e in entries)]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(a.dtype == b.dtype and np.array_equal(a, b))
    return type(a) is type(b) and a == b


@given(hnp.basic_indices(SHAPE, allow_newaxis=True))
def test_basic(index: Any) -> None:
    entries = normalize_index(index, SHAPE)
    np.testing.assert_array_equal(apply(entries, X), X[index])
    axes = iter(SHAPE)
    for entry in entries:
        n = 0 if entry is None else next(axes)
        if isinstance(entry, slice):
            assert len(range(entry.start, entry.stop, entry.step)) == len(range(*entry.indices(n))) or entry.stop == -1
            assert 0 <= entry.start <= n
            assert -1 <= entry.stop <= n
        elif entry is not None:
            assert type(entry) is int
            assert 0 <= entry < n


@given(hnp.integer_array_indices(SHAPE, result_shape=hnp.array_shapes(max_dims=2)))
def test_integer_arrays(index: tuple[np.ndarray, ...]) -> None:
    entries = normalize_index(index, SHAPE)
    np.testing.assert_array_equal(apply(entries, X), X[index])
    for entry in entries:
        assert entry.dtype == np.int64
        assert (entry >= 0).all()


@pytest.mark.parametrize(
    "index",
    [
        [0, -1],
        [True, False, True, True],
        np.array([], np.int64),
        [],
        (slice(None), [4, -5]),
        X > 50,
        (0, X[0] > 7),
        (..., np.array([1, 2], np.uint8)),
        np.array(2),
        np.int16(-1),
        range(2),
        (np.zeros((4, 5), bool), 3),
        (None, ..., None, -1),
    ],
)
def test_other_indices(index: Any) -> None:
    np.testing.assert_array_equal(apply(normalize_index(index, SHAPE), X), X[index])


def test_one_dimensional_masks_become_positions() -> None:
    (entry, *_) = normalize_index(np.array([False, True, False, True]), SHAPE)
    assert same(entry, np.array([1, 3]))


def test_empty_slices_have_one_form() -> None:
    assert normalize_index((slice(3, 1), slice(1, 4, -1), slice(9, 9)), SHAPE) == [slice(0, 0, 1)] * 3


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (4, "index 4 is out of bounds for axis 0 with size 4"),
        ((0, -6), "index -6 is out of bounds for axis 1 with size 5"),
        ((..., [0, 6]), "index 6 is out of bounds for axis 2 with size 6"),
        (np.array([9], np.uint64), "index 9 is out of bounds"),
        ((0, 0, 0, 0), "too many indices for array: array is 3-dimensional, but 4 were indexed"),
        ((..., 0, ...), "single ellipsis"),
        ([True, False], "axis 0; size of axis is 4 but size of corresponding boolean axis is 2"),
        (np.zeros((4, 6), bool), "axis 1; size of axis is 5 but size of corresponding boolean axis is 6"),
        (1.0, "only integers"),
        ([0.5], "only integers"),
        ("name", "only integers"),
        (object(), "only integers"),
    ],
)
def test_errors_are_numpys(index: Any, words: str) -> None:
    with pytest.raises(IndexError, match=words):
        normalize_index(index, SHAPE)
    with pytest.raises(IndexError):
        X[index]


@pytest.mark.parametrize(("index", "error"), [(slice(0, 2, 0), ValueError), (slice(0.5, 2), TypeError)])
def test_bad_slices(index: slice, error: type[Exception]) -> None:
    with pytest.raises(error):
        normalize_index(index, SHAPE)
    with pytest.raises(error):
        X[index]


def test_single_booleans_are_masks_without_axes() -> None:
    flag, *rest = normalize_index(True, SHAPE)
    assert (flag.shape, flag.dtype) == ((), np.dtype(bool))
    assert rest == normalize_index((), SHAPE)


class TestUnknownLengths:
    def test_full_slices(self) -> None:
        assert normalize_index((..., 0), (nan, 5)) == [slice(None), 0]
        assert normalize_index(slice(0, None, 1), (nan,)) == [slice(None)]

    @pytest.mark.parametrize("index", [0, slice(1, None), slice(None, None, -1), [0, 1], np.array([True])])
    def test_anything_else(self, index: Any) -> None:
        with pytest.raises(UnknownChunksError, match=r"axis 1 .*compute_chunk_sizes"):
            normalize_index((slice(None), index), (3, nan))


class Lazy:
    def __init__(self, shape: tuple[float, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)


class TestLazyArrays:
    def parse(self, index: Any, shape: tuple[float, ...]) -> list[Any]:
        return normalize_index(index, shape, lambda entry: isinstance(entry, Lazy))

    def test_masks_consume_their_axes(self) -> None:
        mask = Lazy((4, 5), "bool")
        assert self.parse((mask, ...), SHAPE) == [mask, slice(0, 6, 1)]

    def test_positions_consume_one_axis(self) -> None:
        positions = Lazy((7, 2), "int32")
        assert self.parse(positions, SHAPE) == [positions, slice(0, 5, 1), slice(0, 6, 1)]

    def test_unknown_lengths(self) -> None:
        mask = Lazy((nan,), "bool")
        assert self.parse(mask, (nan, 3)) == [mask, slice(0, 3, 1)]
        assert self.parse(mask, (4,)) == [mask]

    def test_masks_of_another_shape(self) -> None:
        with pytest.raises(IndexError, match="size of axis is 4"):
            self.parse(Lazy((5,), "bool"), SHAPE)

    def test_floats(self) -> None:
        with pytest.raises(IndexError, match="float64"):
            self.parse(Lazy((4,), "float64"), SHAPE)
