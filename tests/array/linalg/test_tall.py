"""QR and singular values against NumPy, in all ways to chunk a matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework.array.linalg import tall
from tilework.base.errors import ChunkError, PlanError
from tilework.testing import assert_eq


def values(shape, dtype="f8"):
    rng = np.random.default_rng(0)
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else real).astype(dtype)


SHAPES = [
    ((20, 10), 10), ((20, 10), (3, 10)), ((20, 10), ((8, 4, 8), 10)), ((131, 2), (16, 2)), ((300, 10), (20, 10)),
    ((5, 10), 10), ((10, 40), (10, (15, 5, 5, 8, 7))), ((10, 40), (4, 7)), ((20, 20), 7),
    ((10, 5), ((4, 0, 1, 0, 5), 5)), ((1, 1), 1), ((30, 1), 4), ((4, 30), (1, 30)), ((30, 4), (30, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "chunks"), SHAPES)
@pytest.mark.parametrize("dtype", ["f8", "f4", "c16"])
def test_qr(shape, chunks, dtype):
    a = values(shape, dtype)
    x = ta.from_array(a, chunks=chunks)
    lazy = ta.linalg.qr(x)
    inner, tolerance = min(shape), 1e-4 if dtype == "f4" else 1e-12
    assert (lazy.Q.shape, lazy.R.shape) == ((shape[0], inner), (inner, shape[1]))
    q, r = tw.compute(*lazy)
    assert q.dtype == r.dtype == lazy.Q.dtype == lazy.R.dtype == a.dtype
    np.testing.assert_allclose(q @ r, a, atol=tolerance)
    np.testing.assert_allclose(q.conj().T @ q, np.eye(inner), atol=tolerance)
    np.testing.assert_array_equal(r, np.triu(r))


@pytest.mark.parametrize(("shape", "chunks"), SHAPES)
@pytest.mark.parametrize("dtype", ["f8", "c16"])
@pytest.mark.parametrize("coerce_signs", [True, False])
def test_svd(shape, chunks, dtype, coerce_signs):
    a = values(shape, dtype)
    lazy = ta.linalg.svd(ta.from_array(a, chunks=chunks), coerce_signs=coerce_signs)
    inner = min(shape)
    assert [x.shape for x in lazy] == [(shape[0], inner), (inner,), (inner, shape[1])]
    u, s, vh = tw.compute(*lazy)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False))
    np.testing.assert_allclose((u * s) @ vh, a, atol=1e-12)
    np.testing.assert_allclose(u.conj().T @ u, np.eye(inner), atol=1e-12)
    np.testing.assert_allclose(vh @ vh.conj().T, np.eye(inner), atol=1e-12)
    if coerce_signs:
        assert (vh.sum(axis=1).real > -1e-12).all()


def test_signs_do_not_depend_on_chunks():
    a = values((40, 6))
    results = [tw.compute(*ta.linalg.svd(ta.from_array(a, chunks=c))) for c in (40, (7, 6), (40, 2), (5, 5))]
    results += [[x.T for x in tw.compute(*ta.linalg.svd(ta.from_array(a.T, chunks=(6, 7)), coerce_signs=False))][::-1]]
    for u, s, vh in results[1:4]:
        np.testing.assert_allclose(u, results[0][0], atol=1e-12)
        np.testing.assert_allclose(s, results[0][1])
        np.testing.assert_allclose(vh, results[0][2], atol=1e-12)
    np.testing.assert_allclose(abs(results[4][0]), abs(results[0][0]), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 5))
def test_rank_deficient_matrices_have_orthonormal_factors(rows, columns, rank):
    """Also where blocks have fewer rows than columns, or none."""
    m = sum(rows)
    a = values((m, rank)) @ values((rank, columns))
    q, r = tw.compute(*ta.linalg.qr(ta.from_array(a, chunks=(tuple(rows), columns))))
    np.testing.assert_allclose(q @ r, a, atol=1e-12)
    np.testing.assert_allclose(q.T @ q, np.eye(min(m, columns)), atol=1e-12)


def test_ill_conditioned_columns_stay_orthogonal():
    a = np.vander(np.linspace(0, 1, 2000), 14)
    assert np.linalg.cond(a) > 1e9
    q = ta.linalg.qr(ta.from_array(a, chunks=(100, 14))).Q.compute()
    np.testing.assert_allclose(q.T @ q, np.eye(14), atol=1e-13)


def test_tall_blocks_are_factored_in_tiles(monkeypatch):
    monkeypatch.setattr(tall, "TILE", 10 * 3 * 8)
    a = values((1000, 3))
    both = tall.factor(a)
    r, q = both[:3], both[3:]
    np.testing.assert_allclose(q @ r, a, atol=1e-12)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(r, np.triu(r))


def test_the_plan_grows_with_the_levels_and_the_tasks_with_the_blocks():
    def plan(blocks):
        u, s, vh = ta.linalg.svd(ta.ones((100 * blocks, 10), chunks=(100, 10)))
        return tw.explain(u, s, vh)

    few, many = plan(10), plan(1000)
    assert len(many.stages) - len(few.stages) <= 10
    assert many.n_tasks <= 5 * 1000


def test_unknown_rows():
    a = values((40, 4))
    some = ta.from_array(a, chunks=(8, 4))
    x = some[some[:, 0] > 0]
    q, r = tw.compute(*ta.linalg.qr(x))
    np.testing.assert_allclose(q @ r, a[a[:, 0] > 0], atol=1e-12)
    assert_eq(ta.linalg.svd(x).S, np.linalg.svd(a[a[:, 0] > 0], compute_uv=False))


def test_unknown_columns():
    a = values((40, 4))
    some = ta.from_array(a, chunks=(8, 4))
    for x, expected in ((some[:, some[0] > 0], a[:, a[0] > 0]), (some[some[:, 0] > 0][:, some[0] > 0],) * 2):
        q, r = tw.compute(*ta.linalg.qr(x))
        np.testing.assert_allclose(q @ r, expected, atol=1e-12)
        u, s, vh = tw.compute(*ta.linalg.svd(x))
        np.testing.assert_allclose((u * s) @ vh, expected, atol=1e-12)


def test_tsqr_and_sfqr_say_which_chunks_they_need():
    with pytest.raises(ChunkError, match=r"columns are in 2 blocks; rechunk"):
        ta.linalg.tsqr(ta.ones((20, 10), chunks=5))
    with pytest.raises(ChunkError, match=r"rows are in 2 blocks; rechunk"):
        ta.linalg.sfqr(ta.ones((10, 20), chunks=5))
    with pytest.raises(np.linalg.LinAlgError, match="two dimensions"):
        ta.linalg.tsqr(ta.ones((2, 3, 4)))


def test_tsqr_gives_singular_values():
    a = values((50, 4))
    u, s, vh = ta.linalg.tsqr(ta.from_array(a, chunks=(9, 4)), compute_svd=True)
    assert_eq((u * s) @ vh, a)
    assert s.shape == (4,)
    short = ta.linalg.tsqr(ta.from_array(a.T, chunks=(3, 50)), compute_svd=True)
    assert [x.shape for x in short] == [(4, 4), (4,), (50, 50)]


def test_qr_keeps_chunks():
    x = ta.ones((100, 4), chunks=(30, 2))
    assert ta.linalg.qr(x).Q.chunks == ((30, 30, 30, 10), (4,))
    assert ta.linalg.qr(x.T).R.chunks == ((4,), (30, 30, 30, 10))


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 4, 4), (2, 4, 6)])
def test_stacks(shape):
    a = values(shape)
    x = ta.from_array(a, chunks=2)
    q, r = ta.linalg.qr(x)
    assert_eq(q @ r, a)
    complete = ta.linalg.qr(x, mode="complete")
    assert_eq(complete.R, np.linalg.qr(a, mode="complete").R)
    assert_eq(ta.linalg.svdvals(x), np.linalg.svdvals(a))
    full = ta.linalg.svd(x, full_matrices=True)
    expected = np.linalg.svd(a)
    assert [part.shape for part in full] == [part.shape for part in expected]
    assert_eq(np.abs(full.U), abs(expected.U), atol=1e-6)
    assert_eq(np.abs(np.linalg.svd(x).Vh), abs(expected.Vh), atol=1e-6)
    reduced = ta.linalg.svd(x)
    assert_eq((reduced.U * reduced.S[..., None, :]) @ reduced.Vh, a)


def test_numpys_svd_has_numpys_defaults():
    x = ta.from_array(values((6, 4)), chunks=2)
    assert np.linalg.svd(x).U.shape == (6, 6)
    assert ta.linalg.svd(x).U.shape == (6, 4)
    assert_eq(np.linalg.svd(x, compute_uv=False), np.linalg.svd(x.compute(), compute_uv=False))


def test_integers_become_floats():
    x = ta.arange(12, chunks=4).reshape(6, 2)
    assert ta.linalg.qr(x).Q.dtype == ta.linalg.svd(x).S.dtype == np.dtype("f8")


def test_bad_arguments():
    with pytest.raises(PlanError, match="mode='r'"):
        ta.linalg.qr(ta.ones((3, 2)), mode="r")
    with pytest.raises(np.linalg.LinAlgError, match="matrix is required"):
        ta.linalg.svd(ta.ones(3))
    with pytest.raises(TypeError):
        ta.linalg.svd(ta.ones((3, 3), dtype="f2"))
    with pytest.raises(PlanError, match="less than 2 GiB"):
        ta.linalg.svd(ta.ones((100_000, 2), chunks=-1), full_matrices=True)
