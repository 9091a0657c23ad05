"""Medians and quantiles against NumPy's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework.base.errors import PerformanceWarning, PlanError, UnknownChunksError
from tilework.testing import assert_eq

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


@pytest.mark.parametrize("name", ["quantile", "nanquantile", "percentile", "nanpercentile"])
@pytest.mark.parametrize("axis", AXES)
def test_weights(name, axis):
    x, weights = RNG.random((9, 5, 6)), RNG.random((9, 5, 6)) + 0.1
    options = {"axis": axis, "method": "inverted_cdf"}
    lazy, lazy_weights = ta.from_array(x, chunks=(4, 3, 6)), ta.from_array(weights, chunks=2)
    for q in (0.3, [0.2, 0.7]):
        expected = getattr(np, name)(x, q, weights=weights, **options)
        assert_eq(getattr(ta, name)(lazy, q, weights=lazy_weights, **options), expected)


def test_weights_of_one_axis():
    x, weights = RNG.random((9, 5, 6)), RNG.random(5) + 0.1
    found = ta.quantile(ta.from_array(x, chunks=2), 0.4, 1, weights=weights, method="inverted_cdf")
    assert_eq(found, np.quantile(x, 0.4, 1, weights=weights, method="inverted_cdf"))


@pytest.mark.parametrize("name", ["quantile", "nanpercentile"])
def test_lazy_quantiles(name):
    x, q = ta.from_array(X, chunks=3), np.array([[0.3, 0.5], [0.1, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_eq(getattr(ta, name)(x, ta.from_array(q), axis=1), getattr(np, name)(X, q, axis=1))


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


def test_blocks_that_cannot_stay_within_bounds():
    x = ta.ones((1000, 4000), chunks=(10, 4000), dtype="float32")
    with tw.config.set(chunk_size="1MiB"), pytest.warns(PerformanceWarning, match=r"nanmedian: axes \(0, 1\)"):
        ta.nanmedian(x)


def test_refused():
    x = ta.arange(10, chunks=3)
    with pytest.raises(ValueError, match="range"):
        ta.quantile(x, 1.5)
    with pytest.raises(ValueError, match="Only method 'inverted_cdf' supports weights"):
        ta.quantile(x, 0.5, weights=np.ones(10))
    with pytest.raises(PlanError, match=r"weights of shape \(3,\) fit neither"):
        ta.quantile(x, 0.5, weights=np.ones(3), method="inverted_cdf")
    with pytest.raises(UnknownChunksError, match="median: axis 0"):
        ta.median(x[x > 3])


@pytest.mark.parametrize("name", ["median", "nanmedian", "quantile", "nanquantile"])
def test_transposed_arrays_are_used_as_they_lie(name):
    x = np.random.default_rng(0).random((6, 5, 4))
    x[x < 0.1] = np.nan
    q = (0.3,) if name.endswith("quantile") else ()
    lazy = ta.from_array(x, (2, 3, 4)).transpose(2, 0, 1)
    for axis in (0, 1, (0, 2)):
        for keepdims in (False, True):
            found = getattr(ta, name)(lazy, *q, axis=axis, keepdims=keepdims)
            want = getattr(np, name)(x.transpose(2, 0, 1), *q, axis=axis, keepdims=keepdims)
            np.testing.assert_allclose(found.compute(), want)


def test_many_lanes():
    """More than are sorted at once, in blocks whose axes lie in any order."""
    x = np.random.default_rng(0).random((40, 70, 30))
    x[0, :, 0] = np.nan
    lazy = ta.from_array(x, (40, 70, 30))
    np.testing.assert_allclose(ta.nanquantile(lazy, [0.1, 0.7], axis=1), np.nanquantile(x, [0.1, 0.7], axis=1))
    np.testing.assert_allclose(ta.quantile(lazy, 0.5, axis=0), np.quantile(x, 0.5, axis=0))
    np.testing.assert_allclose(ta.median(lazy, axis=(0, 2)), np.median(x, axis=(0, 2)))


LARGE = {
    "floats": RNG.random((40, 30)),
    "few values": RNG.integers(0, 5, (40, 30)),
    "single": RNG.random(900).astype("f4"),
    "NaN": np.where(RNG.random((40, 30)) < 0.1, np.nan, 1.0),
}


@pytest.mark.parametrize("plain", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("keepdims", [False, True])
def test_what_is_larger_than_a_block_is_sorted_in_runs(plain: np.ndarray, keepdims: bool) -> None:
    with tw.config.set(chunk_size="1KiB"):
        x = ta.from_array(plain, chunks=(7,) * plain.ndim)
        median = ta.median(x, keepdims=keepdims)
        made = {
            (q, method): ta.quantile(x, q, axis=tuple(range(plain.ndim)), method=method, keepdims=keepdims)
            for q in (0.3, (0.0, 0.25, 1.0))
            for method in ("linear", "lower", "higher", "midpoint")
        }
    assert median.explain().scratch_bytes == x.nbytes
    assert_eq(median, np.median(plain, keepdims=keepdims))
    for (q, method), quantile in made.items():
        assert quantile.explain().scratch_bytes == x.nbytes
        assert_eq(quantile, np.quantile(plain, q, method=method, keepdims=keepdims))
