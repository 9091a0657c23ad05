"""Users' own functions of whole blocks: :func:`map_blocks`, :func:`blockwise` and :func:`reduction`.

The calls are Dask's. What differs: a function is run for its dtype once, on empty input (a second time, on input of
one element, only if the first raised), and never if ``dtype`` or ``meta`` say it; and what it returns for a block is
compared with what was announced. Lazy arrays and delayed values may stand anywhere in the arguments: an array that is
not itself mapped over arrives as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import numpy as np

from tilework.array.binding import (
    InputPlace,
    Placed,
    bind,
    box,
    dtype_of,
    has_parameter,
    infer,
    name_of,
    stand_in,
    stand_ins,
)
from tilework.array.core import Array, into
from tilework.array.creation import asarray
from tilework.array.elementwise import Mapped
from tilework.array.shapes import broadcast_to
from tilework.base import config
from tilework.base.errors import ChunkError, DTypeError, PlanError
from tilework.plan import build
from tilework.plan.ops import ArrayNode, BlockFunction
from tilework.plan.reductions import Reduction


def blockwise(
    func: Callable[..., Any],
    out_ind: Iterable[Hashable],
    *args: Any,
    name: str | None = None,
    token: str | None = None,
    dtype: Any = None,
    adjust_chunks: Mapping[Hashable, Any] | None = None,
    new_axes: Mapping[Hashable, Any] | None = None,
    align_arrays: bool = True,
    concatenate: bool | None = None,
    meta: Any = None,
    **kwargs: Any,
) -> Array:
    """Apply a function to blocks of arrays, in index notation.

    Parameters
    ----------
    func
        Called with one block of each array and with the literals.
    out_ind
        Names of the result's axes: ``"ij"`` or a tuple of anything hashable.
    *args
        Arrays and the names of their axes in turn; literals are paired with None. Names that do not stand in
        ``out_ind`` are contracted: all blocks along them go into one call.
    name, token
        What the operation is called in drawings and errors.
    dtype
        Type of the result. Without it (and ``meta``) the function is run on empty blocks to see.
    adjust_chunks
        How ``func`` changes block sizes along an axis: a size, a tuple of sizes, or a function of the size.
    new_axes
        Lengths (or chunks) of names that stand in no input.
    align_arrays
        Rechunk the arrays to common chunks. Otherwise only the numbers of blocks must agree.
    concatenate
        Join blocks along contracted axes into one array. Otherwise they come as nested lists.
    meta
        An array of the result's dtype.
    **kwargs
        More arguments of ``func``.

    Returns
    -------
    Array

    Raises
    ------
    DTypeError
        If the function raises on empty blocks and on blocks of one element, and no dtype is given.
    ChunkError
        If the arrays' chunks do not match.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x, y = ta.arange(3, chunks=2), ta.arange(4, chunks=3)
    >>> ta.blockwise(np.multiply.outer, "ij", x, "i", y, "j").compute()
    array([[0, 0, 0, 0],
           [0, 1, 2, 3],
           [0, 2, 4, 6]])
    """
    if len(args) % 2:
        raise PlanError(f"blockwise: {len(args)} arguments after out_ind; give arrays and their indices in turn")
    out_ind = tuple(out_ind)
    repeated = [label for label in out_ind if out_ind.count(label) > 1]
    if repeated:
        raise PlanError(f"blockwise: the output index {out_ind!r} repeats {repeated[0]!r}")
    pairs = [
        (arg if labels is None else asarray(arg), None if labels is None else tuple(labels))
        for arg, labels in zip(args[::2], args[1::2], strict=True)
    ]
    named = {label for _, labels in pairs if labels is not None for label in labels} | set(new_axes or ())
    unknown = [label for label in out_ind if label not in named]
    if unknown:
        raise PlanError(f"blockwise: {unknown[0]!r} stands in no input; give its length in new_axes")
    label = name or token or name_of(func)
    if dtype is None and meta is None:
        trial = partial(stand_ins, pairs, out_ind, bool(concatenate))
        dtype = dtype_of(infer(func, trial, kwargs, f"blockwise({label})"), f"blockwise({label})")
    dtype = _dtype(dtype, meta)
    call = bind(func, pairs, kwargs, out_ind, bool(concatenate), label)
    node = build.blockwise(
        call.function(), out_ind, call.inputs, dtype,
        new_axes=new_axes, adjust_chunks=adjust_chunks, align=align_arrays, label=label,
    )  # fmt: skip
    return Array(node)


def map_blocks(
    func: Callable[..., Any],
    *args: Any,
    name: str | None = None,
    token: str | None = None,
    dtype: Any = None,
    chunks: Sequence[Any] | None = None,
    drop_axis: int | Iterable[int] | None = None,
    new_axis: int | Iterable[int] | None = None,
    enforce_ndim: bool = False,
    meta: Any = None,
    **kwargs: Any,
) -> Array:
    """Apply a function to every block of one or several arrays.

    Arrays are matched block by block, counted from the last axis; one block along an axis goes with all blocks of the
    others. If ``func`` has a parameter ``block_id`` or ``block_info``, it is told which block it works on.

    Parameters
    ----------
    func
        Called with one block of each array; returns one block.
    *args
        Lazy arrays; anything else is handed to every call as it is.
    name, token
        What the operation is called in drawings and errors.
    dtype
        Type of the result. Without it (and ``meta``) the function is run on empty blocks to see.
    chunks
        Sizes of the result's blocks if ``func`` changes them: for each axis one size or a tuple of sizes.
    drop_axis
        Axes that ``func`` removes. Their blocks are joined before ``func`` sees them.
    new_axis
        Axes that ``func`` adds. Without ``chunks`` they have the length that is seen on empty blocks, or else one.
    enforce_ndim
        Without effect: every block's dimensions, sizes and dtype are checked.
    meta
        An array of the result's dtype.
    **kwargs
        More arguments of ``func``.

    Returns
    -------
    Array

    Raises
    ------
    DTypeError
        If the function raises on empty blocks and on blocks of one element, and no dtype is given.
    ChunkError
        If the numbers of blocks do not match.

    Notes
    -----
    ``block_id`` is the block's place in the grid of the result. ``block_info`` maps the number of each array argument,
    and None for the result, to a dict with ``shape``, ``num-chunks``, ``array-location`` and ``chunk-location``; the
    result's has ``chunk-shape`` and ``dtype`` as well.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x = ta.arange(6, chunks=3)
    >>> ta.map_blocks(lambda block: block[::-1], x).compute()
    array([2, 1, 0, 5, 4, 3])
    >>> def number(block_info=None):
    ...     return np.arange(*block_info[None]["array-location"][0])
    >>> ta.map_blocks(number, chunks=((4, 4),), dtype=int).compute()
    array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    if not callable(func):
        raise TypeError(f"map_blocks: the first argument must be a function, not {type(func).__name__}")
    label = name or token or name_of(func)
    ndim = max((arg.ndim for arg in args if isinstance(arg, Array)), default=0)
    pairs = [(arg, tuple(range(arg.ndim))[::-1] if isinstance(arg, Array) else None) for arg in args]
    drop = axes_of(drop_axis, ndim, "drop_axis")
    out: list[Hashable] = [ndim - 1 - axis for axis in range(ndim) if axis not in drop]
    if new_axis is None and chunks is not None and len(out) < len(chunks):
        new_axis = range(len(chunks) - len(out))
    new_axes: dict[Hashable, Any] = {}
    fresh = [new_axis] if isinstance(new_axis, int | np.integer) else list(new_axis or ())
    for axis in sorted(axes_of(fresh, len(out) + len(fresh), "new_axis")):
        out.insert(axis, ndim + len(new_axes))
        new_axes[out[axis]] = 1 if chunks is None or axis >= len(chunks) else chunks[axis]
    if chunks is not None and len(chunks) != len(out):
        raise ChunkError(
            f"map_blocks({label}): chunks={tuple(chunks)!r} name {len(chunks)} axes, the result has {len(out)}"
        )
    if dtype is None and meta is None:
        trial = partial(stand_ins, pairs, out, True)
        sample = infer(func, trial, kwargs, f"map_blocks({label})")
        dtype = dtype_of(sample, f"map_blocks({label})")
        if chunks is None and np.ndim(sample) == len(out):
            new_axes = {axis: np.shape(sample)[out.index(axis)] or 1 for axis in new_axes}
    dtype = _dtype(dtype, meta)
    call = bind(func, pairs, kwargs, out, True, label)
    adjust = None if chunks is None else dict(zip(out, chunks, strict=True))

    def node_for(function: BlockFunction) -> ArrayNode:
        return build.blockwise(
            function, out, call.inputs, dtype,
            new_axes=new_axes, adjust_chunks=adjust, align=False, label=label,
        )  # fmt: skip

    node = node_for(call.function())
    wants = {what for what in ("block_id", "block_info") if has_parameter(func, what)}
    if wants:  # these depend on the result's chunks, so it is built twice
        places = tuple(
            InputPlace(k, arg.chunks, tuple(out.index(name) if name in out else None for name in labels))
            for k, (arg, labels) in enumerate(pairs)
            if labels is not None
        )
        node = node_for(call.function(Placed(call.func, frozenset(wants), places, node.chunks, node.dtype)))
    return Array(node)


