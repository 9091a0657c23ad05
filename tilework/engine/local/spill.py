"""Blocks on disk, in one temporary file per run that has no name: not even ``kill -9`` leaves it behind.

Values are pickled with protocol 5; large buffers (the data of arrays) go from their memory to the file and back
without a copy in between. Space that is read back is reused, so the file grows no larger than what was on disk at once
(and gaps).
"""

from __future__ import annotations

import os
import pickle
import tempfile
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any

import cloudpickle
import numpy as np

from tilework.base.errors import StorageError
from tilework.base.sizes import format_bytes

_VECTORS = 512  # buffers per system call; Linux takes 1024


@dataclass(frozen=True, slots=True)
class _Extent:
    """Where a value lies: the pickle and then its buffers, ``sizes`` bytes each, one after another."""

    offset: int
    sizes: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.offset + sum(self.sizes)


class SpillFile:
    """Values by number, on disk. Created on the first write. Any thread may call any method.

    Parameters
    ----------
    directory
        Where the file is made; None is the system's temporary directory.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory
        self._file: IO[bytes] | None = None
        self._extents: dict[int, _Extent] = {}
        # Free (start, stop) below _end, ascending, never touching each other.
        self._gaps: list[tuple[int, int]] = []
        self._end = 0
        self._closed = False
        # Held during I/O too: a descriptor must not be closed, and its number given to a file of the user, in between.
        self._lock = Lock()

    def write(self, number: int, value: Any) -> bool:
        """Write a value. False: it cannot be pickled; nothing was written.

        Raises
        ------
        StorageError
            The directory is not there, or the disk is full. Nothing was written, what was there before still is.
        """
        buffers: list[pickle.PickleBuffer] = []
        try:
            head = _dumps(value, buffers)
            raws = [memoryview(head), *(buffer.raw() for buffer in buffers)]
        except Exception:  # whatever the user's classes raise: such a value stays in memory
            return False
        sizes = tuple(raw.nbytes for raw in raws)
        with self._lock:
            try:
                offset = self._allocate(sum(sizes))
                try:
                    self._transfer(os.pwritev, raws, offset)
                except BaseException:
                    self._free(offset, offset + sum(sizes))
                    raise
            except OSError as error:
                raise StorageError(
                    f"cannot spill a block of {format_bytes(sum(sizes))} to {self._place()!r} "
                    f"({format_bytes(self._end)} are there): {error}. Free some disk space, set spill_directory to "
                    "another disk, or raise memory=... so that nothing must be spilled"
                ) from error
            finally:
                self._close_if_asked()
            self._extents[number] = _Extent(offset, sizes)
        return True

    def read(self, number: int) -> Any:
        """Return the value and forget it.

        Raises
        ------
        StorageError
            The disk did not give back what was written.
        """
        with self._lock:
            extent = self._extents[number]
            raws = [np.empty(size, np.uint8) for size in extent.sizes]
            try:
                self._transfer(os.preadv, [raw.data for raw in raws], extent.offset)
            except OSError as error:
                raise StorageError(
                    f"cannot read a spilled block of {format_bytes(sum(extent.sizes))} back from {self._place()!r}: "
                    f"{error}. Check that disk, or set spill_directory to another one"
                ) from error
            finally:
                self._close_if_asked()
            del self._extents[number]
            self._free(extent.offset, extent.end)
        return pickle.loads(raws[0].data, buffers=raws[1:])

    def close(self) -> None:
        """Give the space back. A thread that is reading or writing just now does so when it is through."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._close_if_asked()
            finally:
                self._lock.release()

    # ------------------------------------------------------------ all below with the lock held

    def _place(self) -> str:
        return self.directory or tempfile.gettempdir()

    def _descriptor(self) -> int:
        if self._closed:
            raise OSError("the run is over")
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="tilework-", dir=self.directory, buffering=0)  # noqa: SIM115
        return self._file.fileno()

    def _close_if_asked(self) -> None:
        if self._closed and self._file is not None:
            self._file.close()
            self._file = None

    def _transfer(self, call: Any, raws: Sequence[memoryview], offset: int) -> None:
        """Read or write all buffers from ``offset`` on; system calls may do less than asked."""
        descriptor = self._descriptor()
        left = [raw.cast("B") for raw in raws if raw.nbytes]
        while left:
            done = call(descriptor, left[:_VECTORS], offset)
            if not done:
                raise OSError(f"the file ends at {offset}")
            offset += done
            while left and done >= left[0].nbytes:
                done -= left.pop(0).nbytes
            if done:
                left[0] = left[0][done:]

    def _allocate(self, size: int) -> int:
        for i, (start, stop) in enumerate(self._gaps):
            if stop - start >= size:
                self._gaps[i : i + 1] = [(start + size, stop)] if stop - start > size else []
                return start
        self._end += size
        return self._end - size

    def _free(self, start: int, stop: int) -> None:
        if start == stop:
            return
        gaps = self._gaps
        i = bisect(gaps, (start, stop))
        if i < len(gaps) and gaps[i][0] == stop:
            stop = gaps.pop(i)[1]
        if i and gaps[i - 1][1] == start:
            i -= 1
            start = gaps.pop(i)[0]
        if stop < self._end:
            gaps.insert(i, (start, stop))
        else:
            self._end = start
            if self._file is not None:
                os.ftruncate(self._file.fileno(), start)


def _dumps(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    """Pickle, with the large buffers aside. cloudpickle knows more (lambdas, local classes) and is slower."""
    try:
        return pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except Exception:
        buffers.clear()
        head: bytes = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return head
