"""Zarr chunks fetched and decoded by the thread that wants them.

Zarr-Python answers every read on one event loop, with several hand-overs between threads: 0.4 to 1 ms a chunk beyond
decoding, and threads that read at once wait for each other. Here files are read without any of that; of other stores
only the bytes are asked for, several chunks at once, and decoded outside the loop. That takes a half to a third of the
time, and no more than the codec pipeline of ``zarrs``.
"""

from __future__ import annotations

import sys
from asyncio import gather
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tilework.base.errors import StorageError
from tilework.io.chunked import Bytes, ChunkReader, Decoder, Files, Part

AT_ONCE, AT_ONCE_BYTES = 16, 32 << 20
"""Chunks that a read asks a store for at a time, if it is no local directory, and what they may weigh when decoded."""


class Objects:
    """Any store of Zarr-Python's, under a path."""

    def __init__(self, store: Any, path: str, at_once: int) -> None:
        from zarr.abc.store import RangeByteRequest, SuffixByteRequest
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        self._store, self._prefix, self._sync = store, path + "/" if path else "", sync
        self._at_once = at_once
        self._range, self._suffix, self._prototype = RangeByteRequest, SuffixByteRequest, default_buffer_prototype()

    def fetch(self, parts: Sequence[Part]) -> Iterator[Any]:
        for first in range(0, len(parts), self._at_once):
            for found in self._sync(self._get(parts[first : first + self._at_once])):
                yield None if found is None else found.as_numpy_array()

    async def _get(self, parts: Sequence[Part]) -> list[Any]:
        return await gather(*(self._store.get(self._prefix + p.key, self._prototype, self._bytes(p)) for p in parts))

    def _bytes(self, part: Part) -> Any:
        if part.size is None:
            return None
        return self._suffix(part.size) if part.start is None else self._range(part.start, part.start + part.size)

    def exists(self, key: str) -> bool:
        return bool(self._sync(self._store.exists(self._prefix + key)))


class ZarrReader(ChunkReader):
    """Reads regions of a Zarr array.

    For arrays of plain numbers in native byte order and C order, without filters, whose compressors ``numcodecs`` has
    as such (all of format 2; blosc, gzip and zstd of format 3), in chunks or in shards with the usual index. These are
    the formats as their specifications fix them; :meth:`of` declines whatever it does not know.
    """

    def __init__(self, array: Any, store: Bytes, decoders: Sequence[Decoder], shard: Any) -> None:
        fill = np.asarray(0 if array.fill_value is None else array.fill_value, array.dtype)
        super().__init__(store, str(array.store_path), array.shape, array.chunks, fill, decoders)
        self._key = array.metadata.encode_chunk_key
        self._metadata_key = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
        self._shard = shard
        if shard is not None:
            self._per_shard = tuple(a // b for a, b in zip(array.shards, array.chunks, strict=True))
            self._index_at_end = shard.index_location.value == "end"

    @classmethod
    def of(cls, array: Any, directory: Path | None) -> ZarrReader | None:
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
        if not native:
            return None
        at_once = max(1, min(AT_ONCE, AT_ONCE_BYTES // max(1, prod(array.chunks) * dtype.itemsize)))
        store = Files(directory) if directory is not None else Objects(array.store, array.path, at_once)
        return cls(array, store, decoders, shard)

    def where(self, chunks: Sequence[tuple[int, ...]]) -> list[Part | None]:
        if self._shard is None:
            return [Part(self._key(index)) for index in chunks]
        shards = [tuple(k // n for k, n in zip(index, self._per_shard, strict=True)) for index in chunks]
        size = 16 * prod(self._per_shard) + 4
        distinct = list(dict.fromkeys(shards))
        asked = [Part(self._key(shard), None if self._index_at_end else 0, size) for shard in distinct]
        indexes = {
            shard: None if data is None else self._index(data, part)
            for shard, part, data in zip(distinct, asked, self.fetched(asked), strict=True)
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
            raise StorageError(f"zarr shard {self.at(part)} is corrupt: its index does not match its checksum")
        return np.frombuffer(data, "<u8", len(data) // 8).reshape(*self._per_shard, 2)

    def check_missing(self) -> None:
        if not self._store.exists(self._metadata_key):
            raise StorageError(f"zarr array {self._place} has been moved or deleted since it was opened")


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
