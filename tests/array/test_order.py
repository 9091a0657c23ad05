"""Medians and quantiles against NumPy's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework.base.errors import UnknownChunksError, UnsupportedError

RNG = np.random.default_rng(0)
X = RNG.random((9, 5, 6)) * 100
X[RNG.random(X.shape) < 0.3] = np.nan
X[:, 2, 3] = np.nan  # nothing there
AXES = [0, -1, (0, 2), None]


def like_numpy(name, x, *args, chunks=(4, 3, 6), **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(np, name)(x, *args, **kwargs)
        lazy = getattr(np, name)(ta.from_array(x, chunks=chunks), *args, **kwargs)
        assert isinstance(lazy, ta.Array)
        found = lazy.compute()
    assert lazy.shape == np.shape(expected)
    assert lazy.dtype == np.asarray(found).dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int32"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["median", "nanmedian"])
def test_median(name, dtype, axis, keepdims):
    x = np.nan_to_num(X).astype(dtype) if dtype == "int32" else X.astype(dtype)
    like_numpy(name, x, axis=axis, keepdims=keepdims)


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("q", [0.3, 0, 1, [0.1, 0.5, 0.77]], ids=str)
@pytest.mark.parametrize("name", ["quantile", "nanquantile"])
def test_quantile(name, dtype, axis, q):
    x = np.nan_to_num(X).astype(dtype) if dtype == "uint8" else X.astype(dtype)
    like_numpy(name, x, q, axis=axis)
    like_numpy(name, x, q, axis=axis, keepdims=True)


def test_quantiles_of_two_dimensions():
    q = [[0.0, 1.0], [0.2, 0.25]]
    like_numpy("quantile", np.nan_to_num(X), q, axis=(0, 2))
    like_numpy("nanquantile", X, q, axis=0)


@pytest.mark.parametrize("method", ["nearest", "lower", "weibull", "median_unbiased"])
@pytest.mark.parametrize("name", ["quantile", "nanquantile"])
def test_methods(name, method):
    like_numpy(name, X, [0.1, 0.6], axis=1, method=method)


def test_infinities():
    x = np.array([[1.0, np.inf, 3.0, np.nan], [-np.inf, 2.0, np.inf, 5.0], [np.nan, np.inf, np.inf, 1.0]])
    like_numpy("nanmedian", x, axis=0, chunks=2)
    like_numpy("nanquantile", x, [0.0, 0.4, 1.0], axis=0, chunks=2)


@pytest.mark.parametrize("name", ["percentile", "nanpercentile"])
def test_percentiles(name):
    like_numpy(name, X, 30, axis=0)
    like_numpy(name, X, [30.0, 99.0], axis=(0, 1))


def test_blocks_stay_within_bounds():
    x = ta.ones((1000, 400, 300), chunks=(10, 400, 300), dtype="float32")
    with tw.config.set(chunk_size="8MiB"):
        found = ta.median(x, axis=0)
    inner = found.node
    while inner.inputs and inner.label != "rechunk":
        inner = inner.inputs[0]
    assert inner.grid[0] == 1
    assert np.prod([c.largest for c in inner.chunks]) * 4 <= 8 << 20


def test_refused():
    x = ta.arange(10, chunks=3)
    with pytest.raises(ValueError, match="range"):
        ta.quantile(x, 1.5)
    with pytest.raises(UnsupportedError, match="must not be a lazy array"):
        ta.quantile(x, ta.ones(2))
    with pytest.raises(UnsupportedError, match="weights"):
        ta.quantile(x, 0.5, weights=np.ones(10))
    with pytest.raises(UnknownChunksError, match="median: axis 0"):
        ta.median(x[x > 3])
