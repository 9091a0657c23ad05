"""NumPy's functions on lazy arrays: found, or refused with a remedy; never computed behind the user's back."""

import inspect

import numpy as np
import pytest

import tilework.array as ta
from tilework.array import dispatch
from tilework.base.errors import UnsupportedError
from tilework.testing import assert_eq


@pytest.fixture
def x():
    return ta.from_array(np.arange(12.0).reshape(3, 4), chunks=2)


def test_namesakes_stand_for_each_other(x):
    for theirs, mine in dispatch.FUNCTIONS.items():
        assert getattr(ta, theirs.__name__, None) is mine or theirs.__name__ in dir(np.lib.stride_tricks), theirs
    assert_eq(np.mean(x, axis=0), np.mean(x.compute(), axis=0))
    assert np.shape(x) == (3, 4)
    assert np.result_type(x, np.complex64) == np.complex128
    assert np.can_cast(x.dtype, "complex128")
    assert not np.iscomplexobj(x)
    assert ta.isrealobj(x)
    assert ta.finfo(x).bits == 64
    assert ta.iinfo(x.astype("int8")).bits == 8


@pytest.mark.parametrize(
    "name", ["sum", "max", "any", "mean", "std", "nanvar", "argmax", "cumsum", "diff", "roll", "full_like"]
)
def test_parameters_stand_in_the_order_of_numpy(name):
    mine, theirs = (list(inspect.signature(getattr(module, name)).parameters) for module in (ta, np))
    assert [p for p in mine if p in theirs] == [p for p in theirs if p in mine]


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda x: np.linalg.inv(x), "apply_gufunc"),
        (lambda x: np.fft.fft(x), "map_blocks"),
        (lambda x: np.put(x, [0], 1), "x\\[index\\] = value"),
        (lambda x: np.copyto(x, 1), "where"),
        (lambda x: np.interp(x, [0, 1], [0, 1]), "map_blocks"),
        (lambda x: np.apply_along_axis(np.sum, 0, x), "map_blocks"),
        (lambda x: np.lexsort(x), "compute"),
        (lambda x: np.sum(x, nonsense=1), "unexpected keyword"),
    ],
)
def test_what_is_missing_is_refused_with_a_remedy(x, call, remedy):
    with pytest.raises((UnsupportedError, TypeError), match=remedy):
        call(x)


def test_options_that_numpy_has_and_we_have_not(x):
    with pytest.raises(UnsupportedError, match=r"numpy\.cumulative_sum|numpy\.unique"):
        np.unique(x, axis=0)


def test_other_libraries_come_first(x):
    class Stranger:
        def __array_function__(self, func, types, args, kwargs):
            return "mine"

    assert np.concatenate([x, Stranger()]) == "mine"
