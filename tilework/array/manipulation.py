"""Arrays joined, cut, picked from, turned and repeated: slices, takes and concatenations."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from math import nan
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from tilework.array.core import Array, in_memory, into, known_length
from tilework.array.creation import asarray, at_and_below, axis_index, stack_nodes, zeros
from tilework.array.elementwise import cast, pick
from tilework.array.indexing import getitem
from tilework.array.shapes import atleast_1d, atleast_2d, atleast_3d, broadcast_to, moveaxis, ravel, reshape
from tilework.base.errors import DTypeError, PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot

FULL = slice(None)

# ---------------------------------------------------------------- joining


def concatenate(
    arrays: Sequence[Any], axis: int | None = 0, out: None = None, *, dtype: Any = None, casting: str = "same_kind",
    allow_unknown_chunksizes: bool = False,
) -> Array:  # fmt: skip
    """Arrays joined along an axis (None: all elements in a row). See :func:`numpy.concatenate`.

    Parameters
    ----------
    arrays
        The arrays; they agree in all other axes.
    axis
        Where to join.
    out
        Must be None.
    dtype, casting
        Type of the result, and what conversion may lose. Default: the common type.
    allow_unknown_chunksizes
        Without effect: unknown sizes can be joined wherever the numbers of blocks agree.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.concatenate([ta.zeros(2), ta.ones(3)]).compute()
    array([0., 0., 1., 1., 1.])
    """
    xs = [asarray(a) for a in arrays]
    if not xs:
        raise PlanError("concatenate: need at least one array to concatenate")
    if out is not None:
        raise UnsupportedError("concatenate: out= is not supported; use the result")
    if axis is None:
        xs, axis = [ravel(x) for x in xs], 0
    if any(x.ndim == 0 for x in xs):
        raise PlanError("concatenate: zero-dimensional arrays cannot be concatenated; use stack()")
    axis = normalize_axis_index(axis, xs[0].ndim)
    target = _common_dtype(xs, dtype, casting)
    return Array(build.concatenate([cast(x.node, target) for x in xs], axis))


def _common_dtype(xs: Sequence[Array], dtype: Any, casting: str) -> np.dtype[Any]:
    if dtype is None:
        return np.result_type(*(x.dtype for x in xs))
    for x in xs:
        if not np.can_cast(x.dtype, dtype, casting):  # type: ignore[arg-type]
            raise DTypeError(f"concatenate: cannot cast {x.dtype} to {np.dtype(dtype)} by the rule {casting!r}")
    return np.dtype(dtype)


concat = concatenate


def stack(
    arrays: Sequence[Any], axis: int = 0, out: None = None, *, dtype: Any = None, casting: str = "same_kind",
    allow_unknown_chunksizes: bool = False,
) -> Array:  # fmt: skip
    """Arrays of one shape joined along a new axis. Parameters are those of :func:`concatenate`."""
    xs = [asarray(a) for a in arrays]
    if not xs:
        raise PlanError("stack: need at least one array to stack")
    if out is not None:
        raise UnsupportedError("stack: out= is not supported; use the result")
    if any(str(x.shape) != str(xs[0].shape) for x in xs):
        shapes = ", ".join(dict.fromkeys(str(x.shape) for x in xs))
        raise PlanError(f"stack: all input arrays must have the same shape, not {shapes}")
    axis = normalize_axis_index(axis, xs[0].ndim + 1)
    target = _common_dtype(xs, dtype, casting)
    return Array(stack_nodes([cast(x.node, target) for x in xs], axis))


def vstack(
    tup: Sequence[Any], allow_unknown_chunksizes: bool = False, *, dtype: Any = None, casting: str = "same_kind"
) -> Array:
    """Arrays joined as rows. See :func:`numpy.vstack`, and :func:`concatenate` for what Dask adds."""
    return concatenate([atleast_2d(a) for a in tup], 0, dtype=dtype, casting=casting)


def hstack(
    tup: Sequence[Any], allow_unknown_chunksizes: bool = False, *, dtype: Any = None, casting: str = "same_kind"
) -> Array:
    """Arrays joined as columns. See :func:`numpy.hstack`, and :func:`concatenate` for what Dask adds."""
    xs = [atleast_1d(a) for a in tup]
    return concatenate(xs, 0 if xs and xs[0].ndim == 1 else 1, dtype=dtype, casting=casting)


def dstack(tup: Sequence[Any], allow_unknown_chunksizes: bool = False) -> Array:
    """Arrays joined along the third axis. See :func:`numpy.dstack`, and :func:`concatenate` for what Dask adds."""
    return concatenate([atleast_3d(a) for a in tup], 2)


def column_stack(tup: Sequence[Any]) -> Array:
    """One-dimensional arrays as columns of a two-dimensional one. See :func:`numpy.column_stack`."""
    xs = [asarray(a) for a in tup]
    return concatenate([x if x.ndim > 1 else reshape(x, (-1, 1)) for x in xs], 1)


def block(arrays: Any, allow_unknown_chunksizes: bool = False) -> Array:
    """An array from nested lists of blocks. See :func:`numpy.block`, and :func:`concatenate` for what Dask adds."""
    depth = _depth(arrays)
    ndim = max(depth, max(asarray(a).ndim for a in _leaves(arrays)))

    def join(nested: Any, level: int) -> Array:
        if level == depth:
            x = asarray(nested)
            return getitem(x, (None,) * (ndim - x.ndim))
        return concatenate([join(item, level + 1) for item in nested], ndim - depth + level)

    return join(arrays, 0)


def _depth(nested: Any) -> int:
    if isinstance(nested, tuple):
        raise TypeError("block: blocks are nested in lists, not tuples")
    if not isinstance(nested, list):
        return 0
    depths = {_depth(item) for item in nested}
    if len(depths) != 1:
        raise PlanError(
            f"block: lists are {'empty' if not depths else 'nested to different depths'}; they must be alike"
        )
    return 1 + depths.pop()


def _leaves(nested: Any) -> list[Any]:
    return [leaf for item in nested for leaf in _leaves(item)] if isinstance(nested, list) else [nested]


def append(arr: Any, values: Any, axis: int | None = None) -> Array:
    """Values joined to the end of an axis (default: of all elements in a row). See :func:`numpy.append`."""
    return concatenate([arr, values], axis)


def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Array:
    """Values put in before the given places of an axis. See :func:`numpy.insert`."""
    arr, axis = _along(arr, axis)
    n, obj = known_length(arr, axis, "insert"), in_memory(obj, "insert: obj")
    new = Array(cast(asarray(values).node, arr.dtype))
    count = len(np.insert(np.arange(n), obj, 0)) - n
    if count == 1:  # then there may be several values, all for one place
        new = getitem(new, (None,) * (arr.ndim - new.ndim))
        new = moveaxis(new, 0, axis) if np.ndim(obj) == 0 and not isinstance(obj, slice) else new
        count = new.shape[axis]
    new = broadcast_to(new, (*arr.shape[:axis], count, *arr.shape[axis + 1 :]))
    order = np.insert(np.arange(n), obj, np.arange(n, n + count))
    return _cut(concatenate([arr, new], axis), axis, order)


def delete(arr: Any, obj: Any, axis: int | None = None) -> Array:
    """The array without some places of an axis. See :func:`numpy.delete`."""
    arr, axis = _along(arr, axis)
    n = known_length(arr, axis, "delete")
    keep = np.ones(n, bool)
    if not isinstance(in_memory(obj, "delete: obj"), slice):
        obj = np.asarray(obj, np.intp if np.size(obj) == 0 else None)
    keep[obj] = False
    return _cut(arr, axis, keep)


def _along(a: Any, axis: int | None) -> tuple[Array, int]:
    """The array and a checked axis; with None all elements in a row."""
    a = asarray(a)
    return (ravel(a), 0) if axis is None else (a, normalize_axis_index(axis, a.ndim))


def _cut(x: Array, axis: int, entry: Any) -> Array:
    """``x`` indexed along one axis."""
    return getitem(x, (FULL,) * axis + (entry,))


# ---------------------------------------------------------------- cutting


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """Parts of nearly equal length, or cut at the given places. See :func:`numpy.array_split`."""
    x = asarray(ary)
    axis = normalize_axis_index(axis, x.ndim)
    n = known_length(x, axis, "split")
    given = in_memory(indices_or_sections, "split: the places")
    if np.ndim(given):
        cuts = [0, *map(operator.index, given), n]
    else:
        sections = operator.index(given)
        if sections <= 0:
            raise PlanError(f"split: the number of sections must be larger than 0, not {sections}")
        each, more = divmod(n, sections)
        cuts = np.cumsum([0] + [each + 1] * more + [each] * (sections - more)).tolist()
    return [_cut(x, axis, slice(a, b)) for a, b in pairwise(cuts)]


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """Parts of equal length, or cut at the given places. See :func:`numpy.split`."""
    x = asarray(ary)
    n = x.shape[normalize_axis_index(axis, x.ndim)]
    if not np.ndim(indices_or_sections) and n == n and n % int(indices_or_sections):
        raise PlanError(f"split: array split does not result in an equal division of {n} into {indices_or_sections}")
    return array_split(x, indices_or_sections, axis)


def hsplit(ary: Any, indices_or_sections: Any) -> list[Array]:
    """:func:`split` by columns."""
    x = _of_at_least(1, ary, "hsplit")
    return split(x, indices_or_sections, 1 if x.ndim > 1 else 0)


def vsplit(ary: Any, indices_or_sections: Any) -> list[Array]:
    """:func:`split` by rows."""
    return split(_of_at_least(2, ary, "vsplit"), indices_or_sections, 0)


def dsplit(ary: Any, indices_or_sections: Any) -> list[Array]:
    """:func:`split` along the third axis."""
    return split(_of_at_least(3, ary, "dsplit"), indices_or_sections, 2)


def _of_at_least(ndim: int, ary: Any, what: str) -> Array:
    x = asarray(ary)
    if x.ndim < ndim:
        raise PlanError(f"{what} only works on arrays of {ndim} or more dimensions, not of shape {x.shape}")
    return x


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Array, ...]:
    """The parts of an array along an axis, without that axis."""
    x = asarray(x)
    axis = normalize_axis_index(axis, x.ndim)
    return tuple(_cut(x, axis, i) for i in range(len(moveaxis(x, axis, 0))))


# ---------------------------------------------------------------- picking


def take(a: Any, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise") -> Array:
    """Elements along an axis (default: of all in a row). See :func:`numpy.take`."""
    a, axis = _along(a, axis)
    if not isinstance(indices, Array):
        indices = np.asarray(indices, np.intp if np.size(indices) == 0 else None)
    if not np.can_cast(indices.dtype, np.intp, "same_kind"):
        raise DTypeError(f"take: indices must be integers, not {indices.dtype}")
    if mode == "wrap":
        indices = indices % known_length(a, axis, "take")
    elif mode == "clip":
        indices = np.clip(indices, 0, known_length(a, axis, "take") - 1)
    elif mode != "raise":
        raise PlanError(f"take: mode={mode!r} must be 'raise', 'wrap' or 'clip'")
    result = _cut(a, axis, indices.astype(np.intp) if indices.dtype.kind == "b" else indices)
    return result if out is None else into(out, result, "take")


def compress(condition: Any, a: Any, axis: int | None = None, out: Any = None) -> Array:
    """Elements along an axis where the condition holds; it may be shorter than the axis. See :func:`numpy.compress`."""
    a, axis = _along(a, axis)
    if np.ndim(condition) != 1:
        raise PlanError("compress: condition must be a 1-d array")
    if isinstance(condition, Array):
        if condition.shape[0] < a.shape[axis]:
            a = _cut(a, axis, slice(0, condition.shape[0]))
        result = _cut(a, axis, Array(cast(condition.node, bool)))
    else:
        result = _cut(a, axis, np.flatnonzero(np.asarray(condition, bool)))
    return result if out is None else into(out, result, "compress")


def extract(condition: Any, arr: Any) -> Array:
    """All elements where the condition holds, in a row. See :func:`numpy.extract`."""
    return compress(ravel(condition) if isinstance(condition, Array) else np.ravel(condition), arr)


def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """Elements of a diagonal; they become the last axis. See :func:`numpy.diagonal`."""
    a = asarray(a)
    if a.ndim < 2:
        raise PlanError(f"diagonal: an array of at least two dimensions is required, not shape {a.shape}")
    axes = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    if axes[0] == axes[1]:
        raise PlanError(f"diagonal: axis1 and axis2 are both {axes[0]}; they must differ")
    rows, columns = a.shape[axes[0]], a.shape[axes[1]]
    i = np.arange(max(0, -offset), max(0, -offset, min(rows, columns - offset)))
    points = build.points(a.node, axes, [i, i + offset])
    return Array(build.rearrange(points, [*range(1, points.ndim), 0], label="diagonal"))


def diag(v: Any, k: int = 0) -> Array:
    """The diagonal of a matrix, or a matrix with the given diagonal. See :func:`numpy.diag`."""
    v = asarray(v)
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise PlanError(f"diag: input must be 1- or 2-dimensional, not of shape {v.shape}")
    values = concatenate([v, zeros(abs(k), v.dtype)]) if k else v
    index = axis_index(values.chunks[0])
    on = build.elementwise(np.equal, [build.elementwise(np.add, [build.rearrange(index, [0, None]), k]), index])
    spread = getitem(values, (FULL, None)) if k >= 0 else values
    return Array(build.elementwise(pick, [on, spread.node, v.dtype.type(0)], v.dtype, "diag"))


def tril(m: Any, k: int = 0) -> Array:
    """The matrix with zeros above a diagonal. See :func:`numpy.tril`."""
    m = atleast_1d(m)
    m = broadcast_to(m, m.shape * 2) if m.ndim == 1 else m
    return Array(build.elementwise(pick, [at_and_below(m.chunks, k), m.node, m.dtype.type(0)], m.dtype, "tril"))


def triu(m: Any, k: int = 0) -> Array:
    """The matrix with zeros below a diagonal. See :func:`numpy.triu`."""
    m = atleast_1d(m)
    m = broadcast_to(m, m.shape * 2) if m.ndim == 1 else m
    return Array(build.elementwise(pick, [at_and_below(m.chunks, k - 1), m.dtype.type(0), m.node], m.dtype, "triu"))


# ---------------------------------------------------------------- turning


def flip(m: Any, axis: int | Sequence[int] | None = None) -> Array:
    """Elements in reversed order along axes (default: all). See :func:`numpy.flip`."""
    m = asarray(m)
    axes = range(m.ndim) if axis is None else normalize_axis_tuple(axis, m.ndim)
    return getitem(m, tuple(slice(None, None, -1) if k in axes else FULL for k in range(m.ndim)))


def flipud(m: Any) -> Array:
    """:func:`flip` along the first axis."""
    return flip(m, 0)


def fliplr(m: Any) -> Array:
    """:func:`flip` along the second axis."""
    if asarray(m).ndim < 2:
        raise PlanError("fliplr: input must be at least two-dimensional; use flip()")
    return flip(m, 1)


def rot90(m: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Array:
    """The array turned by quarters in a plane of two axes. See :func:`numpy.rot90`."""
    m = asarray(m)
    if len(axes) != 2:
        raise PlanError(f"rot90: axes={tuple(axes)} must be two axes")
    first, second = normalize_axis_tuple(axes, m.ndim)
    k %= 4
    turned = {0: (), 1: (second,), 2: (first, second), 3: (first,)}[k]
    m = flip(m, turned)
    return m.swapaxes(first, second) if k % 2 else m


def roll(a: Any, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Array:
    """Elements shifted along axes, those that fall off put in at the other end. See :func:`numpy.roll`."""
    a = asarray(a)
    if axis is None:
        return reshape(roll(ravel(a), shift, 0), a.shape)
    shift = in_memory(shift, "roll: shift")
    for by, k in zip(*np.broadcast_arrays(np.atleast_1d(shift), np.atleast_1d(axis)), strict=True):
        k = normalize_axis_index(int(k), a.ndim)
        n = a.shape[k]
        by = int(by) % n if n else 0
        if by:
            a = concatenate([_cut(a, k, slice(n - by, n)), _cut(a, k, slice(0, n - by))], k)
    return a


# ---------------------------------------------------------------- repeating


def tile(A: Any, reps: Any) -> Array:
    """The array repeated as a whole. See :func:`numpy.tile`."""
    a = asarray(A)
    reps = in_memory(reps, "tile: reps")
    times = tuple(map(operator.index, reps if np.iterable(reps) else (reps,)))
    if any(r < 0 for r in times):
        raise PlanError(f"tile: reps={reps} must not be negative")
    a = getitem(a, (None,) * (len(times) - a.ndim))
    times = (1,) * (a.ndim - len(times)) + times
    for k, r in enumerate(times):
        a = concatenate([a] * r, k) if r > 1 else _cut(a, k, slice(0, 0)) if r == 0 else a
    return a


def repeat(a: Any, repeats: Any, axis: int | None = None) -> Array:
    """Each element repeated. See :func:`numpy.repeat`."""
    a, axis = _along(a, axis)
    n = known_length(a, axis, "repeat")
    if isinstance(repeats, Array):  # how many there will be is unknown
        names = range(a.ndim)
        inputs: list[Any] = [(a.node, names), (broadcast_to(atleast_1d(repeats), (n,)).node, [axis])]
        function = BlockFunction(_repeat, (Slot(0), Slot(1)), {"axis": axis})
        return Array(build.blockwise(function, names, inputs, a.dtype, adjust_chunks={axis: nan}, label="repeat"))
    return _cut(a, axis, np.repeat(np.arange(n), repeats))


def _repeat(block: np.ndarray, repeats: np.ndarray, *, axis: int) -> np.ndarray:
    return np.repeat(block, repeats, axis)
