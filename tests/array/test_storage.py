"""Into storage and back, and what is refused before anything is written."""

import uuid
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework import session
from tilework.base.errors import (
    BlockResultError,
    ChunkError,
    DTypeError,
    PlanError,
    StorageError,
    UnknownChunksError,
    UnsupportedError,
)
from tilework.delayed import delayed
from tilework.io.zarr import ZarrSink


@pytest.fixture
def grid():
    return np.arange(60.0).reshape(6, 10)


@pytest.fixture
def lazy(grid):
    return ta.from_array(grid, chunks=(4, 3))


def fail(block):
    raise RuntimeError("no such value")


# ---------------------------------------------------------------- zarr


def test_there_and_back(tmp_path, grid, lazy):
    assert lazy.to_zarr(tmp_path / "a.zarr") is None
    x = ta.from_zarr(tmp_path / "a.zarr")
    assert x.chunks == lazy.chunks
    np.testing.assert_array_equal(x.compute(), grid)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr")[:], grid)


def test_arrays_in_groups(tmp_path, grid, lazy):
    stored = ta.to_zarr(lazy, str(tmp_path / "g.zarr"), component="deep/a", return_stored=True)
    np.testing.assert_array_equal(stored.compute(), grid)
    ta.to_zarr(lazy + 1, str(tmp_path / "g.zarr"), component="deep/b")
    np.testing.assert_array_equal(ta.from_zarr(str(tmp_path / "g.zarr"), "deep/b").compute(), grid + 1)


def test_stores_and_open_arrays(grid, lazy):
    store = zarr.storage.MemoryStore()
    lazy.to_zarr(store, component="a")
    np.testing.assert_array_equal(ta.from_zarr(store, component="a").compute(), grid)
    target = zarr.create_array({}, shape=(6, 10), chunks=(2, 5), dtype="f8")
    lazy.to_zarr(target)
    np.testing.assert_array_equal(ta.from_zarr(target).compute(), grid)


def test_chunks_for_reading(tmp_path, lazy):
    lazy.to_zarr(tmp_path / "a.zarr")
    assert ta.from_zarr(tmp_path / "a.zarr", chunks=(3, -1)).chunks == ((3, 3), (10,))
    assert ta.from_zarr(tmp_path / "a.zarr", chunks="auto").chunks == ((6,), (10,))


@pytest.mark.parametrize("options", [{"chunks": (5, 4)}, {"chunks": (2, 2), "shards": (4, 4)}, {"zarr_format": 2}])
def test_layout_of_choice(tmp_path, grid, lazy, options):
    lazy.to_zarr(tmp_path / "a.zarr", fill_value=-1, **options)
    z = zarr.open_array(tmp_path / "a.zarr")
    assert z.chunks == options.get("chunks", (4, 3))
    assert z.shards == options.get("shards")
    assert z.fill_value == -1
    np.testing.assert_array_equal(z[:], grid)


def test_shards_are_read_in_several_chunks(tmp_path, grid):
    z = zarr.create_array(tmp_path / "a.zarr", shape=(24, 40), chunks=(2, 5), shards=(12, 20), dtype="f8")
    z[:] = np.arange(960.0).reshape(24, 40)
    assert ta.from_zarr(z).chunksize == (12, 20)
    with tw.config.set(chunk_size="400B"):
        x = ta.from_zarr(z)
    rows, columns = x.chunksize
    assert (rows % 2, columns % 5) == (0, 0)
    assert 10 < rows * columns <= 50
    np.testing.assert_array_equal(x.compute(), z[:])


def test_what_dask_calls_things(tmp_path, grid, lazy):
    ta.to_zarr(lazy, tmp_path / "g.zarr", name="a", zarr_format=2)
    x = ta.from_zarr(tmp_path / "g.zarr", "a", zarr_format=2)
    z = zarr.open_array(tmp_path / "g.zarr/a")
    assert ta.from_array(z, chunks=(4, 3)).node.token == x.node.token
    assert ta.from_array(z, chunks=(4, 3), name=False).node.token != x.node.token
    kept = ta.store(x + 1, np.zeros((6, 10)), return_stored=True, load_stored=True)
    np.testing.assert_array_equal(kept.compute(), grid + 1)
    assert tw.explain(kept).read_bytes == 0


