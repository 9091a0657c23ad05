"""Interpolation of xarray objects along one dimension: ``ds.interp(lat=..., time=...)``.

xarray joins all blocks along the dimension and calls SciPy with them. For the methods "linear" and "nearest", which
need two or one of the values there are, a block of the result needs few blocks of the array, and of these the rows
beside its own points. So what a block needs is taken first, and interpolated as SciPy does, tile by tile; blocks of the
result are no longer than those of the array.

Other methods need all values along the dimension, which becomes one block; the other dimensions are divided instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from itertools import product
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import missing

from tilework.array import Array
from tilework.array.order import in_one_block
from tilework.plan import blocks, build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Slot
from tilework.plan.stages import BlockPlace

_TILE = 1 << 15
"""Elements of a tile of the result, roughly."""


def adapt_interpolation() -> None:
    """Replace xarray's interpolation of a variable. Once, when the chunk manager loads."""
    missing.interp = _interpolating(missing.interp)


def _interpolating(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def interp(var: xr.Variable, indexes_coords: Any, method: Any, **kwargs: Any) -> Any:
        if not isinstance(var._data, Array) or not indexes_coords:
            return theirs(var, indexes_coords, method, **kwargs)
        steps = missing.decompose_interp(indexes_coords) if method in ("linear", "nearest") else [indexes_coords]
        for step in steps:  # dimensions that have nothing to do with each other come one after another
            points = _points(step, method, kwargs, var) if len(step) == 1 else None
            if points is None:
                axes = tuple(sorted(var.get_axis_num(dim) for dim in step))
                var = theirs(var.copy(data=Array(in_one_block(var._data.node, axes, "interp"))), step, method, **kwargs)
            else:
                (dim,) = step
                var = _interpolated(var, dim, points)
        return var

    return interp


@dataclass(frozen=True)
class _Points:
    """For each point of the result which values it lies between: ``(high - low) / gap * offset + low``.

    These are SciPy's operations in SciPy's order, for equal results to the last bit.
    """

    low: np.ndarray
    high: np.ndarray
    gap: np.ndarray | None  # None: the value at low
    offset: np.ndarray
    outside: np.ndarray  # whether it lies beyond the ends, where the result is
    fill: np.ndarray
    dims: tuple[Any, ...]  # its own dimension, or none for a single point

    def of(self, some: slice) -> _Points:
        """Some of the points."""
        gap = None if self.gap is None else self.gap[some]
        low, high, outside = self.low[some], self.high[some], self.outside[some]
        return _Points(low, high, gap, self.offset[some], outside, self.fill[some], self.dims)


def _points(step: Any, method: str, kwargs: dict[str, Any], var: xr.Variable) -> _Points | None:
    """How to interpolate along one dimension, or None where that is left to xarray."""
    ((x, new_x),) = step.values()
    fill = kwargs.get("fill_value", np.nan)
    known = fill == "extrapolate" if isinstance(fill, str) else np.isscalar(fill) or np.shape(fill) == (2,)
    if method not in ("linear", "nearest") or not known or not kwargs.keys() <= {"fill_value"} or new_x.ndim > 1:
        return None
    if x.size < 2 or isinstance(x._data, Array) or isinstance(new_x._data, Array):
        return None
    (x,), (at,) = missing._floatize_x([x], [new_x])
    have, wanted = np.asarray(x.values, float), np.atleast_1d(np.asarray(at.values, float))
    if not (np.diff(have) > 0).all():
        return None
    if method == "nearest":
        low = high = np.searchsorted(have[1:] / 2 + have[:-1] / 2, wanted).clip(0, len(have) - 1)
        gap = None
    else:
        high = np.searchsorted(have, wanted).clip(1, len(have) - 1)
        low = high - 1
        if var.ndim == 1 and var.dtype == float and not isinstance(fill, str):  # SciPy leaves these to numpy.interp,
            there = have[high] == wanted  # for which values stand where they stand, whatever is beside them
            low, high = np.where(there, high, low), np.where(have[low] == wanted, low, high)
        gap = np.where(low == high, 1.0, have[high] - have[low])
    below, above = wanted < have[0], wanted > have[-1]
    ends = (np.nan, np.nan) if isinstance(fill, str) else np.broadcast_to(fill, 2)
    outside = np.isnan(wanted) if isinstance(fill, str) else ~((wanted >= have[0]) & (wanted <= have[-1]))
    fills = np.select([below, above], ends, np.nan)
    return _Points(low, high, gap, wanted - have[low], outside, fills, new_x.dims)


def _interpolated(var: xr.Variable, dim: Any, points: _Points) -> xr.Variable:
    axis = var.get_axis_num(dim)
    array = var._data if var.dtype.kind in "fc" else var._data.astype(float)
    chunks = blocks.split_sizes(len(points.low), array.chunks[axis].largest)
    needed, tables = [], []
    for start, stop in zip(chunks.bounds[:-1], chunks.bounds[1:], strict=True):
        some = points.of(slice(start, stop))
        rows = np.unique(np.concatenate([some.low, some.high]))
        needed.append(rows)
        tables.append(replace(some, low=np.searchsorted(rows, some.low), high=np.searchsorted(rows, some.high)))
    sizes = AxisChunks(tuple(map(len, needed)))
    taken = build.take(array.node, np.concatenate(needed).astype(np.int64), axis, sizes)
    call = BlockFunction(_Interpolate(axis, tuple(tables)), (Slot(0),), place=True, scratch=0.1)
    labels = range(array.ndim)
    node = build.blockwise(
        call, labels, [(taken, labels)], array.dtype, adjust_chunks={axis: tuple(chunks)}, label="interp"
    )
    result = Array(node)
    if not points.dims:
        result = result[(slice(None),) * axis + (0,)]
    return xr.Variable([*var.dims[:axis], *points.dims, *var.dims[axis + 1 :]], result, var.attrs, fastpath=True)


# ---------------------------------------------------------------- of blocks


@dataclass(frozen=True)
class _Interpolate:
    """Interpolates the rows that a block of the result needs."""

    axis: int
    tables: tuple[_Points, ...]  # by block, with places among the rows in it

    def __call__(self, x: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        points = self.tables[block_place.index[self.axis]]
        n = len(points.low)
        shape = (*x.shape[: self.axis], n, *x.shape[self.axis + 1 :])
        out = np.empty(shape, x.dtype)
        if not out.size:
            return out
        lead, rest = prod(shape[: self.axis]), prod(shape[self.axis + 1 :])
        source, target = x.reshape(lead, -1, rest), out.reshape(lead, n, rest)
        if rest == 1:
            several = max(1, _TILE // n)
            for i in range(0, lead, several):
                tile = slice(i, i + several)
                _between(source[tile, :, 0], target[tile, :, 0], points, 1)
            return out
        width = min(rest, _TILE)
        several = _TILE // width
        for i, k, j in product(range(lead), range(0, rest, width), range(0, n, several)):
            some, columns = slice(j, j + several), slice(k, k + width)
            _between(source[i, :, columns], target[i, some, columns], points.of(some), 0)
        return out


def _between(x: np.ndarray, out: np.ndarray, points: _Points, axis: int) -> None:
    """Interpolate one tile of two dimensions along an axis."""
    across = (slice(None), None) if axis == 0 else slice(None)
    first = np.take(x, points.low, axis) if axis else x[points.low]
    if points.gap is None:
        out[...] = first
    else:
        rise = np.take(x, points.high, axis) if axis else x[points.high]
        rise -= first
        rise /= points.gap[across]
        rise *= points.offset[across]
        np.add(rise, first, out=out)
    if points.outside.any():
        np.copyto(out, points.fill[across], where=points.outside[across])
