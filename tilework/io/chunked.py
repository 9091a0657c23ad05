"""Chunks in files and object stores, fetched and decoded by the thread that wants them.

What the formats share: an array is cut into chunks of one shape, a chunk is a run of bytes somewhere, and a few codecs
lead from these to its elements. Where the bytes are is what the formats differ in: see
:mod:`tilework.io.zarr_direct` and :mod:`tilework.io.hdf5`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tilework.base.errors import StorageError
from tilework.io.regions import axis_parts, detached, region_shape
from tilework.plan.blocks import Chunks, split_sizes
from tilework.plan.protocols import Region

Decoder = Callable[..., Any]
"""``decode(data)``; those of Blosc also take memory to decode into."""


class Part(NamedTuple):
    """Bytes of an object in a store: ``size`` of them from ``start`` on, the last ``size`` if ``start`` is None."""

    key: str
    start: int | None = 0
    size: int | None = None  # all


class Bytes(Protocol):
    """Where the bytes come from."""

    def fetch(self, parts: Sequence[Part]) -> Iterator[Any]:
        """Each part in turn, as an object with the buffer protocol; None for objects that are not there."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...


class Files:
    """A local directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fetch(self, parts: Sequence[Part]) -> Iterator[bytes | None]:
        for key, start, size in parts:
            try:
                with FileIO(self._directory / key) as file:
                    if size is None:
                        data = file.readall()
                    else:
                        file.seek(start if start is not None else max(0, file.seek(0, 2) - size))
                        data = file.read(size)
            except FileNotFoundError:
                yield None
            else:
                yield data

    def exists(self, key: str) -> bool:
        return (self._directory / key).exists()


class ChunkReader:
    """Reads regions of an array in chunks; subclasses say where chunks are.

    Parameters
    ----------
    store
        Where bytes come from.
    place
        What the array is called in errors.
    shape, unit, fill
        Of the array, of its chunks, and the value where there is no chunk: an array without dimensions.
    decoders
        In the order in which they are applied.
    """

    def __init__(
        self,
        store: Bytes,
        place: str,
        shape: Sequence[int],
        unit: Sequence[int],
        fill: np.ndarray,
        decoders: Sequence[Decoder],
    ) -> None:
        self._store, self._place = store, place
        self._unit = tuple(unit)
        self._chunks: Chunks = tuple(split_sizes(n, size) for n, size in zip(shape, unit, strict=True))
        self._fill, self._dtype = fill, fill.dtype
        self._decoders = tuple(decoders)
        self._in_place = len(self._decoders) == 1 and _is_blosc(self._decoders[0])

    def where(self, chunks: Sequence[tuple[int, ...]]) -> list[Part | None]:
        """Where chunks are; None for those that are known not to be there."""
        raise NotImplementedError

    def check_missing(self) -> None:
        """Raise StorageError if chunks are missing because the array has gone."""

    def read(self, region: Region) -> np.ndarray:
        """The region. Raises StorageError."""
        touched = [axis_parts(axis, index) for axis, index in zip(self._chunks, region, strict=True)]
        pieces = list(product(*touched))
        wanted = self.where([tuple(part[0] for part in piece) for piece in pieces])
        found = self.fetched(wanted)
        if len(pieces) == 1:
            (part,) = wanted
            within: tuple[Any, ...] = (*(part[1] for part in pieces[0]), ...)
            return detached(self._chunk(next(found), part)[within])
        out = np.empty(region_shape(region), self._dtype)
        for piece, part, data in zip(pieces, wanted, found, strict=True):
            _, src, dst = zip(*piece, strict=True)
            self._chunk_into(out[dst], src, data, part)
        return out

    def fetched(self, parts: Sequence[Part | None]) -> Iterator[Any]:
        """The bytes of each part, None where there is none."""
        found = self._store.fetch([part for part in parts if part is not None])
        for part in parts:
            if part is None:
                yield None
                continue
            try:
                data = next(found)
            except MemoryError:
                raise
            except Exception as error:
                where = f"reading chunk {self.at(part)} failed"
                raise StorageError(f"{where}: {type(error).__name__}: {error}") from error
            yield data

    def at(self, part: Part) -> str:
        """What a part is called in errors."""
        return f"{self._place}/{part.key}"

    def _chunk(self, data: Any, part: Part | None) -> np.ndarray:
        if data is None or part is None:
            self.check_missing()
            return np.broadcast_to(self._fill, self._unit)
        try:
            for decode in self._decoders:
                data = decode(data)
            return np.frombuffer(data, self._dtype).reshape(self._unit)
        except MemoryError:
            raise
        except Exception as error:
            raise StorageError(f"chunk {self.at(part)} is corrupt: {type(error).__name__}: {error}") from error

    def _chunk_into(self, out: np.ndarray, within: tuple[slice, ...], data: Any, part: Part | None) -> None:
        """Put what is ``within`` a chunk into ``out``, without a copy in between if that is one stretch of memory."""
        whole = out.shape == self._unit and out.flags.c_contiguous
        if whole and self._in_place and data is not None and _blosc_size(data) == out.nbytes:
            try:
                self._decoders[0](data, out)
            except RuntimeError as error:
                raise StorageError(f"chunk {self.at(part)} is corrupt: {error}") from error  # type: ignore[arg-type]
        else:
            out[...] = self._chunk(data, part)[within]


def _is_blosc(decode: Decoder) -> bool:
    return getattr(getattr(decode, "__self__", None), "codec_id", None) == "blosc"


def _blosc_size(data: Any) -> int:
    """Bytes that a Blosc frame decodes to, from its header: the decoder believes it, and would fill less than all."""
    return int.from_bytes(bytes(data[4:8]), "little")
