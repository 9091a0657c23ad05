from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.plan.blocks import AxisChunks, Chunks, split_sizes
from tilework.plan.pieces import rechunk_pieces, take_pieces
from tilework.plan.scatter import axis_scatter, in_order, offset
from tilework.plan.stages import AxisScatter, Scatter
from tilework.testing.strategies import two_chunkings


def rechunked(have: AxisChunks, want: AxisChunks) -> AxisScatter:
    return axis_scatter(rechunk_pieces(have, want, 0), len(have))


@given(two_chunkings(max_side=12))
def test_what_is_written_is_found_in_one_stretch(two: tuple[Chunks, Chunks]) -> None:
    """Every element of a part is written to a place of its own, and lies in the stretch of the block that it is for."""
    have, want = two
    scatter = Scatter(tuple(map(rechunked, have, want)), np.dtype("f8"))
    places: dict[tuple[int, ...], list[int]] = {}
    for index in product(*(range(len(axis)) for axis in have)):
        part = tuple(int(axis.source_part[k]) for axis, k in zip(scatter.axes, index, strict=True))
        totals = [int(axis.totals[p]) for axis, p in zip(scatter.axes, part, strict=True)]
        for pieces in product(
            *(axis.order[axis.indptr[k] : axis.indptr[k + 1]] for axis, k in zip(scatter.axes, index, strict=True))
        ):
            axes = list(zip(scatter.axes, pieces, strict=True))
            target = [int(axis.target[p]) for axis, p in axes]
            assert part == tuple(int(axis.target_part[t]) for axis, t in zip(scatter.axes, target, strict=True))
            sizes = [int(axis.pieces.sizes[t]) for axis, t in zip(scatter.axes, target, strict=True)]
            start = offset([int(a.base[t]) for a, t in zip(scatter.axes, target, strict=True)], sizes, totals)
            lengths = [int(axis.length[p]) for axis, p in axes]
            inner = offset([int(axis.place[p]) for axis, p in axes], lengths, sizes)
            assert inner + prod(lengths) <= prod(sizes)
            places.setdefault(part, []).extend(range(start + inner, start + inner + prod(lengths)))
    for part, found in places.items():
        size = prod(int(axis.totals[p]) for axis, p in zip(scatter.axes, part, strict=True))
        assert sorted(found) == list(range(size))
    assert sum(map(len, places.values())) == prod(axis.total for axis in have)


def test_parts_are_as_small_as_the_common_bounds_allow() -> None:
    axis = rechunked(AxisChunks((2, 2, 3, 3, 5)), AxisChunks((1, 3, 6, 2, 2, 1)))
    assert axis.source_part.tolist() == [0, 0, 1, 1, 2]
    assert axis.target_part.tolist() == [0, 0, 1, 2, 2, 2]
    assert axis.totals.tolist() == [4, 6, 5]
    assert axis.base.tolist() == [0, 1, 0, 0, 2, 4]


@given(st.lists(st.integers(0, 29), max_size=60), st.integers(1, 30), st.integers(1, 20))
def test_taken_elements_lie_in_order_of_the_pieces(indices: list[int], size: int, out_size: int) -> None:
    have, want = split_sizes(30, size), split_sizes(len(indices), out_size)
    axis = axis_scatter(take_pieces(have, np.array(indices, np.int64), want, 0), len(have))
    space = {int(p): np.full(n, -1) for p, n in enumerate(axis.totals)}
    for k in range(len(have)):
        block = np.arange(have.bounds[k], have.bounds[k + 1])
        for p in axis.order[axis.indptr[k] : axis.indptr[k + 1]]:
            target = axis.target[p]
            start = axis.base[target] + axis.place[p]
            assert axis.source_part[k] == axis.target_part[target]
            space[int(axis.source_part[k])][start : start + axis.length[p]] = block[axis.pieces.src[int(p)]]
    for k in range(len(want)):
        out = np.full(want[k], -1)
        start = axis.base[k]
        for p in range(axis.pieces.indptr[k], axis.pieces.indptr[k + 1]):
            out[axis.pieces.dst[p]] = space[int(axis.target_part[k])][start : start + axis.length[p]]
            start += axis.length[p]
        np.testing.assert_array_equal(out, indices[want.bounds[k] : want.bounds[k + 1]])


def test_what_lies_in_order_is_read_as_it_is() -> None:
    def scatter(*axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Scatter:
        return Scatter(tuple(rechunked(AxisChunks(a), AxisChunks(b)) for a, b in axes), np.dtype("f8"))

    assert in_order(scatter(((2, 2), (4,)), ((4,), (2, 2))), (0, 0))
    assert not in_order(scatter(((4,), (4,)), ((2, 2), (4,))), (0, 0))  # rows would be interleaved
    assert in_order(scatter(((1, 1), (1, 1)), ((2, 2), (4,))), (0, 0))  # but for a single row
    assert not in_order(scatter(((2, 2), (4,)), ((2, 2), (4,))), (0, 0))
    backwards = axis_scatter(take_pieces(AxisChunks((2, 2)), np.array([3, 2, 1, 0]), AxisChunks((4,)), 0), 2)
    assert not in_order(Scatter((backwards,), np.dtype("f8")), (0,))
