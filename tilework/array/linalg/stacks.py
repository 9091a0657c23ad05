"""Stacks of matrices: NumPy's functions, each matrix in one block.

The matrix axes are the last two. They become one block; the axes before them are cut further where blocks would grow
too large. So a single matrix must fit into memory, several times over: what exists in blocks for larger ones stands in
:mod:`~tilework.array.linalg.tall` and :mod:`~tilework.array.linalg.triangular`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tilework.array.binding import name_of
from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.array.gufuncs import apply_gufunc, parse_signature
from tilework.array.order import in_one_block
from tilework.base.errors import PlanError


class MatrixError(PlanError, np.linalg.LinAlgError):
    """An array that is no matrix, or a matrix of another shape than the operation takes."""


class EigResult(NamedTuple):
    """Eigenvalues, and eigenvectors in the columns of a matrix."""

    eigenvalues: Array
    eigenvectors: Array


class EighResult(NamedTuple):
    """Eigenvalues in ascending order, and eigenvectors in the columns of a matrix."""

    eigenvalues: Array
    eigenvectors: Array


class SlogdetResult(NamedTuple):
    """Sign (or phase) of a determinant, and the logarithm of its absolute value."""

    sign: Array
    logabsdet: Array


# ---------------------------------------------------------------- arguments


def matrix(x: Any, label: str) -> Array:
    """``x`` as an array of two dimensions or more."""
    x = asarray(x)
    if x.ndim < 2:
        raise MatrixError(f"{label}: a matrix is required, not an array of shape {x.shape}; give it two dimensions")
    return x


def square(x: Any, label: str) -> Array:
    """``x`` as a square matrix, or a stack of them."""
    x = matrix(x, label)
    if x.shape[-1] != x.shape[-2]:
        raise MatrixError(f"{label}: matrices must be square, not of shape {x.shape[-2:]}")
    return x


def single(x: Any, label: str) -> Array:
    """``x`` as one matrix."""
    x = asarray(x)
    if x.ndim != 2:
        raise MatrixError(f"{label}: one matrix of two dimensions is required, not an array of shape {x.shape}")
    return x


def of_each(
    function: Callable[..., Any], signature: str, *arrays: Array, sizes: Mapping[str, int] | None = None, **options: Any
) -> Any:
    """``function`` of every matrix; its core dimensions as in :func:`tilework.array.apply_gufunc`, each in one block.

    The results' dtypes are NumPy's for a matrix of one element.
    """
    label = name_of(function)
    ins, _, several = parse_signature(signature)
    whole, samples = [], []
    for x, core in zip(arrays, ins, strict=True):
        whole.append(Array(in_one_block(x.node, tuple(range(x.ndim - len(core), x.ndim)), label)))
        samples.append(np.ones((1,) * len(core), x.dtype))
    with np.errstate(all="ignore"):
        result = function(*samples, **options)
    dtypes = [np.asarray(part).dtype for part in (result if several else (result,))]
    if several:
        _check_size(signature, whole, sizes or {}, dtypes, label)
    return apply_gufunc(
        function, signature, *whole, output_dtypes=dtypes if several else dtypes[0], output_sizes=sizes,
        allow_rechunk=True, **options,
    )  # fmt: skip


def _check_size(
    signature: str, arrays: list[Array], sizes: Mapping[str, int], dtypes: list[np.dtype[Any]], label: str
) -> None:
    """Several results of a matrix travel in one record, which NumPy wants to be smaller than 2 GiB."""
    ins, outs, _ = parse_signature(signature)
    lengths = dict(sizes)
    for x, core in zip(arrays, ins, strict=True):
        lengths |= zip(core, x.shape[x.ndim - len(core) :], strict=True)
    nbytes = sum(dtype.itemsize * prod(lengths[d] for d in core) for dtype, core in zip(dtypes, outs, strict=True))
    if nbytes >= 1 << 31:
        raise PlanError(
            f"{label}: the result for a matrix of shape {arrays[0].shape[-2:]} takes {nbytes / 2**30:.1f} GiB, and "
            "less than 2 GiB is possible where a matrix is one block; tilework.array.linalg says what works in blocks"
        )


# ---------------------------------------------------------------- functions


def eig(x: Any, /) -> EigResult:
    """Eigenvalues and eigenvectors, always complex.

    Parameters
    ----------
    x
        Square matrices, each of which becomes one block.

    Returns
    -------
    EigResult
        ``eigenvalues`` and ``eigenvectors``.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrices are not square; when it is computed, if there is no convergence.
    """
    return EigResult(*of_each(_eig, "(i,j)->(i),(i,j)", square(x, "eig")))


def eigvals(x: Any, /) -> Array:
    """Eigenvalues, always complex, of square matrices, each of which becomes one block."""
    return eig(x).eigenvalues


def eigh(x: Any, /, UPLO: str = "L") -> EighResult:
    """Eigenvalues, ascending, and eigenvectors of Hermitian matrices, each of which becomes one block.

    ``UPLO`` says whether the lower or the upper triangle is read. See :func:`numpy.linalg.eigh`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> values, vectors = ta.linalg.eigh(ta.asarray([[2.0, 0.0], [0.0, 1.0]]))
    >>> values.compute()
    array([1., 2.])
    """
    return EighResult(*of_each(np.linalg.eigh, "(i,j)->(i),(i,j)", square(x, "eigh"), UPLO=_triangle(UPLO)))


def eigvalsh(x: Any, /, UPLO: str = "L") -> Array:
    """Eigenvalues, ascending, of Hermitian matrices. See :func:`eigh`."""
    values: Array = of_each(np.linalg.eigvalsh, "(i,j)->(i)", square(x, "eigvalsh"), UPLO=_triangle(UPLO))
    return values


def det(x: Any, /) -> Array:
    """Determinants of square matrices, each of which becomes one block.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.linalg.det(ta.asarray([[2.0, 0.0], [0.0, 3.0]])).compute()
    np.float64(6.0)
    """
    determinants: Array = of_each(np.linalg.det, "(i,j)->()", square(x, "det"))
    return determinants


def slogdet(x: Any, /) -> SlogdetResult:
    """Signs and logarithms of determinants of square matrices, each of which becomes one block."""
    return SlogdetResult(*of_each(np.linalg.slogdet, "(i,j)->(),()", square(x, "slogdet")))


def _triangle(uplo: str) -> str:
    if uplo not in ("L", "U", "l", "u"):
        raise PlanError(f"UPLO={uplo!r} must be 'L' or 'U'")
    return uplo


def _eig(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NumPy's result is real where all eigenvalues happen to be; ours is announced before they are known."""
    dtype = np.result_type(x.dtype, np.complex64) if x.dtype.kind in "fc" else np.dtype(np.complex128)
    values, vectors = np.linalg.eig(x)
    return values.astype(dtype, copy=False), vectors.astype(dtype, copy=False)