def test_urls(grid, lazy):
    url = f"memory://{uuid.uuid4()}/x.zarr"
    for _ in range(2):
        ta.to_zarr(lazy, url, resume=True)
        np.testing.assert_array_equal(ta.from_zarr(url).compute(), grid)
    with pytest.raises(StorageError, match="use overwrite=True"):
        ta.to_zarr(lazy + 1, url, resume=True)
    with pytest.raises(PlanError, match="made from what it would replace"):
        ta.to_zarr(ta.from_zarr(url) + 1, url, overwrite=True)
    ta.to_zarr(lazy + 1, url, overwrite=True)
    np.testing.assert_array_equal(ta.from_zarr(f"simplecache::{url}", chunks=(5, 5)).compute(), grid + 1)
    assert ta.from_zarr(url).node.token == ta.from_zarr(url).node.token
    np.testing.assert_array_equal(ta.from_zarr(url).compute(), grid + 1)


def test_irregular_chunks_become_regular(tmp_path, grid):
    x = ta.from_array(grid, chunks=((1, 4, 1), (3, 7)))
    x.to_zarr(tmp_path / "a.zarr")
    assert zarr.open_array(tmp_path / "a.zarr").chunks == (4, 7)
    np.testing.assert_array_equal(ta.from_zarr(tmp_path / "a.zarr").compute(), grid)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,)])
def test_little_arrays(tmp_path, shape):
    ta.full(shape, 7.0).to_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(ta.from_zarr(tmp_path / "a.zarr").compute(), np.full(shape, 7.0))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_blocks_into_any_storage_chunks(data):
    n, m = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    x = np.arange(n * m).reshape(n, m)
    before, after = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5))), data.draw(st.integers(0, 5))
    unit = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    target = zarr.create_array({}, shape=(before[0] + n + after, before[1] + m), chunks=unit, dtype=x.dtype)
    region = (slice(before[0], before[0] + n), slice(before[1], None))
    chunks = data.draw(st.tuples(st.integers(1, n), st.integers(1, m)))
    ta.to_zarr(ta.from_array(x, chunks=chunks), target, region=region)
    expected = np.zeros(target.shape, x.dtype)
    expected[region] = x
    np.testing.assert_array_equal(target[:], expected)


def test_regions_by_path(tmp_path, grid, lazy):
    zarr.create_array(tmp_path / "a.zarr", shape=(12, 10), chunks=(4, 3), dtype="f8")
    lazy.to_zarr(tmp_path / "a.zarr", region=(slice(6, None),))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr")[6:], grid)
    (lazy * 2).to_zarr(tmp_path / "a.zarr", region=(slice(None, 6), ...), mode="r+")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr")[:], np.concatenate([grid * 2, grid]))


def test_nothing_is_replaced_unasked(tmp_path, grid, lazy):
    lazy.to_zarr(tmp_path / "a.zarr")
    with pytest.raises(StorageError, match="use overwrite=True"):
        (lazy * 0).to_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(ta.from_zarr(tmp_path / "a.zarr").compute(), grid)
    (lazy * 2).to_zarr(tmp_path / "a.zarr", overwrite=True)
    (ta.from_zarr(tmp_path / "a.zarr") + 1).to_zarr(tmp_path / "a.zarr", mode="w")  # reads what it replaces
    np.testing.assert_array_equal(ta.from_zarr(tmp_path / "a.zarr").compute(), grid * 2 + 1)


def test_a_failure_leaves_the_old_array_and_nothing_new(tmp_path, grid, lazy):
    lazy.to_zarr(tmp_path / "a.zarr")
    bad = lazy.map_blocks(fail, dtype=float)
    with pytest.raises(RuntimeError, match="no such value"):
        bad.to_zarr(tmp_path / "a.zarr", overwrite=True)
    with pytest.raises(RuntimeError, match="no such value"):
        bad.to_zarr(tmp_path / "b.zarr")
    np.testing.assert_array_equal(ta.from_zarr(tmp_path / "a.zarr").compute(), grid)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a.zarr"]


def test_zarr_later(tmp_path, grid, lazy):
    write = lazy.to_zarr(tmp_path / "a.zarr", compute=False)
    np.testing.assert_array_equal(ta.from_zarr(tmp_path / "a.zarr").compute(), 0)
    assert session.compute(write, lazy.sum()) == (None, grid.sum())
    np.testing.assert_array_equal(ta.from_zarr(tmp_path / "a.zarr").compute(), grid)
    with pytest.raises(StorageError) as caught:
        lazy.to_zarr(tmp_path / "a.zarr", compute=False, overwrite=True)
    assert "compute=False replaces nothing" in caught.value.__notes__[0]


