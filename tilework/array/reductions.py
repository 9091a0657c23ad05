"""Reductions and cumulative operations. What each does to a block is :mod:`tilework.plan.reducers`' matter.

Arguments stand in NumPy's order. ``split_every`` says how many partial results are joined at a time: an int, or a dict
from axis to int; more means fewer tasks that each hold more.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tilework.array.binding import has_parameter, infer, name_of, stand_in
from tilework.array.core import Array, into
from tilework.array.creation import asarray, full
from tilework.array.elementwise import cast, pick
from tilework.array.indexing import getitem
from tilework.array.manipulation import concatenate, diagonal
from tilework.array.shapes import broadcast_to, moveaxis, ravel
from tilework.base.errors import PlanError, UnknownChunksError, UnsupportedError
from tilework.plan import build, reducers
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.reductions import Reduction

SplitEvery = int | Mapping[int, int] | None


def _reduce(
    a: Any,
    make: Callable[[np.dtype[Any]], Reduction],
    axis: Any,
    keepdims: bool,
    split_every: SplitEvery,
    out: Any = None,
    identity: bool = True,
) -> Array:
    """Reduce ``a`` along ``axis``. Without an ``identity`` there is no answer for no elements."""
    a = asarray(a)
    axes = build.normalize_axis(axis, a.ndim)
    reduction = make(a.dtype)
    if not identity and builtins.any(a.shape[k] == 0 for k in axes):
        name = _NAMES.get(reduction.name, reduction.name)
        raise PlanError(f"zero-size array to reduction operation {name} which has no identity")
    if axes:
        node: ArrayNode = build.reduce(
            a.node, reduction, axes, reduction.dtype, keepdims=bool(keepdims), split_every=split_every
        )
    else:  # nothing to reduce along, but means are still floats and variances zero
        node = build.rearrange(a.node, [*range(a.ndim), None])
        node = build.reduce(node, reduction, a.ndim, reduction.dtype)
    return Array(node) if out is None else into(out, Array(node), reduction.name)


_NAMES = {"min": "minimum", "max": "maximum", "nanmin": "fmin", "nanmax": "fmax"}
"""What NumPy calls the operations in its error messages: the names of the ufuncs."""


def _masked(a: Any, where: Any, fill: Any) -> Array:
    """``a`` where the mask holds, else a value that does not count."""
    a = asarray(a)
    if where is True:
        return a
    node = build.elementwise(pick, [asarray(where).node, a.node, fill])
    return Array(cast(node, a.dtype) if a.dtype.kind != "b" else node)


def sum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, initial: Any = None,
    where: Any = True, *, split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Sum along axes. See :func:`numpy.sum`.

    Parameters
    ----------
    a
        The array.
    axis
        An axis or several; all by default.
    dtype
        Type to sum in. By default that of NumPy: integers are summed as 64-bit ones.
    out
        A lazy array that shall hold the result.
    keepdims
        Keep reduced axes, with length one.
    initial
        What to start from.
    where
        Elements to include.
    split_every
        How many partial results to join at a time.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.sum(ta.ones((4, 3), chunks=2), axis=0).compute()
    array([4., 4., 4.])
    """
    result = _reduce(_masked(a, where, 0), partial(reducers.sum_, dtype=dtype), axis, keepdims, split_every)
    return _finished(result if initial is None else result + initial, out, "sum")


def prod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, initial: Any = None,
    where: Any = True, *, split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Product along axes. Parameters are those of :func:`sum`."""
    result = _reduce(_masked(a, where, 1), partial(reducers.prod, dtype=dtype), axis, keepdims, split_every)
    return _finished(result if initial is None else result * initial, out, "prod")


def _finished(result: Array, out: Any, what: str) -> Array:
    return result if out is None else into(out, result, what)


def _extreme(
    name: str, a: Any, axis: Any, out: Any, keepdims: bool, initial: Any, where: Any, split_every: SplitEvery
) -> Array:
    ufunc = {"min": np.minimum, "max": np.maximum}[name]
    make = {"min": reducers.min_, "max": reducers.max_}[name]
    if initial is None:
        if where is not True:
            raise PlanError(f"{name}: to use a where mask one has to specify 'initial'; there is no identity")
        return _reduce(a, make, axis, keepdims, split_every, out, identity=False)
    a = _masked(a, where, initial)
    axes = build.normalize_axis(axis, a.ndim)
    if builtins.any(a.shape[k] == 0 for k in axes):
        shape = [1 if k in axes else n for k, n in enumerate(a.shape) if keepdims or k not in axes]
        return _finished(full(shape, initial, a.dtype), out, name)
    return _finished(ufunc(_reduce(a, make, axis, keepdims, split_every), initial), out, name)


def min(
    a: Any, axis: Any = None, out: Any = None, keepdims: bool = False, initial: Any = None, where: Any = True, *,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Smallest element along axes; NaN if there is one. Parameters are those of :func:`sum`."""
    return _extreme("min", a, axis, out, keepdims, initial, where, split_every)


