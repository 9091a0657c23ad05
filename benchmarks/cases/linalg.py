"""Linear algebra: a product of matrices in blocks, and singular values of a tall matrix; against NumPy on the whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Case, Work


def product(n: int = 4_000, chunk: int = 500) -> dict[str, Any]:
    def data() -> np.ndarray:
        return np.random.default_rng(0).random((2, n, n))

    def chunked(module: Any) -> Work:
        a, b = (module.from_array(x, chunks=chunk) for x in data())
        return lambda: (a @ b).compute(scheduler="threads")

    def tilework() -> Work:
        import tilework.array as ta

        return chunked(ta)

    def dask() -> Work:
        import dask.array as da

        return chunked(da)

    def blas() -> Work:
        a, b = data()
        return lambda: a @ b

    return {"tilework": tilework, "one BLAS call": blas, "dask threads": dask}


def tall_svd(rows: int = 1_000_000, columns: int = 50, chunk: int = 10_000) -> dict[str, Any]:
    """``svd`` of a tall matrix; the answer is the singular values, the vectors are made as well."""

    def data() -> np.ndarray:
        return np.random.default_rng(0).random((rows, columns))

    def tilework() -> Work:
        import tilework as tw
        import tilework.array as ta

        x = ta.from_array(data(), chunks=(chunk, columns))
        return lambda: tw.compute(*ta.linalg.svd(x), scheduler="threads")[1]

    def dask() -> Work:
        import dask
        import dask.array as da

        x = da.from_array(data(), chunks=(chunk, columns))
        return lambda: dask.compute(*da.linalg.svd(x), scheduler="threads")[1]

    def lapack() -> Work:
        x = data()
        return lambda: np.linalg.svd(x, full_matrices=False)[1]

    return {"tilework": tilework, "NumPy": lapack, "dask threads": dask}


CASES = [
    Case(
        "matmul", "a @ b, 4000 x 4000 float64 in chunks of 500", product(), "at most 1.2 x one BLAS call (CPU)",
        ("one BLAS call", "cpu"),
    ),
    Case(
        "svd", "svd of 1e6 x 50 float64, in blocks of 10,000 rows", tall_svd(), "at most 1.3 x NumPy (CPU)",
        ("NumPy", "cpu"), skip_rounds={"dask threads": 1},
    ),
]  # fmt: skip
