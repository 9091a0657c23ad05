"""HDF5 and NetCDF4: what is read beside the library is what the library reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

import tilework.array as ta
from tilework.base.errors import StorageError
from tilework.io.hdf5 import HDF5Source, of_dataset
from tilework.io.memory import ArraySource
from tilework.plan.graph import topological
from tilework.plan.ops import Source as Read
from tilework.plan.protocols import Source
from tilework.testing.sources import SourceSuite

X = np.arange(20 * 30, dtype="float32").reshape(20, 30)
DIRECT: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (7, 6)},
    "deflated": {"chunks": (7, 6), "compression": "gzip"},
    "shuffled": {"chunks": (7, 6), "shuffle": True},
    "both": {"chunks": (7, 6), "compression": "gzip", "shuffle": True, "dtype": "f8"},
    "missing chunks": {"chunks": (7, 6), "fillvalue": 3, "compression": "gzip", "dtype": "i2"},
}
OTHER: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "checksums": {"chunks": (7, 6), "fletcher32": True},
    "lzf": {"chunks": (7, 6), "compression": "lzf"},
    "big endian": {"chunks": (7, 6), "dtype": ">f4"},
}
CASES = DIRECT | OTHER


def make_file(path: Path, case: str) -> Path:
    with h5py.File(path, "w") as file:
        options = {"dtype": "f4", **CASES[case]}
        x = file.create_group("g").create_dataset("x", X.shape, **options)
        rows = 7 if case == "missing chunks" else 20
        x[:rows] = X[:rows]
    return path


@pytest.fixture
def dataset(case: str, tmp_path: Path) -> Iterator[Any]:
    with h5py.File(make_file(tmp_path / "x.h5", case), "r") as file:
        yield file["g/x"]


def whole(source: Source) -> np.ndarray:
    return source.read(tuple(slice(0, n, 1) for n in source.shape))


@pytest.mark.parametrize("case", CASES)
class TestDatasets(SourceSuite):
    @pytest.fixture
    def make(self, dataset: Any) -> Callable[[], Source]:
        def source() -> Source:
            found = of_dataset(dataset)
            assert found is not None
            return found

        return source

    @pytest.fixture
    def reference(self, dataset: Any) -> np.ndarray:
        return np.asarray(dataset[...])

    def test_what_is_read_beside_the_library(
        self, case: str, make: Callable[[], Source], reference: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = make()
        monkeypatch.delattr(ArraySource, "read")
        if case in DIRECT:
            np.testing.assert_array_equal(whole(source), reference)
        else:
            with pytest.raises(AttributeError):
                whole(source)


def test_a_chunk_without_a_filter(tmp_path: Path) -> None:
    """Written as it is, past the filters that the data set has: only the library knows what to do."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        x = file.create_dataset("x", X.shape, "f4", chunks=(20, 30), compression="gzip")
        x.id.write_direct_chunk((0, 0), X.tobytes(), filter_mask=1)
    with h5py.File(tmp_path / "x.h5", "r") as file:
        source = of_dataset(file["x"])
        assert source is not None
        np.testing.assert_array_equal(whole(source), X)


def test_a_file_that_changes(tmp_path: Path) -> None:
    path = make_file(tmp_path / "x.h5", "deflated")
    with h5py.File(path, "r") as file:
        source = of_dataset(file["g/x"])
    assert source is not None
    np.testing.assert_array_equal(whole(source), X)  # the file need not be open
    with h5py.File(path, "r+") as file:
        file["g/x"][...] = X[::-1] ** 2
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(whole(source), X[::-1] ** 2)
    with h5py.File(path, "r") as file:
        again = of_dataset(file["g/x"])
    assert again is not None
    assert again.token != source.token


def test_files_that_have_gone(tmp_path: Path) -> None:
    path = make_file(tmp_path / "x.h5", "deflated")
    with h5py.File(path, "r") as file:
        source = of_dataset(file["g/x"])
    assert source is not None
    path.unlink()
    with pytest.raises(StorageError, match="is its file still open"):
        whole(source)


def test_corrupt_chunks(tmp_path: Path) -> None:
    path = make_file(tmp_path / "x.h5", "deflated")
    with h5py.File(path, "r") as file:
        source = of_dataset(file["g/x"])
        begin = file["g/x"].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(begin)
        raw.write(b"garbage")
    assert source is not None
    with pytest.raises(StorageError, match=r"chunk .*x\.h5:/g/x is corrupt"):
        whole(source)


def test_what_may_change_is_left_to_the_library(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        x = file.create_dataset("x", data=X, chunks=(7, 6))
        assert of_dataset(x) is None
        np.testing.assert_array_equal(ta.from_array(x, chunks=(10, 10)).compute(), X)
    assert of_dataset(X) is None


def test_arrays(tmp_path: Path) -> None:
    with h5py.File(make_file(tmp_path / "x.h5", "both"), "r") as file:
        x = ta.from_array(file["g/x"], chunks=(5, 11))
        assert [type(n.source) for n in topological([x.node]) if isinstance(n, Read)] == [HDF5Source]
        np.testing.assert_array_equal(x.compute(), X)
        assert x.node.token == ta.from_array(file["g/x"], chunks=(5, 11)).node.token
        named = ta.from_array(file["g/x"], name="x")
        np.testing.assert_array_equal(named.compute(), X)


def test_variables_of_netcdf4_are_read_one_at_a_time(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w") as file:
        file.createDimension("a", 20)
        file.createDimension("b", 30)
        for k in range(4):
            file.createVariable(f"x{k}", "f4", ("a", "b"), chunksizes=(5, 5), zlib=True)[:] = X + k
    with netCDF4.Dataset(tmp_path / "x.nc") as file:
        file.set_auto_mask(False)
        arrays = [ta.from_array(file[f"x{k}"], chunks=(5, 7)) for k in range(4)]
        assert ArraySource(file["x0"]).storage_chunks == (5, 5)
        np.testing.assert_array_equal(ta.stack(arrays).compute(), X + np.arange(4)[:, None, None])


@pytest.mark.filterwarnings("ignore:The specified chunks")
@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
@pytest.mark.parametrize("group", [None, "a/b"])
def test_opened_by_xarray(tmp_path: Path, engine: Any, group: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = xr.Dataset({"x": (("a", "b"), X), "packed": (("a", "b"), X / 10)}, {"a": np.arange(20), "s": "text"})
    packed = {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -1, "zlib": True}
    encoding: Any = {"x": {"chunksizes": (7, 6), "zlib": True, "shuffle": True}, "packed": packed}
    ds.to_netcdf(tmp_path / "x.nc", group=group, encoding=encoding)
    options: Any = {"engine": engine, "group": group}
    with (
        xr.open_dataset(tmp_path / "x.nc", chunks={"a": 5}, chunked_array_type="tilework", **options) as found,
        xr.open_dataset(tmp_path / "x.nc", **options) as expected,
    ):
        sources = [n.source for n in topological([found.x.data.node, found.packed.data.node]) if isinstance(n, Read)]
        assert {type(source) for source in sources} == {HDF5Source}
        assert sources[0].storage_chunks == (7, 6)
        xr.testing.assert_identical(found.compute(), expected.load())
        xr.testing.assert_identical(found.isel(a=slice(3, 17, 2), b=4).compute(), expected.isel(a=slice(3, 17, 2), b=4))
        monkeypatch.delattr(ArraySource, "read")
        np.testing.assert_array_equal(found.x.data.compute(), X)
