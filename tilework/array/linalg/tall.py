"""QR and singular values of matrices of many rows and few columns, in blocks of rows.

A tall matrix is factored block by block, the triangular factors of several blocks are stacked and factored again, until
one is left (a tree; TSQR). Q is never multiplied out on the way: each level keeps its own factor, and what Q shall be
multiplied by goes down through the levels. That holds one copy of the matrix, and costs a third more arithmetic than
LAPACK on the whole matrix; but as each block is itself factored in tiles that fit the L2 cache (:func:`factor`), it
takes less time. (Cholesky QR was rejected: it loses all digits where the condition number is 1e8.)

Wide matrices are transposed. A matrix with several blocks along both axes is given whole rows (or columns) first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import pairwise
from math import isnan, nan
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tilework.array.core import Array
from tilework.array.indexing import getitem
from tilework.array.linalg.stacks import matrix, of_each, single
from tilework.array.manipulation import concatenate
from tilework.array.order import in_one_block
from tilework.array.products import matmul
from tilework.array.shapes import expand_dims, matrix_transpose
from tilework.array.ufuncs import where
from tilework.base.errors import ChunkError, PlanError
from tilework.plan import blocks, build
from tilework.plan.ops import ArrayNode, BlockFunction, Slot

TILE = 512 << 10
"""Bytes of a tile of rows. In tiles of half a megabyte a million rows of 50 take a fifth of the time."""


class QRResult(NamedTuple):
    """A matrix with orthonormal columns, and an upper triangular one."""

    Q: Array
    R: Array


class SVDResult(NamedTuple):
    """Left singular vectors in columns, singular values in descending order, right singular vectors in rows."""

    U: Array
    S: Array
    Vh: Array


# ---------------------------------------------------------------- QR


def qr(x: Any, /, mode: str = "reduced") -> QRResult:
    """QR decomposition.

    Parameters
    ----------
    x
        A matrix, or a stack of them. One with more rows than columns is best in blocks of whole rows (:func:`tsqr`),
        one with more columns in blocks of whole columns (:func:`sfqr`); other chunks are changed to that. Matrices of
        a stack become one block each.
    mode
        ``"reduced"``, or ``"complete"`` for a square Q; that makes the matrix one block.

    Returns
    -------
    QRResult
        ``Q`` and ``R``.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x = ta.random.default_rng(0).random((1000, 3), chunks=(100, 3))
    >>> q, r = ta.linalg.qr(x)
    >>> bool(np.allclose(q @ r, x)), bool(np.allclose(q.T @ q, np.eye(3)))
    (True, True)
    """
    x = matrix(x, "qr")
    if mode not in ("reduced", "complete"):
        raise PlanError(f"qr: mode={mode!r} must be 'reduced' or 'complete'")
    rows, columns = x.shape[-2:]
    if x.ndim == 2 and mode == "reduced":
        return sfqr(_whole(x, 0)) if rows < columns else tsqr(_whole(x, 1))
    inner = rows if mode == "complete" else min(rows, columns)
    return QRResult(*of_each(np.linalg.qr, "(i,j)->(i,k),(k,j)", x, sizes={"k": inner}, mode=mode))


def tsqr(data: Any, compute_svd: bool = False) -> Any:
    """QR decomposition, or singular values, of a tall matrix in blocks of whole rows.

    Blocks of rows are factored one by one, their triangular factors joined by a tree. Where sizes are unknown the
    matrix becomes one block.

    Parameters
    ----------
    data
        A matrix with a single block of columns.
    compute_svd
        Return the singular value decomposition instead, its last part a square matrix.

    Returns
    -------
    QRResult or SVDResult

    Raises
    ------
    ChunkError
        If there are several blocks of columns.
    """
    data = single(data, "tsqr")
    if data.numblocks[1] > 1:
        raise ChunkError(
            f"tsqr: the columns are in {data.numblocks[1]} blocks; rechunk them to one, as in x.rechunk({{1: -1}})"
        )
    r, times = _tall(_floating(data).node)
    if not compute_svd:
        return QRResult(Array(times(None)), Array(r))
    u, s, vh = _small_svd(Array(r), full=True, coerce_signs=False)
    return SVDResult(Array(times(u.node)), s, vh)


def sfqr(data: Any) -> QRResult:
    """QR decomposition of a wide matrix in blocks of whole columns.

    The first columns give Q, the others are multiplied by its transpose.

    Parameters
    ----------
    data
        A matrix with a single block of rows.

    Raises
    ------
    ChunkError
        If there are several blocks of rows.
    """
    data = single(data, "sfqr")
    if data.numblocks[0] > 1:
        raise ChunkError(
            f"sfqr: the rows are in {data.numblocks[0]} blocks; rechunk them to one, as in x.rechunk({{0: -1}})"
        )
    rows, columns = data.shape
    if not rows < columns:
        return tsqr(_whole(data, 1))
    q, first = tsqr(_whole(getitem(data, (slice(None), slice(None, rows))), 1))
    rest = matmul(adjoint(q), getitem(data, (slice(None), slice(rows, None))))
    r = build.rechunk(concatenate([first, rest], axis=1).node, (q.chunks[1], data.chunks[1]))
    return QRResult(q, Array(r))


Times: TypeAlias = Callable[[ArrayNode | None], ArrayNode]
"""Q multiplied by a small matrix, in the chunks of rows that the matrix has; by none: Q itself."""


def _tall(x: ArrayNode) -> tuple[ArrayNode, Times]:
    """R of a matrix with one block of columns, and what multiplies by Q.

    Each block becomes its own R stacked on its own Q: one call makes both. R of ``m`` rows and ``n`` columns has
    ``min(m, n)`` rows. The blocks of R are joined to at least twice as many rows as there are columns, so that every
    level at least halves them.
    """
    if not all(axis.known for axis in x.chunks):
        x = build.one_block(x)
    rows, (columns,) = x.chunks
    top = [columns if isnan(m + columns) else min(m, columns) for m in rows]  # of unknown rows there are enough
    both = build.blockwise(
        BlockFunction(factor, (Slot(0),)), "ij", [(x, "ij")], x.dtype,
        adjust_chunks={"i": [m + n for m, n in zip(rows, top, strict=True)]}, label="qr",
    )  # fmt: skip
    r: ArrayNode = build.blockwise(
        BlockFunction(_r_of, (Slot(0),), scratch=0.0), "ij", [(both, "ij")], x.dtype,
        adjust_chunks={"i": top}, label="qr",
    )  # fmt: skip
    below: Times | None = None
    if len(rows) > 1:
        pieces = r.chunks
        r, below = _tall(build.rechunk(r, (blocks.regroup(pieces[0], max(2 * columns, rows.largest)), pieces[1])))

    def times(right: ArrayNode | None) -> ArrayNode:
        if below is not None:
            right = below(right)
            right = build.rechunk(right, (pieces[0], right.chunks[1]))
        if right is None:
            return build.blockwise(
                BlockFunction(_q_of, (Slot(0),), scratch=0.0), "ij", [(both, "ij")], x.dtype,
                adjust_chunks={"i": rows, "j": top}, label="qr",
            )  # fmt: skip
        product = BlockFunction(_q_times, (Slot(0), Slot(1)), scratch=0.0)
        return build.blockwise(
            product, "ik", [(both, "ij"), (right, "ik" if below else "jk")], x.dtype,
            adjust_chunks={"i": rows}, align=False, label="qr",
        )  # fmt: skip

    return r, times


def factor(block: np.ndarray) -> np.ndarray:
    """R stacked on Q (whose missing columns are zeros). Tall blocks are factored in tiles of rows, as in TSQR."""
    m, n = block.shape
    out = np.zeros((m + min(m, n), n), block.dtype) if m < n else np.empty((m + n, n), block.dtype)
    r, q = out[: min(m, n)], out[min(m, n) :]
    height = max(2 * n, TILE // max(1, n * block.itemsize))
    if m < 2 * height:
        q[:, : len(r)], r[...] = np.linalg.qr(block)
        return out
    bounds = [m * k // (m // height) for k in range(m // height + 1)]
    spans = [slice(lo, hi) for lo, hi in pairwise(bounds)]
    tops = np.empty((len(spans) * n, n), block.dtype)
    for k, span in enumerate(spans):
        q[span], tops[k * n : (k + 1) * n] = np.linalg.qr(block[span])
    stacked = factor(tops)
    r[...] = stacked[:n]
    for k, span in enumerate(spans):
        q[span] = q[span] @ stacked[(k + 1) * n : (k + 2) * n]
    return out


def _r_of(both: np.ndarray) -> np.ndarray:
    return both[: min(len(both) // 2, both.shape[1])]


def _q_of(both: np.ndarray) -> np.ndarray:
    top = min(len(both) // 2, both.shape[1])
    return both[top:, :top]


def _q_times(both: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.asarray(_q_of(both) @ right)


def _whole(x: Array, axis: int) -> Array:
    """``x`` in one block along ``axis``, the other axis cut further where blocks would become too large."""
    return Array(in_one_block(x.node, (axis,), "qr")) if x.chunks[axis].known else x


def _floating(x: Array) -> Array:
    """``x`` in the type that NumPy's linear algebra gives it."""
    return x.astype(np.linalg.qr(np.ones((1, 1), x.dtype)).R.dtype)


