"""NumPy's reductions and cumulative operations, as data for tree reductions over blocks and tiles.

One function per reduction: it takes the dtype of the array and NumPy's options, and returns a
:class:`~tilework.plan.reductions.Reduction` whose ``dtype`` is that of NumPy's result.

Examples
--------
>>> reduction = mean("int16")
>>> reduction.dtype
dtype('float64')
>>> parts = reduction.partial(np.arange(6, dtype="int16").reshape(2, 3), axis=(0,))
>>> reduction.finalize(parts)
array([[1.5, 2.5, 3.5]])
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from tilework.base.errors import DTypeError
from tilework.plan.reduction_kernels import (
    COUNT,
    Arg,
    CountNonzero,
    Extreme,
    Fold,
    Mean,
    Moments,
    TreeAccumulator,
    skips,
)
from tilework.plan.reductions import Reduction


def _result(function: Callable[..., Any], source: DTypeLike, **options: Any) -> np.dtype[Any]:
    """The dtype of NumPy's answer, from NumPy. Raises DTypeError where it has none."""
    try:
        return function(np.zeros((1, 1), source), axis=0, **options).dtype
    except TypeError as error:
        raise DTypeError(f"{function.__name__} is not possible for dtype {np.dtype(source)}: {error}") from None


def _reduction(name: str, kernel: Any, dtype: np.dtype[Any], itemsize: int) -> Reduction:
    return Reduction(
        name, kernel.partial, kernel.combine, kernel.finalize, partial(TreeAccumulator, kernel), itemsize, dtype=dtype
    )


def _ignored(message: str) -> bool:
    """Whether a warning of NumPy's is ignored here, where the reduction is written: it is run elsewhere, later."""
    for action, pattern, category, module, _ in warnings.filters:
        if module is None and issubclass(RuntimeWarning, category) and (pattern is None or pattern.match(message)):
            return action == "ignore"
    return False


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What values of a dtype are summed in: float16 in float32, as NumPy does inside."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _fold(
    function: Callable[..., Any], ufunc: np.ufunc, source: DTypeLike, dtype: DTypeLike | None, fill: int | None
) -> Reduction:
    out = _result(function, source, dtype=dtype)
    wide = _wide(out)
    fill = fill if skips(np.dtype(source)) else None
    return _reduction(function.__name__, Fold(ufunc, wide, out, fill), out, wide.itemsize)


def sum_(source: DTypeLike, dtype: DTypeLike | None = None) -> Reduction:
    """``numpy.sum`` of an array of dtype ``source``; so are the others named."""
    return _fold(np.sum, np.add, source, dtype, None)


def prod(source: DTypeLike, dtype: DTypeLike | None = None) -> Reduction:
    return _fold(np.prod, np.multiply, source, dtype, None)


def nansum(source: DTypeLike, dtype: DTypeLike | None = None) -> Reduction:
    return _fold(np.nansum, np.add, source, dtype, 0)


def nanprod(source: DTypeLike, dtype: DTypeLike | None = None) -> Reduction:
    return _fold(np.nanprod, np.multiply, source, dtype, 1)


def any_(source: DTypeLike) -> Reduction:
    out = _result(np.any, source)
    return _reduction("any", Fold(np.logical_or, None, out), out, 1)


def all_(source: DTypeLike) -> Reduction:
    out = _result(np.all, source)
    return _reduction("all", Fold(np.logical_and, None, out), out, 1)


def count_nonzero(source: DTypeLike) -> Reduction:
    return _reduction("count_nonzero", CountNonzero(), _result(np.count_nonzero, source), COUNT.itemsize)


def _extreme(function: Callable[..., Any], ufunc: np.ufunc, source: DTypeLike) -> Reduction:
    out = _result(function, source)
    return _reduction(
        function.__name__.removeprefix("a"), Extreme(ufunc, _ignored("All-NaN slice encountered")), out, out.itemsize
    )


def min_(source: DTypeLike) -> Reduction:
    return _extreme(np.min, np.minimum, source)


def max_(source: DTypeLike) -> Reduction:
    return _extreme(np.max, np.maximum, source)


def nanmin(source: DTypeLike) -> Reduction:
    return _extreme(np.nanmin, np.fmin, source)


def nanmax(source: DTypeLike) -> Reduction:
    return _extreme(np.nanmax, np.fmax, source)


def _summed_in(source: DTypeLike, dtype: DTypeLike | None) -> np.dtype[Any]:
    """What means are computed in."""
    wanted = np.dtype(source if dtype is None else dtype)
    return np.dtype(np.float64) if dtype is None and wanted.kind in "biu" else _wide(wanted)


