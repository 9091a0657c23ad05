"""Positions against NumPy's."""

import numpy as np
import pytest

import tilework.array as ta
from tilework.base.errors import DTypeError, PlanError, UnsupportedError
from tilework.testing import assert_eq


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(15,), (15, 16), (3, 4, 5)])
def test_unravel_and_ravel(shape, order):
    flat = np.random.default_rng(0).integers(np.prod(shape), size=(4, 7))
    x = ta.from_array(flat, chunks=3)
    expected = np.unravel_index(flat, shape, order)
    found = ta.unravel_index(x, shape, order)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert_eq(mine, theirs)
    assert_eq(ta.ravel_multi_index(found, shape, order=order), flat)
    assert_eq(ta.ravel_multi_index(ta.stack(found), shape, order=order), flat)
    assert_eq(np.ravel_multi_index(found, shape, order=order), flat)


def test_numbers_beside_arrays_and_modes():
    rows = np.array([7, -1, 2])
    for mode in ("wrap", "clip", ("wrap", "clip")):
        found = ta.ravel_multi_index((ta.from_array(rows, chunks=2), 4), (5, 3), mode)
        assert_eq(found, np.ravel_multi_index((rows, 4), (5, 3), mode))


def test_rows_of_unknown_number():
    a = np.array([[3, 6, 6], [4, 5, 1], [-1, -1, -1]])
    x = ta.from_array(a, chunks=2)
    found = ta.ravel_multi_index(x[(x > 0).all(axis=1)], (7, 6 + 1))
    assert_eq(found, np.ravel_multi_index(a[:2], (7, 7)))


def test_out_of_bounds():
    with pytest.raises(ValueError, match="out of bounds"):
        ta.unravel_index(ta.from_array([1, 99]), (3, 4))[0].compute()
    with pytest.raises(ValueError, match="invalid entry"):
        ta.ravel_multi_index((ta.from_array([1, 99]), 0), (3, 4)).compute()


def test_refused():
    with pytest.raises(TypeError):
        ta.unravel_index(ta.ones(3), (3, 4))
    with pytest.raises(DTypeError, match="only int"):
        ta.ravel_multi_index((ta.ones(3), 0), (3, 4))
    with pytest.raises(PlanError, match="3 arrays of positions for 2 axes"):
        ta.ravel_multi_index((0, 0, ta.arange(2)), (3, 4))
    for dims in (ta.asarray([3, 4]), [ta.asarray(3), 4]):
        with pytest.raises(UnsupportedError, match="dims"):
            ta.ravel_multi_index((ta.arange(2), 0), dims)


@pytest.mark.parametrize("name", ["tril_indices", "triu_indices"])
@pytest.mark.parametrize(("n", "k", "m"), [(3, 0, 3), (3, 1, 5), (5, -1, 2), (4, 9, None)])
def test_triangles(name, n, k, m):
    for mine, theirs in zip(getattr(ta, name)(n, k, m, chunks=2), getattr(np, name)(n, k, m), strict=True):
        assert_eq(mine, theirs)
    like = ta.ones((n, m or n), chunks=2)
    from_like = getattr(ta, f"{name}_from")(like, k)
    for mine, theirs in zip(from_like, getattr(np, f"{name}_from")(np.ones(like.shape), k), strict=True):
        assert_eq(mine, theirs)
    with pytest.raises(PlanError, match="2-d"):
        getattr(ta, f"{name}_from")(ta.ones(3))
