"""Zarr chunks fetched and decoded by the thread that wants them.

Zarr-Python answers every read on one event loop, with several hand-overs between threads: 0.4 to 1 ms a chunk beyond
decoding, and threads that read at once wait for each other. Here files are read without any of that; of other stores
only the bytes are asked for, several chunks at once, and decoded outside the loop. That takes a half to a third of the
time, and no more than the codec pipeline of ``zarrs``.
"""

from __future__ import annotations

import sys
from asyncio import gather
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tilework.base.errors import StorageError
from tilework.io.regions import axis_parts, detached, region_shape
from tilework.plan.blocks import Chunks, split_sizes
from tilework.plan.protocols import Region

AT_ONCE = 16
"""Chunks that a read asks a store for at a time, if it is no local directory."""

Decoder = Callable[[Any], Any]


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


class Objects:
    """Any store of Zarr-Python's, under a path."""

    def __init__(self, store: Any, path: str) -> None:
        from zarr.abc.store import RangeByteRequest, SuffixByteRequest
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        self._store, self._prefix, self._sync = store, path + "/" if path else "", sync
        self._range, self._suffix, self._prototype = RangeByteRequest, SuffixByteRequest, default_buffer_prototype()

    def fetch(self, parts: Sequence[Part]) -> Iterator[Any]:
        for first in range(0, len(parts), AT_ONCE):
            for found in self._sync(self._get(parts[first : first + AT_ONCE])):
                yield None if found is None else found.as_numpy_array()

    async def _get(self, parts: Sequence[Part]) -> list[Any]:
        return await gather(*(self._store.get(self._prefix + p.key, self._prototype, self._bytes(p)) for p in parts))

    def _bytes(self, part: Part) -> Any:
        if part.size is None:
            return None
        return self._suffix(part.size) if part.start is None else self._range(part.start, part.start + part.size)

    def exists(self, key: str) -> bool:
        return bool(self._sync(self._store.exists(self._prefix + key)))


