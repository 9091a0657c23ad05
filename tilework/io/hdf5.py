"""HDF5 and NetCDF4 files, decoded beside the library's lock. Needs ``h5py`` for that, and does without it.

The HDF5 library does one thing at a time: while one thread decodes a chunk every other one that wants to read waits,
also for other files. Here the library is asked only where the chunks of a data set lie; they are read from the file,
and decoded, by the thread that wants them. That is possible for numbers in native byte order, in chunks that are
deflated, shuffled or neither, in local files that are open for reading only. All else goes through the library, as
the caller has opened it.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tilework.base.tokens import tokenize
from tilework.io.chunked import ChunkReader, Decoder, Files, Part
from tilework.io.memory import ArraySource
from tilework.plan.protocols import Region


class HDF5Source:
    """A data set in an HDF5 file.

    Parameters
    ----------
    path
        The file.
    name
        The data set in it: ``"/group/x"``.
    through
        Reads it through the library.
    unit
        Shape of its chunks, None if it has none.
    token
        Default: the same for the same file as long as that is not changed, in any process.

    Attributes
    ----------
    path
        The file, without symbolic links.
    """

    free = False

    def __init__(
        self, path: str, name: str, through: ArraySource, unit: Sequence[int] | None, token: str | None = None
    ) -> None:
        self.path, self._name, self._through = os.path.realpath(path), name, through
        self.shape, self.dtype = through.shape, through.dtype
        self.storage_chunks: tuple[int, ...] | None = tuple(map(int, unit)) if unit is not None else None
        self._version = _version(self.path)
        self.token = token or tokenize("hdf5", self.path, self._version, name, self.shape, self.dtype)
        self._lock = threading.Lock()
        self._known: tuple[Any, _Reader | None] | None = None  # version of the file, and its reader if there can be one

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_known": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def read(self, region: Region) -> np.ndarray:
        reader = self._reader() if self.storage_chunks is not None else None
        return self._through.read(region) if reader is None else reader.read(region)

    def stream(self, region: Region) -> None:
        return None

    def _reader(self) -> _Reader | None:
        """The reader for the file as it is now."""
        with self._lock:
            version = _version(self.path)
            if self._known is None or self._known[0] != version:
                self._known = version, _Reader.of(self.path, self._name, self.shape, self.dtype)
            return self._known[1]


def of_dataset(array: Any, name: str | bool | None = None, lock: Any = False) -> HDF5Source | None:
    """The source for a data set that h5py has opened for reading only, None for anything else."""
    if not type(array).__module__.startswith("h5py.") or not hasattr(array, "chunks"):
        return None
    file = array.file
    if file.mode != "r" or file.swmr_mode or file.driver != "sec2" or name not in (None, True) or array.name is None:
        return None
    return HDF5Source(os.fsdecode(file.filename), array.name, ArraySource(array, False, lock), array.chunks)


def _version(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


class _Reader(ChunkReader):
    """Reads chunks of a data set. ``places`` has for each chunk where it begins, and its size (0: it is not there)."""

    def __init__(self, path: str, name: str, places: np.ndarray, *args: Any) -> None:
        file = Path(path)
        super().__init__(Files(file.parent), f"{path}:{name}", *args)
        self._file, self._places = file.name, places

    def where(self, chunks: Sequence[tuple[int, ...]]) -> list[Part | None]:
        found = (self._places[index].tolist() for index in chunks)
        return [Part(self._file, start, size) if size else None for start, size in found]

    def at(self, part: Part) -> str:
        return self._place

    @classmethod
    def of(cls, path: str, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Reader | None:
        """A reader, None if the data set is of a kind that only the library knows, or cannot be opened by h5py."""
        try:
            import h5py

            with h5py.File(path, "r") as file:
                found = file[name]
                decoders = _decoders(found)
                as_announced = found.shape == shape and found.dtype == dtype and dtype.isnative
                if decoders is None or not as_announced or file.userblock_size:
                    return None
                places, fill = _places(found), np.asarray(found.fillvalue, dtype)
                return None if places is None else cls(path, name, places, shape, found.chunks, fill, decoders)
        except (ImportError, AttributeError, OSError, KeyError, ValueError, RuntimeError):  # no h5py, or none that can
            return None


def _places(found: Any) -> np.ndarray | None:
    """Offset and size of each chunk; None if a chunk was written without one of the filters."""
    grid = [-(-n // size) for n, size in zip(found.shape, found.chunks, strict=True)]
    places = np.zeros((*grid, 2), np.int64)
    plain = True

    def note(chunk: Any) -> None:
        nonlocal plain
        plain = plain and chunk.filter_mask == 0
        places[tuple(a // n for a, n in zip(chunk.chunk_offset, found.chunks, strict=True))] = (
            chunk.byte_offset,
            chunk.size,
        )

    found.id.chunk_iter(note)
    return places if plain else None


def _decoders(found: Any) -> list[Decoder] | None:
    """What undoes the filters, last one first, or None if one of them is unknown."""
    if found.chunks is None or found.dtype.kind not in "biuf" or found.is_virtual or 0 in found.shape:
        return None
    settings = found.id.get_create_plist()
    decoders: list[Decoder] = []
    size = prod(found.chunks) * found.dtype.itemsize
    for k in reversed(range(settings.get_nfilters())):
        kind = settings.get_filter(k)[0]
        if kind == _DEFLATE:
            decoders.append(partial(zlib.decompress, bufsize=size))
        elif kind == _SHUFFLE:
            decoders.append(partial(_unshuffled, itemsize=found.dtype.itemsize))
        else:
            return None
    return decoders


_DEFLATE, _SHUFFLE = 1, 2


def _unshuffled(data: Any, itemsize: int) -> np.ndarray:
    """Bytes in the order of the elements, from all first bytes, all second bytes and so on."""
    planes = np.frombuffer(data, np.uint8).reshape(itemsize, -1)
    out = np.empty((planes.shape[1], itemsize), np.uint8)
    for k, plane in enumerate(planes):
        out[:, k] = plane
    return out
