"""Zarr arrays, formats 2 and 3, with and without shards. Needs the extra ``zarr``.

Reading. Zarr-Python answers every read on one event loop, with several hand-overs between threads: 0.4 to 1 ms a chunk
beyond decoding, and threads that read at once wait for each other. Where the store is a local directory and the codecs
are plain (see :class:`_Direct`), chunks are therefore read and decoded by the thread that wants them. Everything else
goes through Zarr-Python.

Writing goes through Zarr-Python, which replaces a chunk's file in one step. Two blocks never write the same chunk: a
:class:`ZarrSink` whose blocks are not whole storage chunks is refused. What is there already is replaced only if asked
for, and by :func:`replacing` only when its successor is complete.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tilework.base.errors import ChunkError, StorageError, TileworkError, UnknownChunksError
from tilework.base.tokens import identity_token, tokenize, unique_token
from tilework.io.regions import format_region
from tilework.io.zarr_direct import DirectReader
from tilework.plan.blocks import Chunks
from tilework.plan.protocols import Region


def _zarr() -> Any:
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
        A name that promises equal contents. Default: arrays at the same place in a local directory are the same;
        other stores are told apart by identity.
    """

    free = False

    def __init__(self, array: Any, name: str | None = None) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(int(n) for n in array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.storage_chunks: tuple[int, ...] | None = tuple(int(n) for n in array.chunks)
        where = _directory(array)
        self._direct = DirectReader.of(array, where)
        place = str(where) if where is not None else (identity_token(array.store), array.path)
        self.token = tokenize("zarr", name or place, self.shape, self.dtype, self.storage_chunks)

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


def _directory(array: Any) -> Path | None:
    """Where the array lies, if its store is a local directory."""
    store = array.store
    return Path(os.path.abspath(store.root), array.path) if type(store) is _zarr().storage.LocalStore else None


def _failure(doing: str, array: Any, region: Region | None, error: Exception) -> StorageError:
    where = format_region(region) if region else ""
    return StorageError(f"{doing} zarr array {array.store_path}{where} failed: {type(error).__name__}: {error}")


def open_zarr_array(
    url: Any, component: str | None = None, storage_options: Mapping[str, Any] | None = None, mode: str = "r"
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

    Returns
    -------
    zarr.Array

    Raises
    ------
    StorageError
        If there is no array; the message says what there is.
    """
    zarr = _zarr()
    if isinstance(url, zarr.Array):
        return url
    options = {"storage_options": dict(storage_options)} if storage_options else {}
    where = f"{url}/{component}" if component else str(url)
    try:
        found = zarr.open(url, path=component or "", mode=mode, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise StorageError(f"opening zarr array {where} failed: {type(error).__name__}: {error}") from error
    if isinstance(found, zarr.Group):
        names = ", ".join(sorted(found.array_keys())) or "none"
        raise StorageError(f"{where} is a zarr group, not an array; name one of its arrays as component= ({names})")
    return found


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

    Raises
    ------
    ChunkError
        If two blocks would write to the same storage chunk, or the blocks do not fit into the array.
    UnknownChunksError
        If a size is unknown.
    """

    resident_bytes = 0

    def __init__(self, array: Any, chunks: Chunks, offset: tuple[int, ...] | None = None) -> None:
        self._array = array
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

    def buffer(self, region: Region) -> None:
        return None

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        if region is None:
            raise UnknownChunksError(f"block {index} has no known place in zarr array {self._array.store_path}")
        try:
            self._array[region] = block
        except (TileworkError, MemoryError):
            raise
        except Exception as error:
            raise _failure("writing to", self._array, region, error) from error


def create_zarr_array(
    url: Any, component: str | None = None, *, overwrite: bool = False, storage_options: Any = None, **kwargs: Any
) -> Any:
    """Make a new Zarr array.

    Parameters
    ----------
    url, component, storage_options
        As for :func:`open_zarr_array`.
    overwrite
        Replace an array that is there, at once. A group, or a directory that is something else, is never replaced.
    **kwargs
        ``shape``, ``dtype``, ``chunks``, ``shards``, ``fill_value``, ... of ``zarr.create_array``.

    Returns
    -------
    zarr.Array

    Raises
    ------
    StorageError
        If something is there already, or the array cannot be made.
    """
    _check_free(url, component, overwrite, storage_options)
    return _create(url, component, overwrite, storage_options, kwargs)


@contextmanager
def replacing(
    url: Any, component: str | None = None, *, overwrite: bool = False, storage_options: Any = None, **kwargs: Any
) -> Iterator[Any]:
    """A new Zarr array that takes its place when the block ends well, and disappears when it does not.

    So a computation that fails, or that reads what it is going to replace, damages nothing. Parameters are those of
    :func:`create_zarr_array`. Only local directories can do this; in any other store the array is made at its place.
    """
    _check_free(url, component, overwrite, storage_options)
    if not isinstance(url, str | Path) or "://" in str(url):
        yield _create(url, component, overwrite, storage_options, kwargs)
        return
    place = Path(os.path.abspath(url), component or "")
    if component:
        _parents(Path(os.path.abspath(url)), component, kwargs.get("zarr_format"))
    staged, former = (place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.{end}") for end in ("partial", "former"))
    try:
        yield _create(staged, None, False, None, kwargs)
        try:
            if place.exists():
                place.rename(former)
            staged.rename(place)
        except OSError as error:
            if former.exists() and not place.exists():
                former.rename(place)
            raise StorageError(f"putting the new zarr array in its place {place} failed: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _parents(root: Path, component: str, zarr_format: int | None) -> None:
    """Make the groups that the array's path runs through."""
    try:
        group = _zarr().open_group(root, mode="a", **({"zarr_format": zarr_format} if zarr_format else {}))
        if "/" in component:
            group.require_group(component.rpartition("/")[0])
    except Exception as error:
        raise StorageError(f"making the group of zarr array {root}/{component} failed: {error}") from error


def _create(url: Any, component: str | None, overwrite: bool, storage_options: Any, kwargs: Mapping[str, Any]) -> Any:
    try:
        return _zarr().create_array(url, name=component, overwrite=overwrite, storage_options=storage_options, **kwargs)
    except (TypeError, MemoryError):  # a wrong argument is the caller's business
        raise
    except Exception as error:
        where = f"{url}/{component}" if component else str(url)
        raise StorageError(f"making zarr array {where} failed: {type(error).__name__}: {error}") from error


def _check_free(url: Any, component: str | None, overwrite: bool, storage_options: Any) -> None:
    """Raise StorageError if something is there that must not be replaced."""
    zarr = _zarr()
    where = f"{url}/{component}" if component else str(url)
    options = {"storage_options": dict(storage_options)} if storage_options else {}
    try:
        found = zarr.open(url, path=component or "", mode="r", **options)
    except Exception:  # whatever is wrong with it: there is nothing that zarr can read
        found = None
    if isinstance(found, zarr.Group):
        raise StorageError(f"{where} is a zarr group, which is not replaced by an array; give component=")
    if found is not None and not overwrite:
        raise StorageError(f"{where} holds a zarr array already; use overwrite=True to replace it")
    local = isinstance(url, str | Path) and "://" not in str(url)
    place = Path(url, component or "") if local else None
    if found is None and place is not None and place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise StorageError(f"{where} exists and is no zarr array; it is left alone")
