"""Is the result right, and is it what was announced?"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot


def assert_eq(
    a: Any,
    b: Any,
    check_dtype: bool = True,
    check_chunks: bool = True,
    scheduler: Any = "sync",
    *,
    rtol: float = 1e-5,
    atol: float = 1e-8,
) -> None:
    """Assert that two arrays, lazy or not, are equal, and that the lazy ones are what they say.

    Parameters
    ----------
    a, b
        Lazy arrays, NumPy arrays, or what converts to one.
    check_dtype
        Whether the types must be the same.
    check_chunks
        Whether to compare shape and dtype of every block with what the lazy array announced.
    scheduler
        What to compute with.
    rtol, atol
        How far inexact numbers may differ; NaN equals NaN. Everything else is compared exactly.

    Raises
    ------
    AssertionError
        With what differs.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> assert_eq(ta.arange(10, chunks=3) * 2, np.arange(0, 20, 2))
    """
    left, right = (_value(x, check_chunks, scheduler) for x in (a, b))
    assert left.shape == right.shape, f"shapes differ: {left.shape} and {right.shape}"
    if check_dtype:
        assert left.dtype == right.dtype, f"dtypes differ: {left.dtype} and {right.dtype}"
    if left.dtype.kind in "fc" or right.dtype.kind in "fc":
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol, equal_nan=True)
    else:
        np.testing.assert_array_equal(left, right)


def _value(x: Any, check_chunks: bool, scheduler: Any) -> np.ndarray:
    """The values; of a lazy array, compared with what it announces."""
    if not isinstance(x, Array):
        return np.asarray(x)
    if check_chunks:
        _assert_blocks(x, scheduler)
    result = x.compute(scheduler=scheduler)
    kind = np.ndarray if x.ndim else (np.generic, object)
    assert isinstance(result, kind), f"compute() returned {type(result).__name__} for {x!r}"
    value = np.asarray(result, x.dtype if x.dtype.hasobject else None)
    assert value.dtype == x.dtype, f"{x!r} computes to dtype {value.dtype}"
    assert _agrees(x.shape, value.shape), f"{x!r} computes to shape {value.shape}"
    return value


def _assert_blocks(x: Array, scheduler: Any) -> None:
    """Compare shape and dtype of every block that comes out with what the array announces."""
    labels = tuple(range(x.ndim))
    describe = BlockFunction(_describe, (Slot(0),))
    node = build.blockwise(describe, labels, [(x.node, labels)], object, adjust_chunks=dict.fromkeys(labels, 1))
    found = np.empty(x.numblocks, object)
    found[...] = Array(node).compute(scheduler=scheduler)
    for index in product(*map(range, x.numblocks)):
        shape, dtype = found[index]
        announced = tuple(axis[k] for axis, k in zip(x.chunks, index, strict=True))
        assert _agrees(announced, shape), f"block {index} of {x!r} has shape {shape}, announced is {announced}"
        assert dtype == x.dtype, f"block {index} of {x!r} has dtype {dtype}"


def _describe(block: np.ndarray) -> np.ndarray:
    out = np.empty((1,) * block.ndim, object)
    out[(0,) * block.ndim] = (block.shape, block.dtype)
    return out


def _agrees(announced: tuple[Any, ...], found: tuple[int, ...]) -> bool:
    """Whether lengths are as announced; NaN announces nothing."""
    return len(announced) == len(found) and all(n != n or n == m for n, m in zip(announced, found, strict=True))
