"""Axes and shapes: permuted, added, dropped, stretched, joined and divided. No value is touched.

Whatever only permutes, adds, drops or stretches axes is one ``rearrange`` node and costs nothing when it runs; slices
move down through it. Only a true reshape may have to rechunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from tilework.array.core import Array
from tilework.array.creation import asarray, normalize, shape_of
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.plan import build, reshaping
from tilework.plan.ops import ArrayNode, Blockwise, Elementwise

# ---------------------------------------------------------------- order of the axes


def transpose(a: Any, axes: Sequence[int] | None = None) -> Array:
    """Axes in another order; reversed by default. See :func:`numpy.transpose`."""
    a = asarray(a)
    if axes is None:
        axes = range(a.ndim)[::-1]
    axes = axes if np.iterable(axes) else (axes,)
    if len(axes) != a.ndim:
        raise PlanError(f"transpose: axes {tuple(axes)} don't match an array of {a.ndim} dimensions")
    return Array(build.rearrange(a.node, normalize_axis_tuple(axes, a.ndim)))


def permute_dims(x: Any, axes: Sequence[int]) -> Array:
    """Axes in another order, as the array API calls it."""
    return transpose(x, axes)


def matrix_transpose(x: Any, /) -> Array:
    """The last two axes exchanged."""
    x = asarray(x)
    if x.ndim < 2:
        raise PlanError(f"matrix_transpose needs two dimensions or more, not shape {x.shape}")
    return swapaxes(x, -1, -2)


def swapaxes(a: Any, axis1: int, axis2: int) -> Array:
    """Two axes exchanged. See :func:`numpy.swapaxes`."""
    a = asarray(a)
    order = list(range(a.ndim))
    i, j = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    order[i], order[j] = j, i
    return Array(build.rearrange(a.node, order))


def as_it_lies(array: Array) -> tuple[Array, list[int]]:
    """The array before it was transposed, and for each of its axes which one that has become.

    For functions of blocks: their blocks are used as they lie in memory, where a transposed block would be a copy.
    """
    node = array.node
    if isinstance(node, Blockwise) and isinstance(node.op, Elementwise) and node.op.fn is None:
        order: list[Any] = list(node.axes[0])
        if sorted(order) == list(range(node.ndim)) and all(
            have == node.chunks[a] for have, a in zip(node.inputs[0].chunks, order, strict=True)
        ):
            return Array(node.inputs[0]), order
    return array, list(range(array.ndim))


def moveaxis(a: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Array:
    """Axes moved to other places. See :func:`numpy.moveaxis`."""
    a = asarray(a)
    sources = normalize_axis_tuple(source, a.ndim, "source")
    places = normalize_axis_tuple(destination, a.ndim, "destination")
    if len(sources) != len(places):
        raise PlanError(f"moveaxis: {len(sources)} axes cannot move to {len(places)} places; give as many of both")
    order = [axis for axis in range(a.ndim) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return Array(build.rearrange(a.node, order))


def rollaxis(a: Any, axis: int, start: int = 0) -> Array:
    """An axis rolled backwards until it lies before ``start``. See :func:`numpy.rollaxis`."""
    a = asarray(a)
    axis = normalize_axis_index(axis, a.ndim)
    start = normalize_axis_index(start + a.ndim if start < 0 else start, a.ndim + 1)
    order = [k for k in range(a.ndim) if k != axis]
    order.insert(start - (axis < start), axis)
    return Array(build.rearrange(a.node, order))


# ---------------------------------------------------------------- axes of length one


def expand_dims(a: Any, /, axis: int | Sequence[int] = 0) -> Array:
    """New axes of length one. See :func:`numpy.expand_dims`."""
    a = asarray(a)
    ndim = a.ndim + (1 if isinstance(axis, int | np.integer) else len(axis))
    new = normalize_axis_tuple(axis, ndim)
    old = iter(range(a.ndim))
    return Array(build.rearrange(a.node, [None if k in new else next(old) for k in range(ndim)], label="expand_dims"))


def squeeze(a: Any, axis: int | Sequence[int] | None = None) -> Array:
    """Axes of length one dropped. See :func:`numpy.squeeze`."""
    a = asarray(a)
    drop = [k for k, n in enumerate(a.shape) if n == 1] if axis is None else normalize_axis_tuple(axis, a.ndim)
    wrong = [k for k in drop if a.shape[k] != 1]
    if wrong:
        raise PlanError(
            f"squeeze: axis {wrong[0]} of length {a.shape[wrong[0]]} cannot be dropped; only length one can"
        )
    return Array(build.rearrange(a.node, [k for k in range(a.ndim) if k not in drop], label="squeeze"))


def _at_least(x: Any, ndim: int) -> Array:
    """Axes added as numpy.atleast_1d, 2d and 3d do: in front, but the third one at the end."""
    x = asarray(x)
    order: list[int | None] = list(range(x.ndim))
    while len(order) < ndim:
        order.insert(2 if len(order) == 2 else 0, None)
    return Array(build.rearrange(x.node, order, label=f"atleast_{ndim}d"))


def _each_at_least(arrays: tuple[Any, ...], ndim: int) -> Any:
    return _at_least(arrays[0], ndim) if len(arrays) == 1 else tuple(_at_least(a, ndim) for a in arrays)


def atleast_1d(*arys: Any) -> Any:
    """Arrays of at least one dimension. See :func:`numpy.atleast_1d`."""
    return _each_at_least(arys, 1)


def atleast_2d(*arys: Any) -> Any:
    """Arrays of at least two dimensions. See :func:`numpy.atleast_2d`."""
    return _each_at_least(arys, 2)


def atleast_3d(*arys: Any) -> Any:
    """Arrays of at least three dimensions. See :func:`numpy.atleast_3d`."""
    return _each_at_least(arys, 3)


# ---------------------------------------------------------------- broadcasting


def broadcast_to(x: Any, shape: Any, chunks: Any = None, subok: bool = False, *, meta: Any = None) -> Array:
    """Axes of length one stretched, and new ones in front. See :func:`numpy.broadcast_to`.

    Parameters
    ----------
    x
        The array.
    shape
        The new shape.
    chunks
        Chunks of the result. They can be chosen along stretched axes only; default: automatic there.
    subok, meta
        Without effect; for programs written for NumPy or Dask.
    """
    x = asarray(x)
    shape = shape_of(shape)
    missing = len(shape) - x.ndim
    grown = [k for k, n in enumerate(shape) if k < missing or (x.shape[k - missing] == 1 and n != 1)]
    if missing < 0 or any(
        k not in grown and shape[k] != x.shape[k - missing] and x.shape[k - missing] == x.shape[k - missing]
        for k in range(len(shape))
    ):
        raise PlanError(f"cannot broadcast an array of shape {x.shape} to {shape}")
    kept = {k: x.chunks[k - missing] for k in range(len(shape)) if k not in grown}
    if chunks is None:
        auto = "auto" if all(axis.known for axis in kept.values()) and not x.dtype.hasobject else -1
        chunks = tuple(kept.get(k, auto) for k in range(len(shape)))
    sizes = normalize(chunks, [kept[k].total if k in kept else n for k, n in enumerate(shape)], x.dtype)
    node = build.rearrange(
        x.node, [None if k < missing else k - missing for k in range(len(shape))],
        {k: sizes[k] for k in grown}, label="broadcast_to",
    )  # fmt: skip
    return Array(build.rechunk(node, sizes))


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that arrays of these shapes broadcast to."""
    return np.broadcast_shapes(*shapes)