def reduction(
    x: Any,
    chunk: Callable[..., Any],
    aggregate: Callable[..., Any] | None = None,
    axis: int | Iterable[int] | None = None,
    keepdims: bool = False,
    dtype: Any = None,
    split_every: int | Mapping[int, int] | None = None,
    combine: Callable[..., Any] | None = None,
    name: str | None = None,
    out: Any = None,
    concatenate: bool = True,
    output_size: float | None = None,
    meta: Any = None,
    weights: Any = None,
) -> Array:
    """A tree reduction of one's own.

    Parameters
    ----------
    x
        The array.
    chunk
        ``chunk(block, axis=axes, keepdims=True)`` reduces one block; ``axes`` is a tuple.
    aggregate
        ``aggregate(partial, axis=axes, keepdims=keepdims)`` makes the result of what is left at the end. Default:
        ``combine``, or else ``chunk``.
    axis
        Axes to reduce; all by default.
    keepdims
        Keep the reduced axes, with length ``output_size``.
    dtype
        Type of the result; this or ``meta`` is needed.
    split_every
        How many partial results are joined at a time, as a whole or for each axis.
    combine
        ``combine(partial, axis=axes, keepdims=True)`` joins some of the partial results. Default: ``aggregate``.
    name
        What the operation is called in drawings and errors.
    out
        A lazy array that shall hold the result.
    concatenate
        Join partial results into one array before ``combine`` and ``aggregate`` see them. Otherwise these get nested
        lists, one level an axis, and partial results may be anything.
    output_size
        Length of the reduced axes in the result if ``keepdims``. Otherwise the functions are run on a block of ones:
        if they leave more than one element, the length is unknown.
    meta
        An array of the result's dtype.
    weights
        An array that broadcasts to ``x``. ``chunk`` gets the part that belongs to its block as ``weights=``.

    Returns
    -------
    Array

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x = ta.arange(10, chunks=4)
    >>> ta.reduction(x, np.max, np.max, dtype=x.dtype).compute()
    np.int64(9)
    """
    x = asarray(x)
    if dtype is None and meta is None:
        raise DTypeError("reduction: the type of the result is not known; pass dtype=")
    dtype = _dtype(dtype, meta)
    axes = build.normalize_axis(tuple(axis) if isinstance(axis, Iterable) else axis, x.ndim)
    aggregate = aggregate or combine or chunk
    chunk, aggregate = (partial(f, dtype=dtype) if has_parameter(f, "dtype") else f for f in (chunk, aggregate))
    if keepdims and output_size is None:
        output_size = _output_size(chunk, aggregate, x, axes, concatenate)
    if weights is not None:
        x, chunk = _with_weights(x, weights), _Weighted(chunk)
    final = _Final(aggregate, axes, keepdims, concatenate)
    join: Callable[..., Any]
    finish: Callable[..., Any]
    if combine is not None:
        join, finish = _Joined(combine, concatenate), final
    elif all(x.numblocks[a] == 1 for a in axes):
        join, finish = _unchanged, final
    else:  # every level is an aggregate, so the last one has given the result already
        join, finish = _Joined(aggregate, concatenate), (_unchanged if concatenate else _unboxed)
    label = name or name_of(aggregate)
    rule = Reduction(label, _Partial(chunk, concatenate), join, finish, partial_itemsize=dtype.itemsize)
    every = config.get().split_every if split_every is None else split_every
    sizes = dict.fromkeys(axes, output_size or 1)
    node = build.reduce(x.node, rule, axes, dtype, keepdims=keepdims, split_every=every, out_sizes=sizes)
    return Array(node) if out is None else into(out, Array(node), label)