def max(
    a: Any, axis: Any = None, out: Any = None, keepdims: bool = False, initial: Any = None, where: Any = True, *,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Largest element along axes; NaN if there is one. Parameters are those of :func:`sum`."""
    return _extreme("max", a, axis, out, keepdims, initial, where, split_every)


amin, amax = min, max


def any(
    a: Any, axis: Any = None, out: Any = None, keepdims: bool = False, *, where: Any = True,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Whether any element is true. Parameters are those of :func:`sum`."""
    return _reduce(_masked(a, where, False), reducers.any_, axis, keepdims, split_every, out)


def all(
    a: Any, axis: Any = None, out: Any = None, keepdims: bool = False, *, where: Any = True,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Whether all elements are true. Parameters are those of :func:`sum`."""
    return _reduce(_masked(a, where, True), reducers.all_, axis, keepdims, split_every, out)


def count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False, split_every: SplitEvery = None) -> Array:
    """How many elements are not zero."""
    return _reduce(a, reducers.count_nonzero, axis, keepdims, split_every)


def mean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, *, where: Any = True,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Arithmetic mean along axes. Parameters are those of :func:`sum`."""
    if where is True:
        return _reduce(a, partial(reducers.mean, dtype=dtype), axis, keepdims, split_every, out)
    a = asarray(a)
    total_dtype = reducers.mean(a.dtype, dtype).dtype
    counts = broadcast_to(asarray(where), a.shape)
    options: dict[str, Any] = {"keepdims": keepdims, "split_every": split_every}
    total = sum(a, axis, total_dtype, where=where, **options)
    return _finished(Array(cast((total / sum(counts, axis, **options)).node, total_dtype)), out, "mean")


def _spread(name: str, a: Any, axis: Any, dtype: Any, out: Any, ddof: Any, keepdims: bool, where: Any, correction: Any,
            split_every: SplitEvery) -> Array:  # fmt: skip
    if where is not True:
        raise UnsupportedError(f"{name}: where= is not supported; use nan{name} on where(mask, x, nan)")
    make = {"std": reducers.std, "var": reducers.var}[name]
    ddof = ddof if correction is None else correction
    return _reduce(a, partial(make, ddof=ddof, dtype=dtype), axis, keepdims, split_every, out)


def std(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: bool = False, *,
    where: Any = True, correction: float | None = None, split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Standard deviation along axes. See :func:`numpy.std`, and :func:`sum` for the parameters that all share."""
    return _spread("std", a, axis, dtype, out, ddof, keepdims, where, correction, split_every)


def var(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: bool = False, *,
    where: Any = True, correction: float | None = None, split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Variance along axes. See :func:`numpy.var`, and :func:`sum` for the parameters that all share."""
    return _spread("var", a, axis, dtype, out, ddof, keepdims, where, correction, split_every)


# ---------------------------------------------------------------- without NaN


def nansum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, *,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Sum of the elements that are not NaN. Parameters are those of :func:`sum`."""
    return _reduce(a, partial(reducers.nansum, dtype=dtype), axis, keepdims, split_every, out)


def nanprod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, *,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Product of the elements that are not NaN. Parameters are those of :func:`sum`."""
    return _reduce(a, partial(reducers.nanprod, dtype=dtype), axis, keepdims, split_every, out)


def nanmin(
    a: Any, axis: Any = None, out: Any = None, keepdims: bool = False, *, split_every: SplitEvery = None
) -> Array:
    """Smallest element that is not NaN. Parameters are those of :func:`sum`."""
    return _reduce(a, reducers.nanmin, axis, keepdims, split_every, out, identity=False)


def nanmax(
    a: Any, axis: Any = None, out: Any = None, keepdims: bool = False, *, split_every: SplitEvery = None
) -> Array:
    """Largest element that is not NaN. Parameters are those of :func:`sum`."""
    return _reduce(a, reducers.nanmax, axis, keepdims, split_every, out, identity=False)


def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, *,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Mean of the elements that are not NaN. Parameters are those of :func:`sum`."""
    return _reduce(a, partial(reducers.nanmean, dtype=dtype), axis, keepdims, split_every, out)


def nanstd(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: bool = False, *,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Standard deviation of the elements that are not NaN. Parameters are those of :func:`std`."""
    return _reduce(a, partial(reducers.nanstd, ddof=ddof, dtype=dtype), axis, keepdims, split_every, out)


def nanvar(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: bool = False, *,
    split_every: SplitEvery = None,
) -> Array:  # fmt: skip
    """Variance of the elements that are not NaN. Parameters are those of :func:`std`."""
    return _reduce(a, partial(reducers.nanvar, ddof=ddof, dtype=dtype), axis, keepdims, split_every, out)


# ---------------------------------------------------------------- positions


def _arg(name: str, a: Any, axis: int | None, out: Any, keepdims: bool, split_every: SplitEvery) -> Array:
    a = asarray(a)
    if a.ndim == 0:
        a = ravel(a)
        keepdims = False
    if axis is not None:
        axis = normalize_axis_index(axis, a.ndim)
    if 0 in (a.shape if axis is None else (a.shape[axis],)):
        raise PlanError(f"attempt to get {name} of an empty sequence")
    make = {"argmin": reducers.argmin, "argmax": reducers.argmax,
            "nanargmin": reducers.nanargmin, "nanargmax": reducers.nanargmax}[name]  # fmt: skip
    axes = range(a.ndim) if axis is None else (axis,)
    if not builtins.all(a.chunks[k].known for k in axes):
        if builtins.any(len(a.chunks[k]) > 1 for k in axes):
            raise UnknownChunksError(
                f"{name} along an axis of unknown chunksizes: where blocks begin is unknown; "
                "call compute_chunk_sizes() first"
            )
        return _finished(_arg_of_block(getattr(np, name), a, axis, keepdims), out, name)
    return _reduce(a, make, axis, keepdims, split_every, out)


def _arg_of_block(function: Callable[..., Any], a: Array, axis: int | None, keepdims: bool) -> Array:
    """Positions along axes that are one block each."""
    labels = tuple(range(a.ndim))
    kept = labels if keepdims else tuple(k for k in labels if axis is not None and k != axis)
    call = BlockFunction(function, (Slot(0),), {"axis": axis, "keepdims": keepdims})
    ones: dict[Any, int] = dict.fromkeys(labels if axis is None else (axis,), 1)
    return Array(build.blockwise(call, kept, [(a.node, labels)], np.intp, adjust_chunks=ones, label=function.__name__))


def argmin(
    a: Any, axis: int | None = None, out: Any = None, *, keepdims: bool = False, split_every: SplitEvery = None
) -> Array:
    """Position of the smallest element along an axis, or among all in C order. See :func:`numpy.argmin`."""
    return _arg("argmin", a, axis, out, keepdims, split_every)


def argmax(
    a: Any, axis: int | None = None, out: Any = None, *, keepdims: bool = False, split_every: SplitEvery = None
) -> Array:
    """Position of the largest element along an axis, or among all in C order. See :func:`numpy.argmax`."""
    return _arg("argmax", a, axis, out, keepdims, split_every)


def nanargmin(
    a: Any, axis: int | None = None, out: Any = None, *, keepdims: bool = False, split_every: SplitEvery = None
) -> Array:
    """Position of the smallest element that is not NaN. See :func:`numpy.nanargmin`."""
    return _arg("nanargmin", a, axis, out, keepdims, split_every)


def nanargmax(
    a: Any, axis: int | None = None, out: Any = None, *, keepdims: bool = False, split_every: SplitEvery = None
) -> Array:
    """Position of the largest element that is not NaN. See :func:`numpy.nanargmax`."""
    return _arg("nanargmax", a, axis, out, keepdims, split_every)


# ---------------------------------------------------------------- made of others


def ptp(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False, *, split_every: SplitEvery = None) -> Array:
    """Largest minus smallest element along axes."""
    options: dict[str, Any] = {"keepdims": keepdims, "split_every": split_every}
    return _finished(max(a, axis, **options) - min(a, axis, **options), out, "ptp")


def average(a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: bool = False) -> Any:
    """Weighted mean along axes; with ``returned`` the sum of the weights as well. See :func:`numpy.average`."""
    a = asarray(a)
    axes = build.normalize_axis(axis, a.ndim)
    if weights is None:
        result = mean(a, axis, keepdims=keepdims)
        count = np.prod([a.shape[k] for k in axes], dtype=result.dtype)
        return (result, broadcast_to(asarray(count), result.shape)) if returned else result
    weights = asarray(weights)
    if weights.shape != a.shape:
        along = () if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, a.ndim)
        if weights.shape != tuple(a.shape[k] for k in along):
            raise (TypeError if axis is None else PlanError)(
                f"average: weights of shape {weights.shape} fit neither {a.shape} nor its axes {axis}; give axis"
            )
        weights = moveaxis(
            getitem(weights, (None,) * (a.ndim - weights.ndim)), range(a.ndim - weights.ndim, a.ndim), along
        )
    dtype = np.result_type(a.dtype, weights.dtype, *([np.float64] if a.dtype.kind in "biu" else []))
    scale = sum(broadcast_to(weights, a.shape), axes, dtype, keepdims=keepdims)
    result = sum(np.multiply(a, weights, dtype=dtype), axes, keepdims=keepdims) / scale
    return (result, scale) if returned else result


def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Array:
    """Sum along a diagonal. See :func:`numpy.trace`."""
    return sum(diagonal(a, offset, axis1, axis2), -1, dtype, out)


# ---------------------------------------------------------------- cumulative


def _cumulative(
    make: Callable[..., reducers.Cumulative], a: Any, axis: int | None, dtype: Any, out: Any, label: str
) -> Array:
    a = asarray(a)
    if axis is None:
        a, axis = ravel(a), 0
    functions, out_dtype = make(a.dtype, dtype)
    axis = normalize_axis_index(axis, a.ndim)
    return _finished(Array(build.scan(a.node, axis, functions, out_dtype, label)), out, label)


def cumsum(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None, *, method: str | None = None) -> Array:
    """Cumulative sum along an axis, or of all elements in C order. See :func:`numpy.cumsum`.

    ``method`` has no effect; for programs written for Dask.
    """
    return _cumulative(reducers.cumsum, a, axis, dtype, out, "cumsum")


def cumprod(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None, *, method: str | None = None) -> Array:
    """Cumulative product along an axis. Parameters are those of :func:`cumsum`."""
    return _cumulative(reducers.cumprod, a, axis, dtype, out, "cumprod")


def nancumsum(
    a: Any, axis: int | None = None, dtype: Any = None, out: Any = None, *, method: str | None = None
) -> Array:
    """Cumulative sum that takes NaN for zero. Parameters are those of :func:`cumsum`."""
    return _cumulative(reducers.nancumsum, a, axis, dtype, out, "nancumsum")


def nancumprod(
    a: Any, axis: int | None = None, dtype: Any = None, out: Any = None, *, method: str | None = None
) -> Array:
    """Cumulative product that takes NaN for one. Parameters are those of :func:`cumsum`."""
    return _cumulative(reducers.nancumprod, a, axis, dtype, out, "nancumprod")


def _including(
    function: Callable[..., Array], x: Any, axis: int | None, dtype: Any, initial: bool, start: int
) -> Array:
    x = asarray(x)
    if axis is None:
        if x.ndim != 1:
            raise PlanError(
                f"for arrays of more than one dimension, or none, the axis must be given; shape is {x.shape}"
            )
        axis = 0
    axis = normalize_axis_index(axis, x.ndim)
    result = function(x, axis, dtype)
    if not initial:
        return result
    first = full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), start, result.dtype)
    return concatenate([first, result], axis)


