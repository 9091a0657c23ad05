"""Each chunk in storage is fetched once in a run, however the blocks lie."""

from collections import Counter

import numpy as np
import pytest
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
