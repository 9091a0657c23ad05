"""Cholesky, LU and what is solved with them, in blocks.

All are recursive: the matrix is halved between two blocks, and again, until one block is left for LAPACK (through
SciPy). What remains are products of halves, which is where the arithmetic is. So the number of operations in the plan
grows with the number of blocks along the diagonal, the number of tasks with its cube at most (as the arithmetic does),
and the work runs in blocks of the size that the matrix has.

- *Triangular systems* and *Cholesky* hold a few blocks per task.
- *LU* looks for pivots in whole columns, so it is SciPy's and as stable as that. A task holds whole columns of blocks:
  a few times ``rows x chunk``. (Pivots within the diagonal blocks only, as in Dask, were rejected: they fail on
  matrices that are perfectly regular, such as ``[[0, 1], [1, 0]]`` in blocks of one.)
"""

from __future__ import annotations

import warnings
from math import isnan
from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import arange, asarray, eye, zeros
from tilework.array.indexing import getitem
from tilework.array.linalg.stacks import MatrixError, of_each, single, square
from tilework.array.linalg.tall import adjoint, qr
from tilework.array.manipulation import concatenate
from tilework.array.products import matmul
from tilework.array.shapes import expand_dims, squeeze
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Slot

# ---------------------------------------------------------------- triangular systems


def solve_triangular(a: Any, b: Any, lower: bool = False) -> Array:
    """Solve ``a @ x = b`` for a triangular matrix.

    Parameters
    ----------
    a
        A square matrix, of which only one triangle is read. Its rows' chunks are those of the result; the columns are
        given the same.
    b
        One right-hand side, or a matrix with one in each column.
    lower
        Read the lower triangle.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the shapes do not fit; when it is computed, if there is a zero on the diagonal.

    Examples
    --------
    >>> import tilework.array as ta
    >>> a = ta.asarray([[2.0, 0.0], [1.0, 1.0]], chunks=1)
    >>> ta.linalg.solve_triangular(a, ta.asarray([2.0, 3.0]), lower=True).compute()
    array([1., 2.])
    """
    a, b = _system(a, b, "solve_triangular")
    if b.ndim == 1:
        return squeeze(_substituted(a, expand_dims(b, 1), lower), 1)
    return _substituted(a, b, lower)


def _substituted(a: Array, b: Array, lower: bool) -> Array:
    """Halves of the solution: the first from half of the matrix, the second after subtracting the first's part."""
    if len(a.chunks[0]) == 1:
        dtype = _solve_block(np.ones((1, 1), a.dtype), np.ones((1, 1), b.dtype), lower).dtype
        function = BlockFunction(_solve_block, (Slot(0), Slot(1), lower))
        rows = build.rechunk(b.node, (a.chunks[0], b.chunks[1]))
        inputs = [(a.node, "ij"), (rows, "jk")]
        return Array(build.blockwise(function, "ik", inputs, dtype, label="solve_triangular"))
    (first, corner), (other, second) = _quarters(a)
    upper_b, lower_b = _halves(b, first.shape[0])
    if lower:
        top = _substituted(first, upper_b, lower)
        bottom = _substituted(second, lower_b - matmul(other, top), lower)
    else:
        bottom = _substituted(second, lower_b, lower)
        top = _substituted(first, upper_b - matmul(corner, bottom), lower)
    return concatenate([top, bottom])


def _solve_block(a: np.ndarray, b: np.ndarray, lower: bool) -> np.ndarray:
    return np.asarray(_scipy().solve_triangular(a, b, lower=lower, check_finite=False))


def _scipy() -> Any:
    """The module, or an ImportError that says how to get it. First asked for when a plan is built."""
    try:
        import scipy.linalg
    except ImportError:
        raise ImportError(
            "matrices in several blocks are solved through the package scipy: pip install 'tilework[linalg]'"
        ) from None
    return scipy.linalg


# ---------------------------------------------------------------- Cholesky