def cumulative_sum(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, out: Any = None, include_initial: bool = False
) -> Array:
    """Cumulative sum, with a zero in front if ``include_initial``. See :func:`numpy.cumulative_sum`."""
    return _finished(_including(cumsum, x, axis, dtype, include_initial, 0), out, "cumulative_sum")


def cumulative_prod(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, out: Any = None, include_initial: bool = False
) -> Array:
    """Cumulative product, with a one in front if ``include_initial``. See :func:`numpy.cumulative_prod`."""
    return _finished(_including(cumprod, x, axis, dtype, include_initial, 1), out, "cumulative_prod")


def cumreduction(
    func: Callable[..., Any], binop: Callable[[Any, Any], Any], ident: Any, x: Any, axis: int | None = None,
    dtype: Any = None, out: Any = None, method: str | None = None, preop: Callable[..., Any] | None = None,
) -> Array:  # fmt: skip
    """A cumulative operation of one's own, from a function of blocks and one that joins two results.

    Parameters
    ----------
    func
        ``func(block, axis=axis)``, the operation inside a block, such as ``np.cumsum``.
    binop
        ``binop(before, block)`` joins the last element of what came before with a later result, such as ``np.add``.
    x
        The array.
    axis
        Axis to go along; None for the flattened array.
    dtype
        Type of the result, which is passed to ``func`` if that can take it. Otherwise ``func`` is run on empty blocks
        to see.
    out
        A lazy array that shall hold the result.
    ident, method, preop
        Without effect; for programs written for Dask.

    Returns
    -------
    Array
        Lazy, of the shape and chunks of ``x``.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> ta.cumreduction(np.cumsum, np.add, 0, ta.ones(4, chunks=2), axis=0).compute()
    array([1., 2., 3., 4.])
    """
    x = asarray(x)
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalize_axis_index(axis, x.ndim)
    label = name_of(func)
    if dtype is not None and has_parameter(func, "dtype"):
        func = partial(func, dtype=dtype)
    if dtype is None:
        dtype = np.asarray(infer(func, lambda n: [stand_in(x, n)], {"axis": axis}, label)).dtype
    return _finished(Array(build.scan(x.node, axis, (func, None, binop), np.dtype(dtype), label)), out, label)