def broadcast_arrays(*args: Any, subok: bool = False) -> tuple[Array, ...]:
    """Arrays stretched to one shape. See :func:`numpy.broadcast_arrays`."""
    arrays = [asarray(a) for a in args]
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except TypeError:
        raise UnknownChunksError("broadcast_arrays needs known shapes; call compute_chunk_sizes() first") from None
    return tuple(broadcast_to(a, shape) for a in arrays)


# ---------------------------------------------------------------- reshape


def reshape_node(node: ArrayNode, shape: Sequence[int]) -> ArrayNode:
    """C-order reshape. Where only axes of length one come and go, nothing is rechunked and sizes may be unknown."""
    if tuple(shape) == node.shape:
        return node
    long = [axis for axis, n in enumerate(node.shape) if n != 1]
    if [node.shape[axis] for axis in long] == [n for n in shape if n != 1]:
        old = iter(long)
        return build.rearrange(node, [None if n == 1 else next(old) for n in shape], label="reshape")
    _require_known(node)
    for step in reshaping.reshape_route(node.shape, tuple(shape)):
        node = build.reshape(node, step)
    return node


def _require_known(node: ArrayNode) -> None:
    if not all(axis.known for axis in node.chunks):
        raise UnknownChunksError("reshape needs known chunk sizes; call compute_chunk_sizes() first")


