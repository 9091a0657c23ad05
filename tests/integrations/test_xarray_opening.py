"""Files opened by xarray: values, dtypes and attributes are xarray's own, read without its layers where possible."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from scipy.io import netcdf_file

import tilework as tw
import tilework.array as ta
from tilework.io.zarr import ZarrSource
from tilework.plan.graph import topological
from tilework.plan.ops import Source

ENCODING = {
    "packed": {"dtype": "i2", "scale_factor": np.float32(0.01), "add_offset": np.float32(20), "_FillValue": -999},
    "t": {"chunks": (30, 3, 8)},
}
PACKINGS = {
    "scale and offset": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 20.0, "_FillValue": -999},
    "float32 scale": {"dtype": "i2", "scale_factor": np.float32(0.01), "_FillValue": -999},
    "offset": {"dtype": "i4", "add_offset": 20.0, "_FillValue": -999},
    "unsigned": {"dtype": "u1", "scale_factor": 0.5, "_FillValue": 255},
    "signed as unsigned": {"dtype": "i1", "scale_factor": 0.5, "_FillValue": 255, "_Unsigned": "true"},
    "fill value": {"dtype": "f4", "_FillValue": np.float32(-1e30)},
    "missing_value": {"dtype": "f8", "missing_value": -99.0, "_FillValue": -99.0},
    "integers with fill value": {"dtype": "i2", "_FillValue": -1},
    "half": {"dtype": "f2", "_FillValue": np.float16(-1)},
}


def lazy(ds):
    return all(isinstance(v._data, ta.Array) for name, v in ds.variables.items() if name not in ds.xindexes)


def sources(array):
    return [node.source for node in topological([array.node]) if isinstance(node, Source)]


def same(found, expected):
    xr.testing.assert_identical(found.compute(), expected.load())
    for name, v in expected.variables.items():
        assert found[name].dtype == v.dtype
        assert repr(found[name].encoding) == repr(v.encoding)


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def store(request, tmp_path, dataset):
    path = tmp_path / "data.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr on strings in format 3
        dataset.to_zarr(path, zarr_format=request.param, encoding=ENCODING, consolidated=True)
    return path


def test_zarr_as_xarray_reads_it(store, nothing_runs):
    with nothing_runs():
        found = xr.open_zarr(store, chunks={}, chunked_array_type="tilework")
    assert lazy(found)
    same(found, xr.open_zarr(store, chunks=None))
    assert found.t.data.chunks == ((30, 30, 30, 10), (3, 3), (8,))
    read_directly = {name for name, v in found.data_vars.items() if isinstance(sources(v.data)[0], ZarrSource)}
    assert read_directly >= {"t", "packed", "n", "flag", "when", "age"}


@pytest.mark.filterwarnings("ignore:The specified chunks")
@pytest.mark.parametrize(
    "chunks", [{"time": 40}, {"time": 60, "lat": 2}, "auto", {"time": -1}, {"time": 7}, {"lat": 1}]
)
def test_zarr_in_other_chunks(store, chunks):
    found = xr.open_zarr(store, chunks=chunks, chunked_array_type="tilework")
    same(found, xr.open_zarr(store, chunks=None))
    if isinstance(chunks, dict):
        for dim, size in chunks.items():
            assert found.t.chunksizes[dim][0] == (100 if size == -1 else size)


@pytest.mark.parametrize(
    "selection",
    [
        {"time": slice(3, 90, 4), "lat": 1},
        {"time": slice(None, None, -3)},
        {"time": [5, 2, 9], "lat": 1},
        {"lon": slice(0, 0)},
        {"time": -1},
        {"time": slice(20, 80), "lat": slice(1, 5), "lon": slice(3, None)},
    ],
    ids=str,
)
def test_selected_before_chunked(store, selection):
    expected = xr.open_dataset(store, engine="zarr").isel(selection)
    found = xr.open_dataset(store, engine="zarr").isel(selection)
    dim = "time" if "time" in found.dims else "lat"
    same(found.chunk({dim: 5}, chunked_array_type="tilework"), expected)


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed(packing, tmp_path, nothing_runs):
    x = np.random.default_rng(0).integers(0, 100, (40, 30)).astype(float)
    x[3, 4:9] = np.nan
    ds = xr.Dataset({"x": (("a", "b"), x)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.to_zarr(tmp_path / "x.zarr", encoding={"x": {**PACKINGS[packing], "chunks": (16, 16)}}, zarr_format=2)
        with nothing_runs():
            found = xr.open_zarr(tmp_path / "x.zarr", chunks={}, chunked_array_type="tilework")
        expected = xr.open_zarr(tmp_path / "x.zarr", chunks=None)
    assert isinstance(sources(found.x.data)[0], ZarrSource)
    same(found, expected)
    same(found.isel(a=slice(5, 30), b=3), expected.isel(a=slice(5, 30), b=3))
    np.testing.assert_allclose(found.x.mean().compute(), expected.x.mean(), rtol=1e-6)


def test_sharded_and_big_endian(tmp_path):
    x = np.arange(1200, dtype=">f4").reshape(40, 30)
    ds = xr.Dataset({"x": (("a", "b"), x), "y": (("a", "b"), x.astype("f4"))})
    ds.to_zarr(
        tmp_path / "x.zarr", zarr_format=3, consolidated=False, encoding={"y": {"chunks": (5, 5), "shards": (20, 15)}}
    )
    found = xr.open_zarr(tmp_path / "x.zarr", chunks={}, chunked_array_type="tilework", consolidated=False)
    same(found, xr.open_zarr(tmp_path / "x.zarr", chunks=None, consolidated=False))


def test_undecoded(store):
    options = {"decode_times": False, "mask_and_scale": False}
    found = xr.open_zarr(store, chunks={}, chunked_array_type="tilework", **options)
    assert found.packed.dtype == "i2"
    same(found, xr.open_zarr(store, chunks=None, **options))


def test_netcdf(tmp_path, dataset, nothing_runs):
    dataset.to_netcdf(tmp_path / "x.nc", encoding={"packed": ENCODING["packed"]})
    with nothing_runs():
        found = xr.open_dataset(tmp_path / "x.nc", chunks={"time": 30}, chunked_array_type="tilework")
    assert lazy(found)
    same(found, xr.open_dataset(tmp_path / "x.nc"))
    np.testing.assert_allclose(found.t.mean("time").compute(), dataset.t.mean("time"), rtol=1e-5)
    found.close()


def test_several_files(tmp_path, dataset, nothing_runs):
    for k in range(4):
        dataset.isel(time=slice(25 * k, 25 * k + 25)).to_netcdf(tmp_path / f"{k}.nc")
    with nothing_runs(), xr.open_mfdataset(
        str(tmp_path / "*.nc"), chunks={}, chunked_array_type="tilework", data_vars="all"
    ) as found:  # fmt: skip
        assert lazy(found)
    with xr.set_options(chunk_manager="tilework"):
        found = xr.open_mfdataset(str(tmp_path / "*.nc"), data_vars="all")
    assert lazy(found)
    assert found.t.chunksizes["time"] == (25,) * 4
    xr.testing.assert_equal(found.compute(), dataset)
    found.close()


@pytest.fixture(scope="module")
def hundreds(tmp_path_factory):
    path, x = tmp_path_factory.mktemp("hundreds"), np.arange(300.0 * 6).reshape(300, 6)
    for k in range(300):
        with netcdf_file(path / f"{k:03}.nc", "w") as file:
            file.createDimension("time", 1)
            file.createDimension("y", 6)
            file.createVariable("time", "f8", ("time",))[:] = k
            file.createVariable("x", "f8", ("time", "y"))[:] = x[k]
    return path, x


@pytest.mark.parametrize("parallel", [False, True])
def test_hundreds_of_files(hundreds, parallel, nothing_runs):
    path, x = hundreds
    options = {"data_vars": "all", "coords": "minimal", "compat": "override", "engine": "scipy"}
    with nothing_runs():
        found = xr.open_mfdataset(f"{path}/*.nc", chunked_array_type="tilework", parallel=parallel, **options)
    assert found.x.data.numblocks == (300, 1)
    np.testing.assert_array_equal(found.x.compute(), x)
    np.testing.assert_allclose(found.x.mean("time").compute(), x.mean(0))
    found.close()


def test_files_opened_by_delayed_calls(tmp_path, dataset):
    paths = [tmp_path / f"{k}.nc" for k in range(4)]
    for k, path in enumerate(paths):
        dataset[["t"]].isel(time=slice(25 * k, 25 * k + 25)).to_netcdf(path)
    open_ = tw.delayed(xr.open_dataset)
    (parts,) = tw.compute([open_(path, engine="h5netcdf", chunks={}, chunked_array_type="tilework") for path in paths])
    found = xr.combine_by_coords(parts)
    assert isinstance(found.t.data, ta.Array)
    xr.testing.assert_identical(found.compute(), dataset[["t"]])


def test_budget_is_kept(tmp_path):
    x = np.random.default_rng(0).random((400, 100, 100), dtype=np.float32)
    xr.Dataset({"x": (("a", "b", "c"), x)}).to_zarr(tmp_path / "x.zarr", encoding={"x": {"chunks": (20, 100, 100)}})
    found = xr.open_zarr(tmp_path / "x.zarr", chunked_array_type="tilework")
    assert tw.explain(found.x.mean(("b", "c"))).read_bytes == x.nbytes
    assert tw.explain(found.x[:20, :50]).read_bytes == x[:20, :50].nbytes
    np.testing.assert_allclose(found.x.mean(("b", "c")).compute(memory="10MB"), x.mean((1, 2)), rtol=1e-5)
