"""Zarr arrays as sources and sinks: formats 2 and 3, with and without shards, in any store. Needs the extra ``zarr``.

Reading. Where the codecs are plain (see :class:`~tilework.io.zarr_direct.ZarrReader`) chunks are decoded by the
thread that wants them. Everything else goes through Zarr-Python.

Writing goes through Zarr-Python. Local directories and object stores replace a chunk in one step, so that a chunk that
is there is whole. Two blocks never write the same chunk: a :class:`ZarrSink` whose blocks are not whole storage chunks
is refused. New arrays are made by :mod:`tilework.io.zarr_create`.

Writes that can be taken up again. Nothing is noted down about finished blocks: a block is finished if all of its chunks
are there. What has to be noted is *who* wrote them. :func:`begin_resumable` leaves a record, a small object named after
the plan, and refuses chunks that are there without one; a sink without a plan removes all records before it writes.
Blocks that hold nothing but the fill value leave no chunk (unless Zarr's ``write_empty_chunks`` says so) and are made
again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tilework.base.errors import ChunkError, StorageError, TileworkError, UnknownChunksError
from tilework.base.tokens import identity_token, tokenize, unique_token
from tilework.io.regions import format_region
from tilework.io.zarr_direct import ZarrReader
from tilework.plan.blocks import Chunks
from tilework.plan.protocols import Region

RECORDS = ".tilework"
"""Directory beside an array's chunks that holds the records of plans that have written to it."""


KNOWN_AGAIN = "(large arrays in memory are known again only by name=, random numbers by their seed)"


def zarr_python() -> Any:
    """The module, or an ImportError that says how to get it."""
    try:
        import zarr
    except ImportError:
        raise ImportError("Zarr arrays need the package zarr: pip install 'tilework[zarr]'") from None
    return zarr


def is_zarr_array(x: object) -> bool:
    """Whether ``x`` is an array of Zarr-Python, told without importing it.

    Examples
    --------
    >>> is_zarr_array([1, 2])
    False
    """
    return "zarr" in sys.modules and isinstance(x, sys.modules["zarr"].Array)


def storage_chunks(array: Any) -> tuple[int, ...]:
    """The unit that a Zarr array reads and writes as a whole: a shard, or a chunk where there are none."""
    return tuple(int(n) for n in array.shards or array.chunks)


# ---------------------------------------------------------------- reading


class ZarrSource:
    """A Zarr array as a source.

    Parameters
    ----------
    array
        An open ``zarr.Array``; see :func:`open_zarr_array`.
    name
        A name that promises equal contents. Default: arrays at the same place are the same.

    Attributes
    ----------
    place
        The same for arrays at the same place in the same store, in every process if the store outlives it.
    """

    free = False

    def __init__(self, array: Any, name: str | None = None) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.storage_chunks: tuple[int, ...] | None = tuple(int(n) for n in array.chunks)
        self._direct = ZarrReader.of(array, directory_of(array))
        self.place = place_token(array)
        self.token = tokenize("zarr", name or self.place, self.shape, self.dtype, self.storage_chunks)

    def __getstate__(self) -> dict[str, Any]:
        array = _portable(self._array)
        if array is self._array:
            return self.__dict__
        return {**self.__dict__, "_array": array, "_direct": ZarrReader.of(array, directory_of(array))}

    def read(self, region: Region) -> np.ndarray:
        if self._direct is not None:
            return self._direct.read(region)
        try:
            block = np.asarray(self._array[region], self.dtype)
            if self._all_fill(block):  # chunks never written look like this, and so does a store that has gone
                open_zarr_array(self._array.store, self._array.path)
        except (TileworkError, MemoryError):
            raise
        except Exception as error:
            raise _failure("reading", self._array, region, error) from error
        return block

    def _all_fill(self, block: np.ndarray) -> bool:
        fill = self._array.fill_value
        if block.size == 0 or fill is None:
            return False
        ends = block[(0,) * block.ndim], block[(-1,) * block.ndim]
        return all(_same(end, fill) for end in ends) and bool(np.all(_same(block, fill)))

    def stream(self, region: Region) -> None:
        return None


def _same(values: Any, fill: Any) -> Any:
    return np.isnan(values) if fill != fill else values == fill


def directory_of(array: Any) -> Path | None:
    """Where the array lies, if its store is a local directory."""
    store = array.store
    return Path(os.path.abspath(store.root), array.path) if type(store) is zarr_python().storage.LocalStore else None


