from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from xarray.backends.common import BackendArray
from xarray.core.indexing import ExplicitIndexer, ImplicitToExplicitIndexingAdapter, LazilyIndexedArray

from tilework.base.errors import BlockResultError, StorageError, UnknownChunksError
from tilework.io.memory import (
    ArrayLikeSink,
    ArraySource,
    BlockSink,
    BlockSource,
    ConstantSource,
    EyeSource,
    LinspaceSource,
    MemorySink,
    RangeSource,
)
from tilework.plan.blocks import AxisChunks, normalize_chunks
from tilework.plan.protocols import Sink, Source
from tilework.testing.sinks import SinkSuite
from tilework.testing.sources import SourceSuite

X = np.arange(24 * 30, dtype="float32").reshape(24, 30)


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n, 1) for n in shape)


# ---------------------------------------------------------------- ArraySource


class TestNdarray(SourceSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        return lambda: ArraySource(X)

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return X

    def test_reads_are_views_that_cannot_be_written(self) -> None:
        source = ArraySource(X)
        block = source.read((slice(2, 5, 1), slice(0, 30, 2)))
        assert np.shares_memory(block, X)
        assert not block.flags.writeable
        assert X.flags.writeable
        assert source.free


class TestNoDimensions(SourceSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        return lambda: ArraySource(np.array(3.5))

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return np.array(3.5)


class TestEmpty(TestNoDimensions):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        return lambda: ArraySource(np.zeros((0, 3), "int8"))

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return np.zeros((0, 3), "int8")


@pytest.fixture
def variable(tmp_path: Path) -> Any:
    """A variable of an HDF5 file, chunked, whose library cannot be used by several threads at once."""
    file = netCDF4.Dataset(tmp_path / "x.nc", "w")
    dims = [file.createDimension(f"d{i}", n).name for i, n in enumerate(X.shape)]
    data = file.createVariable("x", X.dtype, dims, chunksizes=(5, 10))
    data.set_auto_mask(False)
    data[:] = X
    yield data
    if file.isopen():
        file.close()


class TestHdf5(SourceSuite):
    @pytest.fixture
    def make(self, variable: Any) -> Callable[[], Source]:
        lock = threading.Lock()
        return lambda: ArraySource(variable, "file", lock)

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return X


class Backend(BackendArray):
    """A lazy array as xarray's backends make them."""

    shape, dtype = X.shape, X.dtype

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        return X[key.tuple]


class TestXarrayAdapter(SourceSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        adapter = ImplicitToExplicitIndexingAdapter(LazilyIndexedArray(Backend()))
        return lambda: ArraySource(adapter, "adapter")

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return X


class Custom:
    """An array-like of which a test can say what reading gives."""

    shape, dtype = (4,), np.dtype("float32")
    chunks: Any = None

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        return self.read(key)


class TestArrayLikes:
    def test_wider_dtypes_are_cast(self) -> None:
        source = ArraySource(Custom(lambda key: np.arange(4.0)[key]))
        assert source.read(whole((4,))).dtype == "float32"

    def test_other_dtypes_are_refused(self) -> None:
        with pytest.raises(BlockResultError, match=r"\[0:4\] gave dtype complex128, but its dtype attribute"):
            ArraySource(Custom(lambda key: np.zeros(4, complex))).read(whole((4,)))

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(BlockResultError, match=r"\[0:4\] gave shape \(3,\)"):
            ArraySource(Custom(lambda key: np.zeros(3, "f4"))).read(whole((4,)))

    def test_masked_values_are_refused(self, variable: Any) -> None:
        variable.set_auto_mask(True)
        source = ArraySource(variable)
        assert (source.read(whole(X.shape)) == X).all()
        variable[3, 4] = np.ma.masked
        with pytest.raises(BlockResultError, match="masked"):
            source.read(whole(X.shape))

    def test_closed_files(self, variable: Any) -> None:
        source = ArraySource(variable)
        variable.group().close()
        with pytest.raises(StorageError, match=r"reading netCDF4.*\[0:24, 0:30\] failed \(is its file still open"):
            source.read(whole(X.shape))

    def test_storage_chunks_of_hdf5_and_zarr(self) -> None:
        array = Custom(np.zeros(4).__getitem__)
        array.chunks = (3,)
        assert ArraySource(array).storage_chunks == (3,)
        array.chunks = ((3, 1),)  # Dask's: not a unit of storage
        assert ArraySource(array).storage_chunks is None

    def test_out_of_memory_stays_what_it_is(self) -> None:
        def read(key: Any) -> Any:
            raise MemoryError

        with pytest.raises(MemoryError):
            ArraySource(Custom(read)).read(whole((4,)))

    def test_lock(self) -> None:
        lock = threading.Lock()
        held = []
        source = ArraySource(Custom(lambda key: held.append(lock.locked()) or np.zeros(4, "f4")), lock=lock)
        source.read(whole((4,)))
        assert held == [True]
        assert not lock.locked()


class TestTokens:
    def test_small_arrays_are_known_by_value(self) -> None:
        assert ArraySource(np.arange(5)).token == ArraySource(np.arange(5)).token
        assert ArraySource(np.arange(5)).token != ArraySource(np.arange(1, 6)).token

    def test_large_arrays_are_known_by_identity(self) -> None:
        a, b = np.zeros(10**4), np.zeros(10**4)
        assert ArraySource(a).token == ArraySource(a).token != ArraySource(b).token

    def test_large_arrays_are_not_kept_alive(self) -> None:
        a = np.zeros(10**4)
        token, alive = ArraySource(a).token, weakref.ref(a)
        del a
        assert alive() is None
        assert all(ArraySource(np.zeros(10**4)).token != token for _ in range(20))

    def test_names(self) -> None:
        assert ArraySource(X, "name").token == ArraySource(X + 1, "name").token != ArraySource(X, "other").token
        assert ArraySource(X[:2], False).token != ArraySource(X[:2], False).token


# ---------------------------------------------------------------- blocks


def blocks_of(x: np.ndarray, chunks: tuple[AxisChunks, ...]) -> dict[tuple[int, ...], np.ndarray]:
    return {
        index: x[tuple(slice(axis.bounds[k], axis.bounds[k + 1]) for axis, k in zip(chunks, index, strict=True))].copy()
        for index in np.ndindex(*map(len, chunks))
    }


class TestBlockSource(SourceSuite):
    chunks = normalize_chunks(((10, 3, 11), 7), X.shape)

    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        blocks = blocks_of(X, self.chunks)
        return lambda: BlockSource(blocks, self.chunks, X.dtype, "token")

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return X

    def test_a_block_is_read_without_a_copy(self) -> None:
        blocks = blocks_of(X, self.chunks)
        read = BlockSource(blocks, self.chunks, X.dtype).read((slice(10, 13, 1), slice(0, 7, 1)))
        assert np.shares_memory(read, blocks[1, 0])


class TestMemorySink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        return MemorySink(self.shape, self.dtype)

    def contents(self, sink: Any) -> np.ndarray:
        return sink.array

    def test_buffers_are_the_result(self) -> None:
        sink = MemorySink((4, 4), "int64")
        buffer = sink.buffer((slice(1, 3, 1), slice(0, 4, 1)))
        buffer[...] = 5
        sink.write((0, 0), (slice(1, 3, 1), slice(0, 4, 1)), buffer)
        assert (sink.array[1:3] == 5).all()

    def test_no_dimensions(self) -> None:
        sink = MemorySink((), "int64")
        sink.buffer(())[...] = 3
        assert sink.array == 3

    def test_takes_no_memory_before_the_first_block(self) -> None:
        assert MemorySink((10**9, 10**9), "float64").resident_bytes == 8 * 10**18


class TestBlockSink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        return BlockSink(self.chunks, self.dtype)

    def contents(self, sink: Any) -> np.ndarray:
        assert sink.chunks == self.chunks
        return sink.array

    def test_a_block_computed_in_place_is_not_copied(self) -> None:
        sink = BlockSink((AxisChunks((4,)),), "int64")
        buffer = sink.buffer((slice(0, 4, 1),))
        sink.write((0,), (slice(0, 4, 1),), buffer)
        assert sink.blocks[0,] is buffer

    def test_unknown_sizes(self) -> None:
        nan = float("nan")
        sink = BlockSink((AxisChunks((nan, nan)), AxisChunks((2, 1))), "int64")
        assert sink.resident_bytes == 0
        parts = {(0, 0): (0, 2), (0, 1): (0, 1), (1, 0): (3, 2), (1, 1): (3, 1)}
        for index, shape in parts.items():
            sink.write(index, None, np.full(shape, sum(index)))
        assert sink.chunks == ((0, 3), (2, 1))
        np.testing.assert_array_equal(sink.array, [[1, 1, 2]] * 3)

    def test_blocks_that_do_not_fit_together(self) -> None:
        nan = float("nan")
        sink = BlockSink((AxisChunks((nan,)), AxisChunks((nan, nan))), "int64")
        sink.write((0, 0), None, np.zeros((3, 1)))
        sink.write((0, 1), None, np.zeros((2, 1)))
        with pytest.raises(BlockResultError, match=r"block \(0, 1\) has shape \(2, 1\)"):
            _ = sink.array

    def test_no_dimensions(self) -> None:
        sink = BlockSink((), "int64")
        sink.write((), (), np.array(3))
        assert sink.array == 3


class TestArrayLikeSink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        self.target = np.zeros(self.shape, self.dtype)
        return ArrayLikeSink(self.target)

    def contents(self, sink: Any) -> np.ndarray:
        return self.target


class TestHdf5Sink(SinkSuite):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Any:
        with netCDF4.Dataset(tmp_path / "out.nc", "w") as file:
            dims = [file.createDimension(f"d{i}", n).name for i, n in enumerate(self.shape)]
            self.target = file.createVariable("x", self.dtype, dims)
            self.target.set_auto_mask(False)
            yield ArrayLikeSink(self.target)

    def contents(self, sink: Any) -> np.ndarray:
        return self.target[...]


class TestArrayLikeSinkErrors:
    def test_closed_files(self, variable: Any) -> None:
        sink = ArrayLikeSink(variable)
        variable.group().close()
        with pytest.raises(StorageError, match=r"writing to netCDF4.*\[0:4, 0:4\] failed"):
            sink.write((0, 0), whole((4, 4)), np.zeros((4, 4)))

    def test_unknown_places(self) -> None:
        with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
            ArrayLikeSink(np.zeros(3)).write((0,), None, np.zeros(3))


# ---------------------------------------------------------------- generated values


class TestConstant(SourceSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        return lambda: ConstantSource(2.5, (4, 5), "float32")

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return np.full((4, 5), 2.5, "float32")

    def test_takes_no_memory(self) -> None:
        block = ConstantSource(0, (10**6, 10**6), "float64").read(whole((10**6, 10**6)))
        assert block.strides == (0, 0)

    def test_token_tells_values_and_dtypes_apart(self) -> None:
        tokens = {ConstantSource(v, (2,), d).token for v in (0.0, -0.0, 1.0) for d in ("f4", "f8")}
        assert len(tokens) == 6


class TestRange(SourceSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        return lambda: RangeSource(3, 200, 7, "int16")

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return np.arange(3, 200, 7, "int16")


class TestLinspace(SourceSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        return lambda: LinspaceSource(0.1, 7.3, 53)

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return np.linspace(0.1, 7.3, 53)


class TestEye(SourceSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        return lambda: EyeSource(9, 12, -2, "int32")

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return np.eye(9, 12, -2, "int32")


numbers = st.one_of(
    st.integers(-200, 200),
    st.floats(-100, 100, width=32),
    st.integers(-100, 100).map(np.int16),
    st.floats(-100, 100, width=32).map(np.float32),
)
dtypes = st.sampled_from([None, "f2", "f4", "f8", "i4", "u1", "c8", "c16"])


def same_values(source: Source, expected: np.ndarray) -> None:
    assert (source.shape, source.dtype) == (expected.shape, expected.dtype)
    assert source.read(whole(expected.shape)).tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@given(numbers, numbers, numbers, dtypes)
def test_arange_to_the_last_bit(start: Any, stop: Any, step: Any, dtype: Any) -> None:
    assume(step != 0)
    assume(abs((float(stop) - float(start)) / float(step)) < 2000)
    try:
        expected = np.arange(start, stop, step, dtype)
    except (OverflowError, ValueError):
        assume(False)
    same_values(RangeSource(start, stop, step, dtype), expected)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@given(numbers, numbers, st.integers(0, 50), st.booleans(), dtypes)
def test_linspace_to_the_last_bit(start: Any, stop: Any, num: int, endpoint: bool, dtype: Any) -> None:
    expected, step = np.linspace(start, stop, num, endpoint, retstep=True, dtype=dtype)
    source = LinspaceSource(start, stop, num, endpoint, dtype)
    same_values(source, expected)
    np.testing.assert_equal(float(source.step), float(step))


def test_single_precision_ranges_beyond_its_integers() -> None:
    n = 2**24 + 50
    source = RangeSource(0, n, 1, "f4")
    tail = source.read((slice(n - 60, n, 1),))
    assert tail.tobytes() == np.arange(0, n, 1, "f4")[-60:].tobytes()
