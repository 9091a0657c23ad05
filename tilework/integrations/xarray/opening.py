"""Files that xarray has opened, read without the layers that xarray puts between a file and its user.

What ``xr.open_zarr`` hands to a chunk manager is an array of Zarr-Python, wrapped in a cache, in lazy indexing, and in
a decoder for each convention that the file follows (missing values, scale and offset, dates). Read through all of them,
every block is fetched by Zarr-Python's event loop and copied once per layer. Here the layers are taken off: the array
becomes a :class:`~tilework.io.zarr.ZarrSource`, indexing a slice of it, and each decoder an operation of the plan.
Those of missing values and of scale and offset run tile by tile, with xarray's own arithmetic; others call xarray's
function for whole blocks. Arrays whose layers are not all known are read as xarray would read them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from xarray.backends.h5netcdf_ import H5NetCDFArrayWrapper
from xarray.backends.netCDF4_ import NetCDF4ArrayWrapper
from xarray.coding import common, variables
from xarray.core import indexing

from tilework.array.elementwise import cast
from tilework.io.hdf5 import HDF5Source
from tilework.io.memory import ArraySource
from tilework.io.zarr import ZarrSource, is_zarr_array
from tilework.plan import build
from tilework.plan.blocks import Chunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot


def unwrapped(data: Any, chunks: Chunks) -> ArrayNode | None:
    """The array behind xarray's layers in ``chunks``, or None if it has to be read through them."""
    kind = type(data)
    if kind in (indexing.ImplicitToExplicitIndexingAdapter, indexing.CopyOnWriteArray, indexing.MemoryCachedArray):
        return unwrapped(data.array, chunks)
    if kind is indexing.LazilyIndexedArray:
        return _stored(data, chunks)
    if kind not in (common._ElementwiseFunctionArray, variables.NativeEndiannessArray, variables.BoolTypeArray):
        return None
    inner = unwrapped(data.array, chunks)
    if inner is None:
        return None
    return _decoded(inner, data.func, data.dtype) if hasattr(data, "func") else cast(inner, data.dtype)


def _stored(data: Any, chunks: Chunks) -> ArrayNode | None:
    """A selection from an array in a file. Values that NumPy has no size for (strings) are left to xarray."""
    source = _source(data.array)
    if source is None or source.dtype != data.dtype or data.dtype.kind not in "biufcmMSU":
        return None
    if not all(isinstance(entry, slice | int | np.integer) for entry in data.key.tuple):
        return None
    entries = [
        slice(*entry.indices(n)) if isinstance(entry, slice) else slice(int(entry), int(entry) + 1, 1)
        for entry, n in zip(data.key.tuple, source.shape, strict=True)
    ]
    if any(entry.start >= entry.stop for entry in entries):  # nothing, or backwards
        return None
    drop = tuple(axis for axis, entry in enumerate(data.key.tuple) if not isinstance(entry, slice))
    label = "zarr" if isinstance(source, ZarrSource) else "hdf5"
    return build.stored(source, chunks, label, tuple(entries), drop)


def _source(array: Any) -> ZarrSource | HDF5Source | None:
    """The source for an array of one of xarray's backends."""
    stored = getattr(array, "_array", None)
    if is_zarr_array(stored):
        return ZarrSource(stored)
    if not isinstance(array, NetCDF4ArrayWrapper | H5NetCDFArrayWrapper):
        return None
    opened = getattr(array.datastore._manager, "_args", ())
    if not opened or not isinstance(opened[0], str) or not os.path.isfile(opened[0]):
        return None  # a server, or a file in memory
    variable = array.get_array()
    if isinstance(array, NetCDF4ArrayWrapper):
        unit, name = variable.chunking(), f"{variable.group().path.rstrip('/')}/{variable.name}"
    else:
        unit, name = variable.chunks, variable.name
    through = ArraySource(indexing.ImplicitToExplicitIndexingAdapter(indexing.LazilyIndexedArray(array)), False)
    return HDF5Source(opened[0], name, through, unit if isinstance(unit, list | tuple) else None)


# ---------------------------------------------------------------- decoders


def _decoded(node: ArrayNode, function: Any, dtype: np.dtype[Any]) -> ArrayNode:
    """A decoder of xarray's, applied to blocks or tiles. It works element by element."""
    known = isinstance(function, partial) and not function.args
    if known and function.func is variables._apply_mask:
        fills = tuple(sorted(function.keywords["encoded_fill_values"], key=repr))
        return build.elementwise(_Mask(fills, function.keywords["decoded_fill_value"]), [node], dtype, "mask")
    if known and function.func is variables._scale_offset_decoding:
        scale, offset = function.keywords["scale_factor"], function.keywords["add_offset"]
        return build.elementwise(_ScaleOffset(scale, offset), [node], dtype, "scale")
    labels = range(node.ndim)
    call = BlockFunction(function, (Slot(0),), scratch=3.0)
    return build.blockwise(call, labels, [(node, labels)], dtype, label=_name(function))


def _name(function: Any) -> str:
    return str(getattr(getattr(function, "func", function), "__name__", "decode"))


@dataclass(frozen=True, slots=True)
class _Mask:
    """``fill`` in place of each of the values ``missing``. Compares as xarray does, after the conversion."""

    missing: tuple[Any, ...]
    fill: Any

    def __call__(self, x: np.ndarray, *, out: np.ndarray) -> np.ndarray:
        np.copyto(out, x, casting="unsafe")
        masks = [out == value for value in self.missing]
        for mask in masks:
            np.copyto(out, self.fill, where=mask, casting="unsafe")
        return out


@dataclass(frozen=True, slots=True)
class _ScaleOffset:
    """``x * scale + offset`` in the dtype of the result, rounded to it after each step as xarray does."""

    scale: Any
    offset: Any

    def __call__(self, x: np.ndarray, *, out: np.ndarray) -> np.ndarray:
        np.copyto(out, x, casting="unsafe")
        if self.scale is not None:
            out *= self.scale
        if self.offset is not None:
            out += self.offset
        return out
