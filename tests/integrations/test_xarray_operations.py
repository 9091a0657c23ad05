"""What xarray can do with arrays in memory, on tilework: equal results, nothing computed on the way.

Runs a second time without Dask and flox: see ``test_xarray_without_dask``.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from xarray.groupers import SeasonGrouper, SeasonResampler

import tilework.array as ta

RNG = np.random.default_rng(0)
VALUES = RNG.random((400, 6, 8))
VALUES[RNG.random(VALUES.shape) < 0.2] = np.nan
VALUES[:, 2, 3] = np.nan
DA = xr.DataArray(
    VALUES,
    dims=("time", "lat", "lon"),
    coords={"time": pd.date_range("2000-01-01", periods=400), "lat": np.linspace(-60, 60, 6), "lon": np.arange(8.0)},
    name="t",
    attrs={"units": "K"},
)
LAZY = DA.chunk({"time": 90, "lat": 4}, chunked_array_type="tilework")
WEIGHTS = np.cos(np.deg2rad(DA.lat))
REGIONS = xr.DataArray(np.arange(48).reshape(6, 8) % 5, dims=("lat", "lon"), name="region")


def points(*indices):
    return [xr.DataArray(np.array(i), dims=("p", "q")[: np.ndim(i)]) for i in indices]


def line(x, slope, start):
    return slope * x + start


OPERATIONS = {
    # arithmetic
    "add": lambda d: d + 1,
    "anomaly": lambda d: d - d.mean("time"),
    "compare": lambda d: d > 0.5,
    "ufunc": lambda d: np.sin(d) * 2 - abs(d),
    "dtype": lambda d: d.astype("f4"),
    "times coordinate": lambda d: d.time.dt.month * d.isel(lat=0),
    "dot": lambda d: d.fillna(0).dot(d.fillna(0).isel(time=0, drop=True)),
    "dot transposed": lambda d: d.fillna(0).mean(("lat", "lon")).dot(d.fillna(0).T),
    # reductions
    "mean": lambda d: d.mean(("lat", "lon")),
    "mean of all": lambda d: d.mean(),
    "std": lambda d: d.std("time", ddof=1),
    "var, skipna=False": lambda d: d.var("lon", skipna=False),
    "sum, skipna=False": lambda d: d.sum(skipna=False),
    "sum, min_count": lambda d: d.sum("lon", min_count=7),
    "prod": lambda d: d.prod("lon"),
    "max": lambda d: d.max("lat"),
    "min": lambda d: d.min(("time", "lon")),
    "any": lambda d: (d > 0.9).any("time"),
    "all": lambda d: (d > 0.1).all("lon"),
    "count": lambda d: d.count("time"),
    "median": lambda d: d.median("lon"),
    "median over chunks": lambda d: d.median(("time", "lat")),
    "quantile": lambda d: d.quantile([0.1, 0.5], "lat"),
    "quantile, one": lambda d: d.quantile(0.3, ("lat", "lon")),
    "argmax": lambda d: d.fillna(0).argmax("lon"),
    "idxmax": lambda d: d.fillna(0).idxmax("lon"),
    "idxmin of one row": lambda d: d.fillna(0).isel(time=0, lat=1).idxmin("lon"),
    "weighted mean": lambda d: d.weighted(WEIGHTS).mean(("lat", "lon")),
    "weighted std": lambda d: d.weighted(WEIGHTS).std("lat"),
    "weighted quantile": lambda d: d.chunk(lat=-1).weighted(WEIGHTS).quantile(0.5, dim="lat"),
    "weighted by lazy": lambda d: d.weighted(d.isel(time=0).fillna(0)).mean("lat"),
    "cov": lambda d: xr.cov(d, d.isel(lat=0, drop=True), "time"),
    "corr": lambda d: xr.corr(d, d * 2 + 1, "time"),
    "cumsum": lambda d: d.cumsum("time"),
    "cumprod": lambda d: d.cumprod("lon"),
    # indexing
    "isel": lambda d: d.isel(time=slice(10, 300, 7), lat=[0, 2]),
    "isel backwards": lambda d: d.isel(time=slice(None, None, -3), lon=-1),
    "isel outer": lambda d: d.isel(lat=[1, 0], lon=[3, 3, 2]),
    "isel points": lambda d: d.isel(dict(zip(("lat", "lon"), points([0, 1, 2], [3, 4, 5]), strict=True))),
    "isel grid of points": lambda d: d.isel(dict(zip(("lat", "lon"), points([[0, 1]], [[3, 4]]), strict=True))),
    "isel points and slice": lambda d: d.isel(time=points([5, 200])[0], lon=slice(2, 5)),
    "isel lazy": lambda d: d.isel(time=0, lat=0, drop=True).drop_vars("lon").isel(
        lon=d.isel(time=0, drop=True).fillna(0).argmax("lon")
    ),
    "sel": lambda d: d.sel(time="2000-05"),
    "sel nearest": lambda d: d.sel(lat=[10.0, 50.0], method="nearest"),
    "mask": lambda d: d[(d.time.dt.month == 3).values],
    "where": lambda d: d.where(d > 0.5),
    "where, drop": lambda d: d.where(d.lat > 0, drop=True),
    "xr.where": lambda d: xr.where(d > 0.5, d, -1.0),
    "isin": lambda d: d.isin([1, 2]),
    "sortby": lambda d: d.sortby("lat", ascending=False),
    "reindex": lambda d: d.reindex(lat=[-60, 0, 60.0], time=d.time[::-1]),
    # missing values
    "fillna": lambda d: d.fillna(0),
    "clip": lambda d: d.clip(0.2, 0.8),
    "ffill": lambda d: d.ffill("time"),
    "ffill, limit": lambda d: d.ffill("time", limit=1),
    "bfill": lambda d: d.bfill("lat"),
    "bfill, limit": lambda d: d.bfill("time", limit=2),
    "interpolate_na": lambda d: d.chunk(time=-1).interpolate_na("time"),
    "combine_first": lambda d: d.combine_first(d.shift(time=1)),
    # shapes
    "transpose": lambda d: d.T,
    "stack": lambda d: d.stack(p=("lat", "lon")),
    "unstack": lambda d: d.stack(p=("lat", "lon")).unstack("p"),
    "concat": lambda d: xr.concat([d, d + 1], "time"),
    "concat along new": lambda d: xr.concat([d, d + 1], "member"),
    "merge": lambda d: xr.merge([d, (d + 1).rename("u")])["u"],
    "broadcast": lambda d: xr.broadcast(d.isel(time=0, drop=True), d)[0],
    "expand_dims": lambda d: d.expand_dims(k=3),
    "shift": lambda d: d.shift(time=3),
    "roll": lambda d: d.roll(lon=2, roll_coords=False),
    "pad": lambda d: d.pad(time=2),
    "pad with the edge": lambda d: d.pad(lon=1, mode="edge"),
    "full_like": lambda d: xr.full_like(d, 3.0),
    "coarsen": lambda d: d.coarsen(time=10).mean(),
    "coarsen, boundary": lambda d: d.coarsen(time=7, lat=2, boundary="trim").max(),
    # windows
    "rolling": lambda d: d.rolling(time=5).mean(),
    "rolling, center": lambda d: d.rolling(time=5, center=True, min_periods=2).sum(),
    "rolling max": lambda d: d.rolling(lat=3).max(),
    "rolling std": lambda d: d.rolling(time=30).std(),
    "rolling, two": lambda d: d.rolling(lat=3, lon=3, min_periods=1).mean(),
    "rolling construct": lambda d: d.rolling(time=3).construct("w").mean("w"),
    "rolling reduce": lambda d: d.fillna(0).rolling(time=4).reduce(np.sum),
    # along coordinates
    "diff": lambda d: d.diff("time"),
    "differentiate": lambda d: d.differentiate("lat"),
    "differentiate time": lambda d: d.differentiate("time", edge_order=2, datetime_unit="D"),
    "integrate": lambda d: d.fillna(0).integrate("lon"),
    "cumulative_integrate": lambda d: d.fillna(0).cumulative_integrate("lat"),
    "interp": lambda d: d.interp(lat=[0.0, 10.0]),
    "interp time": lambda d: d.interp(time=pd.date_range("2000-01-05", periods=4, freq="36h")),
    "interp points": lambda d: d.interp(dict(zip(("lat", "lon"), points([1.0, 9.5], [2.5, 3.5]), strict=True))),
    "polyfit": lambda d: d.fillna(0).polyfit("time", 1).polyfit_coefficients,
    "polyfit, skipna": lambda d: d.polyfit("lat", 1, skipna=True).polyfit_coefficients,
    "curvefit": lambda d: d.fillna(0)[::9].curvefit("lat", line).curvefit_coefficients,
    "polyval": lambda d: xr.polyval(d.lat, d.fillna(0).polyfit("lat", 2).polyfit_coefficients),
    "rank": lambda d: d.chunk(time=-1).rank("time"),
    # functions
    "apply_ufunc": lambda d: xr.apply_ufunc(np.sin, d, dask="parallelized"),
    "apply_ufunc with core dims": lambda d: xr.apply_ufunc(
        lambda x: x.mean(-1), d, input_core_dims=[["lon"]], dask="parallelized", output_dtypes=[float]
    ),
    "apply_ufunc, vectorize": lambda d: xr.apply_ufunc(
        lambda x: float(np.nansum(x)), d, input_core_dims=[["lon"]], vectorize=True, dask="parallelized",
        output_dtypes=[float],
    ),
    "reduce": lambda d: d.reduce(np.nanmax, "lat"),
    "map": lambda d: d.to_dataset().map(np.cos)["t"],
}  # fmt: skip

GROUPED = {
    "months": lambda d: d.groupby("time.month").mean(),
    "seasons": lambda d: d.groupby("time.season").sum(),
    "days of the year": lambda d: d.groupby("time.dayofyear").mean(),
    "years": lambda d: d.groupby("time.year").mean(),
    "std": lambda d: d.groupby("time.month").std(ddof=1),
    "max": lambda d: d.groupby("time.month").max(),
    "count": lambda d: d.groupby("time.month").count(),
    "any": lambda d: (d > 0.99).groupby("time.month").any(),
    "first": lambda d: d.groupby("time.month").first(),
    "last, skipna=False": lambda d: d.groupby("time.month").last(skipna=False),
    "median": lambda d: d.groupby("time.month").median(),
    "quantile": lambda d: d.groupby("time.month").quantile([0.1, 0.9]),
    "quantile, one": lambda d: d.groupby("time.month").quantile(0.5),
    "cumsum": lambda d: d.groupby("time.month").cumsum(),
    "several dimensions": lambda d: d.groupby("time.month").mean(("time", "lon")),
    "all dimensions": lambda d: d.groupby("time.month").mean(...),
    "two groupers": lambda d: d.groupby(["time.month", "lat"]).mean(),
    "regions": lambda d: d.assign_coords(region=REGIONS).groupby("region").mean(),
    "median of regions": lambda d: d.assign_coords(region=REGIONS).groupby("region").median(),
    "bins": lambda d: d.groupby_bins("lat", [-90, 0, 20, 90]).mean(),
    "empty bins": lambda d: d.groupby_bins("lat", [-90, -80, 0, 90]).sum(),
    "anomalies": lambda d: d.groupby("time.month") - d.groupby("time.month").mean(),
    "anomalies from memory": lambda d: d.groupby("time.month") - DA.groupby("time.month").mean(),
    "map": lambda d: d.groupby("time.year").map(lambda x: x - x.mean("time")),
    "resample": lambda d: d.resample(time="MS").mean(),
    "resample, max": lambda d: d.resample(time="W").max(),
    "resample, var": lambda d: d.resample(time="3D").var(),
    "resample, min_count": lambda d: d.resample(time="W").sum(min_count=5),
    "resample, first": lambda d: d.resample(time="W").first(),
    "resample to more": lambda d: d.isel(time=slice(20)).resample(time="12h").mean(),
    "resample, ffill": lambda d: d.isel(time=slice(20)).resample(time="12h").ffill(),
    "resample, interpolate": lambda d: d.isel(time=slice(20)).resample(time="12h").interpolate("linear"),
    "resample, nearest": lambda d: d.isel(time=slice(20)).resample(time="12h").nearest(tolerance="6h"),
    "resample, bfill": lambda d: d.isel(time=slice(20)).resample(time="12h").bfill(),
    "resample, asfreq": lambda d: d.isel(time=slice(20)).resample(time="12h").asfreq(),
    "season grouper": lambda d: d.groupby(time=SeasonGrouper(["DJFM", "AMJ", "JASON"])).mean(),
    "season resampler": lambda d: d.resample(time=SeasonResampler(["DJF", "MAM", "JJA", "SON"])).max(),
    "reduce": lambda d: d.groupby("time.month").reduce(lambda x, axis: np.nanmax(x, axis=axis)),
    "cumprod": lambda d: d.groupby("time.month").cumprod(),
    "fillna": lambda d: d.groupby("time.month").fillna(DA.groupby("time.month").mean()),
    "of functions": lambda d: xr.apply_ufunc(
        np.subtract, d.groupby("time.year"), DA.groupby("time.year").min(), dask="allowed"
    ),
    "of the rest": lambda d: d.groupby("time.month").mean("lat"),
    "resample, map": lambda d: d.resample(time="QS").map(lambda x: x.max("time")),
}


def check(operation, nothing_runs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = operation(DA)
        with nothing_runs():
            lazy = operation(LAZY)
        assert isinstance(lazy.data, ta.Array)
        found = lazy.compute()
    xr.testing.assert_allclose(found, expected)
    assert found.dtype == lazy.dtype == expected.dtype
    assert found.dims == lazy.dims == expected.dims
    assert found.attrs == expected.attrs
    assert found.name == expected.name
    repr(lazy)
    lazy._repr_html_()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name, nothing_runs):
    check(OPERATIONS[name], nothing_runs)


@pytest.mark.parametrize("use_flox", [True, False], ids=["flox", "no flox"])
@pytest.mark.parametrize("name", GROUPED)
def test_grouped(name, use_flox, nothing_runs):
    if use_flox and not xr.namedarray.utils.module_available("flox"):
        pytest.skip("flox is not there")
    with xr.set_options(use_flox=use_flox):
        check(GROUPED[name], nothing_runs)


@pytest.mark.parametrize("name", ["median", "quantile", "rolling", "ffill", "interpolate_na", "pad"])
def test_with_the_option_set(name, nothing_runs):
    with xr.set_options(chunk_manager="tilework"):
        check(OPERATIONS[name], nothing_runs)


def test_arrays_in_memory_go_where_they_went():
    """What xarray's functions were replaced by passes on everything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("ffill, limit", "polyfit", "isel points", "weighted mean", "quantile", "idxmax"):
            assert isinstance(OPERATIONS[name](DA).data, np.ndarray)
        assert isinstance(GROUPED["months"](DA).data, np.ndarray)
    assert isinstance(DA.time.dt.month.data, np.ndarray)
