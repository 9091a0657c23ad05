"""Assignment against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import tilework.array as ta
from tilework.base.errors import PlanError, UnsupportedError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays, chunks

few = settings(max_examples=25)


def assigned(a, x, index, value, lazy_value=None):
    """Both after ``[index] = value``; earlier results keep the old values."""
    expected, before = a.copy(), x + 0
    expected[index] = value
    x[index] = value if lazy_value is None else lazy_value
    assert x.shape == a.shape
    assert x.dtype == a.dtype
    assert_eq(x, expected)
    assert_eq(before, a + np.zeros((), a.dtype))


def value_for(data, shape):
    """An array that broadcasts to what is selected."""
    shape = shape[data.draw(st.integers(0, len(shape))) :]
    shape = tuple(1 if data.draw(st.booleans()) else n for n in shape)
    return np.arange(100, 100 + np.prod(shape, dtype=int)).reshape(shape)


@few
@given(st.data(), arrays(dtypes=["int64"], min_side=1))
def test_basic_index(data, pair):
    a, x = pair
    index = data.draw(npst.basic_indices(a.shape, allow_newaxis=True))
    value = value_for(data, a[index].shape)
    lazy = ta.from_array(value, chunks=data.draw(chunks(value.shape))) if data.draw(st.booleans()) else None
    assigned(a, x, index, value, lazy)


@few
@given(st.data(), arrays(dtypes=["float64"], min_dims=1, min_side=1))
def test_index_arrays(data, pair):
    a, x = pair
    shape = data.draw(npst.array_shapes(max_dims=2, max_side=3))
    entries = []
    for n in a.shape:
        kind = data.draw(st.sampled_from(["array", "array", "int", "slice"]))
        if kind == "array" and n >= np.prod(shape):  # no place twice: NumPy does not say which value stays
            places = data.draw(st.permutations(range(n)))
            entries.append(np.array(places)[: np.prod(shape)].reshape(shape))
        else:
            entries.append(data.draw(st.slices(n) if kind == "slice" else st.integers(-n, n - 1)))
    index = tuple(entries)
    value = value_for(data, a[index].shape)
    lazy = ta.from_array(value, chunks=data.draw(chunks(value.shape))) if data.draw(st.booleans()) else None
    assigned(a, x, index, value, lazy)


@few
@given(st.data(), arrays(dtypes=["float64"], min_dims=1, min_side=1))
def test_masks(data, pair):
    a, x = pair
    ndim = data.draw(st.integers(1, a.ndim))
    start = data.draw(st.integers(0, a.ndim - ndim))
    mask = data.draw(npst.arrays(bool, a.shape[start : start + ndim]))
    before = (slice(None),) * start
    assigned(a, x, (*before, mask), -1)
    a2, x2 = a.copy(), ta.from_array(a, chunks=3)
    lazy = ta.from_array(mask, chunks=data.draw(chunks(mask.shape)))
    a2[(*before, mask)] = 7
    x2[(*before, lazy)] = 7
    assert_eq(x2, a2)


@few
@given(st.data(), arrays(dtypes=["float64"], min_dims=1, min_side=1))
def test_as_many_values_as_the_mask_selects(data, pair):
    a, x = pair
    mask = data.draw(npst.arrays(bool, a.shape))
    assigned(a, x, mask, np.arange(mask.sum()))


def test_values_along_the_axes_that_a_mask_leaves():
    a = np.zeros((4, 3))
    x = ta.from_array(a, chunks=2)
    mask = np.array([True, False, True, True])
    assigned(a, x, mask, np.arange(3))
    y = ta.zeros((4, 3), chunks=2)
    y[ta.from_array(mask, chunks=3)] = ta.arange(3)
    assert_eq(y, x)


def test_overlapping_parts_of_the_same_array():
    a = np.arange(10)
    x = ta.from_array(a, chunks=3)
    x[1:] = x[:-1]
    assert_eq(x, np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8]))


def test_the_last_of_repeated_places_counts():
    a = np.zeros(5)
    assigned(a, ta.from_array(a, chunks=2), [1, 3, 1], [10.0, 20.0, 30.0])


def test_unknown_lengths():
    x = ta.arange(10, chunks=3)
    y = x[x > 4]
    y[y > 7] = 0
    assert_eq(y, np.array([5, 6, 7, 0, 0]))
    y[:] = 1
    assert_eq(y, np.ones(5, int))


def test_aliases_are_the_array_and_copies_are_not():
    x = ta.zeros(3)
    alias, copy = x, x.copy()
    x[0] = 1
    assert_eq(alias, np.array([1.0, 0, 0]))
    assert_eq(copy, np.zeros(3))


def test_what_numpy_refuses():
    x = ta.zeros((3, 4), dtype=int, chunks=2)
    with pytest.raises(ValueError, match=r"could not broadcast input array from shape \(3,\)"):
        x[0] = np.ones(3)
    with pytest.raises(ValueError, match="could not broadcast"):
        x[:, 0] = np.ones((2, 3))
    with pytest.raises(IndexError):
        x[5] = 1
    with pytest.raises((ValueError, TypeError)):
        x[0] = "word"
    for index in (np.array([True, False, True]), ta.from_array(np.array([True, False, True]))):
        with pytest.raises(ValueError, match="could not broadcast"):
            ta.zeros((3, 1), chunks=2)[index] = np.ones(4)  # would fit if the result could grow
    with pytest.raises(OverflowError):
        ta.zeros(3, dtype="int8")[0:1].__setitem__(0, 1000)
    assert_eq(x, np.zeros((3, 4), int))


def assign(x, y, make, case):
    """One assignment through index arrays that ``make`` makes; ``y`` has the values that ``x`` had before."""
    if case == "mask and slice":
        x[2:4, y[0] > 3] = -5
    elif case == "positions":
        x[make([2, -1])] = -3
    elif case == "positions and slice":
        x[::2, make([2, 3, 2])] = np.arange(3)[:, None]
    elif case == "mask and number":
        x[1, make([True] * 4 + [False] * 6)] = 7
    elif case == "mask and values":
        x[y[:, 0] > 5, 1:4] = np.arange(3)
    elif case == "values that are lazy":
        x[make([0, 4])] = y.sum(axis=0)


@pytest.mark.parametrize(
    "case",
    [
        "mask and slice",
        "positions",
        "positions and slice",
        "mask and number",
        "mask and values",
        "values that are lazy",
    ],
)
def test_lazy_index_arrays(case):
    a = np.arange(60).reshape(6, 10)
    x = ta.from_array(a.copy(), chunks=(2, 3))
    assign(x, ta.copy(x), ta.asarray, case)
    expected = a.copy()
    assign(expected, a, np.asarray, case)
    assert_eq(x, expected)


def test_lazy_positions_out_of_bounds():
    x = ta.zeros(4, chunks=2)
    x[ta.asarray([1, 9])] = 1
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        x.compute()


def test_lazy_indices_that_cannot_be_assigned_through():
    x = ta.zeros((4, 4), chunks=2)
    with pytest.raises(UnsupportedError, match="where"):
        x[ta.arange(2)] = np.arange(8).reshape(2, 4)
    with pytest.raises(UnsupportedError, match="where"):
        x[x > 0] = np.arange(4)
    with pytest.raises(PlanError, match="could not broadcast"):
        x[x > 0] = x
