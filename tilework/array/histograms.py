"""Counts by value: histograms of one and several dimensions, and :func:`bincount`.

Every block is counted by NumPy's own function and the counts are added up, so results are NumPy's to the last bin.
Edges are found as NumPy finds them. Where they depend on the data (a number of bins without a range) they are lazy, and
the data is made twice: once for its extremes, once to be counted.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from math import nan
from typing import Any, TypeAlias

import numpy as np

from tilework.array import reductions
from tilework.array.core import Array, in_memory
from tilework.array.creation import asarray
from tilework.array.elementwise import cast
from tilework.array.indexing import getitem
from tilework.array.mapping import reduction
from tilework.array.rechunking import rechunk
from tilework.base.errors import BlockResultError, DTypeError, PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.ops import ArrayNode, BlockFunction, Slot

Edges: TypeAlias = np.ndarray | Array
Input: TypeAlias = tuple[ArrayNode, Sequence[Hashable]]

# ---------------------------------------------------------------- histograms


def histogram(
    a: Any, bins: Any = 10, range: Any = None, density: bool | None = None, weights: Any = None
) -> tuple[Array, Edges]:
    """How many elements lie between edges. See :func:`numpy.histogram`.

    Parameters
    ----------
    a
        The array, of any shape.
    bins
        The edges, or a number of bins of equal width. Both may be lazy; the length of the result is unknown for a lazy
        number.
    range
        Lowest and highest edge for a number of bins; both may be lazy. Default: the extremes of ``a``, which is made
        once more to find them.
    density
        Divide the counts by their sum and by the width of their bins.
    weights
        What each element counts, in an array of the same shape.

    Returns
    -------
    Array
        The counts: integers, or of the dtype of ``weights``.
    numpy.ndarray or Array
        The edges, lazy if they depend on something that is lazy.

    Examples
    --------
    >>> import tilework.array as ta
    >>> counts, edges = ta.histogram(ta.arange(10, chunks=4), bins=[0, 2, 5, 9])
    >>> counts.compute(), edges
    (array([2, 3, 5]), array([0, 2, 5, 9]))
    """
    a = asarray(a)
    if a.dtype == bool:
        a = Array(cast(a.node, np.uint8))
    labels = tuple(builtins.range(a.ndim))
    inputs: list[Input] = [(a.node, labels)]
    if weights is not None:
        weights = asarray(weights)
        if weights.shape != a.shape:
            raise PlanError(f"histogram: weights of shape {weights.shape} should have the shape of a, {a.shape}")
        inputs.append((weights.node, labels))
    edges, counting = _edges_and_bins(a, bins, range)
    slots = [Slot(0), Slot(1) if len(inputs) == 2 else None]
    slots += [_argument(value, inputs) for value in counting]
    dtype = np.dtype(np.intp) if weights is None else weights.dtype
    function = BlockFunction(partial(_count, ndim=a.ndim), tuple(slots))
    counts = _added_up(function, inputs, labels, {"bins": edges.shape[0] - 1}, dtype, "histogram")
    if density:
        counts = counts / np.diff(edges).astype(float) / counts.sum()
    return counts, edges


def _argument(value: Any, inputs: list[Input]) -> Any:
    """The value; a lazy one becomes an input that every block gets as a whole."""
    if not isinstance(value, Array):
        return value
    inputs.append((value.node, [("whole", len(inputs), k) for k in builtins.range(value.ndim)]))
    return Slot(len(inputs) - 1)


def _is_sequence(x: Any) -> bool:
    """Rather than a number, lazy or not."""
    return bool(np.iterable(x))


def _edges_and_bins(a: Array, bins: Any, range: Any) -> tuple[Edges, tuple[Any, Any, Any]]:
    """The edges; and bins, first and last edge as :func:`_count` shall pass them to NumPy, which counts faster if bins
    are of equal width.
    """
    if bins is None:
        raise TypeError("histogram: bins=None must be a number of bins, or edges")
    if isinstance(bins, str):
        raise UnsupportedError(f"histogram: bins={bins!r} looks at all data at once; give edges, or a number of bins")
    if range is not None and (not _is_sequence(range) or len(range) != 2 or any(np.ndim(end) for end in range)):
        raise PlanError(f"histogram: range={range!r} must be a pair of numbers, the lowest and the highest edge")
    if np.ndim(bins) > 1:
        raise PlanError(f"histogram: bins of shape {np.shape(bins)} must be a number or one-dimensional edges")
    if np.ndim(bins) == 1:
        found = bins if isinstance(bins, Array) else np.histogram_bin_edges(np.empty(0, a.dtype), bins)
        return found, (found, None, None)
    if range is None:
        range = (a.min(), a.max()) if a.size else (0, 1)
    low, high = range
    if not any(isinstance(value, Array) for value in (bins, low, high)):
        return np.histogram_bin_edges(np.empty(0, a.dtype), bins, (low, high)), (bins, low, high)
    return _even_edges(a.dtype, bins, low, high), (bins, low, high)


def _even_edges(dtype: Any, bins: Any, low: Any, high: Any) -> Array:
    """Lazy edges of bins of equal width."""
    inputs: list[Input] = []
    args = tuple(_argument(value, inputs) for value in (bins, low, high))
    out = np.result_type(dtype, *(v.dtype if isinstance(v, Array) else v for v in (low, high)))
    out = np.result_type(out, float) if out.kind in "iu" else out
    length = nan if isinstance(bins, Array) else int(bins) + 1
    function = BlockFunction(partial(_even_edges_of, dtype=dtype), args)
    node = build.blockwise(function, ("edges",), inputs, out, new_axes={"edges": (length,)}, label="edges")
    return Array(node)


def _even_edges_of(bins: Any, low: Any, high: Any, *, dtype: Any) -> np.ndarray:
    return np.histogram_bin_edges(np.empty(0, dtype), int(bins), (_number(low), _number(high)))


def _number(x: Any) -> Any:
    """An array without dimensions as its scalar: only those are numbers to NumPy's histograms."""
    return x[()] if isinstance(x, np.ndarray) and not x.ndim else x


