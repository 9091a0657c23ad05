"""Order statistics: medians, quantiles, percentiles.

They need all values along the reduced axes at once. These axes become one block; the others are divided further if
blocks would grow beyond the size of an ``"auto"`` block. Where all axes are reduced and a block would be too large, the
elements are sorted in runs, and merged as far as the blocks go that hold the answer.

NumPy's nan-versions call a Python function for every lane of the array. Here a few lanes at a time are copied and
sorted, which puts their NaNs last, and the two values between which a quantile lies are picked: the same numbers, many
times faster, without copies of whole blocks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from math import prod
from typing import Any

import numpy as np

from tilework.array.core import Array, into
from tilework.array.creation import asarray
from tilework.array.shapes import as_it_lies
from tilework.base import config
from tilework.base.errors import PerformanceWarning, PlanError, UnknownChunksError
from tilework.base.sizes import format_bytes
from tilework.engine.kernels.tiling import cut, regions
from tilework.plan import blocks, build
from tilework.plan.blocks import AxisChunks, regroup
from tilework.plan.ops import ArrayNode, BlockFunction, Slot

Axes = tuple[int, ...]


# ---------------------------------------------------------------- of arrays


def median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: bool = False) -> Array:
    """Median along axes, which become one block. See :func:`numpy.median`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.median(ta.arange(6, chunks=2).reshape(2, 3), axis=1).compute()
    array([1., 4.])
    """
    a = asarray(a)
    dtype = np.median(np.ones(1, a.dtype)).dtype
    if out is None and in_runs(lane := _lane(a, axis)):
        return _of_sorted(lane, 0.5, "midpoint", dtype, a.ndim if keepdims else 0, "median")
    return _reduced(median_of_block, a, axis, dtype, keepdims, out, "median")


def nanmedian(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False) -> Array:
    """Median without NaN along axes, which become one block. See :func:`numpy.nanmedian`."""
    a = asarray(a)
    dtype = np.nanmedian(np.ones(1, a.dtype)).dtype
    return _reduced(nanmedian_of_block, a, axis, dtype, keepdims is True, out, "nanmedian")


def quantile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: bool = False, *, weights: Any = None,
) -> Array:  # fmt: skip
    """Quantiles along axes, which become one block; for several ``q`` they are the first axis of the result.

    Weights (``method="inverted_cdf"``) have the shape of the array, or of the axes. See :func:`numpy.quantile`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.quantile(ta.arange(11, chunks=4), [0.5, 0.9]).compute()
    array([5., 9.])
    """
    return _quantile(quantile_of_block, np.quantile, a, q, axis, out, method, keepdims, weights)


def nanquantile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False, *, weights: Any = None,
) -> Array:  # fmt: skip
    """Quantiles without NaN along axes. Parameters are those of :func:`quantile`. See :func:`numpy.nanquantile`."""
    return _quantile(nanquantile_of_block, np.nanquantile, a, q, axis, out, method, keepdims is True, weights)


def percentile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: bool = False, *, weights: Any = None, internal_method: str | None = None,
) -> Array:  # fmt: skip
    """Quantiles, with ``q`` from 0 to 100. Parameters are those of :func:`quantile`. See :func:`numpy.percentile`.

    ``internal_method`` has no effect: the result is exact. It is there for programs written for Dask.
    """
    return quantile(a, _hundredths(a, q), axis, out, overwrite_input, method, keepdims, weights=weights)


def nanpercentile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
    keepdims: Any = False, *, weights: Any = None,
) -> Array:  # fmt: skip
    """Quantiles without NaN, with ``q`` from 0 to 100. Parameters are those of :func:`quantile`."""
    return nanquantile(a, _hundredths(a, q), axis, out, overwrite_input, method, keepdims, weights=weights)


def _hundredths(a: Any, q: Any) -> Any:
    return q / 100 if isinstance(q, int | float) else np.true_divide(q, 100)


def _quantile(
    of_block: Callable[..., Any], numpys: Callable[..., Any], a: Any, q: Any, axis: Any, out: Any, method: str,
    keepdims: bool, weights: Any,
) -> Array:  # fmt: skip
    name = numpys.__name__
    a = asarray(a)
    sample: dict[str, Any] = {"q": np.zeros(q.shape, q.dtype)[()] if isinstance(q, Array) else q, "method": method}
    known: dict[str, Any] = {"method": method, "keepdims": True}
    lazy: dict[str, Array] = {}
    (lazy if isinstance(q, Array) else known)["q"] = q
    if weights is not None:
        lazy["weights"] = _weights(asarray(weights), a, axis, name)
        sample["weights"] = np.ones(1, lazy["weights"].dtype)
    dtype = numpys(np.ones(1, a.dtype), **sample).dtype  # refuses values of q out of range, too
    exact = method in _PLACES and (numpys is np.quantile or a.dtype.kind in "biu")
    if out is None and not lazy and exact and in_runs(lane := _lane(a, axis)):
        return _of_sorted(lane, q, method, dtype, a.ndim if keepdims else 0, name)
    return _reduced(partial(of_block, **known), a, axis, dtype, keepdims, out, name, np.shape(q), lazy)


def _weights(weights: Array, a: Array, axis: Any, label: str) -> Array:
    """Weights with the axes of ``a``, of length one where they do not vary."""
    if weights.shape == a.shape:
        return weights
    along = () if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, a.ndim)
    if weights.shape != tuple(a.shape[k] for k in along):
        raise PlanError(f"{label}: weights of shape {weights.shape} fit neither {a.shape} nor its axes {axis}")
    return Array(build.rearrange(weights.node, [along.index(k) if k in along else None for k in range(a.ndim)]))


def _reduced(
    function: Callable[..., Any], a: Array, axis: Any, dtype: Any, keepdims: bool, out: Any, label: str,
    lead: Sequence[int] = (), lazy: Mapping[str, Array] | None = None,
) -> Array:  # fmt: skip
    """``function(block, axis=axes)``, which keeps reduced axes and adds axes of lengths ``lead`` in front.

    ``lazy`` are further keywords: ``q``, which is handed over as a whole, and ``weights``, which lie as ``a`` does.
    """
    given = build.normalize_axis(axis, a.ndim)
    a, order = (a, list(range(a.ndim))) if lazy else as_it_lies(a)
    axes = tuple(order.index(k) for k in given)
    labels = tuple(range(a.ndim))
    front = tuple(("q", k) for k in range(len(lead)))
    inputs: list[Any] = [(in_one_block(a.node, axes, label), labels)]
    options: dict[str, Any] = {}
    for name, x in (lazy or {}).items():
        options[name] = Slot(len(inputs))
        if name == "weights":
            chunks = zip(x.chunks, inputs[0][0].chunks, strict=True)
            inputs.append((build.rechunk(x.node, tuple(c if c.total == 1 else d for c, d in chunks)), labels))
        else:
            inputs.append((x.node, tuple(("whole", k) for k in range(x.ndim))))
    scratch = 0.1 if a.dtype.kind == "f" and "weights" not in options else 2.0  # a few lanes, or NumPy's copies
    keywords = {"axis": axes, "function": function, "dtype": dtype, "options": options}
    call = BlockFunction(_typed, (Slot(0),), keywords, scratch=scratch)
    node: ArrayNode = build.blockwise(
        call, (*front, *labels), inputs, dtype,
        new_axes=dict(zip(front, lead, strict=True)), adjust_chunks=dict.fromkeys(axes, 1), label=label,
    )  # fmt: skip
    kept = [len(lead) + order.index(k) for k in range(a.ndim) if keepdims or k not in given]
    node = build.rearrange(node, [*range(len(lead)), *kept], label=label)
    return Array(node) if out is None else into(out, Array(node), label)


def _typed(
    block: np.ndarray, axis: Axes, function: Callable[..., Any], dtype: np.dtype[Any], options: dict[str, Any]
) -> np.ndarray:
    """The function's result as announced: NumPy's dtype may depend on whether there are NaNs."""
    if "weights" in options:
        options = {**options, "weights": np.broadcast_to(options["weights"], block.shape)}
    return np.asarray(function(block, axis=axis, **options)).astype(dtype, copy=False)


def block_limit() -> int:
    """Bytes that a block may have that is made larger for an operation: those of an ``"auto"`` block, or fewer where
    memory is scarce. Several tasks at a time hold such a block, what they make of it, and space to work in.
    """
    settings = config.get()
    return min(settings.chunk_size, config.resolve_memory(settings) // (8 * config.resolve_workers(settings)))


def in_one_block(node: ArrayNode, axes: Axes, label: str) -> ArrayNode:
    """``node`` with each of ``axes`` in one block, and the others divided so that blocks stay within bounds."""
    if all(len(node.chunks[axis]) == 1 for axis in axes):
        return node
    for axis in axes:
        if not node.chunks[axis].known:
            raise UnknownChunksError(
                f"{label}: axis {axis} has unknown chunk sizes and cannot be made one block; "
                "call compute_chunk_sizes() first"
            )
    wanted: list[Any] = [-1 if k in axes else None for k in range(node.ndim)]
    chunks = blocks.rechunk_target(tuple(wanted), node.chunks)
    limit = block_limit()
    if all(c.known for c in chunks) and prod(c.largest for c in chunks) * node.dtype.itemsize > limit:
        divided = tuple(-1 if k in axes else "auto" for k in range(node.ndim))
        if not node.dtype.hasobject and len(axes) < node.ndim:
            chunks = blocks.rechunk_target(divided, chunks, node.dtype, limit)
        size = prod(c.largest for c in chunks) * node.dtype.itemsize
        if size > limit:
            warnings.warn(
                f"{label}: axes {axes} become one block, so blocks become {format_bytes(size)}, where "
                f"{format_bytes(limit)} are right; explain() tells what that needs",
                PerformanceWarning,
                stacklevel=5,
            )
    return build.rechunk(node, chunks)


# ---------------------------------------------------------------- of arrays of one axis, larger than a block


def in_runs(a: Array) -> bool:
    """Whether an array is sorted block by block and merged: one lane that is too large for a block."""
    known = a.ndim == 1 and all(chunks.known for chunks in a.chunks)
    return known and len(a.chunks[0]) > 1 and not a.dtype.hasobject and a.nbytes > block_limit()


def in_run_sizes(a: Array) -> ArrayNode:
    """The array in blocks no larger than is good for sorting them."""
    limit = max(1, block_limit() // a.dtype.itemsize)
    return a.node if a.chunks[0].largest <= limit else build.rechunk(a.node, (regroup(a.chunks[0], limit),))


def sorted_runs(a: Array) -> ArrayNode:
    """An array of one axis, sorted block by block and merged."""
    runs = build.blockwise(BlockFunction(np.sort, (Slot(0),)), (0,), [(in_run_sizes(a), (0,))], a.dtype, label="sort")
    return build.merge_runs(runs)


_PLACES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda place: place,
    "lower": np.floor,
    "higher": np.ceil,
    "midpoint": lambda place: 0.5 * (np.floor(place) + np.ceil(place)),
}
"""Where a quantile lies among sorted elements, from ``q * (n - 1)``."""


def _lane(a: Array, axis: Any) -> Array:
    """All elements in one axis, block by block, if all axes are reduced: their order is of no matter."""
    if a.ndim < 2 or len(build.normalize_axis(axis, a.ndim)) < a.ndim or not all(c.known for c in a.chunks):
        return a
    sizes = reduce(np.multiply.outer, [c.sizes for c in a.chunks])
    return Array(build.reshape_blocks(a.node, (AxisChunks.from_array(sizes.ravel()),)))


def _of_sorted(a: Array, q: Any, method: str, dtype: np.dtype[Any], kept: int, label: str) -> Array:
    """Quantiles from the elements of the sorted array between which they lie, and its last one: NaN if there is any.

    ``kept`` axes of length one follow those of ``q``.
    """
    n = a.shape[0]
    place = _PLACES[method](np.asarray(q, float).ravel() * (n - 1))
    low, high = np.floor(place).astype(np.int64), np.ceil(place).astype(np.int64)
    wanted = np.unique(np.concatenate([low, high, [n - 1]]))
    picked = build.one_block(build.take(sorted_runs(a), wanted, 0))
    between = partial(
        _interpolated, low=np.searchsorted(wanted, low), high=np.searchsorted(wanted, high), t=place - low, dtype=dtype
    )
    node = build.blockwise(BlockFunction(between, (Slot(0),)), (0,), [(picked, (0,))], dtype,
                           adjust_chunks={0: AxisChunks((len(low),))}, label=label)  # fmt: skip
    return Array(build.reshape(node, (*np.shape(q), *[1] * kept)))


def _interpolated(
    block: np.ndarray, low: np.ndarray, high: np.ndarray, t: np.ndarray, dtype: np.dtype[Any]
) -> np.ndarray:
    block = block.astype(dtype, copy=False)
    last = block[-1]
    return np.full(len(low), last) if last != last else _between(block[low], block[high], t, dtype)


# ---------------------------------------------------------------- of blocks


def median_of_block(x: np.ndarray, axis: Axes) -> np.ndarray:
    """``numpy.median`` with kept dims."""
    if x.dtype.kind != "f":
        return np.asarray(np.median(x, axis=axis, keepdims=True))
    return _by_lanes(x, axis, partial(_medians, skipna=False), (), x.dtype)


def nanmedian_of_block(x: np.ndarray, axis: Axes) -> np.ndarray:
    """``numpy.nanmedian`` with kept dims."""
    if x.dtype.kind != "f":
        return np.asarray(np.nanmedian(x, axis=axis, keepdims=True))
    return _by_lanes(x, axis, partial(_medians, skipna=True), (), x.dtype)


def quantile_of_block(x: np.ndarray, q: Any, axis: Axes, **options: Any) -> np.ndarray:
    """``numpy.quantile`` with kept dims."""
    return _quantile_of_block(np.quantile, x, q, axis, **options)


def nanquantile_of_block(x: np.ndarray, q: Any, axis: Axes, **options: Any) -> np.ndarray:
    """``numpy.nanquantile`` with kept dims."""
    return _quantile_of_block(np.nanquantile if x.dtype.kind in "fc" else np.quantile, x, q, axis, **options)


def _quantile_of_block(
    numpys: Any, x: np.ndarray, q: Any, axis: Axes, method: str = "linear", keepdims: bool = True, weights: Any = None
) -> np.ndarray:
    """A Python number as ``q`` leaves the dtype alone, as in NumPy."""
    if x.dtype.kind != "f" or method != "linear":
        return np.asarray(numpys(x, q, axis=axis, method=method, keepdims=True, weights=weights))
    weak, q = type(q) in (int, float), np.asarray(q)
    dtype = x.dtype if weak or q.dtype.kind in "iu" else np.result_type(x.dtype, q.dtype)
    of_lanes = partial(_quantiles, q=q, skipna=numpys is np.nanquantile, dtype=dtype)
    return _by_lanes(x, axis, of_lanes, q.shape, dtype)


def _by_lanes(
    x: np.ndarray, axis: Axes, of_lanes: Callable[[np.ndarray], np.ndarray], lead: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """``of_lanes(lanes)`` of the reduced axes as one, at the end, for a few lanes at a time: those of a copy."""
    moved = np.moveaxis(x, axis, range(-len(axis), 0))
    kept = moved.shape[: x.ndim - len(axis)]
    n = prod(moved.shape[len(kept) :])
    out = np.empty((*lead, *kept), dtype)
    for tile in regions(kept, cut(kept, max(1, _LANES // max(1, n)))) if out.size else []:
        lanes = np.array(moved[tile], order="C").reshape(-1, n)
        lengths = tuple(part.stop - part.start for part in tile)
        out[(slice(None),) * len(lead) + tile] = of_lanes(lanes).reshape(lead + lengths)
    return out.reshape((*lead, *_kept(x, axis)))


_LANES = 1 << 15
"""Elements that are sorted before others are copied: what fits the cache."""


def _sort(lanes: np.ndarray, skipna: bool) -> np.ndarray:
    """Sort lanes, and return how many values there are in front of the NaNs; without ``skipna`` none if there are any.

    In place: NumPy's ``sort`` of a contiguous array uses the processor's vector instructions.
    """
    lanes.sort(axis=-1)
    n = lanes.shape[-1]
    count = np.full(len(lanes), n)
    if n and np.isnan(lanes[:, -1]).any():
        there = n - np.count_nonzero(np.isnan(lanes), axis=-1)
        count = there if skipna else np.where(there < n, 0, n)
    return count


def _medians(lanes: np.ndarray, skipna: bool) -> np.ndarray:
    count = _sort(lanes, skipna)
    if not lanes.shape[-1]:
        return np.full(count.shape, np.nan, lanes.dtype)
    last = np.maximum(count - 1, 0)
    low, high = _pick(lanes, last // 2), _pick(lanes, (last + 1) // 2)
    middle = np.where(last % 2, np.mean([low, high], axis=0, dtype=lanes.dtype), low)
    return np.where(count, middle, np.nan).astype(lanes.dtype, copy=False)


def _quantiles(lanes: np.ndarray, q: np.ndarray, skipna: bool, dtype: np.dtype[Any]) -> np.ndarray:
    count = _sort(lanes, skipna)
    out = np.full((q.size, len(lanes)), np.nan, dtype)
    if lanes.shape[-1]:
        last = np.maximum(count - 1, 0)
        for k, share in enumerate(q.ravel()):
            place = np.asarray(last.astype(q.dtype) * share)
            low = np.floor(place).astype(np.intp)
            pair = _pick(lanes, low), _pick(lanes, np.minimum(low + 1, last))
            out[k] = np.where(count, _between(*pair, (place - low).astype(q.dtype), dtype), np.nan)
    return out


def _pick(lanes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """One value of each lane."""
    return lanes[np.arange(len(lanes)), place]


def _between(low: np.ndarray, high: np.ndarray, t: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """NumPy's interpolation, which is exact at both ends."""
    step = high - low
    down, up = high - step * (1 - t).astype(dtype), low + step * t.astype(dtype)
    return np.asarray(np.where(t >= 0.5, down, up))


def _kept(x: np.ndarray, axis: Axes) -> list[int]:
    return [1 if k in axis else n for k, n in enumerate(x.shape)]


__all__ = ["median", "nanmedian", "nanpercentile", "nanquantile", "percentile", "quantile"]