def _mean(function: Callable[..., Any], source: DTypeLike, dtype: DTypeLike | None, skipna: bool) -> Reduction:
    out, total = _result(function, source, dtype=dtype), _summed_in(source, dtype)
    skipna = skipna and skips(np.dtype(source))
    kernel = Mean(total, out, skipna, _ignored("Mean of empty slice"))
    return _reduction(function.__name__, kernel, out, total.itemsize + 8 * skipna)


def mean(source: DTypeLike, dtype: DTypeLike | None = None) -> Reduction:
    return _mean(np.mean, source, dtype, False)


def nanmean(source: DTypeLike, dtype: DTypeLike | None = None) -> Reduction:
    return _mean(np.nanmean, source, dtype, True)


def _moments(function: Callable[..., Any], source: DTypeLike, ddof: float, dtype: DTypeLike | None) -> Reduction:
    name, out, inside = function.__name__, _result(function, source, dtype=dtype), _summed_in(source, dtype)
    skipna = name.startswith("nan") and skips(np.dtype(source))
    kernel = Moments(inside, out, ddof, name.endswith("std"), skipna, _ignored("Degrees of freedom <= 0 for slice"))
    return _reduction(name, kernel, out, 2 * inside.itemsize + 8 * skipna)


def var(source: DTypeLike, ddof: float = 0, dtype: DTypeLike | None = None) -> Reduction:
    return _moments(np.var, source, ddof, dtype)


def std(source: DTypeLike, ddof: float = 0, dtype: DTypeLike | None = None) -> Reduction:
    return _moments(np.std, source, ddof, dtype)


def nanvar(source: DTypeLike, ddof: float = 0, dtype: DTypeLike | None = None) -> Reduction:
    return _moments(np.nanvar, source, ddof, dtype)


def nanstd(source: DTypeLike, ddof: float = 0, dtype: DTypeLike | None = None) -> Reduction:
    return _moments(np.nanstd, source, ddof, dtype)


def _arg(function: Callable[..., Any], find: Callable[..., Any], ufunc: np.ufunc, source: DTypeLike) -> Reduction:
    kernel = Arg(find, ufunc, ufunc in (np.fmin, np.fmax))
    out = _result(function, source)
    size = np.dtype(source).itemsize + 8
    name = function.__name__
    return Reduction(name, kernel.partial, kernel.combine, kernel.finalize, None, size, place=True, dtype=out)


def argmin(source: DTypeLike) -> Reduction:
    """``numpy.argmin`` along one axis or all of them."""
    return _arg(np.argmin, np.argmin, np.minimum, source)


def argmax(source: DTypeLike) -> Reduction:
    """``numpy.argmax`` along one axis or all of them."""
    return _arg(np.argmax, np.argmax, np.maximum, source)


def nanargmin(source: DTypeLike) -> Reduction:
    """``numpy.nanargmin`` along one axis or all of them."""
    return _arg(np.nanargmin, np.argmin, np.fmin, source)


def nanargmax(source: DTypeLike) -> Reduction:
    """``numpy.nanargmax`` along one axis or all of them."""
    return _arg(np.nanargmax, np.argmax, np.fmax, source)


# ---------------------------------------------------------------- cumulative operations


class Cumulative(NamedTuple):
    """What :class:`~tilework.plan.ops.Scan` needs: ``functions`` are ``(local, total, join)``."""

    functions: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
    dtype: np.dtype[Any]


def _cumulative(
    scan: Callable[..., Any], total: Callable[..., Any], join: np.ufunc, source: DTypeLike, dtype: DTypeLike | None
) -> Cumulative:
    out = _result(scan, source, dtype=dtype)
    return Cumulative((partial(scan, dtype=out), partial(total, dtype=out, keepdims=True), join), out)


def cumsum(source: DTypeLike, dtype: DTypeLike | None = None) -> Cumulative:
    """``numpy.cumsum`` of an array of dtype ``source``; so are the others named."""
    return _cumulative(np.cumsum, np.sum, np.add, source, dtype)


def cumprod(source: DTypeLike, dtype: DTypeLike | None = None) -> Cumulative:
    return _cumulative(np.cumprod, np.prod, np.multiply, source, dtype)


def nancumsum(source: DTypeLike, dtype: DTypeLike | None = None) -> Cumulative:
    return _cumulative(np.nancumsum, np.nansum, np.add, source, dtype)


def nancumprod(source: DTypeLike, dtype: DTypeLike | None = None) -> Cumulative:
    return _cumulative(np.nancumprod, np.nanprod, np.multiply, source, dtype)
