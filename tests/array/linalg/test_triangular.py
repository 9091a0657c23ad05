"""Cholesky, LU and solving against NumPy and SciPy, in blocks."""

import sys

import numpy as np
import pytest
import scipy.linalg

import tilework as tw
import tilework.array as ta
from tilework.base.errors import PlanError
from tilework.testing import assert_eq

SIZES = [(1, 1), (5, 2), (20, 10), (13, (3, 5))]


def values(shape, dtype="f8"):
    rng = np.random.default_rng(1)
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else real).astype(dtype)


def definite(n, dtype="f8"):
    a = values((n, n), dtype)
    return (a @ a.conj().T + n * np.eye(n)).astype(dtype)


def close(dtype):
    return {"rtol": 1e-3, "atol": 1e-4} if np.dtype(dtype).itemsize == 4 else {}


# ---------------------------------------------------------------- decompositions


@pytest.mark.parametrize(("n", "chunks"), SIZES)
@pytest.mark.parametrize("dtype", ["f4", "c16"])
def test_cholesky(n, chunks, dtype):
    a = definite(n, dtype)
    lower = np.linalg.cholesky(a)
    read = np.tril(a)  # the other triangle is not looked at
    x = ta.from_array(read, chunks=chunks)
    assert_eq(ta.linalg.cholesky(x, lower=True), lower, **close(dtype))
    assert_eq(ta.linalg.cholesky(x, upper=False), lower, **close(dtype))
    assert_eq(np.linalg.cholesky(x), lower, **close(dtype))
    x = ta.from_array(read.conj().T, chunks=chunks)
    assert_eq(ta.linalg.cholesky(x, upper=True), lower.conj().T, **close(dtype))
    assert_eq(ta.linalg.cholesky(x), scipy.linalg.cholesky(a), **close(dtype))


def test_cholesky_of_stacks():
    a = np.stack([definite(4), 2 * definite(4)])
    assert_eq(ta.linalg.cholesky(ta.from_array(a, chunks=(1, 2, 2)), upper=False), np.linalg.cholesky(a))


@pytest.mark.parametrize(("n", "chunks"), SIZES)
@pytest.mark.parametrize("dtype", ["f4", "c16", "i8"])
def test_lu(n, chunks, dtype):
    a = (10 * values((n, n), "f8")).astype(dtype) if dtype == "i8" else values((n, n), dtype)
    x = ta.from_array(a, chunks=chunks)
    for lazy, expected in zip(ta.linalg.lu(x), scipy.linalg.lu(a), strict=True):
        assert lazy.chunks[0] == x.chunks[0]
        assert_eq(lazy, expected, check_dtype=dtype != "c16", **close(dtype))


@pytest.mark.parametrize(
    ("shape", "chunks"), [((20, 8), 3), ((8, 20), 3), ((8, 20), 8), ((10, 8), (5, 4)), ((7, 30), (3, 20))]
)
def test_lu_of_rectangles(shape, chunks):
    a = values(shape)
    lazy = ta.linalg.lu(ta.from_array(a, chunks=chunks))
    for mine, theirs in zip(lazy, scipy.linalg.lu(a), strict=True):
        assert_eq(mine, theirs)


def test_pivots_are_looked_for_in_whole_columns():
    """The diagonal blocks are singular, the matrix is not."""
    a = np.kron(np.eye(3)[[1, 2, 0]], values((2, 2)))
    x, b = ta.from_array(a, chunks=2), ta.arange(6, chunks=2)
    assert_eq(ta.linalg.solve(x, b), np.linalg.solve(a, np.arange(6)))
    tiny = np.array([[1e-20, 1.0], [1.0, 1.0]])
    assert_eq(ta.linalg.solve(ta.from_array(tiny, chunks=1), ta.ones(2, chunks=1)), np.array([0.0, 1.0]))


# ---------------------------------------------------------------- solving


@pytest.mark.parametrize(("n", "chunks"), SIZES)
@pytest.mark.parametrize(("dtype", "columns"), [("f8", None), ("f8", 7), ("c16", 1)])
def test_solve(n, chunks, dtype, columns):
    a, b = values((n, n), dtype), values(n if columns is None else (n, columns))
    x, y = ta.from_array(a, chunks=chunks), ta.from_array(b, chunks=3)
    assert_eq(ta.linalg.solve(x, y), np.linalg.solve(a, b))
    for lower in (True, False):
        expected = scipy.linalg.solve_triangular(a, b, lower=lower)
        solution = ta.linalg.solve_triangular(x, y, lower=lower)
        assert solution.chunks[1:] == y.chunks[1:]
        assert_eq(solution, expected, rtol=1e-6, atol=1e-6 * abs(expected).max())
    s = ta.from_array(definite(n, dtype), chunks=chunks)
    assert_eq(ta.linalg.solve(s, y, assume_a="pos"), np.linalg.solve(definite(n, dtype), b))


