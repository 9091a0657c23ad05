"""Everything that a plan can hold runs in a process that has seen nothing of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import obstore
import pytest
import xarray as xr
import zarr

import tilework as tw
import tilework.array as ta
from tests.engine.cluster.elsewhere import ElsewhereEngine
from tilework.base.errors import StorageError, UnsupportedError
from tilework.engine.cluster.wire.messages import Stored

X = np.random.default_rng(0).random((300, 400))
CHUNKS = (100, 100)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElsewhereEngine]:
    engine = ElsewhereEngine(tmp_path_factory.mktemp("elsewhere"))
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def given_back(elsewhere: ElsewhereEngine) -> Iterator[None]:
    yield
    elsewhere.budget = 1 << 28
    assert elsewhere.slot.sharing == 0


# ---------------------------------------------------------------- sources


@dataclass
class Place:
    """Files and stores that hold X."""

    path: Path

    def h5(self, mode: str = "r", **options: Any) -> Any:
        with h5py.File(self.path / "x.h5", "w") as file:
            file.create_group("g").create_dataset("x", data=X, **options)
        return h5py.File(self.path / "x.h5", mode)["g/x"]

    def netcdf(self) -> Any:
        with netCDF4.Dataset(self.path / "x.nc", "w") as file:
            file.createDimension("a", 300)
            file.createDimension("b", 400)
            x = file.createGroup("g").createVariable("x", "f8", ("a", "b"), chunksizes=CHUNKS, zlib=True, fill_value=-1)
            x.scale_factor = 0.5
            x[:] = X / 2
        found = netCDF4.Dataset(self.path / "x.nc")["g"]["x"]
        found.set_auto_mask(False)
        return found

    def zarr(self, store: Any, **options: Any) -> Any:
        array = zarr.create_array(store, shape=X.shape, dtype="f8", chunks=CHUNKS, **options)
        array[:] = X
        return array

    def zip(self) -> Any:
        store = zarr.storage.ZipStore(self.path / "x.zip", mode="w")
        self.zarr(store)
        store.close()
        return ta.from_zarr(zarr.open_array(zarr.storage.ZipStore(self.path / "x.zip", mode="r"), mode="r"))

    def npy(self) -> Any:
        ta.to_npy_stack(self.path / "stack", ta.from_array(X, chunks=(100, 400)))
        return ta.from_npy_stack(self.path / "stack")

    def memmap(self) -> np.memmap:
        mapped = np.memmap(self.path / "x.bin", "f8", "w+", offset=808, shape=X.shape)
        mapped[:] = X
        return mapped

    def xarray(self, engine: str) -> Any:
        data = xr.Dataset({"x": (("a", "b"), X)})
        data.to_netcdf(self.path / "x.nc", engine="netcdf4", encoding={"x": {"chunksizes": CHUNKS, "zlib": True}})
        opened = xr.open_dataset(self.path / "x.nc", engine=engine, chunks={"a": 100}, chunked_array_type="tilework")
        return opened.x.data

    def xarray_zarr(self) -> Any:
        data = xr.Dataset({"x": (("a", "b"), X)})
        data.to_zarr(
            self.path / "x.zarr",
            consolidated=False,
            encoding={"x": {"chunks": CHUNKS, "_FillValue": -1.0, "add_offset": 0.0}},
        )
        return xr.open_zarr(self.path / "x.zarr", consolidated=False, chunked_array_type="tilework").x.data


class Announced:
    """Array-like, as users write them."""

    shape, dtype = X.shape, X.dtype

    def __getitem__(self, index: Any) -> Any:
        return X[index]


def no_chunks(array: Any, **options: Any) -> Any:
    return ta.from_array(array, chunks=CHUNKS, **options)


SOURCES: dict[str, Callable[[Place], Any]] = {
    "array": lambda place: no_chunks(X),
    "part of an array": lambda place: no_chunks(np.repeat(X, 2, axis=1)[:, ::2]),
    "broadcast": lambda place: no_chunks(np.broadcast_to(X[0], X.shape)) * 0 + no_chunks(X),
    "array-like": lambda place: no_chunks(Announced()),
    "array-like with a lock": lambda place: no_chunks(Announced(), lock=True),
    "with the user's lock": lambda place: no_chunks(Announced(), lock=threading.RLock()),
    "persisted": lambda place: no_chunks(X).persist(scheduler="sync"),
    "memmap": lambda place: no_chunks(place.memmap()),
    "zarr": lambda place: ta.from_zarr(place.zarr(place.path / "x.zarr")),
    "zarr 2": lambda place: ta.from_zarr(place.zarr(place.path / "x.zarr", zarr_format=2)),
    "zarr shards": lambda place: ta.from_zarr(place.zarr(place.path / "x.zarr", shards=(200, 200))),
    "zarr big endian": lambda place: ta.from_zarr(
        place.zarr(place.path / "x.zarr", serializer=zarr.codecs.BytesCodec(endian="big"))
    ),
    "zarr url": lambda place: place.zarr(place.path / "x.zarr") and ta.from_zarr((place.path / "x.zarr").as_uri()),
    "zarr in memory": lambda place: ta.from_zarr(place.zarr(zarr.storage.MemoryStore())),
    "zarr in fsspec's memory": lambda place: ta.from_zarr(place.zarr("memory://pickling/x.zarr", overwrite=True)),
    "zarr in obstore": lambda place: ta.from_zarr(
        place.zarr(zarr.storage.ObjectStore(obstore.store.LocalStore(str(place.path))))
    ),
    "zarr in obstore's memory": lambda place: ta.from_zarr(
        place.zarr(zarr.storage.ObjectStore(obstore.store.MemoryStore()))
    ),
    "zarr zip": Place.zip,
    "hdf5": lambda place: no_chunks(place.h5(chunks=CHUNKS, compression="gzip")),
    "hdf5 without chunks": lambda place: no_chunks(place.h5(), lock=True),
    "hdf5 other filters": lambda place: no_chunks(place.h5(chunks=CHUNKS, compression="lzf")),
    "netcdf": lambda place: no_chunks(place.netcdf()) * 2,
    "npy": Place.npy,
    "xarray netcdf4": lambda place: place.xarray("netcdf4"),
    "xarray h5netcdf": lambda place: place.xarray("h5netcdf"),
    "xarray zarr": Place.xarray_zarr,
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
def test_sources(elsewhere: ElsewhereEngine, tmp_path: Path, make: Callable[[Place], Any]) -> None:
    x = make(Place(tmp_path))
    whole, column, total = tw.compute(x, x[17:203, 5], (x * 2).sum(), scheduler=elsewhere)
    np.testing.assert_allclose(whole, X, rtol=1e-15)
    np.testing.assert_allclose(column, X[17:203, 5], rtol=1e-15)
    np.testing.assert_allclose(total, (X * 2).sum())


GENERATED: dict[str, Callable[[], Any]] = {
    "ones": lambda: ta.ones((300, 400), chunks=100),
    "full": lambda: ta.full((300, 400), 2.5, chunks=100, dtype="f4"),
    "arange": lambda: ta.arange(3, 5000, 7, chunks=100),
    "linspace": lambda: ta.linspace(0, 1, 1000, chunks=100),
    "eye": lambda: ta.eye(200, k=3, chunks=50),
    "normal": lambda: ta.random.default_rng(5).normal(size=(300, 400), chunks=100),
    "poisson": lambda: ta.random.default_rng(5).poisson(np.arange(400), size=(300, 400), chunks=100),
}


@pytest.mark.parametrize("make", GENERATED.values(), ids=GENERATED.keys())
def test_generated(elsewhere: ElsewhereEngine, make: Callable[[], Any]) -> None:
    x = make()
    for here, there in zip(
        tw.compute(x, x.sum(), scheduler="sync"), tw.compute(x, x.sum(), scheduler=elsewhere), strict=True
    ):
        np.testing.assert_array_equal(here, there)


def test_relative_paths_mean_the_same_there(
    elsewhere: ElsewhereEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Place(Path("."))
    for x in (
        ta.from_zarr(place.zarr(zarr.storage.LocalStore("x.zarr"))),
        ta.from_zarr("x.zarr"),
        place.npy(),
        no_chunks(place.h5()),
        no_chunks(place.netcdf()) * 2,
        no_chunks(place.memmap()),
    ):
        np.testing.assert_allclose(x.compute(scheduler=elsewhere), X, rtol=1e-15)
    with tw.config.set(scheduler=elsewhere):
        ta.to_zarr(no_chunks(X), "y.zarr")
    target = zarr.create_array(zarr.storage.LocalStore("z.zarr"), shape=X.shape, dtype="f8", chunks=CHUNKS)
    ta.store(no_chunks(X), target, scheduler=elsewhere)
    for name in ("y.zarr", "z.zarr"):
        np.testing.assert_array_equal(zarr.open_array(name)[:], X)


def test_elements_travel_once_and_files_not_at_all(elsewhere: ElsewhereEngine, tmp_path: Path) -> None:
    def travelled(x: Any) -> int:
        x.sum().compute(scheduler=elsewhere)
        job = elsewhere.last
        if isinstance(job, Stored):
            return sum(size for _, size in (*job.parts, *([job.head] if isinstance(job.head, tuple) else [])))
        assert isinstance(job, bytes)
        return len(job)

    place = Place(tmp_path)
    x = no_chunks(X)
    assert X.nbytes <= travelled(x + x[::-1]) < X.nbytes + 100_000
    assert travelled(no_chunks(np.broadcast_to(X[0], (300, 400)))) < 100_000
    assert travelled(no_chunks(place.memmap())) < 100_000
    assert travelled(no_chunks(place.memmap()[::-2, 5:].T)) < 100_000
    assert travelled(ta.from_zarr(place.zarr(tmp_path / "x.zarr"))) < 100_000


def test_views_of_mapped_files(elsewhere: ElsewhereEngine, tmp_path: Path) -> None:
    mapped = Place(tmp_path).memmap()
    for view in (mapped[::-2, 5:].T, mapped[10:10], mapped[7:, 3], np.asarray(mapped)[5:, ::3]):
        np.testing.assert_array_equal(ta.from_array(view, chunks=50).compute(scheduler=elsewhere), view)
    private = np.memmap(tmp_path / "x.bin", "f8", "c", offset=808, shape=X.shape)
    private[0] = 5
    assert no_chunks(private)[0].sum().compute(scheduler=elsewhere) == 2000


def test_what_only_this_process_can_read(elsewhere: ElsewhereEngine, tmp_path: Path) -> None:
    writing = Place(tmp_path).h5("r+")
    in_memory = h5py.File("nowhere.h5", "w", driver="core", backing_store=False).create_dataset("x", data=X)
    diskless = netCDF4.Dataset("nowhere.nc", "w", diskless=True)
    diskless.createDimension("a", 5)
    for array in (writing, in_memory, diskless.createVariable("x", "f8", ("a",))):
        with pytest.raises(UnsupportedError, match=r"only this process can read it.*open it for reading"):
            ta.from_array(array, chunks=5).sum().compute(scheduler=elsewhere)
    with pytest.raises(TypeError, match="pickle") as caught:
        no_chunks(Unpicklable()).sum().compute(scheduler=elsewhere)
    assert 'scheduler="threads"' in caught.value.__notes__[0]


class Unpicklable(Announced):
    def __init__(self) -> None:
        self.lock = threading.Lock()


# ---------------------------------------------------------------- operations


def plus_place(block: np.ndarray, block_info: Any = None) -> np.ndarray:
    return block + block_info[0]["chunk-location"][0]


def programs(x: Any) -> dict[str, Any]:
    """What the optimizer knows how to make, each from X in blocks."""
    factor = X[0, 0]
    return {
        "elementwise": (ta.sqrt(x) + x**2).clip(0.2, 1.5).astype("f4"),
        "lambda": x.map_blocks(lambda block: block * factor, dtype=x.dtype),
        "function with its place": x.map_blocks(plus_place, dtype=x.dtype),
        "where": ta.where(x > 0.5, x, -x),
        "reductions": [x.mean(), x.std(axis=0), x.argmax(axis=1), ta.nanmax(x), ta.median(x, axis=0), x.all()],
        "scans": [x.cumsum(axis=0), ta.cumprod(x, axis=1)],
        "rechunk": x.rechunk((30, 400)),
        "take": x[ta.from_array(np.arange(299, -1, -3), chunks=30).compute(scheduler="sync")],
        "mask of unknown size": x[x > 0.9],
        "sort": ta.sort(x.ravel(), axis=0),
        "unique": ta.unique((x * 10).astype(int)),
        "overlap": x.map_overlap(lambda block: block + 1, depth=2, boundary="reflect"),
        "product": x @ x.T,
        "tensordot": ta.tensordot(x, x, axes=([0, 1], [0, 1])),
        "einsum": ta.einsum("ij,kj->ik", x, x),
        "norm": ta.linalg.norm(x),
        "fft": ta.fft.fft(x.rechunk((100, 400)), axis=1),
        "histogram": ta.histogram(x, bins=20, range=(0, 1))[0],
        "gufunc": ta.apply_gufunc(lambda a: a.mean(-1), "(i)->()", x.rechunk((100, 400)), output_dtypes=float),
        "percentile": ta.percentile(x.ravel(), [5, 50]),
        "concatenate": ta.concatenate([x, ta.ones((10, 400), chunks=100)]),
        "assignment": assigned(x),
        "several": {"a": x.sum(), "b": [x.min(axis=0), x.T]},
    }


def assigned(x: Any) -> Any:
    x = x.copy()
    x[10:20, ::7] = -1
    return x


@pytest.mark.parametrize("name", programs(ta.from_array(X, chunks=CHUNKS)).keys())
def test_programs(elsewhere: ElsewhereEngine, name: str) -> None:
    program = programs(ta.from_array(Announced(), chunks=CHUNKS))[name]
    (here,) = tw.compute(program, scheduler="sync")
    (there,) = tw.compute(program, scheduler=elsewhere)
    np.testing.assert_equal(there, here)


def test_scratch_space(elsewhere: ElsewhereEngine) -> None:
    elsewhere.budget = 8 << 20
    x = ta.from_array(Announced(), chunks=CHUNKS)
    high = ta.concatenate([x + k for k in range(16)]).rechunk((4800, 10))
    first = high.map_blocks(lambda block: block[::1000], dtype=float, chunks=(5, 10))
    np.testing.assert_array_equal(
        first.compute(scheduler=elsewhere), np.concatenate([X + k for k in range(16)])[::1000]
    )
    assert elsewhere.scratch_bytes == 16 * X.nbytes


def test_delayed_calls(elsewhere: ElsewhereEngine) -> None:
    base = 10

    @tw.delayed
    def add(a: Any, b: Any = 0) -> Any:
        return a + b + base

    parts = [add(k, b=ta.ones(5, chunks=2).sum()) for k in range(4)]
    total = tw.delayed(sum)([part * 2 for part in parts])
    assert tw.compute(total, parts[0], scheduler=elsewhere) == (2 * (4 * 15 + 6), 15)
    large = tw.delayed(np.ones)((300, 400))
    np.testing.assert_array_equal(tw.compute(large + 1, scheduler=elsewhere)[0], np.full((300, 400), 2.0))


def test_errors_show_the_users_line(elsewhere: ElsewhereEngine) -> None:
    def divide(block: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError(f"of {block.shape}")

    x = no_chunks(X).map_blocks(divide, dtype=float)
    with pytest.raises(ZeroDivisionError, match=r"of \(100, 100\)") as caught:
        x.compute(scheduler=elsewhere)
    assert caught.traceback[-1].name == "divide"
    assert "block (0, 0)" in caught.value.__notes__[0]


def test_xarray_programs(elsewhere: ElsewhereEngine) -> None:
    data = xr.Dataset({"t": (("time", "x"), X)}, {"time": np.arange("2000-01-01", "2000-10-27", dtype="M8[D]")})
    chunked = data.chunk({"time": 100}, chunked_array_type="tilework")
    for program in (
        lambda d: d.t.groupby("time.month").mean(),
        lambda d: d.t.resample(time="7D").max(),
        lambda d: d.t.rolling(time=5).mean(),
        lambda d: d.t.interp(x=[1.5, 20.25]),
        lambda d: (d.t - d.t.mean("time")).std("x"),
    ):
        lazy = program(chunked)
        with tw.config.set(scheduler=elsewhere):
            there = lazy.compute()
        xr.testing.assert_allclose(there, program(data))


# ---------------------------------------------------------------- sinks


def test_sinks(elsewhere: ElsewhereEngine, tmp_path: Path) -> None:
    x = no_chunks(X) + 1
    with tw.config.set(scheduler=elsewhere):
        ta.to_zarr(x, tmp_path / "x.zarr")
        ta.to_npy_stack(tmp_path / "stack", x.rechunk((100, 400)))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "x.zarr")[:], X + 1)
    np.testing.assert_array_equal(ta.from_npy_stack(tmp_path / "stack").compute(), X + 1)
    mine, memory = np.zeros_like(X), zarr.create_array(zarr.storage.MemoryStore(), shape=X.shape, dtype="f8")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        ta.store([x, x, x], [mine, memory, file.create_dataset("x", X.shape, "f8")], scheduler=elsewhere)
        np.testing.assert_array_equal(file["x"][:], X + 1)
    np.testing.assert_array_equal(mine, X + 1)
    np.testing.assert_array_equal(memory[:], X + 1)


def test_files_that_xarray_writes(elsewhere: ElsewhereEngine, tmp_path: Path) -> None:
    data = xr.Dataset({"x": (("a", "b"), X)}, {"a": np.arange(300)})
    chunked = data.chunk({"a": 100}, chunked_array_type="tilework")
    with tw.config.set(scheduler=elsewhere):
        for engine in ("netcdf4", "h5netcdf"):
            chunked.to_netcdf(tmp_path / f"{engine}.nc", engine=engine)
            opened = xr.open_dataset(
                tmp_path / f"{engine}.nc", engine=engine, chunks={"a": 50}, chunked_array_type="tilework"
            )
            (opened * 2).to_netcdf(tmp_path / "second.nc", engine=engine)
            xr.testing.assert_equal(xr.load_dataset(tmp_path / "second.nc"), data * 2)
        chunked.to_zarr(tmp_path / "x.zarr", consolidated=False)
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "x.zarr", consolidated=False, chunks=None).load(), data)


def test_results_are_written_where_they_are_wanted(elsewhere: ElsewhereEngine) -> None:
    found = (no_chunks(X) + 1).compute(scheduler=elsewhere)
    assert elsewhere.slot.arena.find(found.ctypes.data) is not None
    found += 1
    np.testing.assert_array_equal(found, X + 2)
    used = elsewhere.slot.used_bytes
    again = no_chunks(found).sum().compute(scheduler=elsewhere)
    np.testing.assert_allclose(again, (X + 2).sum())
    del found
    assert elsewhere.slot.used_bytes <= used - X.nbytes


def test_records_of_other_plans_are_forgotten_before_anything_is_written(
    elsewhere: ElsewhereEngine, tmp_path: Path
) -> None:
    x = no_chunks(X)
    with tw.config.set(scheduler=elsewhere):
        ta.to_zarr(x, tmp_path / "x.zarr", resume=True)
    assert os.path.exists(tmp_path / "x.zarr" / ".tilework")
    target = zarr.open_array(tmp_path / "x.zarr", mode="r+")
    ta.store(x + 1, target, scheduler=elsewhere)
    np.testing.assert_array_equal(target[:], X + 1)
    assert not os.path.exists(tmp_path / "x.zarr" / ".tilework")


def test_storage_that_fails_there_fails_here(elsewhere: ElsewhereEngine, tmp_path: Path) -> None:
    array = Place(tmp_path).zarr(tmp_path / "x.zarr")
    x = ta.from_zarr(array)
    for file in (tmp_path / "x.zarr" / "c" / "1").iterdir():
        file.write_bytes(b"garbage")
    with pytest.raises(StorageError, match="is corrupt"):
        x.sum().compute(scheduler=elsewhere)