def _dtype(dtype: Any, meta: Any) -> np.dtype[Any]:
    return np.dtype(dtype) if dtype is not None else np.dtype(getattr(meta, "dtype", meta))


def axes_of(axes: int | Iterable[int] | None, ndim: int, what: str) -> tuple[int, ...]:
    """The keyword ``what`` as axes from 0 to ``ndim``."""
    if axes is None:
        return ()
    try:
        return tuple(np.lib.array_utils.normalize_axis_tuple(tuple(axes) if isinstance(axes, Iterable) else axes, ndim))
    except ValueError as error:
        raise PlanError(f"map_blocks: {what}={axes!r} does not fit {ndim} dimensions: {error}") from None


# ---------------------------------------------------------------- a reduction of one's own
#
# With concatenate=False partial results may be anything, so each travels as the one element of an object array.
# Those arrays are joined like others, and taken apart into nested lists before the user's function sees them.


def _output_size(
    chunk: Callable[..., Any], aggregate: Callable[..., Any], x: Array, axes: tuple[int, ...], concatenate: bool
) -> float:
    """One, or NaN if the functions leave more of a block that is two long."""
    try:
        partial_ = _Partial(chunk, concatenate)(stand_in(x, 2), axes)
        left = _Final(aggregate, axes, True, concatenate)(partial_)
    except Exception:  # the functions cannot do with ones: they shall have what they announce
        return 1
    return 1 if all(left.shape[a] == 1 for a in axes) else nan


