"""Stacks of ``.npy`` files: an array cut along one axis, one file for each block, in the layout that Dask writes.

A directory holds ``0.npy``, ``1.npy``, ... and ``info``, a pickle of chunks, dtype and axis. Reading a pickle can run
what it says: read only directories that you trust.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilework.base.errors import StorageError
from tilework.base.tokens import tokenize, unique_token
from tilework.io.memory import storage_failure
from tilework.io.regions import assemble, detached, regular
from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.protocols import Region


class NpyStackSource:
    """Reads a stack.

    Parameters
    ----------
    directory
        Where the files are.
    mmap_mode
        As for :func:`numpy.load`: ``"r"`` maps files, None reads them whole.
    """

    free = False

    def __init__(self, directory: Path, mmap_mode: Any = "r") -> None:
        try:
            info = pickle.loads((directory / "info").read_bytes())
            stamps = [path.stat().st_mtime_ns for path in sorted(directory.iterdir())]
        except Exception as error:
            raise StorageError(f"{directory} is no stack of .npy files: {type(error).__name__}: {error}") from error
        self._directory, self._mmap_mode, self._axis = directory.absolute(), mmap_mode, int(info["axis"])
        self.chunks: Chunks = tuple(map(AxisChunks, info["chunks"]))
        self.shape: tuple[int, ...] = tuple(axis.total for axis in self.chunks)
        self.dtype: np.dtype[Any] = np.dtype(info["dtype"])
        self.storage_chunks = regular(self.chunks)
        self.token = tokenize("npy-stack", str(self._directory), stamps)

    def read(self, region: Region) -> np.ndarray:
        try:
            return detached(np.asarray(assemble(region, self.chunks, self.dtype, self._block)))
        except Exception as error:
            raise storage_failure("reading", self, region, error) from error

    def stream(self, region: Region) -> None:
        return None

    def _block(self, index: Sequence[int]) -> np.ndarray:
        path = self._directory / f"{index[self._axis]}.npy"
        return np.asarray(np.load(path, self._mmap_mode))


class NpyStackSink:
    """Writes a stack: block ``i`` along ``axis`` into file ``i``. Along other axes there is one block.

    Parameters
    ----------
    directory
        Where the files go. It is made if it does not exist.
    chunks, dtype, axis
        Those of the array.
    """

    resident_bytes = 0
    shared = True

    def __init__(self, directory: Path, chunks: Chunks, dtype: np.dtype[Any], axis: int) -> None:
        self._directory, self._axis = directory.absolute(), axis
        self.token = unique_token("npy-stack")
        info = {"chunks": tuple(map(tuple, chunks)), "dtype": dtype, "axis": axis}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "info").write_bytes(pickle.dumps(info))

    def finished(self) -> None:
        return None

    def buffer(self, region: Region) -> None:
        return None

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        try:
            np.save(self._directory / f"{index[self._axis]}.npy", block)
        except Exception as error:
            raise storage_failure("writing", self, region, error) from error