def place_token(array: Any) -> str:
    """A token for the place of an array: its store, however often that is opened, and the path in it."""
    storage, store = zarr_python().storage, array.store
    directory = directory_of(array)
    if directory is not None:
        return tokenize("place", str(directory))
    if type(store) in (storage.MemoryStore, storage.ZipStore):
        where: Any = str(store)
    elif type(store) is storage.FsspecStore:
        where = type(store.fs), store.fs.storage_options, store.path
    elif type(store) is storage.ObjectStore:
        where = repr(store.store), dict(getattr(store.store, "config", None) or {})
    else:
        where = identity_token(store)
    return tokenize("place", where, array.path)


def _outlives(array: Any) -> bool:
    """Whether the array's store can be written to by several processes: memory cannot, nor a file that one has open."""
    storage, store = zarr_python().storage, array.store
    if type(store) is storage.FsspecStore:
        return store.fs.protocol not in ("memory", ("memory",))
    if type(store) is storage.ObjectStore:
        return type(store.store).__name__ != "MemoryStore"
    return type(store) is storage.LocalStore


def _portable(array: Any) -> Any:
    """The array as another process can read it: with the contents of a store in memory, and directories in full."""
    zarr, store = zarr_python(), array.store
    if type(store) is zarr.storage.LocalStore and not store.root.is_absolute():
        found: Any = zarr.storage.LocalStore(os.path.abspath(store.root), read_only=store.read_only)
    elif type(store) in (zarr.storage.FsspecStore, zarr.storage.ObjectStore) and not _outlives(array):
        prototype = zarr.core.buffer.default_buffer_prototype()
        keys = _wait(_listed(store, _under(array, "")))
        found = zarr.storage.MemoryStore({key: _wait(store.get(key, prototype)) for key in keys}, read_only=True)
    else:
        return array
    return zarr.open_array(found, path=array.path, mode="r" if found.read_only else "r+").with_config(array.config)


def _failure(doing: str, array: Any, region: Region | None, error: Exception) -> StorageError:
    where = format_region(region) if region else ""
    return StorageError(f"{doing} zarr array {array.store_path}{where} failed: {type(error).__name__}: {error}")


def open_zarr_array(
    url: Any,
    component: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    mode: str = "r",
    **kwargs: Any,
) -> Any:
    """Open a Zarr array that exists.

    Parameters
    ----------
    url
        A path, a URL, a Zarr store, or a ``zarr.Array``, which is returned as it is.
    component
        The array's path within ``url``.
    storage_options
        Passed on to the file system of a URL.
    mode
        ``"r"`` to read, ``"r+"`` to write as well.
    **kwargs
        More of ``zarr.open``.

    Returns
    -------
    zarr.Array

    Raises
    ------
    StorageError
        If there is no array; the message says what there is.
    """
    zarr = zarr_python()
    if isinstance(url, zarr.Array):
        return url
    options = {"storage_options": dict(storage_options)} if storage_options else {}
    where = f"{url}/{component}" if component else str(url)
    try:
        if isinstance(url, str) and "::" in url and mode == "r":
            url, options = _chained(url, storage_options or {}), {}
        found = zarr.open(url, path=component or "", mode=mode, **options, **kwargs)
    except MemoryError:
        raise
    except Exception as error:
        raise StorageError(f"opening zarr array {where} failed: {type(error).__name__}: {error}") from error
    if isinstance(found, zarr.Group):
        names = ", ".join(sorted(found.array_keys())) or "none"
        raise StorageError(f"{where} is a zarr group, not an array; name one of its arrays as component= ({names})")
    return found


