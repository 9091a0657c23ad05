"""Norms, ranks and the array API's short functions against NumPy."""

from math import inf

import numpy as np
import pytest

import tilework.array as ta
from tilework.base.errors import PlanError
from tilework.testing import assert_eq


def values(shape, dtype="f8"):
    rng = np.random.default_rng(2)
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 5 * real).astype(dtype)


DTYPES = ["f8", "f4", "c8", "i8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("order", [None, 0, 1, -1, 2, -2, 3, 0.5, inf, -inf])
def test_norms_of_vectors(dtype, keepdims, order):
    a = values((4, 5, 6), dtype)
    x = ta.from_array(a, chunks=(2, 3, 4))
    for axis in (0, -1):
        expected = np.linalg.norm(a, order, axis, keepdims)
        assert_eq(ta.linalg.norm(x, order, axis, keepdims), expected)
        mine = ta.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=2 if order is None else order)
        assert_eq(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("order", [None, "fro", "nuc", 1, -1, 2, -2, inf, -inf])
def test_norms_of_matrices(dtype, keepdims, order):
    a = values((4, 5, 6), dtype)
    x = ta.from_array(a, chunks=(2, 3, 4))
    for axis in ((0, 1), (2, 0), (-2, -1)):
        assert_eq(ta.linalg.norm(x, order, axis, keepdims), np.linalg.norm(a, order, axis, keepdims))
    assert_eq(ta.linalg.norm(x[0], order, keepdims=keepdims), np.linalg.norm(a[0], order, keepdims=keepdims))
    mine = ta.linalg.matrix_norm(x, keepdims=keepdims, ord="fro" if order is None else order)
    assert_eq(mine, np.linalg.norm(a, order, (-2, -1), keepdims))


def test_norm_of_everything():
    a = values((3, 4, 5))
    x = ta.from_array(a, chunks=2)
    assert_eq(ta.linalg.norm(x), np.linalg.norm(a))
    assert_eq(ta.linalg.norm(x, keepdims=True), np.linalg.norm(a, keepdims=True))
    assert_eq(ta.linalg.vector_norm(x), np.linalg.norm(a))
    assert_eq(ta.linalg.vector_norm(x, axis=(0, 2), ord=1), np.abs(a).sum(axis=(0, 2)))
    assert_eq(np.linalg.norm(x, axis=0), np.linalg.norm(a, axis=0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ta.linalg.norm(x, 2), "one axis or two"),
        (lambda x: ta.linalg.norm(x, "fro", 0), "for vectors"),
        (lambda x: ta.linalg.norm(x, 3, (0, 1)), "for matrices"),
        (lambda x: ta.linalg.matrix_norm(x[0, 0]), "matrix is required"),
        (lambda x: ta.linalg.matrix_rank(x, 1.0, rtol=1.0), "not both"),
        (lambda x: ta.linalg.pinv(x, 1.0, rtol=1.0), "not both"),
        (lambda x: ta.linalg.cross(x, x), "length 3"),
        (lambda x: ta.linalg.matrix_power(x, 2), "must be square"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(PlanError, match=message):
        call(ta.ones((4, 5, 6), chunks=2))


@pytest.mark.parametrize("chunks", [(7, 4), 3, (30, 4)])
def test_rank_and_pseudo_inverse(chunks):
    a = values((30, 2)) @ values((2, 4))
    x = ta.from_array(a, chunks=chunks)
    assert_eq(ta.linalg.matrix_rank(x), np.linalg.matrix_rank(a), check_dtype=False)
    assert_eq(ta.linalg.matrix_rank(x, rtol=0.99), np.linalg.matrix_rank(a, rtol=0.99), check_dtype=False)
    assert_eq(ta.linalg.matrix_rank(x, 1e9), 0, check_dtype=False)
    assert_eq(ta.linalg.pinv(x), np.linalg.pinv(a, rtol=1e-10))
    assert_eq(ta.linalg.pinv(x.T, rtol=0.99), np.linalg.pinv(a.T, rtol=0.99))


def test_ranks_of_stacks_and_vectors():
    a = np.stack([np.ones((3, 3)), np.eye(3), np.zeros((3, 3))])
    x = ta.from_array(a, chunks=2)
    assert_eq(ta.linalg.matrix_rank(x), np.array([1, 3, 0]))
    assert_eq(ta.linalg.matrix_rank(x, rtol=ta.asarray([0.1, 2.0, 0.1])), np.array([1, 0, 0]))
    assert_eq(ta.linalg.pinv(x), np.linalg.pinv(a))
    assert_eq(ta.linalg.matrix_rank(ta.zeros(3)), 0, check_dtype=False)
    assert_eq(ta.linalg.matrix_rank(ta.ones(3)), 1, check_dtype=False)


@pytest.mark.parametrize("n", [-3, -1, 0, 1, 2, 5, 8])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_matrix_power(n, shape):
    a = values(shape)
    assert_eq(ta.linalg.matrix_power(ta.from_array(a, chunks=2), n), np.linalg.matrix_power(a, n))


def test_matrix_power_of_integers():
    a = np.array([[1, 1], [1, 0]])
    assert_eq(ta.linalg.matrix_power(ta.from_array(a, chunks=1), 10), np.linalg.matrix_power(a, 10))
    with pytest.raises(TypeError, match="must be an integer"):
        ta.linalg.matrix_power(ta.ones((2, 2)), 1.5)


def test_cross():
    a, b = values((3, 4, 1)), values((3, 1, 5), "i8")
    x, y = ta.from_array(a, chunks=2), ta.from_array(b, chunks=1)
    expected = np.cross(a, b, axis=0)
    assert_eq(ta.linalg.cross(x, y, axis=0), expected)
    assert_eq(np.linalg.cross(x, y, axis=0), expected)


def test_diagonal_and_trace_take_the_last_axes():
    a = values((2, 3, 4), "i8")
    x = ta.from_array(a, chunks=2)
    for offset in (0, 1, -2):
        assert_eq(ta.linalg.diagonal(x, offset=offset), np.linalg.diagonal(a, offset=offset))
        assert_eq(ta.linalg.trace(x, offset=offset), np.linalg.trace(a, offset=offset))
    assert_eq(ta.linalg.trace(x, dtype="f4"), np.linalg.trace(a, dtype="f4"))