def _count(block: np.ndarray, weights: Any, bins: Any, low: Any, high: Any, *, ndim: int) -> np.ndarray:
    bins = _number(bins)
    range_ = None if low is None else (_number(low), _number(high))
    counts, _ = np.histogram(block, int(bins) if np.ndim(bins) == 0 else bins, range_, weights=weights)
    return counts.reshape((1,) * ndim + counts.shape)


def histogram2d(
    x: Any, y: Any, bins: Any = 10, range: Any = None, density: bool | None = None, weights: Any = None, *,
    normed: bool | None = None,
) -> tuple[Array, Edges, Edges]:  # fmt: skip
    """How many points of a plane lie in rectangles. See :func:`numpy.histogram2d` and :func:`histogramdd`.

    Returns
    -------
    Array
        The counts, as floats, with one axis for ``x`` and one for ``y``.
    numpy.ndarray or Array, twice
        The edges along ``x`` and ``y``.
    """
    if _is_sequence(bins) and len(bins) not in (1, 2):
        bins = [bins, bins]
    counts, edges = histogramdd((x, y), bins, range, density, weights, normed=normed)
    return counts, edges[0], edges[1]


def histogramdd(
    sample: Any, bins: Any = 10, range: Any = None, density: bool | None = None, weights: Any = None, *,
    normed: bool | None = None,
) -> tuple[Array, tuple[Edges, ...]]:  # fmt: skip
    """How many points of a space lie in boxes. See :func:`numpy.histogramdd`.

    Parameters
    ----------
    sample
        The points: an array with one row for each, or a sequence with one array of coordinates for each dimension.
    bins
        The edges along each dimension, the number of bins along each, or one number for all. Edges may be lazy.
    range
        A pair of lowest and highest edge along each dimension, or None for the extremes of the coordinates.
    density, weights
        As for :func:`histogram`.
    normed
        The older name of ``density``.

    Returns
    -------
    Array
        The counts, as floats.
    tuple
        The edges along each dimension.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x, y = ta.arange(6, chunks=4), ta.arange(6, chunks=3) % 2
    >>> ta.histogramdd((x, y), bins=[[0, 3, 6], [0, 1, 2]])[0].compute()
    array([[2., 1.],
           [1., 2.]])
    """
    if normed is not None and density is not None:
        raise TypeError("histogramdd: Cannot specify both 'normed' and 'density'; they mean the same")
    columns = _columns(sample)
    inputs: list[Input] = [(x.node, ("points",)) for x in columns]
    edges = _edges_of_columns(columns, bins, range)
    args: list[Any] = [[Slot(k) for k, _ in enumerate(columns)], None]
    if weights is not None:
        weights = asarray(weights)
        if weights.shape != columns[0].shape:
            raise PlanError(f"histogramdd: weights of shape {weights.shape} for points of shape {columns[0].shape}")
        args[1] = Slot(len(inputs))
        inputs.append((weights.node, ("points",)))
    args.append([_argument(edge, inputs) for edge in edges])
    new: dict[Hashable, Any] = {f"bins{k}": edge.shape[0] - 1 for k, edge in enumerate(edges)}
    counts = _added_up(BlockFunction(_count_dd, tuple(args)), inputs, ("points",), new, np.float64, "histogramdd")
    if density or normed:
        total = counts.sum()
        for k, edge in enumerate(edges):
            counts = counts / getitem(asarray(np.diff(edge)), (slice(None), *[None] * (len(edges) - k - 1)))
        counts = counts / total
    return counts, edges


def _columns(sample: Any) -> list[Array]:
    """The coordinates along each dimension, as one-dimensional arrays."""
    if isinstance(sample, Array | np.ndarray):
        sample = asarray(sample)
        if sample.ndim == 1:
            return [sample]
        if sample.ndim != 2:
            raise PlanError(f"histogramdd: points in an array of shape {sample.shape}; give one row for each point")
        sample = rechunk(sample, {1: -1})
        return [getitem(sample, (slice(None), k)) for k in builtins.range(int(sample.shape[1]))]
    columns = [asarray(x) for x in sample]
    if any(x.ndim != 1 or x.shape != columns[0].shape for x in columns):
        shapes = ", ".join(str(x.shape) for x in columns)
        raise PlanError(f"histogramdd: coordinates of shapes {shapes} must be one-dimensional and equally long")
    return columns


