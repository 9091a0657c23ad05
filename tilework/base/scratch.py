"""Scratch space on disk: files that have no name, so that nothing outlives the process, whatever kills it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from typing import IO, Any

from tilework.base.errors import InternalError, StorageError
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
        self._file: IO[bytes] | None = tempfile.TemporaryFile(prefix="tilework-", dir=directory, buffering=0)  # noqa: SIM115
        self._descriptor, self._offset, self._size = self._file.fileno(), 0, sys.maxsize

    @classmethod
    def shared(cls, descriptor: int, offset: int, size: int) -> ScratchFile:
        """A range of a file that several processes have open. Whoever allocated the range gives it back."""
        self = cls.__new__(cls)
        self._file, self._descriptor, self._offset, self._size = None, descriptor, offset, size
        return self

    def shared_range(self) -> tuple[int, int]:
        """Offset and size of the range; TypeError if this is a file of this process alone."""
        if self._file is not None:
            raise TypeError("a scratch file stays in its process")
        return self._offset, self._size

    def __del__(self) -> None:
        file: IO[bytes] | None = getattr(self, "_file", None)
        if file is not None:
            file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a scratch file stays in its process")

    def fileno(self) -> int:
        """The descriptor. Open as long as this object lives, if it is a file of its own."""
        return self._descriptor

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write buffers one after another from ``offset`` on."""
        write_at(self._descriptor, buffers, self._within(buffers, offset))

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill buffers with what is there from ``offset`` on."""
        read_at(self._descriptor, buffers, self._within(buffers, offset))

    def truncate(self, size: int) -> None:
        """Give back what lies behind the first ``size`` bytes. Not of a range."""
        os.ftruncate(self._descriptor, size)

    def _within(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Where ``offset`` is in the file."""
        end = offset + sum(buffer.nbytes for buffer in buffers)
        if end > self._size:
            raise InternalError(f"bytes {offset} to {end} of a scratch space of {self._size}")
        return self._offset + offset


def write_at(descriptor: int, buffers: Sequence[memoryview], offset: int) -> None:
    """Write buffers to a file one after another from ``offset`` on."""
    _transfer(os.pwritev, descriptor, buffers, offset)


def read_at(descriptor: int, buffers: Sequence[memoryview], offset: int) -> None:
    """Fill buffers with what is in a file from ``offset`` on."""
    _transfer(os.preadv, descriptor, buffers, offset)


def _transfer(call: Callable[..., int], descriptor: int, buffers: Sequence[memoryview], offset: int) -> None:
    """System calls may do less than asked."""
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


_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def punch_hole(descriptor: int, offset: int, size: int) -> None:
    """Give the space of a part of a file back to the system, if its file system can do that. Linux only.

    Nobody may expect anything of what is read there afterwards. Where it cannot be done the space is given back with
    the file.
    """
    args = (ctypes.c_int(_FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE), ctypes.c_int64(offset), ctypes.c_int64(size))
    if _libc().fallocate(descriptor, *args) and ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
