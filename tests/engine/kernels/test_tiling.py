"""Tiles partition a block, within the limit, in the order that is promised."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.engine.kernels.tiling import ROWS, memory_order, regions, tile_lengths

shapes = st.lists(st.integers(1, 9), max_size=4).map(tuple)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[tuple[int, ...], int, frozenset[int]]:
    shape = draw(shapes)
    reduced = draw(st.frozensets(st.integers(0, max(0, len(shape) - 1)), max_size=len(shape)))
    return shape, draw(st.integers(1, 200)), reduced if shape else frozenset()


@given(blocks())
def test_tiles_partition_the_block(block: tuple[tuple[int, ...], int, frozenset[int]]) -> None:
    shape, limit, reduced = block
    seen = np.zeros(shape, int)
    for region in regions(shape, tile_lengths(shape, limit, reduced), reduced):
        assert seen[region].size <= limit
        seen[region] += 1
    assert (seen == 1).all()


@given(shapes, st.integers(1, 200))
def test_tiles_are_contiguous_slabs_in_c_order(shape: tuple[int, ...], limit: int) -> None:
    numbers = np.arange(prod(shape)).reshape(shape)
    tiles = [numbers[region] for region in regions(shape, tile_lengths(shape, limit, frozenset()))]
    np.testing.assert_array_equal(np.concatenate([tile.ravel() for tile in tiles]), numbers.ravel())


@given(shapes, st.integers(1, 200))
def test_tiles_have_nearly_equal_sizes(shape: tuple[int, ...], limit: int) -> None:
    lengths = tile_lengths(shape, limit, frozenset())
    for axis in range(len(shape)):
        found = {region[axis].stop - region[axis].start for region in regions(shape, lengths)}
        assert max(found) - min(found) <= 1


def test_long_rows_are_cut_where_they_are_added_up() -> None:
    assert tile_lengths((4000, 1_000_000), 65536, frozenset()) == (1, 65536)
    assert tile_lengths((4000, 1_000_000), 65536, frozenset({0})) == (ROWS, 65536 // ROWS)
    assert tile_lengths((4, 1_000_000), 65536, frozenset({0})) == (4, 65536 // 4)
    assert tile_lengths((365, 200, 200), 65536, frozenset({1, 2})) == (1, 200, 200)


def test_parts_of_rows_are_done_one_after_the_other() -> None:
    tiles = regions((4, 6), (2, 3), frozenset({0}))
    assert [(rows.start, columns.start) for rows, columns in tiles] == [(0, 0), (2, 0), (0, 3), (2, 3)]


@given(shapes, st.randoms())
def test_memory_order_is_numpys(shape: tuple[int, ...], random: object) -> None:
    axes = list(range(len(shape)))
    random.shuffle(axes)  # type: ignore[attr-defined]
    array = np.empty(shape).transpose(axes)
    ordered = array.transpose(memory_order(array))
    assert ordered.flags.c_contiguous