def _chained(url: str, storage_options: Mapping[str, Any]) -> Any:
    """The store for ``simplecache::https://...``. Zarr-Python takes such a file system to be as asynchronous as what it
    wraps, which it is not.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    files, path = url_to_fs(url, **storage_options)
    wrapped = AsyncFileSystemWrapper(files, asynchronous=True)
    return zarr_python().storage.FsspecStore(wrapped, path=path, read_only=True)


# ---------------------------------------------------------------- writing


class ZarrSink:
    """Writes blocks to a Zarr array.

    Parameters
    ----------
    array
        A writable ``zarr.Array``.
    chunks
        Of what will be written.
    offset
        Where in the array the first element lands; default its beginning.
    plan
        Name of the plan that writes, if blocks that an earlier run of it has finished are not to be made again. It
        must have a record: see :func:`begin_resumable`.

    Raises
    ------
    ChunkError
        If two blocks would write to the same storage chunk, or the blocks do not fit into the array.
    UnknownChunksError
        If a size is unknown.
    """

    resident_bytes = 0

    def __init__(
        self, array: Any, chunks: Chunks, offset: tuple[int, ...] | None = None, plan: str | None = None
    ) -> None:
        self._array, self._plan = array, plan
        self.shared = _outlives(array)
        self._records_may_be_there = plan is None and array.store.supports_deletes
        self.token = unique_token("zarr")
        offset = offset or (0,) * len(chunks)
        shape = tuple(axis.total for axis in chunks)
        if not all(axis.known for axis in chunks):
            raise UnknownChunksError(
                f"blocks of unknown size cannot be written to zarr array {array.store_path}; "
                "call compute_chunk_sizes() first"
            )
        if len(shape) != len(array.shape) or any(a + n > m for a, n, m in zip(offset, shape, array.shape, strict=True)):
            raise ChunkError(
                f"an array of shape {shape} does not fit into zarr array {array.store_path} of shape {array.shape}"
                + (f" at {offset}" if any(offset) else "")
            )
        unit = storage_chunks(array)
        for axis, (sizes, start, size) in enumerate(zip(chunks, offset, unit, strict=True)):
            if ((start + sizes.bounds[1:-1]) % size).any():
                raise ChunkError(
                    f"blocks along axis {axis} ({', '.join(map(str, sizes[:4]))}...) are not whole storage chunks of "
                    f"{size} of zarr array {array.store_path}, so two blocks would write to one chunk; "
                    f"use rechunk({unit}) or multiples of that first"
                )
        self._offset, self._chunks = offset, chunks

    def __getstate__(self) -> dict[str, Any]:
        self._forget_plans()  # once, not by every process that writes
        return {**self.__dict__, "_array": _portable(self._array)}

    def finished(self) -> np.ndarray | None:
        shape = tuple(axis.total for axis in self._chunks)
        if self._plan is None or 0 in shape:
            return None
        found = _chunks_there(self._array, self._offset, shape)
        for axis, (start, unit) in enumerate(zip(self._offset, storage_chunks(self._array), strict=True)):
            first = (start + self._chunks[axis].bounds[:-1]) // unit - start // unit
            found = np.logical_and.reduceat(found, first, axis)
        return found

    def buffer(self, region: Region) -> None:
        return None

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        if region is None:
            raise UnknownChunksError(f"block {index} has no known place in zarr array {self._array.store_path}")
        try:
            self._forget_plans()
            self._array[region] = block
        except (TileworkError, MemoryError):
            raise
        except Exception as error:
            raise _failure("writing to", self._array, region, error) from error

    def _forget_plans(self) -> None:
        """Before the first write of a plan that is not to be resumed: chunks of others are no longer theirs alone."""
        if self._records_may_be_there:
            _wait(self._array.store.delete_dir(_under(self._array, RECORDS)))
            self._records_may_be_there = False


def begin_resumable(array: Any, offset: Sequence[int], shape: Sequence[int], plan: str) -> None:
    """Leave a record that a plan writes a region.

    Raises
    ------
    ChunkError
        If the region's edges lie within chunks, which may hold others' elements.
    StorageError
        If chunks are there that the plan has not written.
    """
    unit = storage_chunks(array)
    for axis, (start, n, size, total) in enumerate(zip(offset, shape, unit, array.shape, strict=True)):
        if start % size or ((start + n) % size and start + n != total):
            raise ChunkError(
                f"resume=True needs regions of whole storage chunks, for a chunk that is there counts as finished; "
                f"{start}:{start + n} of axis {axis} is not, in chunks of {size} of zarr array {array.store_path}"
            )
    if has_record(array, plan):
        return
    if 0 not in shape and _chunks_there(array, offset, shape).any():
        raise StorageError(
            f"zarr array {array.store_path} holds chunks that this program has not written {KNOWN_AGAIN}; "
            "write without resume=True to replace them"
        )
    content = zarr_python().core.buffer.default_buffer_prototype().buffer.from_bytes(b"written by this plan\n")
    _wait(array.store.set(_under(array, f"{RECORDS}/{plan}"), content))


def has_record(array: Any, plan: str) -> bool:
    """Whether a run of the plan has begun to write to the array."""
    return bool(_wait(array.store.exists(_under(array, f"{RECORDS}/{plan}"))))


def _chunks_there(array: Any, offset: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Which of the chunks that a region touches are in storage."""
    keys = set(_wait(_listed(array.store, _under(array, ""))))
    spans = [
        range(start // size, -(-(start + n) // size))
        for start, n, size in zip(offset, shape, storage_chunks(array), strict=True)
    ]
    encode = array.metadata.encode_chunk_key
    there = [_under(array, encode(index)) in keys for index in product(*spans)]
    return np.array(there, bool).reshape([len(span) for span in spans])


async def _listed(store: Any, prefix: str) -> list[str]:
    return [key async for key in store.list_prefix(prefix)]


def _under(array: Any, key: str) -> str:
    return f"{array.path}/{key}" if array.path else key


def _wait(request: Coroutine[Any, Any, Any]) -> Any:
    """The answer of a store, which runs on Zarr-Python's event loop."""
    from zarr.core.sync import sync

    return sync(request)
