"""Arrays in this process, and whatever looks like an array: as sources, and as sinks.

What is read from an ndarray is a read-only view of it. A function that changes its argument in place thus fails
instead of changing the user's data; it has to copy, as it would have to for any block that others read as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from math import ceil, prod
from typing import Any

import numpy as np

from tilework.base.errors import BlockResultError, InternalError, StorageError, TileworkError, UnknownChunksError
from tilework.base.tokens import identity_token, tokenize, unique_token
from tilework.io.regions import assemble, format_region, region_shape
from tilework.io.reopening import NamedLock, named_lock, portable
from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.protocols import Region

_NETCDF4 = NamedLock(name="netCDF4")


def _lock(lock: Any) -> Any:
    """What to hold while reading or writing: True is a new lock, False and None are none."""
    if lock is True:
        return NamedLock()
    return named_lock(lock) if lock else nullcontext()


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def storage_failure(doing: str, target: Any, region: Region | None, error: Exception) -> StorageError:
    """A StorageError that says what was being read or written, where, and why that failed."""
    where = format_region(region) if region else ""
    name = f"{type(target).__module__}.{type(target).__qualname__}"
    closed = any(word in str(error).lower() for word in ("closed", "invalid", "not a valid", "not of specified type"))
    hint = " (is its file still open?)" if closed else ""
    return StorageError(f"{doing} {name}{where} failed{hint}: {type(error).__name__}: {error}")


# ---------------------------------------------------------------- sources


class ArraySource:
    """An ndarray, or anything with ``shape``, ``dtype`` and slicing (HDF5, Zarr and xarray's lazy arrays).

    Parameters
    ----------
    array
        What to read. An ndarray is not copied: do not change it before the result is computed.
    name
        A name that promises equal contents: arrays of one name are read once. None and True find one: small ndarrays
        are known by their values, all else by identity. False is a name of its own.
    lock
        A lock to hold while reading, True for a new one, or False. Variables of netCDF4 always have one: its library
        must not be called by two threads. ndarrays, and data sets of h5py, need none.

    Raises
    ------
    BlockResultError
        From ``read``, if the array gives another shape or kind than it announced.
    StorageError
        From ``read``, if the array raises anything.
    """

    def __init__(self, array: Any, name: str | bool | None = None, lock: Any = False) -> None:
        self.free = isinstance(array, np.ndarray)
        self.array: Any = _read_only(array) if isinstance(array, np.ndarray) else array
        self._lock = _lock(lock or (_is_netcdf4(array) and _NETCDF4))
        self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.storage_chunks = None if self.free else _storage_chunks(array)
        if isinstance(name, str):
            self.token = tokenize("array", name)
        elif name is False:
            self.token = unique_token("array")
        else:
            self.token = tokenize(array) if self.free else identity_token(array)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": portable(self.array)}

    def read(self, region: Region) -> np.ndarray:
        if self.free:
            block: np.ndarray = self.array[(*region, ...)]
            return block
        try:
            with self._lock:
                read = self.array[region]
                block = np.asarray(read)
        except (TileworkError, MemoryError):
            raise
        except Exception as error:
            raise storage_failure("reading", self.array, region, error) from error
        if block.shape != region_shape(region):
            raise BlockResultError(
                f"reading {type(self.array).__qualname__}{format_region(region)} gave shape {block.shape}; "
                "the array must support slices as NumPy does"
            )
        if np.ma.is_masked(read):
            raise BlockResultError(
                f"reading {type(self.array).__qualname__}{format_region(region)} gave masked values, which blocks "
                "cannot hold; open it so that it gives NaN or fill values instead (netCDF4: set_auto_mask(False))"
            )
        if block.dtype == self.dtype:
            return block
        try:  # adapters at times announce a wider type than they return
            return block.astype(self.dtype, casting="same_kind")
        except TypeError:
            raise BlockResultError(
                f"reading {type(self.array).__qualname__}{format_region(region)} gave dtype {block.dtype}, "
                f"but its dtype attribute says {self.dtype}"
            ) from None

    def stream(self, region: Region) -> None:
        return None


def _storage_chunks(array: Any) -> tuple[int, ...] | None:
    """What an HDF5 data set, NetCDF variable or Zarr array decodes as a whole."""
    unit = tuple(array.chunking()) if _is_netcdf4(array) else getattr(array, "chunks", None)
    if isinstance(unit, tuple) and len(unit) == len(array.shape) and all(isinstance(n, int) and n > 0 for n in unit):
        return unit
    return None


def _is_netcdf4(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "netCDF4"


class BlockSource:
    """An array held as blocks: what ``persist`` leaves.

    Parameters
    ----------
    blocks
        Block by chunk index. They become read-only.
    chunks
        Known sizes.
    token
        Given if the blocks are the value of something that has one.
    """

    free = True
    storage_chunks: tuple[int, ...] | None = None

    def __init__(
        self, blocks: Mapping[tuple[int, ...], np.ndarray], chunks: Chunks, dtype: Any, token: str | None = None
    ) -> None:
        self._blocks = {index: _read_only(block) for index, block in blocks.items()}
        self.chunks = chunks
        self.shape: tuple[int, ...] = tuple(axis.total for axis in chunks)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.token = token or unique_token("blocks")

    def read(self, region: Region) -> np.ndarray:
        return assemble(region, self.chunks, self.dtype, self._blocks.__getitem__)

    def stream(self, region: Region) -> None:
        return None


# ---------------------------------------------------------------- sinks


class MemorySink:
    """One ndarray as the result. Blocks are computed in place: ``buffer`` is a view of it.

    The memory is taken when the first block asks for it, or when the sink is pickled, so a plan that is refused costs
    nothing.

    Parameters
    ----------
    shape, dtype
        Of the result.
    empty
        Gives the memory. It is the engine's if blocks are made in other processes: what they unpickle is then the
        same memory.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, empty: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.token = unique_token("memory")
        self.resident_bytes: int = prod(shape) * self.dtype.itemsize
        self.shared = empty is not np.empty
        self._empty = empty
        self._once = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return MemorySink._over, (self.array, self.token)

    @classmethod
    def _over(cls, memory: np.ndarray, token: str) -> MemorySink:
        sink = cls(memory.shape, memory.dtype)
        sink._memory, sink.token, sink.shared = memory, token, True
        return sink

    @cached_property
    def _memory(self) -> np.ndarray:
        return self._empty(self.shape, self.dtype)

    @property
    def array(self) -> np.ndarray:
        """The result."""
        with self._once:
            return self._memory

    def finished(self) -> None:
        return None

    def buffer(self, region: Region) -> np.ndarray:
        place: Any = (*region, ...)
        view: np.ndarray = self.array[place]
        return view

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        if region is None:
            raise InternalError(f"a block of unknown place was written to a result of shape {self.shape}")
        view = self.buffer(region)
        if not np.may_share_memory(view, block):  # nothing but our own buffers lies within this memory
            view[...] = block


class BlockSink:
    """Keeps every block: for ``persist``, and for results whose chunk sizes are unknown.

    A block that was computed in a buffer from here is kept as it is; any other is copied, since whoever made it may
    use its memory again.
    """

    shared = False

    def __init__(self, chunks: Chunks, dtype: Any) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.token = unique_token("blocks")
        known = all(axis.known for axis in chunks)
        self.resident_bytes: int = prod(axis.total for axis in chunks) * self.dtype.itemsize if known else 0
        self.blocks: dict[tuple[int, ...], np.ndarray] = {}
        self._grid = tuple(len(axis) for axis in chunks)
        if known and any(0 in axis for axis in chunks):  # blocks without elements are not written
            for index in np.ndindex(self._grid):
                shape = tuple(axis[k] for axis, k in zip(chunks, index, strict=True))
                if 0 in shape:
                    self.blocks[index] = np.empty(shape, self.dtype)
        self._buffers: dict[int, np.ndarray] = {}  # handed out and not come back, by address

    def finished(self) -> None:
        return None

    def buffer(self, region: Region) -> np.ndarray:
        buffer = np.empty(region_shape(region), self.dtype)
        self._buffers[_address(buffer)] = buffer
        return buffer

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        own = self._buffers.pop(_address(block), None)
        if own is None or own.shape != block.shape or own.strides != block.strides:
            own = np.array(block, self.dtype, order="C")
        self.blocks[index] = own

    @property
    def chunks(self) -> Chunks:
        """The chunks as they turned out. All blocks must have come."""
        axes = []
        for axis, count in enumerate(self._grid):
            row = [tuple(k if a == axis else 0 for a in range(len(self._grid))) for k in range(count)]
            axes.append(AxisChunks(self.blocks[index].shape[axis] for index in row))
        for index, block in self.blocks.items():
            expected = tuple(axis[k] for axis, k in zip(axes, index, strict=True))
            if block.shape != expected:
                raise BlockResultError(
                    f"block {index} has shape {block.shape}, but by its neighbours it should be {expected}; "
                    "blocks of unknown size must agree along the axes that they share"
                )
        return tuple(axes)

    @property
    def array(self) -> np.ndarray:
        """All blocks joined into one array; they are kept until that is done."""
        chunks = self.chunks
        if len(self.blocks) == 1:
            return next(iter(self.blocks.values()))
        region = tuple(slice(0, axis.total, 1) for axis in chunks)
        return assemble(region, chunks, self.dtype, self.blocks.__getitem__)


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


class ArrayLikeSink:
    """Writes into anything with ``__setitem__``: an ndarray, an HDF5 data set.

    Parameters
    ----------
    target
        Its shape and dtype are its own matter; what it raises becomes a StorageError.
    lock
        A lock to hold while writing, True for a new one, or False for targets that several threads may write to.
    """

    resident_bytes = 0
    shared = False  # who knows what a pickled copy of the target would be

    def __init__(self, target: Any, lock: Any = True) -> None:
        self._target, self._lock = target, _lock(lock)
        self.token = unique_token("target")

    def finished(self) -> None:
        return None

    def buffer(self, region: Region) -> None:
        return None  # not even for an ndarray: the plan may still read from it

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        if region is None:
            raise UnknownChunksError(
                "blocks of unknown size cannot be stored in an array, for nobody knows where they belong; "
                "call compute_chunk_sizes() first"
            )
        try:
            with self._lock:
                self._target[region] = block
        except (TileworkError, MemoryError):
            raise
        except Exception as error:
            raise storage_failure("writing to", self._target, region, error) from error


# ---------------------------------------------------------------- sources that generate


class ConstantSource:
    """The same value everywhere (zeros, ones, full): a view in which every element is the same memory."""

    free = True
    storage_chunks: tuple[int, ...] | None = None

    def __init__(self, value: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._value = np.empty((), self.dtype)
        self._value[()] = value
        self.token = tokenize("constant", self._value, shape)

    def read(self, region: Region) -> np.ndarray:
        return np.broadcast_to(self._value, region_shape(region))

    def stream(self, region: Region) -> None:
        return None


class _Sequence:
    """Element ``i`` of a one-dimensional source is a function of ``i``."""

    free = False
    storage_chunks: tuple[int, ...] | None = None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def _values(self, i: np.ndarray) -> np.ndarray:
        """Elements number ``i``, in ``self.dtype``."""
        raise NotImplementedError

    def read(self, region: Region) -> np.ndarray:
        (index,) = region
        return self._values(np.arange(index.start, index.stop, index.step))

    def stream(self, region: Region) -> Callable[[np.ndarray], None]:
        (index,) = region
        at = index.start

        def fill(tile: np.ndarray) -> None:
            nonlocal at
            end = at + tile.size * index.step
            tile.reshape(-1)[...] = self._values(np.arange(at, end, index.step))
            at = end

        return fill


class RangeSource(_Sequence):
    """The values of ``np.arange(start, stop, step, dtype)``, to the last bit. Numbers only.

    NumPy computes the first two elements as Python objects and the others as ``first + i * (second - first)`` in the
    arithmetic of the dtype, half precision in single.

    Examples
    --------
    >>> RangeSource(1, 10, 3).read((slice(0, 3, 1),))
    array([1, 4, 7])
    """

    def __init__(self, start: Any, stop: Any, step: Any = 1, dtype: Any = None) -> None:
        self.shape = (max(0, ceil((stop - start) / step)),)
        given = map(np.asarray, (start, stop, step))
        self.dtype = np.dtype(dtype) if dtype is not None else np.result_type(np.int_, *given)
        self.token = tokenize("arange", start, stop, step, self.dtype)
        pair = np.zeros(2, self.dtype)
        if self.shape[0] > 0:
            pair[0] = start
        if self.shape[0] > 1:
            pair[1] = start + step
        self._pair = pair
        pair = pair.astype(np.float32) if self.dtype == np.float16 else pair
        with np.errstate(over="ignore"):  # unsigned integers wrap
            self._first, self._delta = pair[0], pair[1] - pair[0]

    def _values(self, i: np.ndarray) -> np.ndarray:
        out = i.astype(self._first.dtype)
        out *= self._delta
        out += self._first
        out = out.astype(self.dtype, copy=False)
        head = i[:2]
        out[:2][head < 2] = self._pair[head[head < 2]]
        return out


class LinspaceSource(_Sequence):
    """The values of ``np.linspace(start, stop, num, endpoint, dtype=dtype)`` for scalars, to the last bit.

    Attributes
    ----------
    step
        The spacing; NaN where there is none.
    """

    def __init__(self, start: Any, stop: Any, num: int, endpoint: bool = True, dtype: Any = None) -> None:
        self.shape = (num,)
        self._float = np.linspace(start, stop, 0).dtype
        self.dtype = self._float if dtype is None else np.dtype(dtype)
        self.token = tokenize("linspace", start, stop, num, endpoint, self.dtype)
        self._start, self._stop = np.asarray(start), np.asarray(stop)
        self._delta = np.subtract(self._stop, self._start, dtype=self._float)
        self._last = num - 1 if endpoint and num > 1 else None
        self._div = num - 1 if endpoint else num
        self.step = self._delta / self._div if self._div > 0 else np.nan

    def _values(self, i: np.ndarray) -> np.ndarray:
        y = i.astype(self._float)
        if self._div > 0 and self.step != 0:
            y *= self.step
        else:  # as NumPy: a step that underflows, or none
            y /= max(1, self._div)
            y *= self._delta
        y += self._start
        if self._last is not None:
            y[i == self._last] = self._stop
        if self.dtype.kind in "iu":
            np.floor(y, out=y)
        return y.astype(self.dtype, copy=False)


class EyeSource:
    """The values of ``np.eye(rows, columns, k)``."""

    free = False
    storage_chunks: tuple[int, ...] | None = None

    def __init__(self, rows: int, columns: int, k: int, dtype: Any) -> None:
        self.shape: tuple[int, ...] = (rows, columns)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._k = k
        self.token = tokenize("eye", rows, columns, k, self.dtype)

    def read(self, region: Region) -> np.ndarray:
        rows, columns = (np.arange(index.start, index.stop, index.step) for index in region)
        out = np.zeros((len(rows), len(columns)), self.dtype)
        row, column = np.nonzero(columns == rows[:, None] + self._k)
        out[row, column] = 1
        return out

    def stream(self, region: Region) -> None:
        return None
