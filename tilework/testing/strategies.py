"""Hypothesis strategies for lazy arrays and what stands beside them. Needs hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tilework.array.core import Array
from tilework.array.creation import from_array
from tilework.plan.blocks import AxisChunks, Chunks, split_sizes

DTYPES = ("float64", "float32", "int64", "int8", "uint16", "bool", "complex128")


@st.composite
def chunks(draw: st.DrawFn, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Chunks of a shape: each axis cut at random places."""
    out = []
    for n in shape:
        cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
        bounds = [0, *cuts, n]
        out.append(tuple(b - a for a, b in pairwise(bounds)))
    return tuple(out)


@st.composite
def two_chunkings(draw: st.DrawFn, max_side: int) -> tuple[Chunks, Chunks]:
    """A shape of one to three axes in two kinds of chunks: even, or cut anywhere; blocks may be empty."""
    shape = draw(st.lists(st.integers(0, max_side), min_size=1, max_size=3))

    def axis(n: int) -> AxisChunks:
        if draw(st.booleans()):
            return split_sizes(n, draw(st.integers(1, max(1, n))))
        bounds = [0, *sorted(draw(st.lists(st.integers(0, n), max_size=6))), n]
        return AxisChunks(b - a for a, b in pairwise(bounds))

    return tuple(map(axis, shape)), tuple(map(axis, shape))


@st.composite
def arrays(
    draw: st.DrawFn, dtypes: Sequence[Any] = DTYPES, *, min_dims: int = 0, max_dims: int = 3, min_side: int = 0,
    max_side: int = 7, shape: Any = None,
) -> tuple[np.ndarray, Array]:  # fmt: skip
    """A NumPy array of small numbers, and the same as a lazy array with random chunks."""
    if shape is None:
        shape = npst.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)
    lengths = draw(shape) if isinstance(shape, st.SearchStrategy) else tuple(shape)
    dtype = np.dtype(draw(st.sampled_from(list(dtypes))))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 20, lengths)
    signs = values - 9 if dtype.kind in "ifc" else values % 2 if dtype.kind == "b" else values
    plain = np.asarray(signs * 1.5 if dtype.kind in "fc" else signs).astype(dtype)
    if dtype.kind == "c":
        plain = np.asarray(plain + 1j * values)
    return plain, from_array(plain, chunks=draw(chunks(lengths)))
