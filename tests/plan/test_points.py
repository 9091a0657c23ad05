"""Pointwise indexing, block by block, against NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.io.memory import ArraySource
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.points import gather_points
from tilework.plan.stages import BlockPlace


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, tuple[AxisChunks, ...], list[int], list[np.ndarray]]:
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    array = np.arange(np.prod(shape)).reshape(shape)
    chunks = []
    for n in shape:
        cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=3))) if n > 1 else []
        chunks.append(AxisChunks(b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)))
    axes = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    count = draw(st.integers(0, 9))
    positions = [np.array([draw(st.integers(0, shape[a] - 1)) for _ in range(count)], np.int64) for a in axes]
    return array, tuple(chunks), axes, positions


@given(cases())
def test_points_are_gathered_from_the_blocks_that_hold_them(case: tuple) -> None:
    array, chunks, axes, positions = case
    node = build.points(build.source(ArraySource(array), chunks), axes, positions)
    gather, dependence = gather_points(node)
    grid = tuple(map(len, chunks))
    result = np.full(node.shape, -1)
    for task, index in enumerate(np.ndindex(node.grid)):
        needed = dependence.blocks[dependence.indptr[task] : dependence.indptr[task + 1]]
        assert len(set(needed.tolist())) == len(needed)
        blocks = []
        for flat in needed:
            where = np.unravel_index(flat, grid)
            region = tuple(slice(*c.bounds[k : k + 2]) for c, k in zip(chunks, where, strict=True))
            blocks.append(array[region])
        place = BlockPlace(index, node.grid, node.chunks)
        region = tuple(slice(*c.bounds[k : k + 2]) for c, k in zip(node.chunks, index, strict=True))
        result[region] = gather(blocks, place)
    expected = np.moveaxis(array, axes, range(len(axes)))[tuple(positions)]
    assert np.array_equal(result, expected)


def test_only_the_blocks_with_points_are_needed() -> None:
    x = build.source(ArraySource(np.zeros((8, 8))), (AxisChunks((2,) * 4), AxisChunks((4, 4))))
    node = build.points(x, [0, 1], [np.array([0, 1, 7]), np.array([0, 1, 7])])
    _, dependence = gather_points(node)
    assert set(dependence.blocks.tolist()) == {0, 7}
