"""Memory for blocks, used again instead of given back to the system.

Fresh large memory costs a page fault per page, which is dear on virtual machines: filling a new 32 MiB block can take
three times as long as filling an old one. So buffers of finished blocks wait here for the next block of that size.

A buffer comes back by itself when the last array that looks at it is gone. There is no ``release`` to call, and so
nobody can call it too early: a view that somebody keeps, however deep down in an object, keeps the buffer. (Counting
references was rejected: it is true only for callers that know exactly who else holds what, and interpreters differ.)
"""

from __future__ import annotations

import threading
from math import prod
from typing import Any, Protocol

import numpy as np

SMALLEST = 1 << 20
"""Smaller blocks come from ``np.empty``: malloc itself keeps that memory (measured up to 4 MiB)."""

_GRAIN = 64 << 10  # buffer sizes are multiples of this, so that almost equal blocks share buffers
_SLACK = 1.25  # a buffer serves blocks down to 1/1.25 of its size


class Allocator(Protocol):
    """Where blocks come from."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Like ``np.empty``: a C-contiguous array of undefined contents."""
        ...


class _Lease:
    """Owner of a lent buffer, as NumPy sees it: every array on the buffer holds it, directly or through its base."""

    __slots__ = ("__array_interface__", "buffer", "pool")

    def __init__(self, buffer: _Buffer, pool: BufferPool) -> None:
        self.buffer, self.pool = buffer, pool
        self.__array_interface__ = buffer.interface

    def __del__(self) -> None:
        self.pool._take_back(self.buffer)


class _Buffer:
    """Memory, and how NumPy finds it."""

    __slots__ = ("interface", "memory", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = np.empty(size, np.uint8)  # NumPy asks for huge pages where they serve
        self.interface = self.memory.__array_interface__


class BufferPool:
    """Buffers for the blocks of one run, shared by its threads.

    Parameters
    ----------
    limit
        Bytes that may lie idle at most; what comes back beyond it is given back to the system.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Reentrant: the garbage collector may drop an array, and so call _take_back, while this thread holds it.
        self._lock = threading.RLock()
        self._idle: dict[int, list[_Buffer]] = {}  # size → buffers, the one used last at the end
        self._idle_bytes = 0

    @property
    def idle_bytes(self) -> int:
        """Bytes that wait for their next use."""
        return self._idle_bytes

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Like ``np.empty``: a C-contiguous array of undefined contents."""
        nbytes = prod(shape) * dtype.itemsize
        if nbytes < SMALLEST or dtype.hasobject:
            return np.empty(shape, dtype)
        buffer = self._find(nbytes)
        if buffer is None:
            buffer = _Buffer(-(-nbytes // _GRAIN) * _GRAIN)
        return np.ndarray(shape, dtype, np.asarray(_Lease(buffer, self)))

    def trim(self, nbytes: int = 0) -> None:
        """Give idle buffers back to the system, the largest first, until at most ``nbytes`` are idle."""
        with self._lock:
            while self._idle_bytes > nbytes:
                self._pop(max(self._idle))

    def _find(self, nbytes: int) -> _Buffer | None:
        with self._lock:
            fitting = [size for size in self._idle if nbytes <= size <= max(nbytes * _SLACK, nbytes + _GRAIN)]
            return self._pop(min(fitting)) if fitting else None

    def _pop(self, size: int) -> _Buffer:
        buffers = self._idle[size]
        buffer = buffers.pop()
        if not buffers:
            del self._idle[size]
        self._idle_bytes -= size
        return buffer

    def _take_back(self, buffer: _Buffer) -> None:
        size = buffer.size
        with self._lock:
            if self._idle_bytes + size <= self.limit:
                self._idle.setdefault(size, []).append(buffer)
                self._idle_bytes += size
