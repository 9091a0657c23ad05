"""Blocks on disk, in one temporary file per run that has no name: not even ``kill -9`` leaves it behind.

Values are pickled with protocol 5; large buffers (the data of arrays) go from their memory to the file and back
without a copy in between. Space that is read back is reused, so the file grows no larger than what was on disk at once
(and gaps).
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from threading import Lock
from typing import Any

import cloudpickle
import numpy as np

from tilework.base.errors import StorageError
from tilework.base.extents import Extents
from tilework.base.scratch import ScratchFile, place
from tilework.base.sizes import format_bytes


@dataclass(frozen=True, slots=True)
class _Extent:
    """Where a value lies: the pickle and then its buffers, ``sizes`` bytes each, one after another."""

    offset: int
    sizes: tuple[int, ...]


class SpillFile:
    """Values by number, on disk. Created on the first write. Any thread may call any method.

    Parameters
    ----------
    directory
        Where the file is made; None is the system's temporary directory.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory
        self._file: ScratchFile | None = None
        self._extents: dict[int, _Extent] = {}
        self._space = Extents(0, sys.maxsize)
        self._closed = False
        self._lock = Lock()  # not held during I/O: whoever reads or writes holds the file itself

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
        try:
            with self._lock:
                file, offset = self._opened(), self._space.allocate(sum(sizes)) or 0  # there is always room
            try:
                file.write(raws, offset)
            except BaseException:
                with self._lock:
                    self._free(offset, sum(sizes))
                raise
        except OSError as error:
            raise StorageError(
                f"cannot spill a block of {format_bytes(sum(sizes))} to {place(self.directory)!r} "
                f"({format_bytes(self._space.top)} are there): {error}. Free some disk space, set spill_directory to "
                "another disk, or raise memory=... so that nothing must be spilled"
            ) from error
        self._extents[number] = _Extent(offset, sizes)
        return True

    def read(self, number: int) -> Any:
        """Return the value and forget it.

        Raises
        ------
        StorageError
            The disk did not give back what was written.
        """
        extent = self._extents[number]
        raws = [np.empty(size, np.uint8) for size in extent.sizes]
        try:
            with self._lock:
                file = self._opened()
            file.read([raw.data for raw in raws], extent.offset)
        except OSError as error:
            raise StorageError(
                f"cannot read a spilled block of {format_bytes(sum(extent.sizes))} back from "
                f"{place(self.directory)!r}: {error}. Check that disk, or set spill_directory to another one"
            ) from error
        del self._extents[number]
        with self._lock:
            self._free(extent.offset, sum(extent.sizes))
        return pickle.loads(raws[0].data, buffers=raws[1:])

    def close(self) -> None:
        """Give the space back, once nobody reads or writes there any more."""
        with self._lock:
            self._closed = True
            self._file = None

    # ------------------------------------------------------------ all below with the lock held

    def _opened(self) -> ScratchFile:
        if self._closed:
            raise OSError("the run is over")
        if self._file is None:
            self._file = ScratchFile(self.directory)
        return self._file

    def _free(self, offset: int, size: int) -> None:
        top = self._space.top
        self._space.free(offset, size)
        if self._space.top < top and self._file is not None:
            self._file.truncate(self._space.top)


def _dumps(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    """Pickle, with the large buffers aside. cloudpickle knows more (lambdas, local classes) and is slower."""
    try:
        return pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except Exception:
        buffers.clear()
        head: bytes = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return head
