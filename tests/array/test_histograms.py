"""Histograms and bincount against NumPy's."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import BlockResultError, DTypeError, PlanError, UnsupportedError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays

RNG = np.random.default_rng(0)
A, WEIGHTS = RNG.random((30, 20)), RNG.random((30, 20))
POINTS, POINT_WEIGHTS = RNG.random((200, 3)), RNG.random(200)


def equal(mine, theirs):
    for one, other in zip(mine, theirs, strict=True):
        assert one.shape == other.shape
        assert_eq(one, other)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "bool"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bins": 7},
        {"bins": [0, 0.2, 0.7]},
        {"bins": 5, "range": (0.1, 0.8)},
        {"bins": 5, "density": True},
        {"bins": 6, "weights": WEIGHTS},
        {"bins": [0, 0.5, 1], "weights": WEIGHTS.astype("float32")},
        {"bins": 6, "weights": (WEIGHTS * 10).astype("int32"), "density": True},
    ],
    ids=str,
)
def test_histogram(dtype, options):
    a = (A * (1 if dtype[0] == "f" else 9)).astype(dtype)
    x = ta.from_array(a, chunks=(7, 6))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting input from bool", RuntimeWarning)
        equal(ta.histogram(x, **options), np.histogram(a, **options))
        equal(np.histogram(x, **options), np.histogram(a, **options))


@settings(max_examples=15)
@given(pair=arrays(dtypes=("float64", "int64"), min_dims=1), bins=st.integers(1, 9))
def test_histogram_of_anything(pair, bins):
    a, x = pair
    equal(ta.histogram(x, bins), np.histogram(a, bins))


def test_lazy_bins():
    x, edges = ta.from_array(A, chunks=7), np.array([0, 0.2, 0.25, 1])
    lazy = ta.from_array(edges, chunks=2)
    counts, found = ta.histogram(x, lazy, weights=WEIGHTS)
    assert found is lazy
    assert_eq(counts, np.histogram(A, edges, weights=WEIGHTS)[0])
    for bounds in ([x.min(), x.max()], [0.0, x.max()], ta.stack([x.min(), x.max()])):
        expected = np.histogram(A, 8, range=[float(b) for b in np.asarray(list(map(float, bounds)))])
        equal(ta.histogram(x, 8, range=bounds), expected)
    counts, found = ta.histogram(x, ta.asarray(5), range=(0, 1))
    assert np.isnan(counts.shape[0])
    assert_eq(counts, np.histogram(A, 5, range=(0, 1))[0])


def test_dates():
    a = np.array(["2001-01-01", "2001-05-05", "2002-01-01"], "M8[s]")
    bins = np.array(["2000-01-01", "2001-03-01", "2003-01-01"], "M8[s]")
    assert_eq(ta.histogram(ta.from_array(a, chunks=1), bins)[0], np.histogram(a, bins)[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bins": 4},
        {"bins": (2, 3, 4)},
        {"bins": [[0, 0.5, 1], 3, [0, 0.2, 0.9]]},
        {"bins": 3, "range": [(0, 1), None, (0, 0.5)]},
        {"bins": 3, "weights": POINT_WEIGHTS},
        {"bins": 3, "density": True, "weights": POINT_WEIGHTS},
    ],
    ids=str,
)
def test_histogramdd(options):
    x = ta.from_array(POINTS, chunks=(90, 2))
    expected, edges = np.histogramdd(POINTS, **options)
    for sample in (x, list(x.T)):
        counts, found = ta.histogramdd(sample, **options)
        assert counts.shape == expected.shape
        assert_eq(counts, expected)
        equal(found, edges)


def test_histogram2d():
    x, y = ta.from_array(POINTS[:, 0], chunks=60), ta.from_array(POINTS[:, 1], chunks=50)
    for bins in (10, (4, 5), [0, 0.1, 0.5, 1], [[0, 0.5, 1], [0, 0.2, 1]], [ta.asarray([0, 0.5, 1]), 4]):
        plain = [np.asarray(b) if isinstance(b, ta.Array) else b for b in bins] if np.iterable(bins) else bins
        equal(ta.histogram2d(x, y, bins), np.histogram2d(POINTS[:, 0], POINTS[:, 1], plain))


def test_refused_histograms():
    x = ta.from_array(A, chunks=7)
    with pytest.raises(TypeError, match="bins=None"):
        ta.histogram(x, bins=None)
    with pytest.raises(UnsupportedError, match="auto"):
        ta.histogram(x, "auto")
    for bad in (1, [0, 1, 2], [0], np.array([[0, 1]])):
        with pytest.raises(PlanError, match="range"):
            ta.histogram(x, 10, range=bad)
    with pytest.raises(PlanError, match="bins of shape"):
        ta.histogram(x, np.ones((2, 2)))
    with pytest.raises(ValueError, match="increase monotonically"):
        ta.histogram(x, [1, 0])
    with pytest.raises(PlanError, match="weights of shape"):
        ta.histogram(x, weights=np.ones(3))
    with pytest.raises(PlanError, match="dimension of bins"):
        ta.histogramdd(POINTS, bins=(2, 3))
    with pytest.raises(PlanError, match="per dimension"):
        ta.histogramdd(POINTS, range=[(0, 1)])
    with pytest.raises(PlanError, match="sequence of pairs"):
        ta.histogramdd(POINTS, range=[(0, 1), (0, 1, 2), None])
    with pytest.raises(TypeError, match="normed"):
        ta.histogramdd(POINTS, density=True, normed=True)


@pytest.mark.parametrize("chunks", [7, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_bincount(chunks, weighted):
    a = RNG.integers(0, 30, 50)
    weights = RNG.random(50) if weighted else None
    lazy_weights = ta.from_array(weights, chunks=11) if weighted else None
    x = ta.from_array(a, chunks=chunks)
    unknown = ta.bincount(x, lazy_weights)
    assert np.isnan(unknown.shape[0])
    assert_eq(unknown, np.bincount(a, weights))
    known = ta.bincount(x, lazy_weights, 40, split_every=2)
    assert known.chunks == ((40,),)
    assert_eq(known, np.bincount(a, weights, 40))


def test_refused_bincounts():
    with pytest.raises(DTypeError, match="float64"):
        ta.bincount(ta.ones(3))
    with pytest.raises(PlanError, match="one-dimensional"):
        ta.bincount(ta.ones((3, 3), dtype=int))
    with pytest.raises(PlanError, match="same length"):
        ta.bincount(ta.ones(3, dtype=int), weights=np.ones(2))
    with pytest.raises(PlanError, match="negative"):
        ta.bincount(ta.ones(3, dtype=int), minlength=-1)
    with pytest.raises(UnsupportedError, match="minlength must be known"):
        ta.bincount(ta.ones(3, dtype=int), minlength=ta.asarray(2))
    with pytest.raises(BlockResultError, match="needs minlength=8, not 5"):
        ta.bincount(ta.from_array([1, 7]), minlength=5).compute()
