from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import obstore.store
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.cached import SimpleCacheFileSystem
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

from tilework.base.errors import ChunkError, StorageError, UnknownChunksError
from tilework.io.zarr import (
    ZarrSink,
    ZarrSource,
    is_zarr_array,
    open_zarr_array,
    storage_chunks,
)
from tilework.io.zarr_create import create_zarr_array, replacing
from tilework.plan.blocks import AxisChunks, normalize_chunks
from tilework.plan.protocols import Sink, Source
from tilework.testing.sinks import SinkSuite
from tilework.testing.sources import SourceSuite

X = np.arange(20 * 30, dtype="float32").reshape(20, 30)

DIRECT: dict[str, dict[str, Any]] = {
    "format 2, blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("zstd")},
    "format 2, raw": {"zarr_format": 2, "compressors": None},
    "format 2, lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "zstd": {"compressors": ZstdCodec()},
    "blosc, gzip": {"compressors": [BloscCodec(), GzipCodec()]},
    "raw": {"compressors": None},
    "shards": {"shards": (14, 12)},
    "index first": {
        "chunks": (14, 12),
        "serializer": ShardingCodec(chunk_shape=(7, 6), index_location="start"),
        "compressors": None,
    },
    "missing chunks": {"fill_value": nan},
    "no fill value": {"zarr_format": 2, "fill_value": None},
    "in memory": {"store": "memory"},
    "in memory, shards": {"store": "memory", "shards": (14, 12)},
    "in memory, index first": {
        "store": "memory",
        "chunks": (14, 12),
        "serializer": ShardingCodec(chunk_shape=(7, 6), index_location="start"),
        "compressors": None,
    },
    "in memory, missing chunks": {"store": "memory", "fill_value": nan},
    "fsspec": {"store": "fsspec", "shards": (14, 12)},
    "fsspec, cached": {"store": "fsspec, cached"},
    "obstore": {"store": "obstore", "shards": (14, 12)},
    "obstore, local": {"store": "obstore, local", "zarr_format": 2},
}
OTHER: dict[str, dict[str, Any]] = {
    "format 2, Fortran order": {"zarr_format": 2, "order": "F"},
    "format 2, filters": {"zarr_format": 2, "filters": [numcodecs.Delta("f4")]},
    "format 2, big endian": {"zarr_format": 2, "dtype": ">f4"},
    "transposed": {"filters": [TransposeCodec(order=(1, 0))]},
    "big endian": {"serializer": BytesCodec(endian="big")},
    "shards with another index": {
        "chunks": (14, 12),
        "serializer": ShardingCodec(chunk_shape=(7, 6), index_codecs=[BytesCodec()]),
        "compressors": None,
    },
}
CASES = DIRECT | OTHER
SPARSE = ("missing chunks", "no fill value", "in memory, missing chunks")
STORES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda root: zarr.storage.MemoryStore(),
    "fsspec": lambda root: zarr.storage.FsspecStore.from_url(f"memory://{uuid.uuid4()}"),
    "fsspec, cached": lambda root: zarr.storage.FsspecStore(
        AsyncFileSystemWrapper(SimpleCacheFileSystem(target_protocol="memory"), asynchronous=True),
        path=f"/{uuid.uuid4()}",
    ),
    "obstore": lambda root: zarr.storage.ObjectStore(obstore.store.MemoryStore()),
    "obstore, local": lambda root: zarr.storage.ObjectStore(obstore.store.LocalStore(root)),
}


def make_array(case: str, root: Path) -> Any:
    options = {"shape": X.shape, "chunks": (7, 6), "dtype": "f4", "store": root / "x"} | CASES[case]
    if options["store"] in STORES:
        options["store"] = STORES[options["store"]](root)
    array = zarr.create_array(**options)
    if case in SPARSE:
        array[:7, :12] = X[:7, :12]
    else:
        array[...] = X
    return array