def _with_weights(x: Array, weights: Any) -> Array:
    """Pairs of an element and its weight: one block holds both."""
    weights = broadcast_to(asarray(weights), x.shape)
    pair = np.dtype([("x", x.dtype), ("weights", weights.dtype)])
    return Array(build.elementwise(Mapped(_paired, (("pair", pair),)), [x.node, weights.node], pair, "weights"))


def _paired(x: np.ndarray, weights: np.ndarray, *, pair: np.dtype[Any]) -> np.ndarray:
    out = np.empty(np.broadcast_shapes(x.shape, weights.shape), pair)
    out["x"], out["weights"] = x, weights
    return out


@dataclass(frozen=True, slots=True)
class _Weighted:
    func: Callable[..., Any]

    def __call__(self, pairs: np.ndarray, **kwargs: Any) -> Any:
        return self.func(pairs["x"], weights=pairs["weights"], **kwargs)


@dataclass(frozen=True, slots=True)
class _Partial:
    func: Callable[..., Any]
    concatenate: bool

    def __call__(self, block: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
        partial_ = self.func(block, axis=axis, keepdims=True)
        return np.asarray(partial_) if self.concatenate else box(partial_, block.ndim)


@dataclass(frozen=True, slots=True)
class _Joined:
    func: Callable[..., Any]
    concatenate: bool

    def __call__(self, partial_: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
        if self.concatenate:
            return np.asarray(self.func(partial_, axis=axis, keepdims=True))
        return box(self.func(_nested(partial_, axis), axis=axis, keepdims=True), partial_.ndim)


@dataclass(frozen=True, slots=True)
class _Final:
    """``aggregate``, called as the user wants it, the reduced axes put back if it has dropped them."""

    func: Callable[..., Any]
    axis: tuple[int, ...]
    keepdims: bool
    concatenate: bool

    def __call__(self, partial_: np.ndarray) -> np.ndarray:
        given = partial_ if self.concatenate else _nested(partial_, self.axis)
        result = np.asarray(self.func(given, axis=self.axis, keepdims=self.keepdims))
        return result if self.keepdims or not self.axis else np.expand_dims(result, self.axis)


def _nested(boxes: np.ndarray, axis: tuple[int, ...]) -> Any:
    index = tuple(slice(None) if a in axis else 0 for a in range(boxes.ndim))

    def values(part: Any) -> Any:
        return [values(p) for p in part] if isinstance(part, np.ndarray) else part.value

    return values(boxes[index])


def _unchanged(partial_: Any, axis: Any = None) -> Any:
    return partial_


def _unboxed(partial_: np.ndarray) -> np.ndarray:
    return np.asarray(partial_.item().value)


__all__ = ["blockwise", "map_blocks", "reduction"]