def adjoint(x: Array) -> Array:
    """The conjugate transpose."""
    return matrix_transpose(np.conj(x) if x.dtype.kind == "c" else x)


# ---------------------------------------------------------------- singular values


def svd(x: Any, coerce_signs: bool = True, full_matrices: bool = False) -> SVDResult:
    """Singular value decomposition: ``x = U @ diag(S) @ Vh``.

    Parameters
    ----------
    x
        A matrix, or a stack of them. A tall or wide matrix is best in blocks of whole rows or columns (see :func:`qr`);
        other chunks are changed to that. Matrices of a stack become one block each.
    coerce_signs
        Choose the signs so that the sum of each row of ``Vh`` is not negative: the result is the same for all chunks.
    full_matrices
        Make ``U`` and ``Vh`` square; that makes the matrix one block. (NumPy and the array API do that by default,
        Dask does not: for a tall matrix ``U`` would be larger than memory.)

    Returns
    -------
    SVDResult
        ``U``, ``S`` and ``Vh``.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x = ta.random.default_rng(0).random((1000, 3), chunks=(100, 3))
    >>> u, s, vh = ta.linalg.svd(x)
    >>> u.shape, bool(np.allclose((u * s) @ vh, x))
    ((1000, 3), True)
    """
    x = matrix(x, "svd")
    rows, columns = x.shape[-2:]
    if full_matrices or x.ndim > 2 or (x.npartitions == 1 and columns < 2 * rows < 4 * columns):
        return _small_svd(x, full_matrices, coerce_signs)
    if rows < columns:
        v, s, uh = svd(adjoint(x), coerce_signs=False)
        parts = SVDResult(adjoint(uh), s, adjoint(v))
        return coerced(parts) if coerce_signs else parts
    r, times = _tall(_floating(_whole(x, 1)).node)
    u, s, vh = _small_svd(Array(r), full=False, coerce_signs=coerce_signs)
    return SVDResult(Array(times(u.node)), s, vh)


