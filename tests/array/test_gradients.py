from __future__ import annotations

import numpy as np
import pytest

import tilework.array as ta
from tilework.base.errors import PlanError, UnsupportedError

X = np.random.default_rng(0).random((7, 9))


@pytest.mark.parametrize("chunks", [(2, 3), (7, 1), ((1, 5, 1), (8, 1))])
@pytest.mark.parametrize("edge_order", [1, 2])
@pytest.mark.parametrize("axis", [0, -1, None, (1, 0)])
@pytest.mark.parametrize("spacing", ["none", "number", "coordinates"])
def test_like_numpy(chunks, edge_order, axis, spacing):
    axes = range(2) if axis is None else np.atleast_1d(axis)
    distances = {
        "none": [],
        "number": [2.5],
        "coordinates": [np.cumsum(1 + np.arange(X.shape[a]) % 3) / 10 for a in axes],
    }[spacing]
    x = ta.from_array(X, chunks=chunks)
    found = np.gradient(x, *distances, axis=axis, edge_order=edge_order)
    expected = np.gradient(X, *distances, axis=axis, edge_order=edge_order)
    several = isinstance(found, tuple)
    assert several == isinstance(expected, tuple)
    for one, other in zip(found if several else [found], expected if several else [expected], strict=True):
        assert one.chunks == x.chunks
        np.testing.assert_allclose(one.compute(), other, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "int16", "complex64"])
def test_dtype(dtype):
    x = ta.arange(6, chunks=4).astype(dtype)
    found = ta.gradient(x)
    expected = np.gradient(np.arange(6).astype(dtype))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.compute(), expected)


def test_refused():
    with pytest.raises(PlanError, match="too short"):
        ta.gradient(ta.ones(2, chunks=1), edge_order=2)
    with pytest.raises(PlanError, match="do not fit axis 0"):
        ta.gradient(ta.ones(4, chunks=2), np.arange(3))
    with pytest.raises(PlanError, match="2 distances do not fit 1 axes"):
        ta.gradient(ta.ones((4, 4), chunks=2), 1, 1, axis=0)
    with pytest.raises(UnsupportedError, match="must not be lazy"):
        ta.gradient(ta.ones(4, chunks=2), ta.arange(4))
