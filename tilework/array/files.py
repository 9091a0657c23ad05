"""Arrays in files of other kinds: HDF5, and stacks of ``.npy`` files."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.lib.array_utils import normalize_axis_index

from tilework import session
from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.array.rechunking import rechunk
from tilework.array.storage import store
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.io.npy import NpyStackSink, NpyStackSource
from tilework.plan import build


def to_hdf5(filename: str | PathLike[str], *args: Any, chunks: Any = True, **kwargs: Any) -> None:
    """Write arrays into an HDF5 file now. Needs h5py.

    Parameters
    ----------
    filename
        The file, which is made if it does not exist.
    *args
        A path in the file and an array, or a dict from paths to arrays.
    chunks
        Chunks in the file; True for blocks as large as the first block of the array.
    **kwargs
        More keywords of ``h5py.File.require_dataset``, such as ``compression``.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.to_hdf5("data.hdf5", {"/x": ta.ones(4), "/y": ta.zeros(4)})  # doctest: +SKIP
    """
    if len(args) == 1 and isinstance(args[0], dict):
        data = args[0]
    elif len(args) == 2 and isinstance(args[0], str) and isinstance(args[1], Array):
        data = {args[0]: args[1]}
    else:
        raise PlanError("to_hdf5: give a path and an array, or a dict from paths to arrays")
    h5py = import_module("h5py")
    with h5py.File(filename, mode="a") as file:
        targets = []
        for path, x in data.items():
            sizes = tuple(axis[0] for axis in x.chunks) if chunks is True else chunks
            targets.append(file.require_dataset(path, shape=x.shape, dtype=x.dtype, chunks=sizes, **kwargs))
        store(list(data.values()), targets)


def to_npy_stack(dirname: str | PathLike[str], x: Any, axis: int = 0) -> None:
    """Write an array now as a stack of ``.npy`` files, one for each block along an axis.

    Parameters
    ----------
    dirname
        The directory, which is made if it does not exist.
    x
        The array.
    axis
        Its other axes become one block each.
    """
    x = asarray(x)
    axis = normalize_axis_index(axis, x.ndim)
    if not all(chunks.known for chunks in x.chunks):
        raise UnknownChunksError("to_npy_stack needs known chunk sizes; call compute_chunk_sizes() first")
    x = rechunk(x, {k: -1 for k in range(x.ndim) if k != axis})
    session.run_stores([build.store(x.node, NpyStackSink(Path(dirname), x.chunks, x.dtype, axis))])


def from_npy_stack(dirname: str | PathLike[str], mmap_mode: str | None = "r") -> Array:
    """An array from a stack of ``.npy`` files, as :func:`to_npy_stack` and Dask's function of that name write it.

    Parameters
    ----------
    dirname
        The directory. One of its files is a pickle: read only what you trust.
    mmap_mode
        ``"r"`` maps files into memory; None reads them.

    Examples
    --------
    >>> import tempfile
    >>> import tilework.array as ta
    >>> with tempfile.TemporaryDirectory() as where:
    ...     ta.to_npy_stack(where, ta.arange(6, chunks=4))
    ...     ta.from_npy_stack(where).compute()
    array([0, 1, 2, 3, 4, 5])
    """
    source = NpyStackSource(Path(dirname), mmap_mode)
    return Array(build.source(source, source.chunks, "from_npy_stack"))


__all__ = ["from_npy_stack", "to_hdf5", "to_npy_stack"]
