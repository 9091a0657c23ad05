"""Blocks for reading: none of them cuts through a unit of storage, and none is larger than it need be."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.reading import in_whole_units, reading_blocks


@st.composite
def axes(draw: st.DrawFn) -> tuple[AxisChunks, slice, int]:
    start, length, step = draw(st.integers(0, 9)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=4)))
    chunks = AxisChunks(np.diff([0, *cuts, length]).tolist())
    return chunks, slice(start, start + (length - 1) * step + 1, step), draw(st.integers(1, 12))


def units(axis: AxisChunks, index: slice, unit: int) -> list[set[int]]:
    """The units of storage that each block touches."""
    positions = np.arange(index.start, index.stop, index.step) // unit
    return [set(positions[a:b].tolist()) for a, b in zip(axis.bounds[:-1], axis.bounds[1:], strict=True) if a < b]


@given(st.lists(axes(), min_size=1, max_size=3))
def test_every_unit_lies_in_one_block(drawn: list[tuple[AxisChunks, slice, int]]) -> None:
    wanted, index, unit = zip(*drawn, strict=True)
    read = reading_blocks(wanted, index, unit)
    assert [axis.total for axis in read] == [axis.total for axis in wanted]
    for axis, i, u in zip(read, index, unit, strict=True):
        touched = units(axis, i, u)
        assert sum(map(len, touched)) == len(set.union(*touched))
    assert in_whole_units(read, index, unit)
    assert (read == wanted) == in_whole_units(wanted, index, unit)


@given(st.lists(axes(), min_size=1, max_size=3))
def test_blocks_are_no_larger_than_those_wanted_or_than_a_unit(drawn: list[tuple[AxisChunks, slice, int]]) -> None:
    wanted, index, unit = zip(*drawn, strict=True)
    read = reading_blocks(wanted, index, unit)
    largest = prod(axis.largest for axis in read)
    assert largest <= max(prod(axis.largest for axis in wanted), prod(unit))


def test_long_rows_of_thin_units() -> None:
    """Columns of a record that is stored day by day: read in days, not in columns that are whole in time."""
    days, columns = AxisChunks((100, 100)), AxisChunks((90,) * 8)
    read: Chunks = reading_blocks((days, columns), [slice(0, 200, 1), slice(0, 720, 1)], [1, 720])
    assert read == ((12,) * 16 + (8,), (720,))
