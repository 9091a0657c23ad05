"""Files that xarray has opened, read without the layers that xarray puts between a file and its user.

What ``xr.open_zarr`` hands to a chunk manager is an array of Zarr-Python, wrapped in a cache, in lazy indexing, and in
a decoder for each convention that the file follows (missing values, scale and offset, dates). Read through all of them,
every block is fetched by Zarr-Python's event loop and copied once per layer. Here the layers are taken off: the array
becomes a :class:`~tilework.io.zarr.ZarrSource`, indexing a slice of it, and each decoder an operation of the plan.
Those of missing values and of scale and offset run tile by tile, with xarray's own arithmetic; others call xarray's
function for whole blocks. Arrays whose layers are not all known are read as xarray would read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from xarray.coding import common, variables
from xarray.core import indexing

from tilework.array.elementwise import cast
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
    """A slice of an array in Zarr. Values that are not NumPy's own (strings of any length) are left to xarray."""
    array: Any = getattr(data.array, "_array", None)
    if not is_zarr_array(array) or np.dtype(array.dtype) != data.dtype or data.dtype.kind not in "biufcmMSU":
        return None
    if not all(isinstance(entry, slice | int | np.integer) for entry in data.key.tuple):
        return None
    source = ZarrSource(array)
    entries = [
        slice(*entry.indices(n)) if isinstance(entry, slice) else slice(int(entry), int(entry) + 1, 1)
        for entry, n in zip(data.key.tuple, source.shape, strict=True)
    ]
    if any(entry.start >= entry.stop for entry in entries):  # nothing, or backwards
        return None
    drop = tuple(axis for axis, entry in enumerate(data.key.tuple) if not isinstance(entry, slice))
    return build.stored(source, chunks, "zarr", tuple(entries), drop)


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
