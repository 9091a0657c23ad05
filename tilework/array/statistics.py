"""Covariances, correlations and moments: sums of products, made of reductions and matrix products.

The mean is subtracted before anything is multiplied, as in NumPy. So the data is made twice (or kept, if that is
cheaper), and nothing is lost to rounding where the mean is large.
"""

from __future__ import annotations

import warnings
from math import isnan
from typing import Any

import numpy as np

from tilework.array import reductions
from tilework.array.core import Array, in_memory, into
from tilework.array.creation import asarray, ones, zeros
from tilework.array.elementwise import Mapped, cast
from tilework.array.indexing import getitem
from tilework.array.manipulation import concatenate, diagonal
from tilework.array.products import dot
from tilework.array.reductions import SplitEvery
from tilework.array.shapes import atleast_2d, squeeze
from tilework.array.ufuncs import clip, elementwise
from tilework.base.errors import DTypeError, PlanError, UnknownChunksError
from tilework.plan import build


def cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None, fweights: Any = None,
    aweights: Any = None, *, dtype: Any = None,
) -> Array:  # fmt: skip
    """Covariances of variables. See :func:`numpy.cov`.

    Parameters
    ----------
    m
        One row for each variable, one column for each observation; a single variable may be one-dimensional.
    y
        More variables, laid out as ``m``.
    rowvar
        False if the columns are the variables.
    bias
        Divide by the number of observations, not by one less.
    ddof
        Divide by the number of observations less this; takes the place of ``bias``.
    fweights
        How often each observation counts: whole numbers.
    aweights
        How important each observation is.
    dtype
        Type of the result; at least float64 by default.

    Returns
    -------
    Array
        A matrix with a row and a column for each variable; without axes for a single variable.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.cov(ta.from_array([[0, 1, 2], [2, 1, 0]], chunks=2)).compute()
    array([[ 1., -1.],
           [-1.,  1.]])
    """
    ddof = in_memory(ddof, "cov: ddof")
    if ddof is not None and ddof != int(ddof):
        raise PlanError(f"cov: ddof={ddof!r} must be an integer")
    ddof = (0 if bias else 1) if ddof is None else int(ddof)
    arrays = _variables(m, y, rowvar)
    dtype = dtype or np.result_type(*(x.dtype for x in arrays), np.float64)
    x = Array(cast(concatenate(arrays).node, dtype))
    n = x.shape[1]
    if isnan(n):
        raise UnknownChunksError("cov: the number of observations is unknown; call compute_chunk_sizes() first")
    given = [_weights(w, what, n) for what, w in (("fweights", fweights), ("aweights", aweights)) if w is not None]
    if not given:
        weights, divisor = None, n - ddof
    else:
        weights = given[0] if len(given) == 1 else given[0] * given[1]
        total = reductions.sum(weights)
        lost = ddof if aweights is None else ddof * reductions.sum(weights * given[-1]) / total
        divisor = total - lost
    x = x - reductions.average(x, 1, weights, keepdims=True)
    products = dot(x, np.conjugate(x if weights is None else x * weights).T)
    return squeeze(products * _one_over(divisor))


def _variables(m: Any, y: Any, rowvar: bool) -> list[Array]:
    """One row for each variable. A single row is laid on its side in ``m``, but not in ``y``: so does NumPy."""
    given = [asarray(x) for x in (m, y) if x is not None]
    for x in given:
        if x.ndim > 2:
            raise PlanError(f"cov: an array of shape {x.shape} has more than 2 dimensions: variables and observations")
    rows = [atleast_2d(x) for x in given]
    if not rowvar:
        upright = [given[0].ndim != 1, *(x.shape[0] != 1 for x in rows[1:])]
        rows = [x.T if turn else x for x, turn in zip(rows, upright, strict=True)]
    return rows


def _weights(weights: Any, what: str, n: int) -> Array:
    """Checked weights as floats. Values are checked when they are made. NumPy's error classes."""
    lazy = asarray(weights)
    if lazy.ndim != 1:
        raise RuntimeError(f"cov: cannot handle multidimensional {what}, of shape {lazy.shape}")
    if lazy.shape[0] != n:
        raise RuntimeError(f"cov: incompatible numbers of samples and {what}: {n} and {lazy.shape[0]}")
    check = Mapped(_checked_weights, (("what", what),))
    if not isinstance(weights, Array):
        check(np.asarray(weights))
    return elementwise(check, lazy, dtype=float, label=what)


def _checked_weights(weights: np.ndarray, *, what: str) -> np.ndarray:
    if what == "fweights" and (weights != np.around(weights)).any():
        raise DTypeError("cov: fweights must be integer")
    if (weights < 0).any():
        raise PlanError(f"cov: {what} cannot be negative")
    return weights.astype(float)


def _one_over(divisor: Any) -> Any:
    """The factor for sums of squares; infinite if there are too few observations, as in NumPy."""
    if isinstance(divisor, Array):
        return np.true_divide(1, clip(divisor, 0, None))
    if divisor > 0:
        return 1 / divisor
    warnings.warn("cov: degrees of freedom <= 0 for slice", RuntimeWarning, stacklevel=4)
    return np.inf


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Array:
    """Correlations of variables. Parameters are those of :func:`cov`. See :func:`numpy.corrcoef`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.corrcoef(ta.from_array([[0, 1, 2], [2, 1, 0]], chunks=2)).compute()
    array([[ 1., -1.],
           [-1.,  1.]])
    """
    c = cov(x, y, rowvar, dtype=dtype)
    if c.ndim == 0:
        return c / c
    spread: Any = np.sqrt(diagonal(c).real)
    c = c / getitem(spread, (slice(None), None)) / spread
    if c.dtype.kind == "c":
        return clip(c.real, -1, 1) + 1j * clip(c.imag, -1, 1)
    return clip(c, -1, 1)


def moment(
    a: Any, order: int, axis: Any = None, dtype: Any = None, keepdims: bool = False, ddof: float = 0,
    split_every: SplitEvery = None, out: Any = None,
) -> Array:  # fmt: skip
    """Central moments along axes: the mean of powers of what differs from the mean.

    Parameters
    ----------
    a
        The array.
    order
        The power, a whole number: 2 makes variances.
    axis, dtype, keepdims, split_every, out
        As for :func:`sum`.
    ddof
        Divide by the number of elements less this.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.moment(ta.arange(5, chunks=2), 4).compute()
    np.float64(6.8)
    """
    a = asarray(a)
    if not isinstance(order, int | np.integer) or order < 0:
        raise PlanError(f"moment: order={order!r} must be an integer from 0 up")
    options: dict[str, Any] = {"keepdims": keepdims, "split_every": split_every}
    if order < 2:
        like = reductions.sum(a, axis, dtype, **options)
        result = (zeros if order else ones)(like.shape, dtype or float, chunks=like.chunks)
        return result if out is None else into(out, result, "moment")
    differences = a - reductions.mean(a, axis, dtype, keepdims=True, split_every=split_every)
    powers = differences ** int(order)
    if not in_memory(ddof, "moment: ddof"):
        return reductions.mean(powers, axis, dtype, out, **options)
    n = np.prod([a.shape[k] for k in build.normalize_axis(axis, a.ndim)])
    result = reductions.sum(powers, axis, dtype, **options) / float(n - ddof)
    return result if out is None else into(out, result, "moment")


__all__ = ["corrcoef", "cov", "moment"]
