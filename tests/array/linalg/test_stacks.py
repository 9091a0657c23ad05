"""Functions of matrices that are one block each against NumPy, and the namespace as a whole."""

import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import tilework as tw
import tilework.array as ta
from tilework.base import machine
from tilework.testing import assert_eq


def values(shape, dtype="f8"):
    rng = np.random.default_rng(3)
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else real).astype(dtype)


def hermitian(shape, dtype):
    a = values(shape, dtype)
    return a + np.swapaxes(a, -1, -2).conj()


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (2, 3, 4, 4)])
def test_hermitian_eigenvalues(shape, dtype):
    a = hermitian(shape, dtype)
    x = ta.from_array(a, chunks=2)
    tolerance = 1e-4 if dtype == "f4" else 1e-10
    assert_eq(ta.linalg.eigvalsh(x), np.linalg.eigvalsh(a), atol=tolerance)
    result = ta.linalg.eigh(x)
    assert_eq(result.eigenvalues, np.linalg.eigvalsh(a), atol=tolerance)
    assert_eq(x @ result.eigenvectors, result.eigenvectors * result.eigenvalues[..., None, :], atol=tolerance)
    upper = ta.from_array(np.triu(a), chunks=2)
    assert_eq(ta.linalg.eigvalsh(upper, UPLO="U"), np.linalg.eigvalsh(a), atol=tolerance)


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16", "i4"])
def test_eigenvalues_are_complex_whatever_they_are(dtype):
    a = (10 * hermitian((3, 4, 4), "f8")).astype(dtype)
    x = ta.from_array(a, chunks=2)
    result = ta.linalg.eig(x)
    assert result.eigenvalues.dtype == ("c8" if dtype == "f4" else "c16")
    assert_eq(x @ result.eigenvectors, result.eigenvectors * result.eigenvalues[..., None, :], atol=1e-3)
    assert_eq(ta.linalg.eigvals(x), result.eigenvalues)


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16", "i4"])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_determinants(shape, dtype):
    a = (3 * values(shape, "f8")).astype(dtype)
    x = ta.from_array(a, chunks=2)
    assert_eq(ta.linalg.det(x), np.linalg.det(a), rtol=1e-4)
    for mine, theirs in zip(ta.linalg.slogdet(x), np.linalg.slogdet(a), strict=True):
        assert_eq(mine, theirs, rtol=1e-4)


def test_stacks_stay_in_blocks():
    x = ta.ones((1000, 3, 3), chunks=(10, 3, 2))
    assert ta.linalg.det(x).chunks == ((10,) * 100,)
    assert ta.linalg.eigh(x).eigenvectors.chunksize == (10, 3, 3)


def test_shapes_are_checked_when_it_is_built():
    for function in (ta.linalg.det, ta.linalg.slogdet, ta.linalg.eigh, ta.linalg.eigvalsh, ta.linalg.eig):
        with pytest.raises(np.linalg.LinAlgError, match="must be square"):
            function(ta.ones((2, 3)))
        with pytest.raises(np.linalg.LinAlgError, match="matrix is required"):
            function(ta.ones(3))
    with pytest.raises(ValueError, match="UPLO='X'"):
        ta.linalg.eigh(ta.eye(3), UPLO="X")


# ---------------------------------------------------------------- the namespace

STANDARD = """cholesky cross det diagonal eig eigh eigvals eigvalsh inv matmul matrix_norm matrix_power matrix_rank
matrix_transpose outer pinv qr slogdet solve svd svdvals tensordot trace vecdot vector_norm"""
DASK = """tsqr sfqr qr svd svd_compressed compression_level compression_matrix cholesky lu solve solve_triangular inv
lstsq norm"""


def test_all_names_are_there():
    assert set(STANDARD.split()) | set(DASK.split()) == set(ta.linalg.__all__)


def test_numpy_finds_the_functions_before_they_are_loaded():
    program = """
import sys, numpy as np, tilework.array as ta
assert not {"tilework.array.linalg", "tilework.array.fft", "scipy"} & set(sys.modules)
x = ta.ones((4, 4), chunks=2)
assert isinstance(np.linalg.norm(x), ta.Array) and isinstance(np.fft.fft(x), ta.Array)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_scipys_blas_has_no_more_threads_than_numpys():
    """SciPy brings a BLAS of its own, which is loaded long after the first run."""
    seen = []

    def look(block):
        seen.append({lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"})
        return block

    import scipy.linalg  # noqa: F401

    tw.compute(ta.map_blocks(look, ta.ones(4, chunks=2), dtype=float), scheduler="threads", workers=machine.cores())
    assert seen == [{1}, {1}]