def cholesky(x: Any, /, lower: bool | None = None, *, upper: bool | None = None) -> Array:
    """Cholesky decomposition of a positive definite matrix.

    Parameters
    ----------
    x
        A Hermitian matrix, or a stack of them, of which one triangle is read. The columns of a single matrix are given
        the rows' chunks; matrices of a stack become one block each.
    lower, upper
        Which factor is returned: ``L`` with ``x = L @ L^H`` or ``U`` with ``x = U^H @ U``. Say one of them. Without,
        it is the upper one, as in Dask and SciPy; NumPy and the array API return the lower one.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not square; when it is computed, if it is not positive definite.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.linalg.cholesky(ta.asarray([[4.0, 2.0], [2.0, 2.0]], chunks=1), lower=True).compute()
    array([[2., 0.],
           [1., 1.]])
    """
    x = square(x, "cholesky")
    if lower is not None and upper is not None and bool(lower) == bool(upper):
        raise PlanError(f"cholesky: lower={lower} and upper={upper} contradict each other; give one of them")
    lower = bool(lower) if lower is not None else upper is not None and not upper
    if x.ndim > 2 or x.npartitions == 1:
        factor: Array = of_each(np.linalg.cholesky, "(i,j)->(i,j)", x, upper=not lower)
        return factor
    x = _square_chunks(x, "cholesky")
    return _cholesky(x) if lower else adjoint(_cholesky(adjoint(x)))


def _cholesky(x: Array) -> Array:
    """The lower factor; reads the lower triangle."""
    if x.npartitions == 1:
        factor: Array = of_each(np.linalg.cholesky, "(i,j)->(i,j)", x)
        return factor
    (first, corner), (other, second) = _quarters(x)
    top = _cholesky(first)
    left = adjoint(_substituted(top, adjoint(other), lower=True))
    bottom = _cholesky(second - matmul(left, adjoint(left)))
    return _block(top, zeros(corner.shape, left.dtype, chunks=corner.chunks), left, bottom)


# ---------------------------------------------------------------- LU


def lu(a: Any) -> tuple[Array, Array, Array]:
    """LU decomposition with pivots: ``a = p @ l @ u``.

    Pivots are looked for in whole columns, as in SciPy: a task holds columns of blocks of the matrix, a few times
    ``rows x chunk``.

    Parameters
    ----------
    a
        A matrix. Its chunks are those of the result.

    Returns
    -------
    tuple of Array
        The permutation matrix, the lower triangular one with ones on its diagonal, and the upper triangular one.

    Examples
    --------
    >>> import tilework.array as ta
    >>> p, l, u = ta.linalg.lu(ta.asarray([[0.0, 1.0], [2.0, 3.0]], chunks=1))
    >>> u.compute()
    array([[2., 3.],
           [0., 1.]])
    """
    a = single(a, "lu")
    _check_known(a, "lu")
    rows, columns = a.chunks
    order, l_, u = _lu(Array(build.rechunk(a.node, (AxisChunks((rows.total,)), columns))))
    inner = rows if rows.total <= columns.total else columns
    place = build.rechunk(order.node, (rows,))
    here = arange(rows.total, chunks=(rows,))
    p = (expand_dims(here, 1) == expand_dims(Array(place), 0)).astype(np.finfo(l_.dtype).dtype)
    return p, Array(build.rechunk(l_.node, (rows, inner))), Array(build.rechunk(u.node, (inner, columns)))