def coerced(parts: SVDResult) -> SVDResult:
    """Pairs of singular vectors with the signs that :func:`svd` chooses."""
    u, s, vh = parts
    signs = where(np.real(vh.sum(axis=1)) < 0, -1, 1).astype(vh.dtype)
    return SVDResult(u * signs, s, vh * expand_dims(signs, 1))


def svdvals(x: Any, /) -> Array:
    """Singular values in descending order, of a matrix or a stack of them. The chunks are those of :func:`svd`."""
    x = matrix(x, "svdvals")
    if x.ndim == 2 and x.npartitions > 1:
        return svd(x, coerce_signs=False).S
    values: Array = of_each(_svdvals, "(i,j)->(k)", x, sizes={"k": min(x.shape[-2:])})
    return values


def _svdvals(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x, compute_uv=False)


def _small_svd(x: Array, full: bool, coerce_signs: bool) -> SVDResult:
    """Of matrices that are one block each."""
    rows, columns = x.shape[-2:]
    if isnan(rows + columns):
        return _unknown_svd(x, full, coerce_signs)
    inner = min(rows, columns)
    sizes = {"k": inner, "u": rows if full else inner, "v": columns if full else inner}
    return SVDResult(*of_each(_svd, "(i,j)->(i,u),(k),(v,j)", x, sizes=sizes, full=full, coerce_signs=coerce_signs))


def _unknown_svd(x: Array, full: bool, coerce_signs: bool) -> SVDResult:
    """Of one matrix of unknown size, which is small: once for each part, as NaN fits into no record."""
    parts = _svd(np.ones((1, 1), x.dtype), full, coerce_signs)
    unknown: dict[Hashable, Any] = dict.fromkeys("kuv", (nan,))
    return SVDResult(
        *(
            Array(
                build.blockwise(
                    BlockFunction(_svd_part, (Slot(0), full, coerce_signs, number)), labels, [(x.node, "ij")],
                    parts[number].dtype, new_axes=unknown, label="svd",
                )
            )
            for number, labels in enumerate(("iu", "k", "vj"))
        )
    )  # fmt: skip


def _svd_part(x: np.ndarray, full: bool, coerce_signs: bool, number: int) -> np.ndarray:
    return _svd(x, full, coerce_signs)[number]


def _svd(x: np.ndarray, full: bool, coerce_signs: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, s, vh = np.linalg.svd(x, full_matrices=full)
    if coerce_signs:
        pairs = s.shape[-1]
        negative = vh[..., :pairs, :].sum(axis=-1).real < 0
        np.negative(u[..., :pairs], out=u[..., :pairs], where=negative[..., None, :])
        np.negative(vh[..., :pairs, :], out=vh[..., :pairs, :], where=negative[..., None])
    return u, s, vh