@pytest.mark.parametrize("chunks", [2, 4, (1, 4, 4)])
def test_stacks(chunks):
    a, b = values((3, 4, 4)), values((3, 4, 2))
    x = ta.from_array(a, chunks=chunks)
    assert_eq(ta.linalg.inv(x), np.linalg.inv(a))
    assert_eq(ta.linalg.solve(x, ta.from_array(b, chunks=2)), np.linalg.solve(a, b))
    assert_eq(ta.linalg.solve(x, ta.ones(4, chunks=2)), np.linalg.solve(a, np.ones(4)))


@pytest.mark.parametrize("chunks", [8, 3, (3, 5)])
def test_inv(chunks):
    a = values((8, 8))
    inverse = ta.linalg.inv(ta.from_array(a, chunks=chunks))
    assert_eq(inverse, np.linalg.inv(a))


@pytest.mark.parametrize(("shape", "chunks"), [((20, 4), (6, 4)), ((20, 4), 3), ((4, 9), 3), ((5, 5), 5)])
@pytest.mark.parametrize("dtype", ["f8", "c16"])
@pytest.mark.parametrize("columns", [None, 2])
def test_lstsq(shape, chunks, dtype, columns):
    a, b = values(shape, dtype), values(shape[0] if columns is None else (shape[0], columns), dtype)
    lazy = ta.linalg.lstsq(ta.from_array(a, chunks=chunks), ta.from_array(b, chunks=5))
    for mine, theirs in zip(lazy, np.linalg.lstsq(a, b), strict=True):
        assert_eq(mine, theirs)


def test_lstsq_of_dependent_columns_gives_the_shortest_solution():
    a = values((30, 3)) @ np.array([[1.0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    b = values(30)
    x, _, rank, s = ta.linalg.lstsq(ta.from_array(a, chunks=(7, 4)), ta.from_array(b, chunks=7))
    expected = np.linalg.lstsq(a, b)
    assert_eq(x, expected[0])
    assert rank.compute() == 3
    assert_eq(s, expected[3], atol=1e-12)


# ---------------------------------------------------------------- what it costs, what is refused


def test_tasks_and_memory_stay_within_bounds():
    """Operations grow with the blocks along the diagonal, tasks with their cube at most, memory with the matrix."""
    n, size = 12, 100
    a = ta.ones((n * size, n * size), chunks=size)
    for result in (ta.linalg.cholesky(a), ta.linalg.solve(a, a[:, :size]), *ta.linalg.lu(a)):
        plan = tw.explain(result)
        assert len(plan.stages) < 40 * n
        assert plan.n_tasks < n**3
        assert plan.wanted_peak < 8 * a.nbytes


def test_nothing_runs_when_it_is_built():
    a = ta.map_blocks(lambda block: 1 / 0, ta.ones((6, 6), chunks=2), dtype=float)
    for result in (ta.linalg.cholesky(a), *ta.linalg.lu(a), ta.linalg.solve(a, a), ta.linalg.inv(a)):
        with pytest.raises(ZeroDivisionError):
            result.compute()


@pytest.mark.parametrize("chunks", [2, 4])
def test_singular_matrices(chunks):
    ones = ta.ones((4, 4), chunks=chunks)
    for result in (
        ta.linalg.solve(ones, ta.ones(4)), ta.linalg.inv(ones), ta.linalg.cholesky(-ones),
        ta.linalg.solve(-ones, ta.ones(4), assume_a="pos"),
        ta.linalg.solve_triangular(0 * ones, ta.ones(4)),
    ):  # fmt: skip
        with pytest.raises(np.linalg.LinAlgError):
            result.compute()


def test_shapes_are_checked_when_it_is_built():
    wide, stack = ta.ones((3, 4)), ta.ones((2, 3, 3))
    for call in (
        lambda: ta.linalg.cholesky(wide), lambda: ta.linalg.inv(wide), lambda: ta.linalg.solve(wide, ta.ones(3)),
        lambda: ta.linalg.solve_triangular(wide, ta.ones(3)), lambda: ta.linalg.solve_triangular(stack, ta.ones(3)),
        lambda: ta.linalg.lu(stack), lambda: ta.linalg.lstsq(wide, ta.ones(4)), lambda: ta.linalg.inv(ta.ones(3)),
    ):  # fmt: skip
        with pytest.raises(np.linalg.LinAlgError):
            call()
    with pytest.raises(PlanError):
        ta.linalg.solve(ta.ones((3, 3)), ta.ones(4))


def test_scipy_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.linalg", None)
    assert_eq(ta.linalg.solve(ta.eye(4), ta.ones(4)), np.ones(4))
    with pytest.raises(ImportError, match=r"tilework\[linalg\]"):
        ta.linalg.solve(ta.eye(4, chunks=2), ta.ones(4))


def test_contradictions():
    a = ta.eye(3)
    with pytest.raises(PlanError, match="contradict"):
        ta.linalg.cholesky(a, lower=True, upper=True)
    with pytest.raises(PlanError, match="assume_a='sym'"):
        ta.linalg.solve(a, a, assume_a="sym")
    with pytest.warns(FutureWarning, match="sym_pos"):
        ta.linalg.solve(a, a, sym_pos=True)