class DirectReader:
    """Reads regions of a Zarr array.

    For arrays of plain numbers in native byte order and C order, without filters, whose compressors ``numcodecs`` has
    as such (all of format 2; blosc, gzip and zstd of format 3), in chunks or in shards with the usual index. These are
    the formats as their specifications fix them; :meth:`of` declines whatever it does not know.
    """

    def __init__(self, array: Any, store: Bytes, decoders: tuple[Decoder, ...], shard: Any) -> None:
        self._store, self._place = store, str(array.store_path)
        self._key = array.metadata.encode_chunk_key
        self._metadata_key = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
        self._decoders = decoders
        self._in_place = len(decoders) == 1 and _is_blosc(decoders[0])
        self._dtype: np.dtype[Any] = np.dtype(array.dtype)
        self._unit: tuple[int, ...] = tuple(array.chunks)
        self._chunks: Chunks = tuple(split_sizes(n, size) for n, size in zip(array.shape, self._unit, strict=True))
        fill = array.fill_value
        self._fill = np.asarray(self._dtype.type(0) if fill is None else fill, self._dtype)
        self._shard = shard
        if shard is not None:
            self._per_shard = tuple(a // b for a, b in zip(array.shards, array.chunks, strict=True))
            self._index_at_end = shard.index_location.value == "end"

    @classmethod
    def of(cls, array: Any, directory: Path | None) -> DirectReader | None:
        """A reader, or None if the array is of a kind that only Zarr-Python knows.

        Parameters
        ----------
        directory
            Where the array lies, if its store is a local directory.
        """
        dtype = np.dtype(array.dtype)
        if dtype.kind not in "biufcmM" or not dtype.isnative or array.filters:
            return None
        decoders, shard = _decoders(array), None
        if decoders is None:
            return None
        if array.metadata.zarr_format == 2:
            native = array.order == "C" or len(array.shape) < 2
        else:
            from zarr import codecs

            if array.shards is not None:
                (shard,) = array.metadata.codecs
                if tuple(type(codec) for codec in shard.index_codecs) != (codecs.BytesCodec, codecs.Crc32cCodec):
                    return None
            serializer = array.serializer
            native = type(serializer) is codecs.BytesCodec and (
                dtype.itemsize == 1 or (serializer.endian is not None and serializer.endian.value == sys.byteorder)
            )
        store = Files(directory) if directory is not None else Objects(array.store, array.path)
        return cls(array, store, decoders, shard) if native else None

    def read(self, region: Region) -> np.ndarray:
        """The region. Raises StorageError."""
        touched = [axis_parts(axis, index) for axis, index in zip(self._chunks, region, strict=True)]
        pieces = list(product(*touched))
        wanted = self._where([tuple(part[0] for part in piece) for piece in pieces])
        found = self._fetched(wanted)
        if len(pieces) == 1:
            (part,) = wanted
            within: tuple[Any, ...] = (*(part[1] for part in pieces[0]), ...)
            return detached(self._chunk(next(found), part)[within])
        out = np.empty(region_shape(region), self._dtype)
        for piece, part, data in zip(pieces, wanted, found, strict=True):
            _, src, dst = zip(*piece, strict=True)
            self._chunk_into(out[dst], src, data, part)
        return out

    # ------------------------------------------------------------ where chunks are

    def _where(self, chunks: Sequence[tuple[int, ...]]) -> list[Part | None]:
        """Where chunks are stored; None for those that a shard does not have."""
        if self._shard is None:
            return [Part(self._key(index)) for index in chunks]
        shards = [tuple(k // n for k, n in zip(index, self._per_shard, strict=True)) for index in chunks]
        size = 16 * prod(self._per_shard) + 4
        distinct = list(dict.fromkeys(shards))
        asked = [Part(self._key(shard), None if self._index_at_end else 0, size) for shard in distinct]
        indexes = {
            shard: None if data is None else self._index(data, part)
            for shard, part, data in zip(distinct, asked, self._fetched(asked), strict=True)
        }
        return [self._inner(index, shard, indexes[shard]) for index, shard in zip(chunks, shards, strict=True)]

    def _inner(self, index: tuple[int, ...], shard: tuple[int, ...], entries: np.ndarray | None) -> Part | None:
        if entries is None:
            return None
        offset, size = entries[tuple(k % n for k, n in zip(index, self._per_shard, strict=True))].tolist()
        return None if (offset, size) == _ABSENT else Part(self._key(shard), offset, size)

    def _index(self, data: Any, part: Part) -> np.ndarray:
        """Offset and size of each inner chunk of a shard, as 64-bit integers, followed by their checksum."""
        data = bytes(data)
        if len(data) != part.size or _crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise StorageError(f"zarr shard {self._at(part)} is corrupt: its index does not match its checksum")
        return np.frombuffer(data, "<u8", len(data) // 8).reshape(*self._per_shard, 2)

    def _fetched(self, parts: Sequence[Part | None]) -> Iterator[Any]:
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
                where = f"reading zarr chunk {self._at(part)} failed"
                raise StorageError(f"{where}: {type(error).__name__}: {error}") from error
            yield data

    def _at(self, part: Part) -> str:
        return f"{self._place}/{part.key}"

    # ------------------------------------------------------------ what is in them

    def _chunk(self, data: Any, part: Part | None) -> np.ndarray:
        if data is None or part is None:
            return self._missing()
        try:
            for decode in self._decoders:
                data = decode(data)
            return np.frombuffer(data, self._dtype).reshape(self._unit)
        except MemoryError:
            raise
        except Exception as error:
            raise StorageError(f"zarr chunk {self._at(part)} is corrupt: {type(error).__name__}: {error}") from error

    def _chunk_into(self, out: np.ndarray, within: tuple[slice, ...], data: Any, part: Part | None) -> None:
        """Put what is ``within`` a chunk into ``out``, without a copy in between if that is one stretch of memory."""
        whole = out.shape == self._unit and out.flags.c_contiguous
        if whole and self._in_place and data is not None and _blosc_size(data) == out.nbytes:
            try:
                self._decoders[0](data, out)  # type: ignore[call-arg]
            except RuntimeError as error:
                raise StorageError(f"zarr chunk {self._at(part)} is corrupt: {error}") from error  # type: ignore[arg-type]
        else:
            out[...] = self._chunk(data, part)[within]

    def _missing(self) -> np.ndarray:
        """A chunk that was never written holds the fill value; unless the array itself has gone."""
        if not self._store.exists(self._metadata_key):
            raise StorageError(f"zarr array {self._place} has been moved or deleted since it was opened")
        return np.broadcast_to(self._fill, self._unit)


_ABSENT = (2**64 - 1, 2**64 - 1)


def _crc32c(data: bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))


def _decoders(array: Any) -> tuple[Decoder, ...] | None:
    """What undoes the compressors, last one first, or None if one of them is unknown."""
    import numcodecs  # type: ignore[import-untyped]  # zarr brings it

    known = {"blosc": numcodecs.Blosc, "gzip": numcodecs.GZip, "zstd": numcodecs.Zstd}
    found = []
    for codec in reversed(array.compressors):
        if isinstance(codec, numcodecs.abc.Codec):
            found.append(codec.decode)
        elif (name := codec.to_dict()["name"]) in known:
            found.append(known[name]().decode)
        else:
            return None
    return tuple(found)


def _is_blosc(decode: Decoder) -> bool:
    return getattr(getattr(decode, "__self__", None), "codec_id", None) == "blosc"


def _blosc_size(data: Any) -> int:
    """Bytes that a Blosc frame decodes to, from its header: the decoder believes it, and would fill less than all."""
    return int.from_bytes(bytes(data[4:8]), "little")
