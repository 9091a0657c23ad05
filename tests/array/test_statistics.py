"""Covariances, correlations and moments against NumPy's."""

import numpy as np
import pytest
from scipy import stats

import tilework.array as ta
from tilework.base.errors import PlanError, UnknownChunksError, UnsupportedError
from tilework.testing import assert_eq

RNG = np.random.default_rng(0)
A, B = RNG.random((7, 80)), RNG.random(80)
COUNTS = np.arange(80) % 5
X, Y = ta.from_array(A, chunks=(4, 30)), ta.from_array(B, chunks=7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True},
        {"ddof": 3},
        {"fweights": COUNTS},
        {"aweights": B},
        {"fweights": COUNTS, "aweights": B},
        {"fweights": COUNTS, "aweights": B, "ddof": 0},
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_cov(options):
    lazy = {key: ta.from_array(value, chunks=9) if "weights" in key else value for key, value in options.items()}
    for given in (options, lazy):
        assert_eq(ta.cov(X, **given), np.cov(A, **options), rtol=1e-4 if "dtype" in options else 1e-9)
        assert_eq(ta.cov(X, Y, **given), np.cov(A, B, **options), rtol=1e-4 if "dtype" in options else 1e-9)


def test_layouts():
    for function in ("cov", "corrcoef"):
        ours, numpys = getattr(ta, function), getattr(np, function)
        assert_eq(ours(X, rowvar=False), numpys(A, rowvar=False))
        assert_eq(ours(Y), numpys(B))
        assert_eq(ours(Y, X), numpys(B, A))
        assert_eq(ours(X + 1j * X**2), numpys(A + 1j * A**2))
        assert_eq(numpys(X), numpys(A))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_too_few_observations():
    with pytest.warns(RuntimeWarning, match="degrees of freedom"):
        found = ta.cov(ta.asarray([[1.0, 2.0]]), rowvar=False)
    assert found.shape == (2, 2)
    assert np.isnan(found.compute(scheduler="sync")).all()


def test_refused_covariances():
    with pytest.raises(PlanError, match="ddof"):
        ta.cov(X, ddof=1.5)
    with pytest.raises(UnsupportedError, match="ddof must be known"):
        ta.cov(X, ddof=ta.asarray(1))
    with pytest.raises(PlanError, match="2 dimensions"):
        ta.cov(ta.ones((2, 2, 2)))
    with pytest.raises(RuntimeError, match="multidimensional fweights"):
        ta.cov(X, fweights=np.ones((2, 80), int))
    with pytest.raises(RuntimeError, match="incompatible numbers"):
        ta.cov(X, aweights=ta.ones(3))
    with pytest.raises(TypeError, match="fweights must be integer"):
        ta.cov(X, fweights=B)
    with pytest.raises(ValueError, match="aweights cannot be negative"):
        ta.cov(X, aweights=-Y).compute()
    with pytest.raises(UnknownChunksError, match="observations"):
        ta.cov(Y[Y > 0.5])


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize("order", range(5))
def test_moments(axis, order):
    for keepdims in (False, True):
        found = X.moment(order, axis, keepdims=keepdims)
        expected = stats.moment(A, order, axis=axis if axis != (0, 1) else None, keepdims=keepdims)
        if order == 0:  # SciPy drops the axes
            expected = np.ones(found.shape)
        assert_eq(found, expected)


def test_moments_of_samples():
    assert_eq(ta.moment(X, 2, 1, ddof=1), np.var(A, 1, ddof=1))
    assert_eq(ta.moment(X.astype("float32"), 2), np.var(A.astype("float32")), rtol=1e-4)
    out = ta.zeros(7)
    assert ta.moment(X, 1, 1, out=out) is out
    for bad in (-1, 1.5):
        with pytest.raises(PlanError, match="order"):
            ta.moment(X, bad)