def _lu(a: Array) -> tuple[Array, Array, Array]:
    """``order, l, u`` with ``a[order] = l @ u``, of a matrix in whole columns."""
    rows, columns = a.shape
    if columns > rows and a.numblocks[1] > 1:
        first, rest = _columns(a, rows)
        order, l_, u = _lu(first)
        return order, l_, concatenate([u, _substituted(l_, _ordered(rest, order), lower=True)], axis=1)
    if a.numblocks[1] == 1:
        sizes = {"k": min(rows, columns)}
        order, l_, u = of_each(_lu_block, "(i,j)->(i),(i,k),(k,j)", a, sizes=sizes)
        return order, l_, u
    cut = int(a.chunks[1].bounds[a.numblocks[1] // 2])
    left, right = _columns(a, cut)
    order, l_first, u_first = _lu(left)
    top, bottom = _halves(_ordered(right, order), cut)
    l_top, l_bottom = _halves(l_first, cut)
    corner = _substituted(l_top, top, lower=True)
    order_below, l_second, u_second = _lu(bottom - matmul(l_bottom, corner))
    l_ = _block(l_top, zeros((cut, l_second.shape[1]), l_top.dtype), _ordered(l_bottom, order_below), l_second)
    u = _block(u_first, corner, zeros((u_second.shape[0], cut), l_top.dtype), u_second)
    head, tail = getitem(order, (slice(None, cut),)), getitem(order, (slice(cut, None),))
    return concatenate([head, _ordered(tail, order_below)]), l_, u


def _lu_block(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place, l_, u = _scipy().lu(x, check_finite=False, p_indices=True)  # x = l[place] @ u
    return np.argsort(place), l_, u


def _ordered(x: Array, order: Array) -> Array:
    """The rows of ``x`` in another order, which only the run will know."""
    whole = [build.rechunk(n.node, (AxisChunks((n.shape[0],)), *n.chunks[1:])) for n in (x, order)]
    labels = "ij"[: x.ndim]
    function = BlockFunction(np.take, (Slot(0), Slot(1), 0))
    return Array(build.blockwise(function, labels, [(whole[0], labels), (whole[1], "i")], x.dtype, label="permute"))


# ---------------------------------------------------------------- solving


def solve(a: Any, b: Any, /, sym_pos: bool | None = None, assume_a: str = "gen") -> Array:
    """Solve ``a @ x = b``.

    Parameters
    ----------
    a
        A square matrix, or a stack of them. A single one in several blocks is solved by :func:`lu` (or
        :func:`cholesky`) and substitution, in blocks; matrices of a stack become one block each.
    b
        One right-hand side if it has one dimension; else a matrix, or a stack, with one in each column.
    sym_pos
        The old way to say ``assume_a="pos"``.
    assume_a
        ``"pos"`` for a Hermitian, positive definite matrix; ``"gen"`` for any other.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the shapes do not fit; when it is computed, if a matrix is singular or not positive definite.

    Examples
    --------
    >>> import tilework.array as ta
    >>> a = ta.asarray([[0.0, 1.0], [2.0, 0.0]], chunks=1)
    >>> ta.linalg.solve(a, ta.asarray([3.0, 4.0])).compute()
    array([2., 3.])
    """
    if sym_pos is not None:
        warnings.warn("The sym_pos keyword is deprecated; use assume_a='pos'", FutureWarning, stacklevel=2)
        assume_a = "pos" if sym_pos else assume_a
    if assume_a not in ("gen", "pos"):
        raise PlanError(f"solve: assume_a={assume_a!r} must be 'gen' or 'pos'")
    a, b = square(a, "solve"), asarray(b)
    if a.ndim > 2 or b.ndim > 2 or (a.npartitions == 1 and b.npartitions == 1):
        solution: Array = of_each(np.linalg.solve, "(i,j),(j)->(i)" if b.ndim == 1 else "(i,j),(j,k)->(i,k)", a, b)
        return solution
    a, b = _system(a, b, "solve")
    if b.ndim == 1:
        return squeeze(solve(a, expand_dims(b, 1), assume_a=assume_a), 1)
    if assume_a == "pos":
        factor = _cholesky(_square_chunks(a, "solve"))
        return _substituted(adjoint(factor), _substituted(factor, b, lower=True), lower=False)
    rows = a.chunks[0]
    order, l_, u = _lu(Array(build.rechunk(a.node, (AxisChunks((rows.total,)), rows))))
    l_, u = (Array(build.rechunk(x.node, (rows, rows))) for x in (l_, u))
    return _substituted(u, _substituted(l_, _ordered(b, order), lower=True), lower=False)


def inv(a: Any, /) -> Array:
    """Inverses of square matrices. Chunks are treated as in :func:`solve`.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrices are not square; when it is computed, if one is singular.
    """
    a = square(a, "inv")
    if a.ndim > 2 or a.npartitions == 1:
        inverse: Array = of_each(np.linalg.inv, "(i,j)->(i,j)", a)
        return inverse
    a = _square_chunks(a, "inv")
    return solve(a, Array(build.rechunk(eye(a.shape[0], dtype=a.dtype).node, a.chunks)))


def lstsq(a: Any, b: Any, rcond: float | None = None) -> tuple[Array, Array, Array, Array]:
    """Least squares: the ``x`` (the shortest, if there are several) for which ``b - a @ x`` is shortest.

    The matrix is decomposed as by :func:`qr`; the small rest is solved by singular values, as NumPy does it.

    Parameters
    ----------
    a
        The matrix; a tall one is best in blocks of whole rows.
    b
        A vector, or a matrix with one in each column.
    rcond
        Singular values below ``rcond`` times the largest count as zero. Default: the rounding error times the longer
        axis.

    Returns
    -------
    tuple of Array
        The solution; the sums of squared residuals (of length one for a vector; none if there are no more rows than
        columns; here also where the rank is less, and NumPy returns none); the rank; the singular values.

    Examples
    --------
    >>> import tilework.array as ta
    >>> t = ta.arange(6, chunks=2)
    >>> a = ta.stack([ta.ones_like(t), t], axis=1)
    >>> x, residuals, rank, s = ta.linalg.lstsq(a, 3 + 2 * t)
    >>> x.compute().round(12)
    array([3., 2.])
    """
    a, b = single(a, "lstsq"), asarray(b)
    if b.ndim not in (1, 2) or a.shape[0] != b.shape[0]:
        raise MatrixError(f"lstsq: shapes {a.shape} and {b.shape} do not fit together")
    q, r = qr(a)
    columns = b if b.ndim == 2 else expand_dims(b, 1)
    if rcond is None:
        rcond = float(np.finfo(r.dtype).eps) * max(a.shape)
    sizes = {"k": min(a.shape)}
    x, rank, s = of_each(_lstsq, "(i,j),(i,n)->(j,n),(),(k)", r, matmul(adjoint(q), columns), sizes=sizes, rcond=rcond)
    x = x if b.ndim == 2 else squeeze(x, 1)
    residuals = (np.abs(b - matmul(a, x)) ** 2).sum(axis=0, keepdims=b.ndim == 1)
    return x, residuals if a.shape[0] > a.shape[1] else residuals[:0], rank, s


def _lstsq(r: np.ndarray, b: np.ndarray, rcond: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, _, rank, s = np.linalg.lstsq(r, b, rcond=rcond)
    return x, np.asarray(rank, np.intc), s


# ---------------------------------------------------------------- parts of matrices


def _system(a: Any, b: Any, label: str) -> tuple[Array, Array]:
    """Both sides of a linear system, checked; the matrix in square blocks."""
    a, b = single(a, label), asarray(b)
    if b.ndim not in (1, 2) or a.shape[0] != a.shape[1] or a.shape[1] != b.shape[0]:
        raise MatrixError(f"{label}: shapes {a.shape} and {b.shape} do not fit together")
    return _square_chunks(a, label), b


def _square_chunks(a: Array, label: str) -> Array:
    _check_known(a, label)
    return Array(build.rechunk(a.node, (a.chunks[0], a.chunks[0])))


def _check_known(a: Array, label: str) -> None:
    if any(isnan(n) for n in a.shape):
        raise UnknownChunksError(f"{label}: the matrix has unknown chunk sizes; call compute_chunk_sizes() first")


def _quarters(a: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The four quarters of a matrix in square blocks, cut between two blocks."""
    cut = int(a.chunks[0].bounds[len(a.chunks[0]) // 2])
    top, bottom = _halves(a, cut)
    return _columns(top, cut), _columns(bottom, cut)


def _halves(a: Array, cut: int) -> tuple[Array, Array]:
    return getitem(a, (slice(None, cut), slice(None))), getitem(a, (slice(cut, None), slice(None)))


def _columns(a: Array, cut: int) -> tuple[Array, Array]:
    return getitem(a, (slice(None), slice(None, cut))), getitem(a, (slice(None), slice(cut, None)))


def _block(a: Array, b: Array, c: Array, d: Array) -> Array:
    return concatenate([concatenate([a, b], axis=1), concatenate([c, d], axis=1)])
