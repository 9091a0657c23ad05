"""Low rank approximations against exact ones."""

import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework.base.errors import PlanError
from tilework.testing import assert_eq


def low_rank(shape, rank, dtype="f8"):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    if np.dtype(dtype).kind == "c":
        a, b = a + 1j * rng.standard_normal(a.shape), b - 1j * rng.standard_normal(b.shape)
    return (a @ b).astype(dtype)


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16"])
@pytest.mark.parametrize("iterator", ["power", "QR"])
@pytest.mark.parametrize("compute", [True, False])
@pytest.mark.parametrize(("shape", "chunks"), [((60, 40), (13, 17)), ((40, 60), 40), ((60, 5), (7, 5))])
def test_exact_where_the_rank_is_low(shape, chunks, dtype, iterator, compute):
    a = low_rank(shape, 4, dtype)
    x = ta.from_array(a, chunks=chunks)
    lazy = ta.linalg.svd_compressed(x, 4, iterator=iterator, n_power_iter=1, seed=0, compute=compute)
    assert [part.shape for part in lazy] == [(shape[0], 4), (4,), (4, shape[1])]
    u, s, vh = tw.compute(*lazy)
    assert u.dtype == vh.dtype == a.dtype
    tolerance = 1e-3 if dtype == "f4" else 1e-9
    np.testing.assert_allclose((u * s) @ vh, a, atol=tolerance)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False)[:4], rtol=tolerance)
    assert (vh.sum(axis=1).real > -tolerance).all()


def test_power_iterations_improve_the_answer():
    a = np.random.default_rng(0).random((200, 100))
    x = ta.from_array(a, chunks=50)
    exact = np.linalg.svd(a, compute_uv=False)[:10]
    errors = [abs(ta.linalg.svd_compressed(x, 10, n_power_iter=n, seed=1).S.compute() - exact).max() for n in (0, 2, 6)]
    assert errors[0] > errors[1] > errors[2]


def test_seeds():
    x = ta.from_array(low_rank((30, 30), 30), chunks=10)
    one, two = (ta.linalg.svd_compressed(x, 3, seed=5).S for _ in range(2))
    assert_eq(one, two.compute(), rtol=0, atol=0)
    assert_eq(ta.linalg.svd_compressed(x, 3, seed=ta.random.default_rng(5)).S, one)


def test_the_compression_matrix_has_orthonormal_rows():
    rows = ta.linalg.compression_matrix(ta.from_array(low_rank((60, 40), 5), chunks=20), 5, seed=0)
    assert rows.shape == (20, 60)
    assert_eq(rows @ rows.T, np.eye(20))
    assert ta.linalg.compression_level(100, 10) == 20
    assert ta.linalg.compression_level(15, 10) == 15


def test_bad_arguments():
    with pytest.raises(PlanError, match="iterator='Lanczos'"):
        ta.linalg.svd_compressed(ta.ones((5, 5)), 2, iterator="Lanczos")
    with pytest.raises(np.linalg.LinAlgError, match="two dimensions"):
        ta.linalg.svd_compressed(ta.ones(5), 2)