def test_zarr_refuses(tmp_path, lazy):
    cases = [
        (lambda: ta.from_array(np.array([None, 1]), chunks=2).to_zarr(tmp_path / "a"), DTypeError, "Python objects"),
        (lambda: lazy[lazy > 3].to_zarr(tmp_path / "a"), UnknownChunksError, "compute_chunk_sizes"),
        (lambda: lazy.to_zarr(tmp_path / "a", mode="r"), PlanError, "mode='r' cannot write"),
        (lambda: lazy.to_zarr(tmp_path / "a", shape=(3, 3)), PlanError, r"shape=\(3, 3\) differs"),
        (lambda: lazy.to_zarr(tmp_path / "a", mode="r+"), StorageError, "opening zarr array"),
        (lambda: ta.from_zarr(tmp_path / "a"), StorageError, "opening zarr array"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- store


def netcdf_variable(file, shape):
    for axis, n in enumerate(shape):
        file.createDimension(f"d{axis}", n)
    return file.createVariable("v", "f4", [f"d{axis}" for axis in range(len(shape))], chunksizes=(3, 3), fill_value=0)


def test_store_into_numpy_and_netcdf(tmp_path, grid, lazy):
    array = np.zeros((6, 10))
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as file:
        variable = netcdf_variable(file, (8, 10))
        assert ta.store([lazy, lazy + 1], [array, variable], regions=[None, (slice(2, 8), slice(0, 10))]) is None
        np.testing.assert_array_equal(variable[2:], grid + 1)
        np.testing.assert_array_equal(variable[:2].filled(), 0)
    np.testing.assert_array_equal(array, grid)


def test_store_returns_what_was_stored(grid, lazy):
    array = np.zeros((8, 10))
    stored = lazy.store(array, regions=(slice(1, 7),), return_stored=True)
    assert stored.chunks == lazy.chunks
    np.testing.assert_array_equal(stored.compute(), grid)
    np.testing.assert_array_equal(array[1:7], grid)


def test_store_later(grid, lazy):
    array, other = np.zeros((6, 10)), np.zeros((6, 10))
    one = ta.store(lazy, array, compute=False)
    both = ta.store([lazy, lazy * 2], [array, other], compute=False)
    assert not array.any()
    assert one.compute() is None
    np.testing.assert_array_equal(array, grid)
    session.compute(both)
    np.testing.assert_array_equal(other, grid * 2)
    assert one.persist().compute() is None
    with pytest.raises(UnsupportedError, match="needs compute=True"):
        ta.store(lazy, array, compute=False, return_stored=True)


def test_blocks_of_storage_are_written_once(grid, lazy, monkeypatch):
    """Blocks that would share chunks in storage are rechunked, to whole shards where there are any."""
    written = []
    write = ZarrSink.write
    monkeypatch.setattr(ZarrSink, "write", lambda sink, *args: written.append(args[1]) or write(sink, *args))
    for options in ({"chunks": (4, 4)}, {"chunks": (2, 2), "shards": (4, 4)}):
        target = zarr.create_array({}, shape=(6, 10), dtype="f8", **options)
        ta.store(lazy, target)
        np.testing.assert_array_equal(target[:], grid)
        starts = [(rows.start, columns.start) for rows, columns in written]
        assert sorted(starts) == [(a, b) for a in (0, 4) for b in (0, 4, 8)]
        written.clear()


def test_arrays_into_parts_of_one_target(grid):
    halves = [ta.from_array(grid[:4], chunks=4), ta.from_array(grid[4:], chunks=2)]
    target = zarr.create_array({}, shape=(6, 10), chunks=(4, 5), dtype="f8")
    aligned = [x.rechunk((4, 5)) for x in halves]
    ta.store(aligned, [target, target], regions=[(slice(0, 4),), (slice(4, 6),)])
    np.testing.assert_array_equal(target[:], grid)
    with pytest.raises(
        PlanError, match=r"storage chunks of one target: with whole chunks they take up \[0:4, 0:10\] and \[0:4"
    ):
        ta.store([x[:2] for x in aligned], [target, target], regions=[(slice(0, 2),), (slice(2, 4),)])
    array = np.zeros((6, 10))
    with pytest.raises(PlanError, match="same elements"):
        ta.store(halves, [array, array], regions=[(slice(0, 4),), (slice(3, 5),)])


def test_store_refuses_before_it_writes(lazy):
    array = np.zeros((6, 10))
    cases = [
        (lambda: ta.store([lazy], [array, array]), PlanError, "1 sources, 2 targets and 1 regions"),
        (lambda: ta.store([np.ones(3)], [array]), PlanError, "must be tilework arrays"),
        (lambda: ta.store([lazy, lazy], [array, np.zeros((6, 9))]), ChunkError, "axis 1 of the array has length 10"),
        (lambda: ta.store(lazy, array, regions=(slice(2, 9),)), ChunkError, "length 4"),
        (lambda: ta.store(lazy, array, regions=(slice(None, None, 2),)), UnsupportedError, "step 1"),
        (lambda: ta.store(lazy, np.zeros(60)), ChunkError, "does not fit"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    assert not array.any()


def test_a_closed_file_says_so(tmp_path, lazy):
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as file:
        write = ta.store(lazy, netcdf_variable(file, (6, 10)), compute=False)
    with pytest.raises(StorageError, match=r"writing to netCDF4.*Variable"):
        write.compute()


# ---------------------------------------------------------------- from delayed values


def test_from_delayed(grid):
    rows = [ta.from_delayed(delayed(np.arange)(3), (3,), dtype=int, name="row") for _ in range(2)]
    assert rows[0].node.label == "row"
    np.testing.assert_array_equal(ta.stack(rows).compute(), [[0, 1, 2]] * 2)
    x = ta.from_delayed(grid, grid.shape, meta=np.empty((0, 0)))
    np.testing.assert_array_equal((x + 1).compute(), grid + 1)


def test_from_delayed_of_unknown_length():
    x = ta.from_delayed(delayed(np.arange)(5), (np.nan,), dtype=int)
    assert (x + 1).sum().compute() == 15


def test_from_delayed_checks():
    with pytest.raises(DTypeError, match="pass dtype="):
        ta.from_delayed(delayed(np.ones)(3), (3,))
    with pytest.raises(PlanError, match="already"):
        ta.from_delayed(ta.ones(3), (3,), dtype=float)
    with pytest.raises(BlockResultError):
        ta.from_delayed(delayed(np.ones)(4), (3,), dtype=float).compute()


# ---------------------------------------------------------------- what may not be written


@pytest.fixture
def stored(tmp_path, grid):
    z = zarr.create_array(tmp_path / "z", shape=(6, 10), chunks=(4, 5), dtype="f8")
    z[:] = grid
    return z


def refused(tmp_path, stored, write, error, match):
    before = stored[:]
    with pytest.raises(error, match=match):
        write()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "z")[:], before)


def test_only_what_storage_can_hold(tmp_path, stored, lazy):
    refused(tmp_path, stored, lambda: (lazy * 1j).to_zarr(stored), DTypeError, "cannot hold complex128")
    whole = zarr.create_array({}, shape=(6, 10), dtype="i4")
    with pytest.raises(DTypeError, match="of int32 cannot hold float64; convert with astype"):
        lazy.store(whole)
    lazy.astype("i8").store(whole)
    lazy.astype("f4").store(stored)


def test_open_for_reading_only(tmp_path, stored, lazy):
    for write in (lazy.store, lazy.to_zarr):
        refused(
            tmp_path, stored, lambda w=write: w(zarr.open_array(tmp_path / "z", mode="r")), StorageError, "reading only"
        )


def test_what_is_read_is_not_replaced_before(tmp_path, grid, stored):
    x = ta.from_zarr(tmp_path / "z")
    for y in (x[::-1], x[:, ::-1] + x, x - x.mean(axis=0), x.rechunk((6, 3)) + 1):
        refused(tmp_path, stored, lambda y=y: y.to_zarr(stored), PlanError, "made from elements of zarr array")
    refused(
        tmp_path, stored, lambda: x[:4, :5].to_zarr(stored, region=(slice(0, 4), slice(2, 7))), PlanError, "made from"
    )
    (x + 1).to_zarr(stored)  # block by block in the same chunks
    np.testing.assert_array_equal(stored[:], grid + 1)
    (x[:4, :5] * 2).to_zarr(tmp_path / "z", region=(slice(0, 4), slice(5, 10)))
    np.testing.assert_array_equal(stored[:4, 5:], (grid[:4, :5] + 1) * 2)


def test_stores_that_are_read_are_not_overwritten(grid, lazy):
    store = zarr.storage.MemoryStore()
    lazy.to_zarr(store, component="a")
    x = ta.from_zarr(store, "a")
    for options in ({"overwrite": True}, {"mode": "w"}, {"overwrite": True, "compute": False}):
        with pytest.raises(PlanError, match="made from what it would replace"):
            (x * 2).to_zarr(store, component="a", **options)
    np.testing.assert_array_equal(ta.from_zarr(store, "a").compute(), grid)
    (x * 2).to_zarr(store, component="b")
    (ta.from_zarr(store, "b") * 2).to_zarr(store, component="a", overwrite=True)
    np.testing.assert_array_equal(ta.from_zarr(store, "a").compute(), grid * 4)


def test_a_layout_for_an_array_that_exists(tmp_path):
    target = zarr.create_array(tmp_path / "x.zarr", shape=(4,), chunks=(2,), dtype="i8")
    with pytest.raises(TypeError, match="'memory': layouts are for new arrays"):
        ta.to_zarr(ta.arange(4, chunks=2), target, memory="1MB")
    assert not target[:].any()
