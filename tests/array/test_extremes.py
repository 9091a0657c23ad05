"""The largest and the smallest, against sorting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import PlanError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays


@settings(max_examples=40)
@given(data=st.data(), pair=arrays(dtypes=("float64", "int64"), min_dims=1, min_side=1))
def test_topk(data, pair):
    a, x = pair
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    k = data.draw(st.integers(1, 9))
    every = data.draw(st.sampled_from([None, 2]))
    upwards = np.sort(a, axis)
    largest = np.take(np.flip(upwards, axis), range(min(k, a.shape[axis])), axis)
    smallest = np.take(upwards, range(min(k, a.shape[axis])), axis)
    for sign, expected in ((1, largest), (-1, smallest)):
        found = ta.topk(x, sign * k, axis, every)
        assert found.shape == expected.shape
        assert_eq(found, expected)
        places = ta.argtopk(x, sign * k, axis, every)  # of equal elements any may be taken
        assert places.shape == expected.shape
        assert_eq(np.take_along_axis(a, places.compute(scheduler="sync"), axis), expected)


def test_methods_and_all_elements():
    a = np.random.default_rng(0).random((4, 6))
    x = ta.from_array(a, chunks=3)
    assert_eq(x.topk(2, axis=0), np.sort(a, 0)[:-3:-1])
    assert_eq(x.argtopk(-2, axis=0), np.argsort(a, 0)[:2])
    assert_eq(ta.topk(x, 5, axis=None), np.sort(a.ravel())[:-6:-1])


def test_unknown_lengths():
    x = ta.arange(10, chunks=3)
    assert_eq(x[x > 4].topk(2), np.array([9, 8]))


def test_refused():
    x = ta.arange(10, chunks=3)
    for bad in (0, 1.5):
        with pytest.raises(PlanError, match="k="):
            ta.topk(x, bad)
    with pytest.raises(np.exceptions.AxisError):
        ta.argtopk(x, 1, axis=1)