def reshape(
    x: Any, /, shape: Any, order: str = "C", *, merge_chunks: bool = True, limit: Any = None, copy: bool | None = None
) -> Array:
    """The same elements, in C order, in another shape.

    Chunks are changed so that each block of the result is one block of the input: which takes a rechunk where axes
    are joined of which more than the first has several blocks.

    Parameters
    ----------
    x
        The array.
    shape
        Lengths of the axes; one of them may be -1.
    order
        ``"C"``, or ``"F"`` for the transposed order.
    merge_chunks, limit, copy
        Without effect; for programs written for Dask or the array API.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.arange(6, chunks=2).reshape(2, 3).compute()
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    x = asarray(x)
    if order == "F":
        return transpose(reshape(transpose(x), shape_of(shape, signed=True)[::-1]))
    if order not in ("C", "A"):
        raise PlanError(f"reshape: order={order!r} must be 'C' or 'F'")
    shape = shape_of(shape, signed=True)
    if x.ndim == 1 and not x.chunks[0].known and [n for n in shape if n != 1] == [-1]:  # no element moves
        return Array(build.rearrange(x.node, [0 if n == -1 else None for n in shape], label="reshape"))
    _require_known(x.node)
    return Array(reshape_node(x.node, reshaping.resolve_shape(x.shape, shape)))


def reshape_blockwise(x: Any, shape: Any, chunks: Any = None) -> Array:
    """Every block reshaped by itself, in the order of the blocks: no data moves, but the order is not NumPy's.

    Parameters
    ----------
    x
        The array.
    shape
        Lengths of the axes. Neighbouring axes are joined; or divided, if ``chunks`` says how.
    chunks
        Of a result that has more axes than ``x``: block by block as many elements as the blocks of ``x`` have.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.arange(8, chunks=8).reshape(2, 4).rechunk((2, 2))
    >>> ta.reshape_blockwise(x, 8).compute()
    array([0, 1, 4, 5, 2, 3, 6, 7])
    """
    x = asarray(x)
    if not all(axis.known for axis in x.chunks):
        raise UnknownChunksError(
            "reshape_blockwise: array chunk size or shape is unknown; call compute_chunk_sizes() first"
        )
    shape = reshaping.resolve_shape(x.shape, shape_of(shape, signed=True))
    if shape == x.shape:
        return x
    if len(shape) > x.ndim:
        if chunks is None:
            raise TypeError("reshape_blockwise: need to specify chunks if expanding dimensions")
        return Array(build.reshape_blocks(x.node, normalize(chunks, shape, x.dtype)))
    if chunks is not None:
        raise PlanError("reshape_blockwise: setting chunks is not allowed when reducing the number of dimensions")
    return Array(build.reshape_blocks(x.node, reshaping.joined_chunks(x.chunks, shape)))


def ravel(a: Any, order: str = "C") -> Array:
    """One axis that runs through all elements. See :func:`numpy.ravel`."""
    return reshape(asarray(a), (-1,), order)


def shape(a: Any) -> tuple[Any, ...]:
    """Lengths of the axes; NaN if unknown."""
    return asarray(a).shape


def ndim(a: Any) -> int:
    """Number of axes."""
    return asarray(a).ndim


def size(a: Any, axis: int | Sequence[int] | None = None) -> Any:
    """Number of elements, of all or along axes."""
    a = asarray(a)
    return a.size if axis is None else prod(a.shape[k] for k in normalize_axis_tuple(axis, a.ndim))
