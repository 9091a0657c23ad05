"""Rolling reductions: ``ds.rolling(time=30).mean()``.

xarray has two ways. One, for arrays in memory and Dask's, is Bottleneck, if it is installed and for one dimension. The
other makes an array of all windows and reduces that, which costs as much as the windows are wide. Here the sum of a
window is put together from sums of shorter windows, each from two of half its length: the work grows with the logarithm
of the width, nothing is subtracted (so an infinity or a large value leaves no trace behind it), and a result
does not depend on where blocks begin. The same holds for products, minima, maxima and for mean and variance together.
Several dimensions are gone through one after another. It is done tile by tile, in tiles that fit the cache.

Values beyond the ends of the array are missing. Reductions that are not named here (median, argmax, any function) go
xarray's other way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from math import prod
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from xarray.core import dtypes

import tilework.array as ta
from tilework.array import Array, overlap
from tilework.array.order import block_limit
from tilework.engine.kernels.tiling import cut, regions
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot

Windows: TypeAlias = dict[int, int]
"""Width of the window along each axis that has one."""

_TILE = 1 << 15
"""Elements of a tile, roughly: a handful of tiles of 8 bytes each fit the L2 cache."""

REDUCTIONS = ("sum", "prod", "min", "max", "mean", "var", "std")


def adapt_rolling() -> None:
    """Replace the reductions of rolling objects. Once, when the chunk manager loads."""
    rolling: Any = type(xr.DataArray([0.0], dims="x").rolling(x=1))  # whose module has moved between versions
    rolling._array_reduce = _reducing(rolling._array_reduce)
    rolling._counts = _counting(rolling._counts)


def _reducing(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def array_reduce(self: Any, **kwargs: Any) -> Any:
        function, keep_attrs = kwargs["array_agg_func"], kwargs["keep_attrs"]
        name = "mean" if function is None else function.__name__
        options = {key: value for key, value in kwargs.items() if key not in _THEIR_ARGUMENTS}
        if not _applies(self.obj):
            return theirs(self, **kwargs)
        data = self.obj.data.astype(_dtype(self.obj.dtype, any(self.center)))
        if name in REDUCTIONS and options.keys() <= {"ddof"}:
            found = moving(data, name, *_windows(self), min_count=self.min_periods, **options)
            return _like(self.obj, found, keep_attrs)
        # The rest through windows, of floats: Bottleneck would make floats, too.
        windows = dict(zip(self.dim, self.window, strict=True))
        center = dict(zip(self.dim, self.center, strict=True))
        return theirs(self.__class__(self.obj.copy(data=data), windows, self.min_periods, center), **kwargs)

    return array_reduce


_THEIR_ARGUMENTS = frozenset(
    ("array_agg_func", "bottleneck_move_func", "numbagg_move_func", "rolling_agg_func", "keep_attrs", "fillna",
     "sliding_window_view_kwargs")
)  # fmt: skip


def _counting(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def counts(self: Any, keep_attrs: bool | None) -> Any:
        if not isinstance(self.obj.data, Array):
            return theirs(self, keep_attrs)
        return _like(self.obj, moving(self.obj.notnull().data, "count", *_windows(self)), keep_attrs)

    return counts


def _applies(obj: Any) -> bool:
    return isinstance(obj.data, Array) and (obj.dtype.kind in "iub" or obj.dtype in (np.float32, np.float64))


def _windows(rolling: Any) -> tuple[Windows, dict[int, bool]]:
    axes = [rolling.obj.get_axis_num(dim) for dim in rolling.dim]
    return dict(zip(axes, rolling.window, strict=True)), dict(zip(axes, rolling.center, strict=True))


def _dtype(dtype: np.dtype[Any], center: bool) -> np.dtype[Any]:
    """The dtype that xarray gives with Bottleneck: where windows are centered, it adds missing values first."""
    if dtype.kind in "iu" and center:
        return np.dtype(dtypes.maybe_promote(dtype)[0])
    return dtype if dtype.kind == "f" else np.dtype(float)


def _like(obj: Any, data: Array, keep_attrs: bool | None) -> Any:
    return obj.__class__(data, obj.coords, dims=obj.dims, attrs=obj.attrs if keep_attrs else {}, name=obj.name)


# ---------------------------------------------------------------- of arrays


def moving(
    x: Array, name: str, windows: Windows, center: dict[int, bool], *, min_count: int = 1, ddof: int = 0
) -> Array:
    """A reduction of the window of each element: of the elements up to it, or around it.

    Parameters
    ----------
    x
        Floats, in which NaN is missing; for "count" booleans.
    name
        One of :data:`REDUCTIONS`, or "count" (how many are true).
    windows, center
        Along which axes windows lie, and which of them are centered.
    min_count
        Where fewer values than this are there the result is NaN.
    ddof
        For "var" and "std": what is subtracted from the number of values.
    """
    ((axis, width), *several) = windows.items()
    if not several and not center[axis] and width >= x.shape[axis] and name in ("sum", "mean", "count"):
        return _cumulative(x, name, axis, min_count)
    depth = {a: (w // 2, w - 1 - w // 2) if center[a] else (w - 1, 0) for a, w in windows.items()}
    x = _in_larger_blocks(x, depth)
    missing = False if name == "count" else np.nan
    wide = overlap.overlap(x, depth, dict.fromkeys(windows, missing))
    function = partial(moving_of_block, name=name, windows=windows, min_count=min_count, ddof=ddof)
    labels = range(x.ndim)
    dtype = np.dtype(np.int64) if name == "count" else x.dtype
    sizes: dict[Any, Any] = {axis: tuple(x.chunks[axis]) for axis in windows}
    call = BlockFunction(function, (Slot(0),), scratch=0.1)
    node = build.blockwise(call, labels, [(wide.node, labels)], dtype, adjust_chunks=sizes, label=f"rolling {name}")
    return Array(node)


def _cumulative(x: Array, name: str, axis: int, min_count: int) -> Array:
    """Windows that begin where the array does: what goes on from block to block is their sums."""
    if name == "count":
        return ta.cumsum(x, axis=axis, dtype=np.int64)
    count = ta.cumsum(~ta.isnan(x), axis=axis, dtype=x.dtype)
    total = ta.nancumsum(x, axis=axis)
    return ta.where(count >= min_count, total / ta.maximum(count, 1) if name == "mean" else total, np.nan).astype(
        x.dtype
    )


def _in_larger_blocks(x: Array, depth: dict[int, tuple[int, int]]) -> Array:
    """``x`` with blocks that are not much shorter than what they need of their neighbours, where memory allows."""
    wanted: list[Any] = [None] * x.ndim
    for axis, pair in depth.items():
        have = x.chunks[axis]
        if have.known and sum(pair) > 2 * have.largest:
            row = prod(c.largest for k, c in enumerate(x.chunks) if k != axis) * x.itemsize
            wanted[axis] = max(have.largest, min(sum(pair), block_limit() // max(1, 2 * row)))
    return x if wanted.count(None) == x.ndim else x.rechunk(tuple(wanted))


# ---------------------------------------------------------------- of blocks


def moving_of_block(x: np.ndarray, name: str, windows: Windows, min_count: int, ddof: int) -> np.ndarray:
    """The reduction of every window that lies within the block as a whole."""
    shape = [n - windows.get(axis, 1) + 1 for axis, n in enumerate(x.shape)]
    out = np.empty(shape, np.int64 if name == "count" else x.dtype)
    if not out.size:
        return out
    order = [*windows, *(axis for axis in range(x.ndim) if axis not in windows)]
    source, target = x.transpose(order), out.transpose(order)
    widths = list(windows.values())
    lead, rest = (slice(None),) * len(widths), source.shape[len(widths) :]
    room = max(32, _TILE // prod(source.shape[: len(widths)]))  # short rows would cost more than the cache saves
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for tile in regions(rest, cut(rest, room)):
            target[(*lead, *tile)] = _of_tile(source[(*lead, *tile)], name, widths, min_count, ddof)
    return out


def _of_tile(x: np.ndarray, name: str, widths: list[int], min_count: int, ddof: int) -> np.ndarray:
    if name == "count":
        return _counts(x, widths)
    missing = np.isnan(x)
    some = bool(missing.any())
    count: Any = _counts(~missing, widths) if some else prod(widths)
    if name in ("var", "std"):
        found = _variance(x, missing if some else None, widths, ddof)
        if name == "std":
            np.sqrt(found, out=found)
    else:
        combine, nothing = _COMBINE[name]
        found = np.array(x)  # contiguous, and ours
        if some:
            found[missing] = nothing
        for axis, width in enumerate(widths):
            found = _slide(found, axis, width, combine)
        if name == "mean":
            found = found / np.asarray(count, x.dtype)
    if some:
        found[count < min_count] = np.nan
    return found


_COMBINE: dict[str, tuple[np.ufunc, float]] = {
    "sum": (np.add, 0.0),
    "mean": (np.add, 0.0),
    "prod": (np.multiply, 1.0),
    "min": (np.minimum, np.inf),
    "max": (np.maximum, -np.inf),
}


def _counts(there: np.ndarray, widths: list[int]) -> np.ndarray:
    """How many are true in each window."""
    found = there
    for axis, width in enumerate(widths):
        total = np.cumsum(found, axis=axis, dtype=np.int32)
        found = _part(total, axis, width - 1).copy()
        later = _part(found, axis, 1)
        later -= _part(total, axis, 0, -width)
    return found


def _slide(x: np.ndarray, axis: int, width: int, combine: np.ufunc) -> np.ndarray:
    """Each window of ``width`` combined: from windows of 1, 2, 4, ... that make it up, in the order of the axis."""
    length = x.shape[axis] - width + 1
    found: np.ndarray | None = None
    covered, size = 0, 1
    while True:
        if width & size:
            piece = _part(x, axis, covered, covered + length)
            found = piece if found is None else combine(found, piece)
            covered += size
        if found is not None and covered == width:
            return found
        x = combine(_part(x, axis, 0, -size), _part(x, axis, size))
        size *= 2


def _variance(x: np.ndarray, missing: np.ndarray | None, widths: list[int], ddof: int) -> np.ndarray:
    """Sums of squared distances from the mean, merged from halves (Chan, Golub and LeVeque), over the count."""
    zero = np.zeros((), x.dtype)
    if missing is None:
        moments: _Moments = (x.dtype.type(1), np.array(x), np.zeros_like(x, subok=False))
    else:
        moments = (~missing).astype(x.dtype), np.where(missing, zero, x), np.zeros(x.shape, x.dtype)
    for axis, width in enumerate(widths):
        moments = _slide_moments(moments, axis, width)
    count, _, squares = moments
    return np.where(count > ddof, squares / np.maximum(count - ddof, 1), np.nan).astype(x.dtype, copy=False)


_Moments: TypeAlias = tuple[Any, np.ndarray, np.ndarray]
"""Count (a number if it is the same everywhere), mean, sum of squared distances from the mean."""


def _slide_moments(moments: _Moments, axis: int, width: int) -> _Moments:
    length = moments[1].shape[axis] - width + 1
    found: _Moments | None = None
    covered, size = 0, 1
    while True:
        if width & size:
            piece = _cut(moments, axis, covered, covered + length)
            found = piece if found is None else _merged(found, piece)
            covered += size
        if found is not None and covered == width:
            return found
        moments = _merged(_cut(moments, axis, 0, -size), _cut(moments, axis, size, None))
        size *= 2


def _merged(one: _Moments, other: _Moments) -> _Moments:
    count = one[0] + other[0]
    share = other[0] / np.maximum(count, 1)
    distance = other[1] - one[1]
    mean = distance * share
    mean += one[1]
    distance *= distance
    distance *= one[0] * share
    distance += one[2]
    distance += other[2]
    return count, mean, distance


def _cut(moments: _Moments, axis: int, start: int, stop: int | None) -> _Moments:
    count, mean, squares = moments
    count = _part(count, axis, start, stop) if np.ndim(count) else count
    return count, _part(mean, axis, start, stop), _part(squares, axis, start, stop)


def _part(x: np.ndarray, axis: int, start: int, stop: int | None = None) -> np.ndarray:
    return x[(slice(None),) * axis + (slice(start, stop),)]
