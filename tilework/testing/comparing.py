"""Whether a result is right, and whether it is what was announced."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework import session
from tilework.array.core import Array
from tilework.io import memory
from tilework.plan import build
from tilework.plan.protocols import Region


def assert_eq(
    a: Any,
    b: Any,
    check_dtype: bool = True,
    check_chunks: bool = True,
    scheduler: Any = "sync",
    *,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    **options: Any,
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
    **options
        Without effect; for tests written for Dask.

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
    elif left.dtype == right.dtype == object:
        np.testing.assert_array_equal(left[left == left], right[right == right])
        np.testing.assert_array_equal(left == left, right == right)
    else:
        np.testing.assert_array_equal(left, right)


def _value(x: Any, check_chunks: bool, scheduler: Any) -> np.ndarray:
    """The values; of a lazy array, compared with what it announces."""
    if not isinstance(x, Array):
        return np.asarray(x)
    sink = _Recorder(x)
    session.run_stores([build.store(x.node, sink)], scheduler=scheduler)
    if check_chunks:
        for index, (shape, dtype) in sorted(sink.seen.items()):
            announced = tuple(axis[k] for axis, k in zip(x.chunks, index, strict=True))
            assert _agrees(announced, shape), f"block {index} of {x!r} has shape {shape}, announced is {announced}"
            assert dtype == x.dtype, f"block {index} of {x!r} has dtype {dtype}"
    value = sink.array
    assert _agrees(x.shape, value.shape), f"{x!r} computes to shape {value.shape}"
    return value


class _Recorder:
    """Keeps the result as ``compute`` does, and notes what each block was."""

    def __init__(self, x: Array) -> None:
        known = all(axis.known for axis in x.chunks)
        self._inner = memory.MemorySink(x.shape, x.dtype) if known else memory.BlockSink(x.chunks, x.dtype)
        self.token, self.resident_bytes = self._inner.token, self._inner.resident_bytes
        self.shared = False
        self.seen: dict[tuple[int, ...], tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def finished(self) -> None:
        return None

    def buffer(self, region: Region) -> np.ndarray | None:
        return self._inner.buffer(region)

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        self.seen[index] = block.shape, block.dtype
        self._inner.write(index, region, block)

    @property
    def array(self) -> np.ndarray:
        return self._inner.array


def _agrees(announced: tuple[Any, ...], found: tuple[int, ...]) -> bool:
    """Whether lengths are as announced; NaN announces nothing."""
    return len(announced) == len(found) and all(n != n or n == m for n, m in zip(announced, found, strict=True))