def _edges_of_columns(columns: Sequence[Array], bins: Any, range: Any) -> tuple[Edges, ...]:
    n = len(columns)
    if not _is_sequence(bins):
        bins = [bins] * n
    if len(bins) != n:
        raise PlanError(
            f"histogramdd: The dimension of bins must be equal to the dimension of the sample: {len(bins)} and {n}"
        )
    if range is None:
        range = [None] * n
    if len(range) != n:
        raise PlanError(
            f"histogramdd: range argument requires one entry, a min max pair, per dimension: {len(range)} for {n}"
        )
    for pair in range:
        if pair is not None and (not _is_sequence(pair) or len(pair) != 2):
            raise PlanError(f"histogramdd: range argument should be a sequence of pairs, not {range!r}")
    return tuple(_edges_and_bins(x, b, r)[0] for x, b, r in zip(columns, bins, range, strict=True))


def _count_dd(columns: Sequence[np.ndarray], weights: Any, edges: Sequence[np.ndarray]) -> np.ndarray:
    counts, _ = np.histogramdd(list(columns), edges, weights=weights)
    return counts[None]


# ---------------------------------------------------------------- counts of integers


def bincount(x: Any, weights: Any = None, minlength: int = 0, *, split_every: int | None = None) -> Array:
    """How often each whole number from 0 up occurs. See :func:`numpy.bincount`.

    Parameters
    ----------
    x
        Whole numbers, not negative, in a one-dimensional array.
    weights
        What each element counts.
    minlength
        The length of the result. Without it, that is unknown. (NumPy's result is longer if a number asks for it; here
        that is an error when it is computed, because the shape has been announced.)
    split_every
        How many partial results to join at a time.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.bincount(ta.from_array([0, 1, 1, 3], chunks=2), minlength=5).compute()
    array([1, 2, 0, 1, 0])
    """
    x = asarray(x)
    if x.ndim != 1:
        raise PlanError(f"bincount: the array must be one-dimensional, not of shape {x.shape}")
    if not np.can_cast(x.dtype, np.intp):
        raise DTypeError(f"bincount: numbers of dtype {x.dtype} cannot be cast to {np.dtype(np.intp)} safely")
    minlength = operator.index(in_memory(minlength, "bincount: minlength"))
    if minlength < 0:
        raise PlanError(f"bincount: 'minlength' must not be negative, not {minlength}")
    inputs: list[Input] = [(x.node, ("points",))]
    args: list[Any] = [Slot(0), None]
    if weights is not None:
        weights = asarray(weights)
        if weights.shape != x.shape:
            raise PlanError(f"bincount: the weights and list don't have the same length: {weights.shape}, {x.shape}")
        args[1] = Slot(1)
        inputs.append((weights.node, ("points",)))
    dtype = np.dtype(np.intp if weights is None else np.float64)
    if minlength:
        function = BlockFunction(_bincount, (*args, minlength))
        return _added_up(function, inputs, ("points",), {"values": minlength}, dtype, "bincount", split_every)
    function = BlockFunction(np.bincount, tuple(args))
    node = build.blockwise(function, ("points",), inputs, dtype, adjust_chunks={"points": nan}, label="bincount")
    return reduction(
        Array(node), _as_it_is, _longest, combine=_longest, axis=0, keepdims=True, dtype=dtype, name="bincount",
        concatenate=False, output_size=nan, split_every=split_every,
    )  # fmt: skip


def _bincount(block: np.ndarray, weights: Any, length: int) -> np.ndarray:
    counts = np.bincount(block, weights, length)
    if len(counts) > length:
        raise BlockResultError(f"bincount: the number {len(counts) - 1} needs minlength={len(counts)}, not {length}")
    return counts[None]


def _as_it_is(block: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    return block


def _longest(parts: list[np.ndarray], axis: Any, keepdims: bool) -> np.ndarray:
    """The sum of counts of different lengths."""
    out = np.zeros(max(map(len, parts)), parts[0].dtype)
    for part in parts:
        out[: len(part)] += part
    return out


# ---------------------------------------------------------------- the one construction


def _added_up(
    function: BlockFunction,
    inputs: Sequence[Input],
    along: Sequence[Hashable],
    new: Mapping[Hashable, Any],
    dtype: Any,
    label: str,
    split_every: int | None = None,
) -> Array:
    """The sum over all blocks of what ``function`` makes of them: axes of length one for ``along``, then those of
    ``new``.
    """
    lengths = {name: (n,) for name, n in new.items()}
    node = build.blockwise(
        function, (*along, *new), inputs, dtype,
        new_axes=lengths, adjust_chunks=dict.fromkeys(along, 1), label=label,
    )  # fmt: skip
    return reductions.sum(Array(node), tuple(range(len(along))), dtype, split_every=split_every)


__all__ = ["bincount", "histogram", "histogram2d", "histogramdd"]
