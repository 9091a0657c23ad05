"""Singular values by random projection, for matrices that are large along both axes.

Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53 (2011): a matrix times a few random
vectors spans nearly what its first singular vectors span. Every pass over the matrix is a product of matrices, in
blocks; whatever is factored has as many rows (or columns) as the matrix, but few columns (rows).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.array.indexing import getitem
from tilework.array.linalg.stacks import single
from tilework.array.linalg.tall import SVDResult, adjoint, coerced, tsqr
from tilework.array.products import matmul
from tilework.array.random import Generator, default_rng
from tilework.base.errors import PlanError


def compression_level(n: int, q: int, n_oversamples: int = 10, min_subspace_size: int = 20) -> int:
    """Size of the subspace in which ``q`` of ``n`` dimensions are looked for.

    Parameters
    ----------
    n
        Length of the shorter axis of the matrix.
    q
        Wanted rank.
    n_oversamples
        How many dimensions more than that; ten are plenty.
    min_subspace_size
        How many dimensions at least.

    Examples
    --------
    >>> compression_level(100, 10)
    20
    """
    return min(max(min_subspace_size, q + n_oversamples), n)


def compression_matrix(
    data: Any,
    q: int,
    iterator: str = "power",
    n_power_iter: int = 0,
    n_oversamples: int = 10,
    seed: Any = None,
    compute: bool = False,
) -> Array:
    """Rows that span nearly what the first left singular vectors of a matrix span.

    Parameters
    ----------
    data
        The matrix, in any chunks.
    q
        Wanted rank.
    iterator
        ``"power"``: multiply by the matrix and its transpose in turn; ``"QR"``: orthogonalize in between, which is
        exact for longer.
    n_power_iter
        How often. Where singular values fall slowly, up to four times make the result better.
    n_oversamples
        See :func:`compression_level`.
    seed
        A seed, or a generator of :mod:`tilework.array.random`.
    compute
        Compute at once, pass by pass, so that what lies in between need not be kept. The matrix is computed (or read)
        for each pass.

    Returns
    -------
    Array
        Of :func:`compression_level` orthonormal rows.
    """
    if iterator not in ("power", "QR"):
        raise PlanError(f"compression_matrix: iterator={iterator!r} must be 'power' or 'QR'")
    data = single(data, "compression_matrix")
    level = compression_level(min(data.shape), q, n_oversamples)
    generator = seed if isinstance(seed, Generator) else default_rng(seed)
    draws = generator.standard_normal(size=(data.shape[1], level), chunks=(data.chunks[1], (level,)))
    lean = data.dtype in (np.float32, np.complex64)

    def now(x: Array) -> Array:
        return x.persist() if compute else x

    def orthogonal(x: Array) -> Array:
        return Array(tsqr(x).Q.node)

    sample = matmul(data, draws.astype(np.float32) if lean else draws)
    for _ in range(n_power_iter):
        if iterator == "QR":
            sample = orthogonal(matmul(adjoint(data), now(orthogonal(sample))))
        else:
            sample = matmul(adjoint(data), now(sample))
        sample = matmul(data, now(sample))
    return adjoint(orthogonal(sample))


def svd_compressed(
    a: Any,
    k: int,
    iterator: str = "power",
    n_power_iter: int = 0,
    n_oversamples: int = 10,
    seed: Any = None,
    compute: bool = False,
    coerce_signs: bool = True,
) -> SVDResult:
    """The first ``k`` singular values and vectors of a matrix, approximately.

    The matrix may be large along both axes and is left in its chunks. Two passes are made over it, and two more for
    each power iteration.

    Parameters
    ----------
    a
        The matrix.
    k
        How many singular values.
    iterator, n_power_iter, n_oversamples, seed, compute
        See :func:`compression_matrix`.
    coerce_signs
        As for :func:`svd`.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> rng = ta.random.default_rng(0)
    >>> x = rng.random((200, 2), chunks=50) @ rng.random((2, 100), chunks=50)
    >>> u, s, vh = ta.linalg.svd_compressed(x, 2, seed=0)
    >>> bool(np.allclose((u * s) @ vh, x))
    True
    """
    rows = compression_matrix(a, k, iterator, n_power_iter, n_oversamples, seed, compute)
    if compute:
        rows = rows.persist()
    v, s, uh = tsqr(adjoint(matmul(rows, a)), compute_svd=True)
    first = slice(None, k)
    u = matmul(adjoint(rows), getitem(adjoint(uh), (slice(None), first)))
    vh = getitem(adjoint(v), (first, slice(None)))
    parts = SVDResult(u, getitem(s, (first,)), vh)
    return coerced(parts) if coerce_signs else parts
