"""How grouped operations of xarray are planned. That their results are right: ``test_xarray_operations``."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from xarray.groupers import BinGrouper, UniqueGrouper

import tilework as tw
import tilework.array as ta
from tilework.plan.graph import topological
from tilework.plan.ops import Reduce, Take


@pytest.fixture
def daily():
    x = ta.random.default_rng(0).random((1461, 20, 30), chunks=(100, 20, 15), dtype="float32")
    coords = {"time": pd.date_range("2001-01-01", periods=1461), "lat": np.linspace(-60, 60, 20)}
    return xr.DataArray(x, dims=("time", "lat", "lon"), coords=coords)


def kinds(da):
    return {type(node) for node in topological([da.data.node])}


def test_a_number_of_groups_does_not_matter(daily):
    """xarray by itself would select and join group after group."""
    for found in (daily.groupby("time.dayofyear").mean(), daily.resample(time="W").mean()):
        assert len(topological([found.data.node])) < 10


def test_resampled_in_blocks_that_end_with_groups(daily):
    monthly = daily.resample(time="MS").mean()
    assert Reduce not in kinds(monthly)
    assert len(monthly.chunksizes["time"]) == len(daily.chunksizes["time"])
    assert monthly.chunksizes["lon"] == (15, 15)


def test_values_are_reduced_as_they_lie(daily):
    """flox wants the grouped dimension last; turning every block round would cost more than reducing it."""
    labels = [node.label for node in topological([daily.groupby("time.month").mean().data.node])]
    assert labels[:2] == ["random", "nanmean"]


def test_anomalies_are_in_the_blocks_of_the_data(daily):
    climatology = daily.groupby("time.month").mean()
    for other in (climatology, climatology.compute()):
        anomaly = daily.groupby("time.month") - other
        assert anomaly.chunks == daily.chunks
        assert Take in kinds(anomaly)
    plan = tw.explain((daily.groupby("time.month") - climatology).std("time"), memory="20MB")
    assert plan.predicted_peak <= 20e6
    assert plan.refusal is None


def test_anomalies_of_some_positions():
    """Positions that belong to no group are dropped before, so that there is nothing to align with."""
    x = xr.DataArray(np.arange(12.0), dims="x", coords={"g": ("x", [0, np.nan, 1] * 4)}, name="v")
    lazy = x.chunk(x=5, chunked_array_type="tilework").assign_coords(g=x.g)
    means = x.groupby("g").mean()
    xr.testing.assert_identical((lazy.groupby("g") - means).compute(), x.groupby("g") - means)


@pytest.mark.parametrize("memory", ["12MB", "200MB"])
def test_budget(daily, memory):
    with tw.config.set(memory=memory):
        found = daily.groupby("time.month").std()
        years = daily.groupby("time.year").median()
    np.testing.assert_allclose(found.mean().compute(memory=memory), np.sqrt(1 / 12), rtol=1e-2)
    np.testing.assert_allclose(years.mean().compute(memory=memory), 0.5, rtol=1e-2)


def test_numpy_and_dask_go_on_as_before(daily):
    daily.groupby("time.month").mean()
    x = xr.DataArray(np.arange(12.0), dims="x", coords={"g": ("x", [0, 1, 2] * 4)}, name="v")
    assert isinstance(x.groupby("g").mean().data, np.ndarray)
    dask = pytest.importorskip("dask.array")
    found = x.chunk(x=5, chunked_array_type="dask").assign_coords(g=x.g).groupby("g").mean()
    assert isinstance(found.data, dask.Array)
    xr.testing.assert_allclose(found.compute(), x.groupby("g").mean())
    labels = x.g.chunk(x=5, chunked_array_type="dask")
    found = x.drop_vars("g").chunk(x=5, chunked_array_type="dask").assign_coords(g=labels)
    assert isinstance(found.groupby(g=UniqueGrouper(labels=[0, 1, 2])).sum().data, dask.Array)


# ---------------------------------------------------------------- lazy labels, other calendars


@pytest.mark.parametrize("func", ["mean", "sum", "count", "max", "first", "std", "median"])
def test_lazy_labels(daily, nothing_runs, func):
    regions = xr.DataArray((np.arange(600) * 7 % 5).reshape(20, 30), dims=("lat", "lon"), name="region")
    lazy = regions.chunk(lat=7, chunked_array_type="tilework")
    with nothing_runs():
        groups = daily[:50].assign_coords(region=lazy).groupby(region=UniqueGrouper(labels=[0, 1, 2, 9]))
        found = getattr(groups, func)()
    known = daily[:50].compute().assign_coords(region=regions).groupby("region")
    expected = getattr(known, func)().sel(region=[0, 1, 2]).reindex(region=[0, 1, 2, 9])
    xr.testing.assert_allclose(found.compute(), expected.transpose(*found.dims), rtol=1e-5)


def test_lazy_bins(daily, nothing_runs):
    heights = (daily.isel(time=0, drop=True) * 10).rename("height")
    with nothing_runs():
        found = daily[:50].assign_coords(height=heights).groupby(height=BinGrouper(bins=[0, 2, 5, 10])).mean()
    known = daily[:50].compute().assign_coords(height=heights.compute()).groupby_bins("height", [0, 2, 5, 10]).mean()
    xr.testing.assert_allclose(found.compute(), known.transpose(*found.dims), rtol=1e-5)


def test_groups_along_a_dimension_that_stays(daily, nothing_runs):
    """Each latitude has groups of its own."""
    regions = xr.DataArray((np.arange(600) * 7 % 5).reshape(20, 30), dims=("lat", "lon"), name="region")
    with nothing_runs():
        found = daily[:50].assign_coords(region=regions).groupby("region").mean("lon")
    rows = daily[:50].compute().assign_coords(region=regions)
    known = xr.concat([rows.isel(lat=k).groupby("region").mean() for k in range(20)], "lat")
    xr.testing.assert_allclose(found.compute(), known.transpose(*found.dims), rtol=1e-5)


def test_dates_of_other_calendars():
    time = xr.date_range("2001-01-01", periods=100, calendar="noleap", use_cftime=True)
    bounds = np.stack([time.values, time.shift(1, "D").values], axis=1)
    ds = xr.Dataset({"bounds": (("time", "edge"), bounds), "t": ("time", np.arange(100.0))}, {"time": time})
    lazy = ds.chunk(time=30, chunked_array_type="tilework")
    months = lazy.groupby("time.month").mean().compute()
    assert months.bounds.values[1].tolist() == [
        ds.time.values[31 + 13].replace(hour=12),
        ds.time.values[31 + 14].replace(hour=12),
    ]
    xr.testing.assert_allclose(months.t, ds.t.groupby("time.month").mean())
    xr.testing.assert_allclose(lazy.t.resample(time="MS").mean().compute(), ds.t.resample(time="MS").mean())


def test_flox_is_not_needed(daily, monkeypatch):
    monkeypatch.setitem(sys.modules, "flox", None)
    for found in (
        daily.groupby("time.month").mean(),
        daily.groupby("time.year").quantile(0.5),
        daily.resample(time="W").first(),
    ):
        assert len(topological([found.data.node])) < 12
