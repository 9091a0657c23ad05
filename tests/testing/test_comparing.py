"""assert_eq finds what differs."""

import numpy as np
import pytest

import tilework.array as ta
from tilework.array.core import Array
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot
from tilework.testing import assert_eq


def test_equal_arrays():
    assert_eq(ta.arange(10, chunks=3), np.arange(10))
    assert_eq(np.array([1.0, np.nan]), ta.from_array(np.array([1.0, np.nan]), chunks=1))
    assert_eq(ta.ones(3).sum(), np.float64(3))
    assert_eq(ta.asarray(["a", "b"]), np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.arange(9), "shapes differ"),
        (np.arange(10.0), "dtypes differ"),
        (np.arange(10) + (np.arange(10) == 4), "Mismatched elements"),
    ],
)
def test_what_differs_is_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        assert_eq(ta.arange(10, chunks=3), wrong)


def test_types_need_not_agree():
    assert_eq(ta.arange(10, chunks=3), np.arange(10.0), check_dtype=False)


def test_blocks_that_are_not_what_was_announced():
    wrong = BlockFunction(np.float32, (Slot(0),), check=False)
    x = ta.arange(4, chunks=2)
    lying = Array(build.blockwise(wrong, "i", [(x.node, "i")], np.int64))
    with pytest.raises(AssertionError, match="has dtype float32"):
        assert_eq(lying, np.arange(4))
