"""Each chunk in storage is fetched once in a run, however the blocks lie."""

import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import obstore.store
import pytest
import xarray as xr
import zarr

import tilework as tw
import tilework.array as ta

X = np.arange(40 * 60, dtype="float32").reshape(40, 60)


class Counting(zarr.storage.WrapperStore):
    """Notes which objects are asked for."""

    def __init__(self):
        super().__init__(zarr.storage.MemoryStore())
        self.asked = Counter()

    async def get(self, key, prototype, byte_range=None):
        self.asked[key, byte_range] += 1
        return await super().get(key, prototype, byte_range)


@pytest.fixture(params=[{}, {"shards": (20, 20)}, {"zarr_format": 2}], ids=["chunks", "shards", "format 2"])
def stored(request):
    store = Counting()
    z = zarr.create_array(store, shape=X.shape, chunks=(10, 10), dtype=X.dtype, **request.param)
    z[:] = X
    return store, z


def fetched(store, *things):
    """What things are, and how often each chunk was asked for. (The index of a shard is no chunk.)"""
    store.asked.clear()
    values = tw.compute(*things)
    counts = Counter()
    for (key, part), n in store.asked.items():
        if not key.endswith(("zarr.json", ".zarray", ".zattrs")) and not isinstance(
            part, zarr.abc.store.SuffixByteRequest
        ):
            counts[key, part] += n
    return values, counts


@pytest.mark.parametrize(
    "chunks", [(10, 10), (20, 30), (15, 15), (7, 60), (40, 3), (3, 3), ((1, 39), (5, 55)), "auto", -1]
)
def test_any_blocks(stored, chunks):
    store, z = stored
    x = ta.from_zarr(z, chunks=chunks)
    (found, total), counts = fetched(store, x, x.sum(axis=0))
    np.testing.assert_array_equal(found, X)
    np.testing.assert_allclose(total, X.sum(0))
    assert set(counts.values()) == {1}
    assert len(counts) == 24


def test_from_array(stored):
    """Zarr arrays and HDF5 data sets know their chunks, too."""
    store, z = stored
    (found,), counts = fetched(store, ta.from_array(z, chunks=(15, 25)) + 1)
    np.testing.assert_array_equal(found, X + 1)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: [x[5:25, 5:], x[25:, :20]],
        lambda x: [x[k] for k in range(40)],
        lambda x: [x[:15].sum(), x[15:].sum(), x.mean(axis=1)],
        lambda x: [x[1:] - x[:-1]],
        lambda x: [x[::2], x[1::2]],
        lambda x: [x[[3, 33, 14]], x[:, [0, 59, 30, 31]]],
        lambda x: [ta.map_overlap(lambda b: b, x, depth=2, boundary="reflect", dtype=x.dtype)],
        lambda x: [x.rechunk((40, 1)).sum(axis=0), x.rechunk((3, 60))],
        lambda x: [ta.concatenate([x[3:], x[:3]])],
        lambda x: [x.T.rechunk((13, 13)), x.std()],
    ],
    ids=["parts", "rows", "halves", "differences", "every other", "take", "overlap", "rechunks", "roll", "transposed"],
)
@pytest.mark.parametrize("chunks", [None, (15, 20)])
def test_any_use(stored, parts, chunks):
    store, z = stored
    lazy = parts(ta.from_zarr(z, chunks=chunks))
    found, counts = fetched(store, *lazy)
    assert set(counts.values()) == {1}
    for value, expected in zip(found, parts(ta.from_array(X)), strict=True):
        np.testing.assert_allclose(value, expected.compute(), rtol=1e-6)


def test_slices_read_what_they_need(stored):
    store, z = stored
    x = ta.from_zarr(z)
    (found,), counts = fetched(store, x[11:14, 32].sum())
    assert found == X[11:14, 32].sum()
    assert len(counts) == 1
    _, counts = fetched(store, x[:5, :5].sum(), x[-5:, -5:].sum())
    assert len(counts) == 2


def test_small_blocks_of_large_chunks_are_in_the_plan():
    """What is read in other pieces than asked for shows in the plan."""
    z = zarr.create_array({}, shape=(1000, 100), chunks=(500, 100), dtype="f8")
    explained = tw.explain(ta.from_zarr(z, chunks=(30, 100)).sum())
    assert "rechunk" in str(explained)
    assert explained.read_bytes == 1000 * 100 * 8


# ---------------------------------------------------------------- over the network, and in little memory


class Quiet(SimpleHTTPRequestHandler):
    asked: ClassVar[Counter] = Counter()

    def do_GET(self):
        self.asked[self.path] += 1
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """The address of a web server of the directory."""
    Quiet.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_from_a_web_server(tmp_path, served):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(10, 10))
    store = zarr.storage.ObjectStore(
        obstore.store.HTTPStore(f"{served}/x.zarr/", client_options={"allow_http": True}), read_only=True
    )
    x = ta.from_zarr(store, chunks=(15, 25))
    found, mean = tw.compute(x, x.mean(axis=0))
    np.testing.assert_array_equal(found, X)
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-6)
    assert {n for path, n in Quiet.asked.items() if "/c/" in path} == {1}
    (tmp_path / "x.zarr/c/0/0").unlink()
    np.testing.assert_array_equal(x[:10, :10].compute(), 0)


def test_numpy_files_are_not_read_as_a_whole(tmp_path):
    np.save(tmp_path / "x.npy", X)
    x = ta.from_array(np.load(tmp_path / "x.npy", mmap_mode="r"), chunks=(10, 20))
    np.testing.assert_array_equal((x + 1).compute(), X + 1)
    assert tw.explain(x.sum()).read_bytes == 0  # pages are mapped when they are touched


PROGRAMS = {
    "zarr to zarr": """
x = ta.from_zarr(source + "/x.zarr", chunks=(70, 256, 256))
((x + 1) * 2).to_zarr(target)
""",
    "shards, misaligned": """
x = ta.from_zarr(source + "/shards.zarr", chunks=(30, 200, 200))
(x + 1).rechunk((50, 150, 256)).to_zarr(target, chunks=(20, 64, 64), shards=(20, 128, 256))
""",
    "netcdf": """
ds = xr.open_dataset(source + "/x.nc", chunks={"t": 30}, chunked_array_type="tilework")
(ds + 1).to_netcdf(target)
""",
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """192 MiB in three formats."""
    path = tmp_path_factory.mktemp("large")
    x = np.random.default_rng(0).random((384, 256, 256)).astype("f4").repeat(2, axis=0)[:768]
    zarr.create_array(path / "x.zarr", data=x, chunks=(32, 256, 256), compressors=None)
    zarr.create_array(path / "shards.zarr", data=x, chunks=(16, 64, 64), shards=(64, 256, 256), compressors=None)
    xr.Dataset({"x": (("t", "a", "b"), x)}).to_netcdf(path / "x.nc", encoding={"x": {"chunksizes": (32, 64, 256)}})
    return path


@pytest.mark.parametrize("name", PROGRAMS)
def test_reads_and_writes_in_little_memory(name, large, tmp_path):
    program = f"""
import resource, sys
import numpy, xarray as xr, zarr, netCDF4, h5py
import tilework as tw, tilework.array as ta
source, target = {str(large)!r}, {str(tmp_path / "out")!r}
numpy.linalg.inv(numpy.eye(3))
ta.ones((4, 4)).sum().compute()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with tw.config.set(memory="64MB", workers=2):
    {PROGRAMS[name].strip().replace(chr(10), chr(10) + "    ")}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 110  # MiB: the budget, compressed chunks, and what libraries keep
