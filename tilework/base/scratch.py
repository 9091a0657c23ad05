"""Scratch space on disk: files that have no name, so that nothing outlives the process, whatever kills it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from tilework.base.errors import StorageError
from tilework.base.sizes import format_bytes

_VECTORS = 512  # buffers per system call; Linux takes 1024


class ScratchFile:
    """A temporary file without a name. Its space is given back when nobody refers to it any more.

    Any thread may read and write at any time; where their places overlap is the callers' business. Reads and writes
    go past no cache of ours: the pages they touch are the system's, not this process's memory (a mapped file would
    count in full against what the process holds).

    Parameters
    ----------
    directory
        Where; None is the system's temporary directory.

    Raises
    ------
    OSError
        If the directory is not there, the disk is full, or does not give back what was written. From all methods.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(prefix="tilework-", dir=directory, buffering=0)  # noqa: SIM115

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a scratch file stays in its process")

    def fileno(self) -> int:
        """The descriptor, open as long as this object lives."""
        return self._file.fileno()

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write buffers one after another from ``offset`` on."""
        self._transfer(os.pwritev, buffers, offset)

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill buffers with what is there from ``offset`` on."""
        self._transfer(os.preadv, buffers, offset)

    def truncate(self, size: int) -> None:
        """Give back what lies behind the first ``size`` bytes."""
        os.ftruncate(self.fileno(), size)

    def _transfer(self, call: Callable[..., int], buffers: Sequence[memoryview], offset: int) -> None:
        """System calls may do less than asked."""
        descriptor = self.fileno()
        left = [buffer.cast("B") for buffer in buffers if buffer.nbytes]
        while left:
            done = call(descriptor, left[:_VECTORS], offset)
            if not done:
                raise OSError(f"the file ends at {offset}")
            offset += done
            while left and done >= left[0].nbytes:
                done -= left.pop(0).nbytes
            if done:
                left[0] = left[0][done:]


def unwritable(nbytes: int, error: OSError) -> StorageError:
    """What to raise if blocks cannot be written."""
    return StorageError(
        f"cannot write {format_bytes(nbytes)} to scratch space on disk: {error}. Free some disk space, set "
        "spill_directory to another disk, or raise memory=... so that it is not needed"
    )


def unreadable(nbytes: int, error: OSError) -> StorageError:
    """What to raise if blocks cannot be read back."""
    return StorageError(
        f"cannot read {format_bytes(nbytes)} back from scratch space: {error}. Check that disk, or set spill_directory "
        "to another one"
    )


def place(directory: str | None) -> str:
    """The directory that a setting means, for messages."""
    return directory or tempfile.gettempdir()
