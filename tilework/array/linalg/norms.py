"""Norms and ranks, and the short functions of the array API that look at the last two axes.

Norms are reductions; those that are made of singular values need a matrix as :func:`~tilework.array.linalg.svd` does.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from tilework.array import reductions
from tilework.array.core import Array
from tilework.array.creation import asarray, eye
from tilework.array.linalg.stacks import matrix, square
from tilework.array.linalg.tall import adjoint, svd, svdvals
from tilework.array.linalg.triangular import inv
from tilework.array.manipulation import diagonal as numpy_diagonal
from tilework.array.manipulation import stack
from tilework.array.products import matmul
from tilework.array.shapes import broadcast_arrays, broadcast_to, expand_dims, moveaxis
from tilework.array.ufuncs import where
from tilework.base.errors import PlanError

# ---------------------------------------------------------------- norms


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Array:
    """Norm of a vector, a matrix, or of all elements.

    Parameters
    ----------
    x
        The array.
    ord
        For vectors a number; for matrices ``"fro"``, ``"nuc"``, 1, -1, 2, -2, inf or -inf. Default: the root of the sum
        of squares.
    axis
        One axis (norms of vectors) or two (of matrices). Default: all; more than two only if ``ord`` is not given.
    keepdims
        Keep the axes, with length one.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.linalg.norm(ta.asarray([3.0, 4.0])).compute()
    np.float64(5.0)
    """
    x = _floating(x)
    if axis is None:
        axes = tuple(range(x.ndim))
        if ord is None:
            return _root_of_squares(x, axes, keepdims)
    else:
        axes = normalize_axis_tuple(axis, x.ndim)
    if len(axes) == 1:
        return _vector_norm(x, axes, 2 if ord is None else ord, keepdims)
    if len(axes) == 2:
        return _matrix_norm(x, axes, "fro" if ord is None else ord, keepdims)
    raise PlanError(f"norm: axis={axis} of an array of {x.ndim} dimensions; give one axis or two")


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Array:
    """Norm of order ``ord`` over any number of axes; by default over all, the root of the sum of squares."""
    x = _floating(x)
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)
    return _vector_norm(x, axes, ord, keepdims)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    """Norms of matrices, which lie along the last two axes; ``ord`` as for :func:`norm`."""
    x = _floating(matrix(x, "matrix_norm"))
    return _matrix_norm(x, (x.ndim - 2, x.ndim - 1), ord, keepdims)


def _vector_norm(x: Array, axes: tuple[int, ...], ord: Any, keepdims: bool) -> Array:
    if isinstance(ord, str):
        raise PlanError(f"norm: invalid norm order {ord!r} for vectors; give a number")
    if ord == 2:
        return _root_of_squares(x, axes, keepdims)
    size = np.abs(x)
    if ord in (inf, -inf):
        return (reductions.max if ord > 0 else reductions.min)(size, axis=axes, keepdims=keepdims)
    if ord == 0:
        return reductions.sum((size != 0).astype(size.dtype), axis=axes, keepdims=keepdims)
    if ord == 1:
        return reductions.sum(size, axis=axes, keepdims=keepdims)
    total: Array = reductions.sum(size**ord, axis=axes, keepdims=keepdims) ** (1 / ord)
    return total


def _root_of_squares(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    squares: Any = np.square(x) if x.dtype.kind == "f" else np.square(np.real(x)) + np.square(np.imag(x))
    root: Any = np.sqrt(reductions.sum(squares, axis=axes, keepdims=keepdims))
    return root


def _matrix_norm(x: Array, axes: tuple[int, ...], ord: Any, keepdims: bool) -> Array:
    rows, columns = axes
    if ord == "fro":
        return _root_of_squares(x, axes, keepdims)
    if ord in (1, -1, inf, -inf):
        summed, left = (rows, columns) if abs(ord) == 1 else (columns, rows)
        sums = reductions.sum(np.abs(x), axis=summed, keepdims=True)
        result = (reductions.max if ord > 0 else reductions.min)(sums, axis=left, keepdims=True)
        return result if keepdims else result.squeeze(axes)
    if ord in ("nuc", 2, -2):
        values = svdvals(moveaxis(x, axes, (-2, -1)))
        result = reductions.sum(values, axis=-1) if ord == "nuc" else values[..., 0 if ord == 2 else -1]
        return expand_dims(result, axes) if keepdims else result
    raise PlanError(f"norm: invalid norm order {ord!r} for matrices; give 'fro', 'nuc', 1, -1, 2, -2, inf or -inf")


def _floating(x: Any) -> Array:
    x = asarray(x)
    return x if x.dtype.kind in "fc" else x.astype(float)


# ---------------------------------------------------------------- ranks and inverses


def matrix_rank(x: Any, /, tol: Any = None, *, rtol: Any = None) -> Array:
    """How many singular values are not nearly zero.

    Parameters
    ----------
    x
        A matrix, or a stack of them. A vector has rank one, if not all of it is zero.
    tol
        Singular values up to ``tol`` count as zero.
    rtol
        Singular values up to ``rtol`` times the largest count as zero. Default: the rounding error times the longer
        axis.
    """
    x = _floating(x)
    if x.ndim < 2:
        return (x != 0).any().astype(int)
    if tol is not None and rtol is not None:
        raise PlanError("matrix_rank: give tol or rtol, not both")
    values = svdvals(x)
    limit = _smallest(values, x, rtol) if tol is None else expand_dims(asarray(tol), -1)
    return reductions.sum(values > limit, axis=-1)


def pinv(x: Any, /, rcond: Any = None, *, rtol: Any = None) -> Array:
    """Pseudo-inverses, by singular values. The chunks are treated as in :func:`~tilework.array.linalg.svd`.

    Parameters
    ----------
    x
        A matrix, or a stack of them.
    rcond, rtol
        Singular values up to this times the largest count as zero. Default: the rounding error times the longer axis.
    """
    x = _floating(matrix(x, "pinv"))
    if rcond is not None and rtol is not None:
        raise PlanError("pinv: give rcond or rtol, not both")
    u, s, vh = svd(x, coerce_signs=False)
    regular = s > _smallest(s, x, rcond if rtol is None else rtol)
    inverse = where(regular, 1 / where(regular, s, s.dtype.type(1)), s.dtype.type(0))
    return matmul(adjoint(vh), expand_dims(inverse, -1) * adjoint(u))


def _smallest(values: Array, x: Array, rtol: Any) -> Array:
    """What singular values must exceed."""
    if rtol is None:
        rtol = float(np.finfo(values.dtype).eps) * max(x.shape[-2:])
    relative = rtol if isinstance(rtol, float | int) else expand_dims(asarray(rtol), -1)
    limit: Array = reductions.max(values, axis=-1, keepdims=True, initial=0) * relative
    return limit


def matrix_power(x: Any, n: int, /) -> Array:
    """Square matrices multiplied by themselves ``n`` times; for a negative ``n`` their inverses."""
    x = square(x, "matrix_power")
    if not isinstance(n, int | np.integer):
        raise TypeError(f"matrix_power: the exponent must be an integer, not {n!r}")
    if n == 0:
        unit = eye(x.shape[-1], dtype=x.dtype, chunks=x.chunks[-1].largest)
        return broadcast_to(unit, x.shape)
    x = inv(x) if n < 0 else x
    n, result = abs(n), None
    while n:
        if n % 2:
            result = x if result is None else matmul(result, x)
        n //= 2
        x = matmul(x, x) if n else x
    assert result is not None
    return result


# ---------------------------------------------------------------- the array API's own


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Array:
    """Cross products of vectors of three elements, which lie along ``axis``.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.linalg.cross(ta.asarray([1, 0, 0]), ta.asarray([0, 1, 0])).compute()
    array([0, 0, 1])
    """
    x1, x2 = asarray(x1), asarray(x2)
    if not all(x.ndim and x.shape[normalize_axis_index(axis, x.ndim)] == 3 for x in (x1, x2)):
        raise PlanError(f"cross: shapes {x1.shape} and {x2.shape} must have length 3 along axis {axis}")
    a, b = (moveaxis(x, axis, -1) for x in broadcast_arrays(x1, x2))
    pairs = ((1, 2), (2, 0), (0, 1))
    return stack([a[..., i] * b[..., j] - a[..., j] * b[..., i] for i, j in pairs], axis=axis)


def diagonal(x: Any, /, *, offset: int = 0) -> Array:
    """Diagonals of matrices, which lie along the last two axes; :func:`numpy.diagonal` takes the first two."""
    return numpy_diagonal(matrix(x, "diagonal"), offset, -2, -1)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Array:
    """Sums along the diagonals of matrices, which lie along the last two axes."""
    return reductions.trace(matrix(x, "trace"), offset, -2, -1, dtype)