def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Array:
    """Differences of neighbours along an axis, ``n`` times. See :func:`numpy.diff`."""
    a = asarray(a)
    if n < 0:
        raise PlanError(f"diff: order must be non-negative, not {n}")
    if a.ndim == 0:
        raise PlanError("diff requires input that is at least one dimensional")
    axis = normalize_axis_index(axis, a.ndim)
    if n == 0:
        return a
    ends = [_as_end(end, a, axis) for end in (prepend, append) if end is not None]
    if ends:
        a = concatenate([*ends[: prepend is not None], a, *ends[prepend is not None :]], axis)
    subtract = np.not_equal if a.dtype == bool else np.subtract
    for _ in range(n):
        before = (slice(None),) * axis
        a = subtract(getitem(a, (*before, slice(1, None))), getitem(a, (*before, slice(None, -1))))
    return a


def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Array:
    """Differences of neighbours among all elements in a row, with more in front and behind. See :func:`numpy.ediff1d`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.ediff1d(ta.from_array([1, 2, 4], chunks=2), to_begin=0).compute()
    array([0, 1, 2])
    """
    flat = ravel(ary)
    parts = [diff(flat)]
    for what, end in (("to_begin", to_begin), ("to_end", to_end)):
        if end is None:
            continue
        end = ravel(asarray(end))
        if not np.can_cast(end.dtype, flat.dtype, "same_kind"):
            raise TypeError(f"ediff1d: dtype {end.dtype} of {what} must be compatible with {flat.dtype} of ary")
        parts.insert(0 if what == "to_begin" else len(parts), end)
    return concatenate(parts, dtype=flat.dtype)


def _as_end(end: Any, a: Array, axis: int) -> Array:
    """What to join on along an axis: an array as it is, a number as a slice of length one."""
    end = asarray(end)
    return end if end.ndim else broadcast_to(end, (*a.shape[:axis], 1, *a.shape[axis + 1 :]))
