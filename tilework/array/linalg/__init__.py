"""Linear algebra: ``dask.array.linalg`` and the ``linalg`` extension of the array API in one namespace.

Where the two name one function, it serves both. They disagree about two defaults, and there Dask's hold: :func:`svd`
gives reduced matrices, :func:`cholesky` the upper factor. ``numpy.linalg.svd(x)`` and ``numpy.linalg.cholesky(x)`` of a
lazy array are what NumPy's documentation says.

Which algorithms work in blocks, what they hold in memory and how they change chunks is said in the modules: matrices
of few columns in :mod:`~tilework.array.linalg.tall`, large square ones in :mod:`~tilework.array.linalg.triangular`,
approximations in :mod:`~tilework.array.linalg.compressed`, stacks of matrices that are a block each in
:mod:`~tilework.array.linalg.stacks`.
"""

from typing import Any as _Any

import numpy as _np

from tilework.array import dispatch as _dispatch
from tilework.array.core import Array as _Array
from tilework.array.linalg.compressed import compression_level, compression_matrix, svd_compressed
from tilework.array.linalg.norms import (
    cross,
    diagonal,
    matrix_norm,
    matrix_power,
    matrix_rank,
    norm,
    pinv,
    trace,
    vector_norm,
)
from tilework.array.linalg.stacks import det, eig, eigh, eigvals, eigvalsh, slogdet
from tilework.array.linalg.tall import qr, sfqr, svd, svdvals, tsqr
from tilework.array.linalg.triangular import cholesky, inv, lstsq, lu, solve, solve_triangular
from tilework.array.products import matmul, outer, tensordot, vecdot
from tilework.array.shapes import matrix_transpose

__all__ = [
    "cholesky", "compression_level", "compression_matrix", "cross", "det", "diagonal", "eig", "eigh", "eigvals",
    "eigvalsh", "inv", "lstsq", "lu", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose",
    "norm", "outer", "pinv", "qr", "sfqr", "slogdet", "solve", "solve_triangular", "svd", "svd_compressed", "svdvals",
    "tensordot", "trace", "tsqr", "vecdot", "vector_norm",
]  # fmt: skip


def _numpy_svd(a: _Any, full_matrices: bool = True, compute_uv: bool = True) -> _Any:
    return svd(a, full_matrices=full_matrices) if compute_uv else svdvals(a)


def _numpy_cholesky(a: _Any, /, *, upper: bool = False) -> _Array:
    return cholesky(a, upper=upper)


_dispatch.register({**globals(), "svd": _numpy_svd, "cholesky": _numpy_cholesky}, __all__, _np.linalg)
