"""NumPy's functions that take functions: along axes, over axes, piece by piece, and coarsened.

What is applied sees NumPy arrays, one block at a time, except in :func:`apply_over_axes`, whose functions are those of
this package or NumPy's and stay lazy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tilework.array.binding import infer, name_of
from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.array.indexing import getitem
from tilework.array.mapping import blockwise, map_blocks
from tilework.array.order import in_one_block
from tilework.array.shapes import expand_dims
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.plan import build
from tilework.plan.blocks import AxisChunks


def apply_along_axis(
    func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, dtype: Any = None, shape: Any = None, **kwargs: Any
) -> Array:
    """Apply a function to one-dimensional parts along an axis, which becomes one block.

    See :func:`numpy.apply_along_axis`.

    Parameters
    ----------
    func1d
        Called with one-dimensional NumPy arrays; all results have one shape.
    axis
        The axis.
    arr
        The array.
    *args, **kwargs
        More arguments of ``func1d``.
    dtype, shape
        What ``func1d`` returns. Without them it is called once with ones, as many as the axis is long, to see.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.arange(6, chunks=2).reshape(2, 3)
    >>> ta.apply_along_axis(lambda row: row[[0, -1]], 1, x).compute()
    array([[0, 2],
           [3, 5]])
    """
    arr = asarray(arr)
    axis = normalize_axis_index(axis, arr.ndim)
    label = f"apply_along_axis({name_of(func1d)})"
    if dtype is None or shape is None:
        if not arr.chunks[axis].known:
            raise UnknownChunksError(f"{label}: axis {axis} has unknown length; give dtype and shape")
        sample = np.asarray(
            infer(func1d, lambda _: (np.ones(arr.shape[axis], arr.dtype), *args), kwargs, label, "dtype= and shape=")
        )
        dtype = sample.dtype if dtype is None else dtype
        shape = sample.shape if shape is None else shape
    shape = tuple(shape)
    whole = Array(in_one_block(arr.node, (axis,), label))
    return map_blocks(
        _along_axis, whole, func1d, axis, args, kwargs, dtype=dtype, name=label, drop_axis=axis,
        new_axis=list(range(axis, axis + len(shape))),
        chunks=(*whole.chunks[:axis], *((n,) for n in shape), *whole.chunks[axis + 1 :]),
    )  # fmt: skip


def _along_axis(
    block: np.ndarray, func1d: Callable[..., Any], axis: int, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> np.ndarray:
    return np.apply_along_axis(func1d, axis, block, *args, **kwargs)


def apply_over_axes(func: Callable[..., Any], a: Any, axes: Any) -> Array:
    """Apply a function of arrays over several axes, one after another. See :func:`numpy.apply_over_axes`.

    ``func(array, axis)`` gets lazy arrays. It returns one with as many dimensions, or without the axis.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.apply_over_axes(ta.sum, ta.ones((2, 3, 4), chunks=2), [0, 2]).compute()
    array([[[8.],
            [8.],
            [8.]]])
    """
    a = asarray(a)
    for axis in (axes,) if np.ndim(axes) == 0 else axes:
        axis = normalize_axis_index(int(axis), a.ndim)
        result = asarray(func(a, axis))
        if result.ndim not in (a.ndim, a.ndim - 1):
            raise PlanError("apply_over_axes: function is not returning an array of the correct shape")
        a = result if result.ndim == a.ndim else expand_dims(result, axis)
    return a


def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Array:
    """Apply to each element the function whose condition holds. See :func:`numpy.piecewise`.

    Parameters
    ----------
    x
        The array.
    condlist
        Boolean arrays of the shape of ``x``; the last one that holds counts.
    funclist
        For each condition a function or a value, and maybe one more where no condition holds. Functions get those
        elements of a block for which they are chosen.
    *args, **kw
        More arguments of the functions.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.arange(-2, 3, chunks=2)
    >>> ta.piecewise(x, [x < 0, x >= 0], [lambda v: -v, lambda v: 10 * v]).compute()
    array([ 2,  1,  0, 10, 20])
    """
    x = asarray(x)
    if not isinstance(condlist, list | tuple) or (x.ndim and np.ndim(condlist[0]) == 0):
        condlist = [condlist]
    conditions = [asarray(condition, bool) for condition in condlist]
    if len(funclist) not in (len(conditions), len(conditions) + 1):
        n = len(conditions)
        raise PlanError(f"piecewise: with {n} conditions, either {n} or {n + 1} functions are expected")
    labels = tuple(range(x.ndim))
    pairs = [entry for array in (x, *conditions) for entry in (array, labels)]
    return blockwise(_piecewise, labels, *pairs, dtype=x.dtype, name="piecewise", funclist=funclist, options=(args, kw))


def _piecewise(x: np.ndarray, *conditions: np.ndarray, funclist: Sequence[Any], options: Any) -> np.ndarray:
    args, kwargs = options
    return np.piecewise(x, list(conditions), funclist, *args, **kwargs)


def coarsen(
    reduction: Callable[..., Any], x: Any, axes: Mapping[int, int], trim_excess: bool = False, **kwargs: Any
) -> Array:
    """Reduce an array in boxes of neighbours.

    Parameters
    ----------
    reduction
        Such as ``numpy.sum``: ``reduction(block, axis=axes, **kwargs)``.
    x
        The array.
    axes
        For each axis to make shorter how many neighbours become one.
    trim_excess
        Leave out what is too little for a box at the end of an axis.
    **kwargs
        More arguments of ``reduction``.

    Raises
    ------
    PlanError
        If an axis is no multiple of its box, and ``trim_excess`` is not set.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> ta.coarsen(np.mean, ta.arange(6, chunks=4), {0: 2}).compute()
    array([0.5, 2.5, 4.5])
    """
    x = asarray(x)
    sides = {normalize_axis_index(axis, x.ndim): int(n) for axis, n in axes.items()}
    if reduction.__module__.startswith("tilework."):
        reduction = getattr(np, reduction.__name__)
    chunks = list(x.chunks)
    for axis, side in sides.items():
        n = x.shape[axis]
        if not chunks[axis].known:
            raise UnknownChunksError(f"coarsen: axis {axis} has unknown length; call compute_chunk_sizes() first")
        if side < 1 or (n % side and not trim_excess):
            raise PlanError(f"coarsen: factors {sides} do not align with the shape {x.shape}; or pass trim_excess=True")
        x = getitem(x, (slice(None),) * axis + (slice(0, n - n % side),))
        chunks[axis] = _whole_boxes(x.chunks[axis], side)
    x = Array(build.rechunk(x.node, tuple(chunks)))
    labels = tuple(range(x.ndim))
    result = blockwise(
        _coarsened, labels, x, labels, reduction=reduction, options=kwargs, dtype=_dtype(reduction, x, kwargs),
        sides=tuple(sides.get(axis, 1) for axis in labels), name="coarsen",
        adjust_chunks={axis: tuple(size // side for size in chunks[axis]) for axis, side in sides.items()},
    )  # fmt: skip
    return result


def _whole_boxes(axis: AxisChunks, side: int) -> AxisChunks:
    """Chunks near those of ``axis`` that divide no box."""
    bounds = np.unique(axis.bounds // side * side)
    return AxisChunks(np.diff(bounds).tolist() or (0,))


def _dtype(reduction: Callable[..., Any], x: Array, kwargs: Mapping[str, Any]) -> np.dtype[Any]:
    sample = infer(reduction, lambda n: (np.ones((1,) * x.ndim, x.dtype),), kwargs, "coarsen", "dtype=")
    return np.asarray(sample).dtype


def _coarsened(
    block: np.ndarray, *, reduction: Callable[..., Any], sides: tuple[int, ...], options: Mapping[str, Any]
) -> np.ndarray:
    shape = [n for size, side in zip(block.shape, sides, strict=True) for n in (size // side, side)]
    return np.asarray(reduction(block.reshape(shape), axis=tuple(range(1, 2 * block.ndim, 2)), **options))


__all__ = ["apply_along_axis", "apply_over_axes", "coarsen", "piecewise"]
