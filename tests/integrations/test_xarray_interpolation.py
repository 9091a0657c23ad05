"""Interpolation held against xarray on NumPy, and what it reads of the array."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework.plan.graph import topological

RNG = np.random.default_rng(0)
VALUES = RNG.random((30, 8, 9))
VALUES[RNG.random(VALUES.shape) < 0.05] = np.nan
DA = xr.DataArray(
    VALUES,
    dims=("time", "lat", "lon"),
    coords={
        "time": pd.date_range("2000", periods=30),
        "lat": np.linspace(70, -70, 8),
        "lon": np.sort(RNG.random(9)) * 360,
    },
    attrs={"units": "K"},
)
LAZY = DA.chunk(time=7, lat=3, lon=4, chunked_array_type="tilework")


def check(operation):
    """To the last bit: what is done is what SciPy does."""
    found, want = operation(LAZY), operation(DA)
    assert isinstance(found.data, ta.Array)
    assert found.dims == want.dims
    assert found.dtype == want.dtype
    assert found.attrs == want.attrs
    xr.testing.assert_equal(found.compute(), want)
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_against_xarray(data):
    method = data.draw(st.sampled_from(["linear", "nearest"]))
    fill = data.draw(st.sampled_from([None, "extrapolate", -1.0, (0.0, 1.0)]))
    points = {}
    for dim, (low, high) in data.draw(st.permutations([("lat", (-90, 90)), ("lon", (-20, 380))]))[
        : data.draw(st.integers(1, 2))
    ]:
        at = data.draw(st.one_of(st.lists(st.floats(low, high), min_size=1, max_size=20), st.floats(low, high)))
        points[dim] = at
    check(lambda d: d.interp(points, method=method, kwargs={} if fill is None else {"fill_value": fill}))


@pytest.mark.parametrize("freq", ["12h", "53h"])
def test_along_the_only_dimension(freq):
    """SciPy leaves that to numpy.interp, for which a value beside a missing one is there."""
    check(lambda d: d[:, 0, 0].interp(time=pd.date_range("2000-01-02", periods=20, freq=freq)))


@pytest.mark.parametrize("freq", ["12h", "53h"])
def test_dates(freq):
    check(lambda d: d.interp(time=pd.date_range("1999-12-30", periods=20, freq=freq)))
    check(lambda d: d.interp(time="2000-01-05T12:00"))


def test_values_where_there_are_some_already():
    check(lambda d: d.interp(lat=DA.lat, lon=DA.lon[::2]))
    check(lambda d: d.interp_like(DA[::3, ::2]))


@pytest.mark.parametrize("method", ["cubic", "quadratic", "pchip", "slinear", "zero", "polynomial"])
def test_other_methods(method):
    options = {"kwargs": {"order": 2}} if method == "polynomial" else {}
    check(
        lambda d: d.fillna(0).interp(time=pd.date_range("2000-01-03", periods=9, freq="7h"), method=method, **options)
    )


def test_along_several_dimensions_together():
    lat, lon = (xr.DataArray(v, dims="p") for v in ([10.0, 20, -30], [200.0, 100, 250]))
    check(lambda d: d.fillna(0).interp(lat=lat, lon=lon))
    check(lambda d: d.fillna(0).interp(lat=xr.DataArray([[10.0, 20], [5, 6]], dims=("p", "q"))))
    check(lambda d: d.fillna(0).interp(lat=[1.0, 2], lon=[100.0, 200], method="cubic"))


@pytest.mark.parametrize("dtype", ["i4", "f4", "f8", "c16"])
def test_dtypes(dtype):
    whole = DA.fillna(0) * 100
    found = whole.astype(dtype).chunk(lat=3, chunked_array_type="tilework").interp(lat=[0.0, 5])
    want = whole.astype(dtype).interp(lat=[0.0, 5])
    assert found.compute().dtype == found.dtype
    xr.testing.assert_allclose(found.compute(), want, rtol=1e-6)


def test_blocks_are_no_longer_and_need_few_blocks():
    x = xr.DataArray(ta.ones((1000, 50), chunks=(10, 50)), dims=("t", "x"), coords={"t": np.arange(1000)})
    found = x.interp(t=np.arange(0, 999, 0.5))
    assert max(found.chunks[0]) == 10
    assert not any(max(node.chunks[0]) > 12 for node in topological([found.data.node]))
    assert tw.explain(found).predicted_peak < 1_000_000 + found.nbytes
    np.testing.assert_array_equal(found, 1)


def test_other_methods_divide_the_other_dimensions():
    x = xr.DataArray(ta.ones((1000, 500), chunks=(10, 500)), dims=("t", "x"), coords={"t": np.arange(1000.0)})
    with tw.config.set(chunk_size="400kB"):
        found = x.interp(t=[1.5, 2.5], method="cubic")
    assert len(found.chunks[1]) >= 10
