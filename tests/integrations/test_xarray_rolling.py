"""Rolling reductions held against windows that are reduced one by one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.integrations.xarray.rolling import REDUCTIONS


def reference(x, name, windows, center, min_count, ddof):
    """NumPy's reduction of every window, missing values left out."""
    before = [w // 2 if c else w - 1 for w, c in zip(windows, center, strict=True)]
    wide = np.pad(x, [(b, w - 1 - b) for b, w in zip(before, windows, strict=True)], constant_values=np.nan)
    view = np.lib.stride_tricks.sliding_window_view(wide, windows)
    axes = tuple(range(-x.ndim, 0))
    options = {"ddof": ddof} if name in ("var", "std") else {}
    if name in ("min", "max"):
        filled = np.where(np.isnan(view), np.inf if name == "min" else -np.inf, view)
        found = getattr(np, name)(filled, axis=axes)
    else:
        found = getattr(np, "nan" + name)(view, axis=axes, **options)
    return np.where(np.count_nonzero(~np.isnan(view), axis=axes) >= min_count, found, np.nan)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_against_numpy(data):
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 9)))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    windows = tuple(data.draw(st.integers(1, n)) for n in shape)
    center = tuple(data.draw(st.booleans()) for _ in shape)
    name = data.draw(st.sampled_from(REDUCTIONS))
    min_count = data.draw(st.integers(1, windows[0] * windows[1]))
    ddof = data.draw(st.sampled_from([0, 1]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.normal(1e3, 1, shape)
    x[rng.random(shape) < data.draw(st.sampled_from([0, 0.3, 0.9]))] = np.nan
    lazy = xr.DataArray(ta.from_array(x, chunks), dims=("a", "b"))
    rolling = lazy.rolling(
        a=windows[0], b=windows[1], center=dict(zip("ab", center, strict=True)), min_periods=min_count
    )
    found = getattr(rolling, name)(**({"ddof": ddof} if name in ("var", "std") else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = reference(x, name, windows, center, min_count, ddof)
    np.testing.assert_allclose(found.values, want, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(
        rolling._counts(None).values, reference(1.0 - np.isnan(x), "sum", windows, center, 0, 0)
    )


def test_nothing_is_subtracted():
    """What leaves the window leaves nothing behind."""
    x = xr.DataArray([1e300, np.inf, 1.0, 2.0, 3.0], dims="x").chunk(x=2, chunked_array_type="tilework")
    np.testing.assert_array_equal(x.rolling(x=2).sum(), [np.nan, np.inf, np.inf, 3, 5])
    np.testing.assert_array_equal(x.rolling(x=2).mean()[3:], [1.5, 2.5])


@pytest.mark.parametrize("name", REDUCTIONS)
def test_results_do_not_depend_on_blocks(name):
    x = xr.DataArray(np.random.default_rng(0).random((50, 7)), dims=("x", "y"))
    found = [
        getattr(x.chunk(c, chunked_array_type="tilework").rolling(x=9), name)().values
        for c in ({"x": 50}, {"x": 7, "y": 3})
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", ["bool", "i1", "i8", "f4", "f8"])
@pytest.mark.parametrize("center", [False, True])
def test_dtype(dtype, center):
    x = xr.DataArray(np.arange(8).astype(dtype), dims="x").chunk(x=3, chunked_array_type="tilework")
    for name in ("mean", "max", "median"):
        found = getattr(x.rolling(x=3, center=center), name)()
        assert found.dtype == found.compute().dtype == ("f4" if dtype == "f4" or (dtype == "i1" and center) else "f8")


def test_blocks_grow_where_windows_are_wide():
    """The number of blocks that a task reads stays small."""
    x = xr.DataArray(ta.ones((3650, 4), chunks=(10, 4)), dims=("t", "x"))
    found = x.rolling(t=365).mean()
    assert max(found.chunks[0]) >= 364
    assert len(found.chunks[0]) <= 11
    assert float(found[-1, 0]) == 1


def test_attributes():
    x = xr.DataArray(np.arange(4.0), dims="x", attrs={"units": "m"}, name="t").chunk(x=2, chunked_array_type="tilework")
    assert x.rolling(x=2).mean().attrs == {"units": "m"}
    assert x.rolling(x=2).mean(keep_attrs=False).attrs == {}
    assert x.rolling(x=2).mean().name == "t"
    assert x.to_dataset().rolling(x=2).sum().t.chunks == ((2, 2),)


@pytest.mark.parametrize("name", ["sum", "mean", "count", "max"])
def test_windows_as_long_as_the_array(name):
    """They are cumulative: blocks stay as they are where sums go on from one to the next."""
    x = xr.DataArray(np.random.default_rng(0).random((30, 4)), dims=("t", "x"))
    x = x.where(x > 0.3)
    lazy = x.chunk(t=4, chunked_array_type="tilework")
    for min_periods in (1, 5):
        found = getattr(lazy.cumulative("t", min_periods=min_periods), name)()
        xr.testing.assert_allclose(found, getattr(x.cumulative("t", min_periods=min_periods), name)())
    assert name == "max" or found.chunks == lazy.chunks
