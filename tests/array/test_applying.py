"""Functions that take functions, against NumPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays

A = np.random.default_rng(0).integers(0, 10, (6, 7, 8))


@pytest.fixture
def x():
    return ta.from_array(A, chunks=(4, 3, 5))


ALONG = {
    "number": lambda v: v.sum(),
    "as long": lambda v: np.cumsum(v) / 2,
    "shorter": lambda v: v[:2],
    "matrix": lambda v: np.outer(v[:2], v[:3]),
}


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", ALONG)
def test_apply_along_axis(x, name, axis):
    expected = np.apply_along_axis(ALONG[name], axis, A)
    found = ta.apply_along_axis(ALONG[name], axis, x)
    assert found.shape == expected.shape
    assert_eq(found, expected)
    sample = np.asarray(ALONG[name](A[(0,) * (axis % 3) + (slice(None),) + (0,) * (2 - axis % 3)]))
    assert_eq(ta.apply_along_axis(ALONG[name], axis, x, dtype=sample.dtype, shape=sample.shape), expected)


def test_apply_along_axis_passes_arguments(x):
    assert_eq(ta.apply_along_axis(lambda v, factor: v.sum() * factor, 0, x, 3), A.sum(0) * 3)
    assert_eq(ta.apply_along_axis(np.percentile, 1, x, q=30), np.apply_along_axis(np.percentile, 1, A, q=30))


def test_apply_along_axis_of_unknown_length(x):
    unknown = x[x[:, 0, 0] > 3]
    with pytest.raises(UnknownChunksError, match="give dtype and shape"):
        ta.apply_along_axis(np.sum, 0, unknown)


@pytest.mark.parametrize("axes", [0, (0, 2), [-1, 0]])
def test_apply_over_axes(x, axes):
    functions = [lambda v, axis: v.sum(axis=axis), lambda v, axis: v.max(axis=axis, keepdims=True), np.cumsum]
    for function in functions:
        assert_eq(ta.apply_over_axes(function, x, axes), np.apply_over_axes(function, A, axes))
    assert_eq(np.apply_over_axes(np.sum, x, axes), np.apply_over_axes(np.sum, A, axes))
    with pytest.raises(PlanError, match="correct shape"):
        ta.apply_over_axes(lambda v, axis: v.sum(), x, axes)


def test_piecewise(x):
    functions = [lambda v, k: v * k, 5, lambda v, k: -v]
    for conditions in ([x < 3, x > 7], [x < 3, A > 7]):
        assert_eq(ta.piecewise(x, conditions, functions, 3), np.piecewise(A, [A < 3, A > 7], functions, 3))
    assert_eq(np.piecewise(x, [x < 3], [1]), np.piecewise(A, [A < 3], [1]))
    assert_eq(ta.piecewise(x, x < 3, [-1, 1]), np.piecewise(A, [A < 3], [-1, 1]))
    with pytest.raises(PlanError, match="either 1 or 2 functions"):
        ta.piecewise(x, [x < 3], [1, 2, 3])


@settings(max_examples=25)
@given(data=st.data(), pair=arrays(dtypes=("float64", "int64"), min_dims=1, min_side=1))
def test_coarsen(data, pair):
    a, x = pair
    axes = data.draw(st.dictionaries(st.integers(0, a.ndim - 1), st.integers(1, 4), max_size=2))
    sides = [axes.get(k, 1) for k in range(a.ndim)]
    trimmed = a[tuple(slice(0, n - n % side) for n, side in zip(a.shape, sides, strict=True))]
    boxes = trimmed.reshape([m for n, side in zip(trimmed.shape, sides, strict=True) for m in (n // side, side)])
    expected = boxes.sum(axis=tuple(range(1, 2 * a.ndim, 2)))
    for reduction in (np.sum, ta.sum):
        found = ta.coarsen(reduction, x, axes, trim_excess=True)
        assert found.shape == expected.shape
        assert_eq(found, expected)


def test_coarsen_options(x):
    expected = A.reshape(3, 2, 7, 2, 4).mean((1, 4), dtype="float32")
    assert_eq(ta.coarsen(np.mean, x, {0: 2, -1: 4}, dtype="float32"), expected)
    for bad in ({0: 4}, {0: 0}):
        with pytest.raises(PlanError, match="trim_excess"):
            ta.coarsen(np.sum, x, bad)
    with pytest.raises(UnknownChunksError):
        ta.coarsen(np.sum, x[x[:, 0, 0] > 3], {0: 2})
