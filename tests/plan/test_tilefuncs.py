"""Tile functions do what NumPy does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilework.plan.tilefuncs import where

DTYPES = [
    "bool",
    "int8",
    "uint16",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "M8[s]",
    "O",
    "U3",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flips", [0.5, 0.001, 0, 1])
@pytest.mark.parametrize("operands", ["arrays", "x is a scalar", "broadcast", "strided out"])
def test_where(dtype: str, flips: float, operands: str) -> None:
    rng = np.random.default_rng(0)
    shape = (40, 50)
    x, y = (rng.integers(0, 9, shape).astype(dtype) for _ in range(2))
    mask = (rng.random(shape) < flips).cumsum().reshape(shape) % 2 == 1
    if operands == "x is a scalar":
        x = x[0, 0]
    elif operands == "broadcast":
        x, y, mask = x[:1], y[:, :1], mask if flips else mask[:1]
    want = np.where(mask, x, y)
    out = np.zeros((40, 100), want.dtype)[:, ::2] if operands == "strided out" else np.zeros(shape, want.dtype)
    assert where(mask, x, y, out=out) is out
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(where(mask, x, y), want)


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf")])
def test_bits_are_kept(value: Any) -> None:
    """NaNs, infinities and signed zeros go through untouched, whatever the other operand is."""
    rng = np.random.default_rng(0)
    mask = rng.random(5000) < 0.4
    x = rng.choice([0.0, -0.0, np.nan, np.inf, 1e-310, 3.5], 5000)
    out = where(mask, x, value, out=np.empty(5000))
    np.testing.assert_array_equal(out.view(np.int64), np.where(mask, x, value).view(np.int64))


def test_a_condition_need_not_be_boolean() -> None:
    condition = np.arange(3000) % 3
    np.testing.assert_array_equal(where(condition, 1, 2.5, out=np.empty(3000)), np.where(condition, 1, 2.5))