@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")
@pytest.mark.parametrize("case", CASES)
class TestFormats(SourceSuite):
    @pytest.fixture
    def array(self, case: str, tmp_path: Path) -> Any:
        return make_array(case, tmp_path)

    @pytest.fixture
    def make(self, array: Any) -> Callable[[], Source]:
        return lambda: ZarrSource(array)

    @pytest.fixture
    def reference(self, array: Any) -> np.ndarray:
        return np.asarray(array[...])

    def test_what_is_read_directly(self, case: str, array: Any) -> None:
        assert (ZarrSource(array)._direct is not None) is (case in DIRECT)


@pytest.mark.parametrize(
    "x",
    [
        np.array(2.5),
        np.array(["2001-02-03", "NaT", "1999-01-01"], dtype="datetime64[s]"),
        np.zeros((0, 3)),
        np.arange(6) % 2 == 0,
        np.arange(9, dtype="c16"),
        np.array(["a", "bc"], dtype="U2"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")
class TestKinds(SourceSuite):
    @pytest.fixture
    def make(self, x: np.ndarray, tmp_path: Path) -> Callable[[], Source]:
        array = zarr.create_array(tmp_path / "x", shape=x.shape, dtype=x.dtype, chunks=(2,) * x.ndim)
        array[...] = x
        return lambda: ZarrSource(array)

    @pytest.fixture
    def reference(self, x: np.ndarray) -> np.ndarray:
        return x


def whole(source: Source) -> np.ndarray:
    return source.read(tuple(slice(0, n, 1) for n in source.shape))


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class TestSource:
    def test_storage_chunks(self, tmp_path: Path) -> None:
        assert ZarrSource(make_array("zstd", tmp_path / "a")).storage_chunks == (7, 6)
        assert ZarrSource(make_array("shards", tmp_path / "b")).storage_chunks == (7, 6)

    def test_arrays_at_one_place_are_one(self, tmp_path: Path) -> None:
        make_array("zstd", tmp_path)
        a, b = (ZarrSource(open_zarr_array(tmp_path / "x")) for _ in range(2))
        assert a.token == b.token != ZarrSource(make_array("zstd", tmp_path / "other")).token
        assert ZarrSource(open_zarr_array(tmp_path / "x"), "name").token != a.token

    @pytest.mark.parametrize("store", ["memory", "fsspec", "obstore", "obstore, local"])
    def test_places_in_other_stores(self, store: str, tmp_path: Path) -> None:
        """However often a store is opened, for reading only or not, its arrays are at the same places."""
        where = STORES[store](tmp_path)
        for name in "ab":
            zarr.create_array(where, name=name, data=X)
        opened = [zarr.open(where, path="a", mode="r"), zarr.open(where, path="a", mode="r+")]
        assert len({ZarrSource(array).place for array in opened}) == 1
        assert ZarrSource(zarr.open(where, path="b", mode="r")).place != ZarrSource(opened[0]).place
        (tmp_path / "other").mkdir()
        other = zarr.create_array(STORES[store](tmp_path / "other"), name="a", data=X)
        assert ZarrSource(other).place != ZarrSource(opened[0]).place

    def test_arrays_in_memory_are_told_apart(self, tmp_path: Path) -> None:
        a, b = make_array("in memory", tmp_path), make_array("in memory", tmp_path)
        assert ZarrSource(a).token == ZarrSource(a).token != ZarrSource(b).token

    @pytest.mark.parametrize("case", ["zstd", "format 2, blosc", "shards", "raw"])
    def test_corrupt_chunks(self, case: str, tmp_path: Path) -> None:
        array = make_array(case, tmp_path)
        chunk = tmp_path / "x" / array.metadata.encode_chunk_key((0, 0))
        chunk.write_bytes(chunk.read_bytes()[:-7] + b"garbage"[: 0 if case == "raw" else 7])
        with pytest.raises(StorageError, match=f"{chunk} is corrupt"):
            whole(ZarrSource(array))

    def test_corrupt_chunks_read_by_zarr(self, tmp_path: Path) -> None:
        array = make_array("transposed", tmp_path)
        (tmp_path / "x/c/0/0").write_bytes(b"garbage")
        with pytest.raises(StorageError, match=r"reading zarr array .*/x\[0:20, 0:30\] failed"):
            whole(ZarrSource(array))

    def test_unreadable_chunks(self, tmp_path: Path) -> None:
        source = ZarrSource(make_array("zstd", tmp_path))
        (tmp_path / "x/c/0/0").unlink()
        (tmp_path / "x/c/0/0").mkdir()
        with pytest.raises(StorageError, match="/x/c/0/0 failed"):
            whole(source)

    @pytest.mark.parametrize("case", ["zstd", "format 2, blosc", "shards"])
    def test_a_store_that_has_gone_is_not_full_of_fill_values(self, case: str, tmp_path: Path) -> None:
        source = ZarrSource(make_array(case, tmp_path))
        shutil.rmtree(tmp_path / "x")
        with pytest.raises(StorageError, match=f"{tmp_path}/x has been moved or deleted"):
            whole(source)

    def test_closed_stores(self, tmp_path: Path) -> None:
        with zarr.storage.ZipStore(tmp_path / "x.zip", mode="w") as store:
            array = zarr.create_array(store, data=X)
            np.testing.assert_array_equal(whole(ZarrSource(array)), X)
        with pytest.raises(StorageError, match=r"zarr array .*x.zip has been moved or deleted"):
            whole(ZarrSource(array))

    @pytest.mark.parametrize("fill_value", [0, 3, nan])
    def test_other_stores_that_have_gone(self, fill_value: float, tmp_path: Path) -> None:
        store = zarr.storage.MemoryStore()
        array = zarr.create_array(store, shape=(4, 4), dtype="f4", fill_value=fill_value)
        np.testing.assert_array_equal(whole(ZarrSource(array)), np.full((4, 4), fill_value, "f4"))
        store._store_dict.clear()
        with pytest.raises(StorageError, match="has been moved or deleted"):
            whole(ZarrSource(array))

    def test_parts_of_chunks_do_not_keep_the_chunk(self, tmp_path: Path) -> None:
        part = ZarrSource(make_array("zstd", tmp_path)).read((slice(0, 1, 1), slice(0, 2, 1)))
        assert part.base is None


class TestOpen:
    def test_places(self, tmp_path: Path) -> None:
        group = zarr.create_group(tmp_path)
        array = group.create_array("a/b", data=X)
        assert is_zarr_array(array)
        for found in (
            open_zarr_array(array),
            open_zarr_array(tmp_path, "a/b"),
            open_zarr_array(str(tmp_path / "a" / "b")),
            open_zarr_array(zarr.storage.LocalStore(tmp_path), "a/b"),
            open_zarr_array(f"file://{tmp_path}/a/b"),
        ):
            np.testing.assert_array_equal(whole(ZarrSource(found)), X)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=f"opening zarr array {tmp_path}/nope failed"):
            open_zarr_array(tmp_path / "nope")
        assert not (tmp_path / "nope").exists()

    def test_groups(self, tmp_path: Path) -> None:
        group = zarr.create_group(tmp_path)
        group.create_array("pr", data=X)
        group.create_array("tas", data=X)
        with pytest.raises(StorageError, match=r"is a zarr group, not an array.*component= \(pr, tas\)"):
            open_zarr_array(tmp_path)


class TestSink(SinkSuite):
    @pytest.fixture(params=[2, 3])
    def sink(self, request: pytest.FixtureRequest, tmp_path: Path) -> Sink:
        self.array = create_zarr_array(
            tmp_path / "x", shape=self.shape, chunks=(3, 4), dtype=self.dtype, zarr_format=request.param
        )
        return ZarrSink(self.array, self.chunks)

    def contents(self, sink: Any) -> np.ndarray:
        return np.asarray(self.array[...])


class TestShardedSink(TestSink):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Sink:
        self.array = create_zarr_array(
            tmp_path / "x", shape=self.shape, chunks=(1, 2), shards=(3, 4), dtype=self.dtype, fill_value=7
        )
        return ZarrSink(self.array, self.chunks)


class TestSinkChunks:
    @pytest.fixture
    def array(self, tmp_path: Path) -> Any:
        return zarr.create_array(tmp_path / "x", shape=(20, 30), chunks=(2, 3), shards=(4, 6), dtype="f4")

    @pytest.mark.parametrize(
        ("chunks", "shape", "offset"),
        [
            ((4, 6), (20, 30), None),
            ((8, -1), (20, 30), None),
            (((4, 16), 12), (20, 30), None),
            ((4, 6), (7, 9), (8, 12)),
        ],
    )
    def test_whole_storage_chunks(self, array: Any, chunks: Any, shape: Any, offset: Any) -> None:
        assert ZarrSink(array, normalize_chunks(chunks, shape), offset).resident_bytes == 0

    def test_one_block_may_start_within_a_chunk(self, array: Any) -> None:
        sink = ZarrSink(array, normalize_chunks(((2, 4), -1), (6, 30)), (2, 0))
        sink.write((0, 0), (slice(2, 4, 1), slice(0, 30, 1)), np.ones((2, 30)))
        np.testing.assert_array_equal(array[:, 0], [0, 0, 1, 1] + [0] * 16)

    @pytest.mark.parametrize(("chunks", "offset"), [((2, 6), None), (((5, 15), -1), None), ((4, 6), (1, 0))])
    def test_divided_storage_chunks(self, array: Any, chunks: Any, offset: Any) -> None:
        shape = (19, 30) if offset else (20, 30)
        with pytest.raises(ChunkError, match=r"axis 0 .*storage chunks of 4 .*rechunk\(\(4, 6\)\)"):
            ZarrSink(array, normalize_chunks(chunks, shape), offset)

    @pytest.mark.parametrize(("shape", "offset"), [((21, 30), None), ((20,), None), ((20, 30), (0, 1))])
    def test_shapes_must_fit(self, array: Any, shape: Any, offset: Any) -> None:
        with pytest.raises(ChunkError, match="does not fit"):
            ZarrSink(array, normalize_chunks(-1, shape), offset)

    def test_unknown_sizes(self, array: Any) -> None:
        with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
            ZarrSink(array, (AxisChunks((nan,)), AxisChunks((30,))))

    def test_full_disks(self, array: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: Any, **kwargs: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        array[:4, :6] = 1
        monkeypatch.setattr(Path, "open", full)
        sink = ZarrSink(array, normalize_chunks((4, 6), (20, 30)))
        with pytest.raises(StorageError, match=r"writing to zarr array .*\[0:4, 0:6\] failed.*No space left"):
            sink.write((0, 0), (slice(0, 4, 1), slice(0, 6, 1)), np.full((4, 6), 2))
        monkeypatch.undo()
        assert (array[:4, :6] == 1).all()

    def test_read_only_arrays(self, array: Any, tmp_path: Path) -> None:
        sink = ZarrSink(open_zarr_array(tmp_path / "x"), normalize_chunks(-1, (20, 30)))
        with pytest.raises(StorageError, match="read-only"):
            sink.write((0, 0), (slice(0, 20, 1), slice(0, 30, 1)), np.zeros((20, 30)))


def fill(target: Any) -> None:
    target[...] = 5


ARRAY: dict[str, Any] = {"shape": (6, 6), "chunks": (3, 3), "dtype": "f4"}


@pytest.fixture(params=["create", "replacing"])
def write(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Either way to make an array and fill it."""

    def created(*args: Any, **kwargs: Any) -> None:
        fill(create_zarr_array(*args, **kwargs, **ARRAY))

    def replaced(*args: Any, **kwargs: Any) -> None:
        with replacing(*args, **kwargs, **ARRAY) as target:
            fill(target)

    return created if request.param == "create" else replaced


class TestCreating:
    def test_new(self, write: Callable[..., None], tmp_path: Path) -> None:
        write(tmp_path / "new" / "x")
        write(str(tmp_path / "group"), "a/b")
        (tmp_path / "empty").mkdir()
        write(tmp_path / "empty")
        for place in ("new/x", "group/a/b", "empty"):
            assert (open_zarr_array(tmp_path / place)[...] == 5).all()
        assert [p.name for p in (tmp_path / "group" / "a").iterdir() if p.is_dir()] == ["b"]
        assert isinstance(zarr.open(tmp_path / "group", mode="r")["a"], zarr.Group)

    def test_stores(self, write: Callable[..., None]) -> None:
        store = zarr.storage.MemoryStore()
        write(store, "x")
        assert (open_zarr_array(store, "x")[...] == 5).all()
        with pytest.raises(StorageError, match="overwrite=True"):
            write(store, "x")

    def test_existing_arrays(self, write: Callable[..., None], tmp_path: Path) -> None:
        make_array("zstd", tmp_path)
        before = files_of(tmp_path)
        with pytest.raises(StorageError, match=f"{tmp_path}/x holds a zarr array already; use overwrite=True"):
            write(tmp_path / "x")
        assert files_of(tmp_path) == before
        write(tmp_path / "x", overwrite=True)
        assert open_zarr_array(tmp_path / "x").shape == (6, 6)
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_groups_are_left_alone(
        self, write: Callable[..., None], overwrite: bool, zarr_format: Any, tmp_path: Path
    ) -> None:
        zarr.create_group(tmp_path / "g", zarr_format=2).create_array("x", data=X)
        before = files_of(tmp_path)
        with pytest.raises(StorageError, match="group"):
            write(tmp_path / "g", overwrite=overwrite, zarr_format=zarr_format)
        assert files_of(tmp_path) == before

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_other_files_are_left_alone(self, write: Callable[..., None], overwrite: bool, tmp_path: Path) -> None:
        (tmp_path / "papers").mkdir()
        (tmp_path / "papers" / "thesis.txt").write_text("all of it")
        for place in (tmp_path / "papers", tmp_path / "papers" / "thesis.txt"):
            with pytest.raises(StorageError, match="is no zarr array"):
                write(place, overwrite=overwrite)
        assert files_of(tmp_path) == {"papers/thesis.txt": b"all of it"}

    def test_wrong_arguments(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="colour"):
            create_zarr_array(tmp_path / "x", colour="red", **ARRAY)


class TestReplacing:
    def test_a_failure_leaves_what_was_there(self, tmp_path: Path) -> None:
        make_array("zstd", tmp_path)
        before = files_of(tmp_path)
        with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x", overwrite=True, **ARRAY) as target:
            target[:3] = 1 / 0
        assert files_of(tmp_path) == before

    def test_a_failure_leaves_nothing_new(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x", **ARRAY) as target:
            target[:3] = 1 / 0
        assert list(tmp_path.iterdir()) == []

    def test_what_is_replaced_can_be_read_until_the_end(self, tmp_path: Path) -> None:
        source = ZarrSource(make_array("zstd", tmp_path))
        with replacing(tmp_path / "x", overwrite=True, shape=X.shape, chunks=(7, 6), dtype="f4") as target:
            target[...] = whole(source) + 1
        np.testing.assert_array_equal(open_zarr_array(tmp_path / "x")[...], X + 1)


def test_storage_chunks(tmp_path: Path) -> None:
    assert storage_chunks(make_array("zstd", tmp_path)) == (7, 6)
