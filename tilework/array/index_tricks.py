"""Positions in arrays: flat and by axis, and those of triangles."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import asarray, shape_of, tri
from tilework.array.elementwise import Mapped
from tilework.array.searching import nonzero
from tilework.array.ufuncs import elementwise
from tilework.base.errors import DTypeError, PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot


def unravel_index(indices: Any, shape: Any, order: str = "C") -> tuple[Array, ...]:
    """Positions along each axis, from flat ones. See :func:`numpy.unravel_index`.

    Parameters
    ----------
    indices
        Flat positions. Those out of bounds are found when the result is computed.
    shape
        Lengths of the axes.
    order
        ``"C"`` or ``"F"``: whether the last or the first axis varies fastest.

    Examples
    --------
    >>> import tilework.array as ta
    >>> rows, columns = ta.unravel_index(ta.from_array([2, 5], chunks=1), (3, 2))
    >>> rows.compute(), columns.compute()
    (array([1, 2]), array([0, 1]))
    """
    indices, shape = asarray(indices), shape_of(shape)
    np.unravel_index(np.empty(0, indices.dtype), shape or (1,), order)  # type: ignore[call-overload]  # checks them
    options = (("shape", shape), ("order", order))
    return tuple(
        elementwise(Mapped(_unravelled, (("axis", k), *options)), indices, dtype=np.intp, label="unravel_index")
        for k in range(len(shape))
    )


def _unravelled(flat: np.ndarray, *, axis: int, shape: tuple[int, ...], order: Any) -> np.ndarray:
    return np.asarray(np.unravel_index(flat, shape, order)[axis])


def ravel_multi_index(multi_index: Any, dims: Any, mode: Any = "raise", order: str = "C") -> Array:
    """Flat positions, from those along each axis. See :func:`numpy.ravel_multi_index`.

    Parameters
    ----------
    multi_index
        One array of positions for each axis, or one array whose first axis has a row for each.
    dims
        Lengths of the axes. They must not be lazy.
    mode
        What to do about positions out of bounds: ``"raise"`` (when the result is computed), ``"wrap"`` or ``"clip"``;
        or one for each axis.
    order
        ``"C"`` or ``"F"``: whether the last or the first axis varies fastest.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.ravel_multi_index((ta.from_array([1, 2], chunks=1), [0, 1]), (3, 2)).compute()
    array([2, 5])
    """
    if isinstance(dims, Array) or not all(
        isinstance(n, int | np.integer) for n in np.atleast_1d(np.asarray(dims, object))
    ):
        raise UnsupportedError("ravel_multi_index: dims must be numbers, nothing lazy; compute() them first")
    dims = shape_of(dims)
    rows = [multi_index] if isinstance(multi_index, Array) else list(multi_index)
    for row in rows:
        dtype = row.dtype if isinstance(row, Array) else np.asarray(row).dtype
        if dtype.kind not in "iu":
            raise DTypeError(f"ravel_multi_index: positions of dtype {dtype}; only int indices permitted")
    options = {"dims": dims, "mode": mode if isinstance(mode, str) else tuple(mode), "order": order}
    if isinstance(multi_index, Array):  # the rows together, for how many there are may be unknown
        labels = tuple(range(multi_index.ndim))
        function = BlockFunction(_ravelled_rows, (Slot(0),), options)
        return Array(
            build.blockwise(function, labels[1:], [(multi_index.node, labels)], np.intp, label="ravel_multi_index")
        )
    if len(rows) != len(dims):
        raise PlanError(f"ravel_multi_index: {len(rows)} arrays of positions for {len(dims)} axes; give one for each")
    return elementwise(Mapped(_ravelled, tuple(options.items())), *rows, dtype=np.intp, label="ravel_multi_index")


def _ravelled(*rows: np.ndarray, **options: Any) -> np.ndarray:
    return np.asarray(np.ravel_multi_index(rows, **options))


def _ravelled_rows(rows: np.ndarray, **options: Any) -> np.ndarray:
    return _ravelled(*rows, **options)


def tril_indices(n: int, k: int = 0, m: int | None = None, chunks: Any = "auto") -> tuple[Array, Array]:
    """Positions at and below a diagonal of a matrix. See :func:`numpy.tril_indices`.

    Parameters
    ----------
    n, m
        Numbers of rows and columns; as many columns as rows by default.
    k
        Which diagonal: 0 is the main one, positive ones lie above it.
    chunks
        Of the matrix. The length of the result is unknown.

    Examples
    --------
    >>> import tilework.array as ta
    >>> rows, columns = ta.tril_indices(3, -1)
    >>> rows.compute(), columns.compute()
    (array([1, 2, 2]), array([0, 0, 1]))
    """
    rows, columns = nonzero(tri(n, m, k, bool, chunks))
    return rows, columns


def triu_indices(n: int, k: int = 0, m: int | None = None, chunks: Any = "auto") -> tuple[Array, Array]:
    """Positions at and above a diagonal of a matrix. Parameters are those of :func:`tril_indices`."""
    rows, columns = nonzero(~tri(n, m, k - 1, bool, chunks))
    return rows, columns


def tril_indices_from(arr: Any, k: int = 0) -> tuple[Array, Array]:
    """:func:`tril_indices` of a matrix like ``arr``."""
    arr = _matrix(arr, "tril_indices_from")
    return tril_indices(arr.shape[0], k, arr.shape[1], arr.chunks)


def triu_indices_from(arr: Any, k: int = 0) -> tuple[Array, Array]:
    """:func:`triu_indices` of a matrix like ``arr``."""
    arr = _matrix(arr, "triu_indices_from")
    return triu_indices(arr.shape[0], k, arr.shape[1], arr.chunks)


def _matrix(arr: Any, label: str) -> Array:
    arr = asarray(arr)
    if arr.ndim != 2:
        raise PlanError(f"{label}: input array must be 2-d, not of shape {arr.shape}")
    return arr


__all__ = [
    "ravel_multi_index",
    "tril_indices",
    "tril_indices_from",
    "triu_indices",
    "triu_indices_from",
    "unravel_index",
]
