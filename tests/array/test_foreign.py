"""Blocks are NumPy arrays: what else comes is refused by name, and never converted in silence."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import tilework.array as ta
from tilework.base.errors import BlockResultError
from tilework.testing import assert_eq


class OnADevice:
    """An array that refuses to become a NumPy array unasked, as arrays of a GPU do."""

    shape, ndim, dtype = (2, 3), 2, np.dtype("float64")

    def __getitem__(self, index):
        return self

    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __array_function__(self, *args):
        return NotImplemented

    def __array_ufunc__(self, *args, **kwargs):
        return NotImplemented


VALUES = np.arange(6.0).reshape(2, 3)
FOREIGN = {
    "masked": np.ma.masked_array(VALUES, VALUES > 2),
    "sparse": scipy.sparse.csr_array(VALUES),
    "sparse matrix": scipy.sparse.coo_matrix(VALUES),
    "on a device": OnADevice(),
    "categorical": pd.Categorical(["a", "b", "a"]),
    "nullable": pd.array([1, None, 3]),
}
NO_BLOCKS = FOREIGN | {
    "frame": pd.DataFrame(VALUES),
    "series": pd.Series(VALUES[0]),
    "matrix": np.asmatrix(VALUES),
    "records": np.rec.array([(1, 2.0)]),
    "list": VALUES.tolist(),
    "ragged": [[1], [2, 3]],
    "nothing": None,
    "text": "abc",
}


@pytest.fixture
def x():
    return ta.from_array(VALUES, chunks=2)


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(
    "use",
    [
        lambda x, value: ta.from_array(value),
        lambda x, value: ta.asarray(value),
        lambda x, value: ta.concatenate([x, value]),
        lambda x, value: ta.where(x > 1, x, value),
        lambda x, value: x.__setitem__(slice(None), value),
        lambda x, value: np.add(x, value),
    ],
    ids=["from_array", "asarray", "concatenate", "where", "setitem", "add"],
)
def test_arrays_of_other_libraries_are_refused(x, use, value):
    with pytest.raises(
        (NotImplementedError, TypeError), match=r"convert it first|\.filled|not supported|NotImplemented|cannot perform"
    ):
        use(x, value)


@pytest.mark.parametrize("block", NO_BLOCKS.values(), ids=NO_BLOCKS)
def test_functions_of_blocks_that_return_something_else(x, block):
    kind = type(block).__name__

    def give(values):
        return block

    with pytest.raises(BlockResultError, match=rf"map_blocks\(give\).*{kind}.*np\.asarray"):
        x.map_blocks(give)
    with pytest.raises(BlockResultError, match=rf"blockwise\(give\).*{kind}"):
        ta.blockwise(give, "ij", x, "ij")
    for lazy in (
        x.map_blocks(give, dtype=float),
        ta.map_overlap(give, x, depth=1, dtype=float),
        ta.apply_gufunc(give, "()->()", x, output_dtypes=float),
    ):
        with pytest.raises(BlockResultError, match=rf"give.*block \(0, 0\).*{kind}"):
            lazy.compute()


@pytest.mark.parametrize("number", [2, 2.5, True, np.float32(3), np.int8(4), np.array(5)])
def test_scalars_are_blocks_without_axes(x, number):
    result = x.map_blocks(lambda block: number, drop_axis=(0, 1))
    assert result.dtype == np.asarray(number).dtype
    assert_eq(result, np.asarray(number))


@pytest.mark.parametrize(
    "value",
    [pd.Series(VALUES[0]), pd.DataFrame(VALUES), pd.Index([1, 2, 3]), np.asmatrix(VALUES), VALUES.tolist()],
    ids=type,
)
def test_what_is_asked_to_be_converted_is_converted(value):
    assert_eq(ta.asarray(value), np.asarray(value))
    assert_eq(ta.from_array(value), np.asarray(value))
