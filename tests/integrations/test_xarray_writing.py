"""From lazy xarray objects into memory and into storage."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import xarray as xr

import tilework as tw
import tilework.array as ta
from tilework.base.errors import StorageError

pytestmark = pytest.mark.filterwarnings("ignore:.*data type.*", "ignore:.*Zarr.*", "ignore:The specified chunks")


@pytest.fixture
def lazy(dataset):
    return dataset.chunk(time=30, chunked_array_type="tilework")


def is_lazy(ds):
    return all(isinstance(v._data, ta.Array) for name, v in ds.variables.items() if name not in ds.xindexes)


# ---------------------------------------------------------------- into memory


def test_compute(lazy, dataset):
    xr.testing.assert_identical(lazy.compute(), dataset)
    xr.testing.assert_identical(lazy.compute(scheduler="sync", memory="50MB"), dataset)
    assert is_lazy(lazy)
    np.testing.assert_array_equal(lazy.t.values, dataset.t.values)
    loaded = lazy.copy()
    loaded.load()
    assert not is_lazy(loaded)
    assert float(lazy.t.mean()) == pytest.approx(float(dataset.t.mean()))


def test_compute_nested(lazy, dataset):
    found, mean = tw.compute({"a": lazy, "b": [lazy.t, lazy.n.variable]}, lazy.t.mean())
    xr.testing.assert_identical(found["a"], dataset)
    xr.testing.assert_identical(found["b"][0], dataset.t)
    xr.testing.assert_identical(found["b"][1], dataset.n.variable)
    xr.testing.assert_allclose(mean, dataset.t.mean())


def test_persist(lazy, dataset, nothing_runs):
    kept = (lazy.t * 2).persist()
    assert isinstance(kept.data, ta.Array)
    assert not kept.data.node.inputs
    xr.testing.assert_identical(kept.compute(), dataset.t * 2)
    (everything,) = tw.persist(lazy)
    assert is_lazy(everything)
    xr.testing.assert_identical(everything.compute(), dataset)
    assert is_lazy(lazy.persist())


def test_explain_and_visualize(lazy, tmp_path):
    assert "mean" in str(tw.explain(lazy.t.mean("time", skipna=False)))
    tw.visualize(lazy.t + 1, filename=str(tmp_path / "plan.svg"))
    assert (tmp_path / "plan.svg").read_text().startswith("<")


def test_copies_and_comparisons(lazy, dataset, nothing_runs):
    with nothing_runs():
        other = copy.deepcopy(lazy)
        assert lazy.t.variable.equals(other.t.variable, equiv=xr.core.duck_array_ops.lazy_array_equiv)
        assert is_lazy(xr.merge([lazy[["t"]], lazy[["t", "n"]]]))  # equal programs are not compared
    other["t"][0] = 0
    xr.testing.assert_identical(lazy.compute(), dataset)
    assert not lazy.t.equals(other.t)


@pytest.mark.parametrize(
    "where",
    [
        {"time": slice(3, 9)},
        {"time": 3, "lat": [1, 3]},
        {"time": [1, 5], "lon": [2, 3]},
        {"lat": xr.DataArray([0, 1], dims="p"), "lon": xr.DataArray([2, 3], dims="p")},
        {"time": xr.DataArray([4, 50], dims="p"), "lon": xr.DataArray([2, 3], dims="p"), "lat": slice(1, 3)},
    ],
    ids=str,
)
def test_assignment(where, lazy, dataset, nothing_runs):
    found, expected = lazy.t.copy(), dataset.t.copy(deep=True)
    with nothing_runs():
        found[where] = 7.0
    expected[where] = 7.0
    xr.testing.assert_identical(found.compute(), expected)
    xr.testing.assert_identical(lazy.compute(), dataset)


# ---------------------------------------------------------------- chunks


def test_chunk_keeps_the_manager(lazy, dataset, nothing_runs):
    with nothing_runs():
        for again in (
            lazy.chunk(lat=2),
            lazy.chunk("auto"),
            lazy.assign(m=dataset.n).chunk(time=5),
            lazy.unify_chunks(),
        ):
            assert is_lazy(again)
        assert lazy.chunk(lat=2).t.chunksizes["lat"] == (2, 2, 2)
        assert isinstance(lazy.t.chunk(time="auto").data, ta.Array)
        assert isinstance(lazy.t.variable.chunk(time=4).data, ta.Array)
        with xr.set_options(chunk_manager="tilework"):
            assert is_lazy(dataset.chunk())
            weeks = dataset.chunk(time=xr.groupers.TimeResampler("W"))
    assert weeks.t.chunksizes["time"][:3] == (2, 7, 7)
    xr.testing.assert_identical(weeks.compute(), dataset)


def test_shuffle(lazy, dataset):
    found = lazy.groupby("time.month").shuffle_to_chunks()
    assert isinstance(found.t.data, ta.Array)
    assert max(found.t.chunksizes["time"]) <= 31
    xr.testing.assert_equal(found.sortby("time").drop_vars("month").compute(), dataset)


def test_dates_by_block(lazy, dataset, nothing_runs):
    for field in (
        lambda x: x.dt.hour, lambda x: x.dt.dayofyear, lambda x: x.dt.season, lambda x: x.dt.floor("D"),
        lambda x: x.dt.strftime("%Y-%m"), lambda x: x.dt.isocalendar().week, lambda x: x.dt.days_in_month,
    ):  # fmt: skip
        with nothing_runs():
            found = field(lazy.when)
        assert isinstance(found.data, ta.Array)
        xr.testing.assert_equal(found.compute(), field(dataset.when))


# ---------------------------------------------------------------- into storage


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_to_zarr(lazy, dataset, tmp_path, zarr_format):
    lazy.to_zarr(tmp_path / "x.zarr", zarr_format=zarr_format)
    written = xr.open_zarr(tmp_path / "x.zarr", chunks=None)
    xr.testing.assert_identical(written.load(), dataset)
    assert written.t.encoding["chunks"] == (30, 6, 8)
    (lazy[["t"]].mean("lon") * 2).to_zarr(tmp_path / "y.zarr", zarr_format=zarr_format)
    xr.testing.assert_allclose(xr.open_zarr(tmp_path / "y.zarr", chunks=None).load(), dataset[["t"]].mean("lon") * 2)
    again = xr.open_zarr(tmp_path / "x.zarr", chunked_array_type="tilework")
    again.to_zarr(tmp_path / "z.zarr", zarr_format=zarr_format)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "z.zarr", chunks=None).load(), dataset)


def test_regions(lazy, dataset, tmp_path):
    names = ["t", "n"]
    whole = lazy[names].to_zarr(tmp_path / "x.zarr", compute=False)
    for k in range(0, 100, 30):
        part = lazy[names].isel(time=slice(k, k + 30)).drop_vars(["lat", "lon"])
        part.to_zarr(tmp_path / "x.zarr", region={"time": slice(k, min(k + 30, 100))})
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None)[names].load(), dataset[names])
    (lazy[names] * 0).to_zarr(tmp_path / "x.zarr", mode="w")
    whole.compute(scheduler="sync")
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None)[names].load(), dataset[names])


def test_later(lazy, dataset, tmp_path, nothing_runs):
    with nothing_runs():
        later = lazy[["t", "n"]].to_zarr(tmp_path / "x.zarr", compute=False)
    assert np.isnan(xr.open_zarr(tmp_path / "x.zarr", chunks=None).t).all()
    tw.compute(later)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None).load(), dataset[["t", "n"]])


def test_append(lazy, dataset, tmp_path):
    lazy.isel(time=slice(0, 60)).to_zarr(tmp_path / "x.zarr")
    lazy.isel(time=slice(60, None)).to_zarr(tmp_path / "x.zarr", append_dim="time")
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None).load(), dataset)


def test_existing_data_is_not_replaced_unasked(lazy, tmp_path):
    lazy[["t"]].to_zarr(tmp_path / "x.zarr")
    with pytest.raises(FileExistsError):
        (lazy[["t"]] * 2).to_zarr(tmp_path / "x.zarr")
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None).t.load(), lazy.t.compute())
    (lazy[["t"]] * 2).to_zarr(tmp_path / "x.zarr", mode="w")
    xr.testing.assert_allclose(xr.open_zarr(tmp_path / "x.zarr", chunks=None).t.load(), lazy.t.compute() * 2)


@pytest.mark.parametrize("encoding", [{"chunks": (5, 3, 4)}, {"chunks": (10, 3, 4), "shards": (20, 6, 8)}])
def test_layout_of_choice(lazy, dataset, tmp_path, encoding):
    lazy[["t"]].chunk(time=20).to_zarr(tmp_path / "x.zarr", encoding={"t": encoding}, consolidated=False)
    written = xr.open_zarr(tmp_path / "x.zarr", chunks=None, consolidated=False)
    assert written.t.encoding["chunks"] == encoding["chunks"]
    xr.testing.assert_identical(written.load(), dataset[["t"]])


def test_blocks_that_do_not_fit_the_chunks_in_storage(lazy, dataset, tmp_path):
    encoding = {"t": {"chunks": (7, 6, 8)}}
    with pytest.raises(ValueError, match="would overlap multiple"):
        lazy[["t"]].to_zarr(tmp_path / "x.zarr", encoding=encoding)
    for options in ({"safe_chunks": False}, {"align_chunks": True}):  # no chunk is written by two tasks, either way
        lazy[["t"]].to_zarr(tmp_path / "x.zarr", encoding=encoding, mode="w", **options)
        xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None).load(), dataset[["t"]])


def test_region_auto(lazy, dataset, tmp_path):
    lazy[["t"]].to_zarr(tmp_path / "x.zarr", compute=False)
    for k in range(0, 100, 30):
        lazy[["t"]].isel(time=slice(k, k + 30)).drop_vars(["lat", "lon"]).to_zarr(tmp_path / "x.zarr", region="auto")
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None).load(), dataset[["t"]])


def test_append_what_is_alike(lazy, tmp_path):
    lazy[["t"]].to_zarr(tmp_path / "x.zarr")
    for other in (lazy[["t"]].astype(str), lazy[["t"]].isel(lat=slice(3))):
        with pytest.raises(ValueError, match=r"dtype|shape|dimension"):
            other.to_zarr(tmp_path / "x.zarr", append_dim="time")
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "x.zarr", chunks=None).load(), lazy[["t"]].compute())


class Failing:
    """A function of blocks that fails after some; it is the same function whatever it is told."""

    left = 3

    def __call__(self, block):
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is on fire")
        return block + 1

    def __reduce__(self):
        return Failing, ()


def test_resumed(dataset, tmp_path):
    """A run that fails half way, and another one that goes on."""
    dataset[["t"]].to_zarr(tmp_path / "source.zarr", encoding={"t": {"chunks": (20, 6, 8)}})
    source = xr.open_zarr(tmp_path / "source.zarr", chunked_array_type="tilework")
    options = {"mode": "a", "chunkmanager_store_kwargs": {"resume": True}}
    plus = Failing()
    out = xr.apply_ufunc(plus, source, dask="parallelized", output_dtypes=["f4"])
    with tw.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="on fire"):
            out.to_zarr(tmp_path / "x.zarr", **options)
        plus.left = 2  # blocks that are missing yet
        out.to_zarr(tmp_path / "x.zarr", **options)
        out.to_zarr(tmp_path / "x.zarr", **options)
        with pytest.raises(StorageError, match="chunks that this program has not written"):
            (out + 1).to_zarr(tmp_path / "x.zarr", **options)
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "x.zarr", chunks=None).load(), dataset[["t"]] + 1)


def test_what_is_read_is_not_emptied(dataset, tmp_path):
    names = ["t", "n"]
    dataset[names].to_zarr(tmp_path / "x.zarr", group="a/b")
    read = xr.open_zarr(tmp_path / "x.zarr", group="a/b", chunked_array_type="tilework")
    for group in ("a/b", "a", None):
        with pytest.raises(StorageError, match="made from what mode='w' would empty"):
            (read * 2).to_zarr(tmp_path / "x.zarr", group=group, mode="w")
    (read * 2).to_zarr(tmp_path / "x.zarr", group="c", mode="w")
    (read * 1).to_zarr(tmp_path / "x.zarr", group="a/b", mode="a")  # block by block
    read.load().to_zarr(tmp_path / "x.zarr", group="a/b", mode="w")
    written = xr.open_zarr(tmp_path / "x.zarr", group="a/b", chunks=None)
    xr.testing.assert_identical(written.load(), dataset[names])


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "scipy"])
def test_netcdf_that_is_read_is_not_emptied(dataset, tmp_path, engine):
    dataset[["t"]].to_netcdf(tmp_path / "x.nc", engine=engine)
    with xr.open_dataset(tmp_path / "x.nc", engine=engine, chunks={}, chunked_array_type="tilework") as read:
        for target in ((read * 2), (read * 2).t):
            with pytest.raises(StorageError, match="made from what mode='w' would empty"):
                target.to_netcdf(tmp_path / "x.nc", engine=engine)
        (read * 2).to_netcdf(tmp_path / "y.nc", engine=engine)
        xr.testing.assert_identical(read.compute(), dataset[["t"]])
    with xr.open_dataset(tmp_path / "y.nc", engine=engine) as written:
        xr.testing.assert_identical(written.load(), dataset[["t"]] * 2)


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "scipy"])
def test_netcdf_later(lazy, dataset, tmp_path, engine, nothing_runs):
    names = ["t"] if engine == "scipy" else ["t", "n", "when", "flag"]
    with nothing_runs():
        later = lazy[names].to_netcdf(tmp_path / "x.nc", engine=engine, compute=False)
    later.compute()
    with xr.open_dataset(tmp_path / "x.nc", engine=engine) as written:
        xr.testing.assert_identical(written.load(), dataset[names])


@pytest.mark.parametrize("compute", [True, False])
def test_several_netcdf_files(lazy, dataset, tmp_path, compute):
    parts = [lazy[["t"]].isel(time=slice(k, k + 30)) for k in range(0, 100, 30)]
    paths = [tmp_path / f"{k}.nc" for k in range(4)]
    if compute:
        xr.save_mfdataset(parts, paths)
    elif importlib.util.find_spec("dask"):
        xr.save_mfdataset(parts, paths, compute=False).compute()
    else:  # for which xarray asks for Dask by name
        tw.compute([part.to_netcdf(path, compute=False) for part, path in zip(parts, paths, strict=True)])
    written = xr.open_mfdataset(paths, chunked_array_type="tilework")
    xr.testing.assert_identical(written.compute(), dataset[["t"]])
    written.close()


def test_to_netcdf(lazy, dataset, tmp_path):
    lazy[["t", "n"]].mean("lat").to_netcdf(tmp_path / "x.nc")
    with xr.open_dataset(tmp_path / "x.nc") as written:
        xr.testing.assert_allclose(written.load(), dataset[["t", "n"]].mean("lat"))


def test_rolled_rechunked_and_written(lazy, dataset, tmp_path):
    """Several variables of one source, written in one go."""
    out = xr.Dataset({"smooth": lazy.t.rolling(time=5).mean(), "anomaly": lazy.t - lazy.t.mean("time")})
    out.chunk(time=50).to_zarr(tmp_path / "x.zarr")
    expected = {"smooth": dataset.t.rolling(time=5).mean(), "anomaly": dataset.t - dataset.t.mean("time")}
    xr.testing.assert_allclose(xr.open_zarr(tmp_path / "x.zarr", chunks=None).load(), xr.Dataset(expected), atol=1e-4)


def test_missing_dates_in_short_integers(tmp_path):
    """The fill value takes the place of what is missing before 64 bits become 16."""
    ages = np.array([1, 2, "NaT", 4], "m8[D]").astype("m8[ns]")
    ds = xr.Dataset({"age": ("x", ages), "when": ("x", np.datetime64("2000-01-01", "ns") + ages)})
    encoding = {
        "age": {"units": "days", "dtype": "int16", "_FillValue": np.int16(-1)},
        "when": {"units": "days since 2000-01-01", "dtype": "int32", "_FillValue": np.int32(-9)},
    }
    ds.chunk(x=1, chunked_array_type="tilework").to_zarr(tmp_path / "a.zarr", encoding=encoding, consolidated=False)
    raw = xr.open_zarr(tmp_path / "a.zarr", chunks=None, decode_cf=False, consolidated=False)
    assert raw.age.dtype == "int16"
    assert raw.when.dtype == "int32"
    found = xr.open_zarr(tmp_path / "a.zarr", chunks=None, decode_timedelta=True, consolidated=False)
    xr.testing.assert_equal(found, ds)
