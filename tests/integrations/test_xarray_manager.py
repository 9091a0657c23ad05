"""The chunk manager, and what loading it does to xarray."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize
from xarray.namedarray.parallelcompat import ChunkManagerEntrypoint, list_chunkmanagers

import tilework as tw
import tilework.array as ta
from tilework.base.errors import UnsupportedError
from tilework.integrations.xarray import TileworkManager


@pytest.fixture
def manager():
    return list_chunkmanagers()["tilework"]


def test_xarray_finds_it(manager):
    assert isinstance(manager, TileworkManager)
    assert manager.available
    assert manager.array_api is ta
    assert manager.get_auto_chunk_size() == tw.config.get().chunk_size


def test_every_method_is_there():
    """xarray's own methods raise NotImplementedError."""
    abstract = {
        n for n in vars(ChunkManagerEntrypoint) if not n.startswith("_") and n not in ("array_cls", "available")
    }
    assert abstract <= set(vars(TileworkManager))


def test_arrays(manager):
    x = manager.from_array(np.arange(12).reshape(3, 4), (2, None))
    assert manager.is_chunked_array(x)
    assert not manager.is_chunked_array(np.arange(3))
    assert manager.chunks(x) == ((2, 1), (4,))
    assert manager.rechunk(x, {1: 2}).chunks == ((2, 1), (2, 2))
    assert manager.normalize_chunks("auto", (4, 4), dtype=float) == ((4,), (4,))
    assert manager.normalize_chunks({"auto"} and (2, "auto"), (4, 4), limit=32, dtype=float) == ((2, 2), (2, 2))
    assert manager.from_array(np.ones((0, 3)), "auto").chunks == ((0,), (3,))
    (computed, passed) = manager.compute(x, "as it is")
    np.testing.assert_array_equal(computed, np.arange(12).reshape(3, 4))
    assert passed == "as it is"
    (kept,) = manager.persist(x)
    assert isinstance(kept, ta.Array)


def test_functions(manager):
    x = manager.from_array(np.arange(6.0), (4,))
    total = manager.reduction(x, func=np.sum, combine_func=np.sum, aggregate_func=np.sum, axis=0, dtype=float)
    assert total.compute() == 15
    running = manager.scan(np.cumsum, np.add, 0, x, axis=0, dtype=float)
    np.testing.assert_array_equal(running.compute(), np.cumsum(np.arange(6.0)))
    np.testing.assert_array_equal(manager.map_blocks(np.negative, x, dtype=float).compute(), -np.arange(6.0))
    squares = manager.blockwise(np.multiply, "i", x, "i", x, "i", dtype=float)
    np.testing.assert_array_equal(squares.compute(), np.arange(6.0) ** 2)
    ends = manager.apply_gufunc(np.ptp, "(i)->()", x, axis=-1, output_dtypes=[float], allow_rechunk=True)
    assert ends.compute() == 5
    chunks, (one, other) = manager.unify_chunks(x, "i", manager.rechunk(x, 3), "i")
    assert one.chunks == other.chunks == (chunks["i"],) == ((3, 1, 2),)
    target = np.zeros(6)
    manager.store([x], [target])
    np.testing.assert_array_equal(target, np.arange(6.0))
    np.testing.assert_array_equal(manager.shuffle(x, [[5, 0], [1]], 0, None).compute(), [5, 0, 1])
    with pytest.raises(UnsupportedError, match="rechunk"):
        manager.shuffle(x, [[0]], 0, (1,))


def test_results_are_what_was_announced(manager):
    """xarray announces the dtype that goes in even where more comes out."""
    x = manager.from_array(np.arange(6, dtype="f4"), (4,))
    found = manager.apply_gufunc(lambda block: block.astype("f8"), "()->()", x, output_dtypes=["f4"])
    assert found.compute().dtype == "f4"


def test_lazy_labels_need_the_groups():
    da = xr.DataArray(np.arange(6.0), dims="x", name="v").chunk(x=4, chunked_array_type="tilework")
    labels = xr.DataArray(np.arange(6) % 2, dims="x", name="g").chunk(x=4, chunked_array_type="tilework")
    with pytest.raises(ValueError, match="labels"):
        da.groupby(labels).mean()
    groups = da.assign_coords(g=labels).groupby(g=xr.groupers.UniqueGrouper(labels=[0, 1]))
    with pytest.raises(ValueError, match="load"):
        groups.map(lambda group: group * 2)


def test_dask_arrays_still_work():
    dask = pytest.importorskip("dask.array")
    list_chunkmanagers()
    da = xr.DataArray(dask.arange(60.0, chunks=7).reshape(12, 5), dims=("x", "y"), coords={"x": np.arange(12)})
    plain = da.compute()
    for operation in (
        lambda d: d.ffill("x"), lambda d: d.polyfit("x", 1).polyfit_coefficients, lambda d: d.shift(x=1),
        lambda d: d.isel(x=xr.DataArray([1, 2], dims="p"), y=xr.DataArray([0, 1], dims="p")),
        lambda d: d.weighted(d.isel(y=0) * 0 + 1).mean("x"), lambda d: d.chunk(x=4), lambda d: d.quantile(0.5, "y"),
        lambda d: d.groupby(d.x % 3).mean(),
    ):  # fmt: skip
        found = operation(da)
        assert isinstance(found.data, dask.Array)
        xr.testing.assert_allclose(found.compute(), operation(plain))


def test_loading_imports_nothing_more():
    program = (
        "import tilework.integrations.xarray, sys; print([m for m in ('dask', 'flox', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "flox" not in done.stdout


def test_loaded_when_xarray_is_given_an_array():
    """Not only when xarray asks for a chunk manager: operations before that would not know our arrays."""
    program = """
import tilework.array as ta
import sys, xarray as xr
da = xr.DataArray(ta.ones((4, 3), chunks=2), dims=("x", "y"), coords={"g": ("x", [0, 0, 1, 1])})
assert "tilework.integrations.xarray" in sys.modules
assert da.groupby("g").sum().compute().values.tolist() == [[2, 2, 2]] * 2
assert isinstance(da.weighted(da.isel(y=0)).mean("x").data, ta.Array)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_lazy_objects_are_known():
    lazy = xr.Dataset({"a": ("x", np.arange(4))}).chunk(x=2, chunked_array_type="tilework")
    for obj in (lazy, lazy.a, lazy.a.variable):
        assert tw.is_tilework_collection(obj)
        assert not tw.is_tilework_collection(obj.compute())


def test_tokens():
    """Dask tells programs apart by what they are; xarray asks it to."""
    ds = xr.Dataset({"a": ("x", ta.arange(6, chunks=2))})
    assert tokenize(ds) == tokenize(ds.copy(deep=True)) == tokenize(xr.Dataset({"a": ("x", ta.arange(6, chunks=2))}))
    assert tokenize(ds) != tokenize(ds + 1)
