"""In which blocks an array in storage is read: whole units of storage, so that each unit is fetched and decoded once.

Blocks that are wanted along other bounds are put together from those that were read. That is a rechunk in the plan: it
shows in ``explain()``, and counts as any other. (Sharing decoded units behind the plan's back, in a cache within the
source, was rejected: nothing would account for its memory, and eviction would bring the second read back.)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tilework.plan.blocks import AxisChunks, Chunks


def in_whole_units(wanted: Chunks, index: Sequence[slice], unit: Sequence[int]) -> bool:
    """Whether no unit of storage lies in two blocks.

    Parameters
    ----------
    wanted
        Blocks of what is selected.
    index
        For each axis what is selected of it, with a positive step.
    unit
        Shape of the unit of storage; the first starts at the beginning of the array.
    """
    return not any(_cut_through(*axis) for axis in zip(wanted, index, unit, strict=True))


def reading_blocks(wanted: Chunks, index: Sequence[slice], unit: Sequence[int]) -> Chunks:
    """Blocks for reading what is selected: those that are wanted, if no unit is read twice then.

    Otherwise groups of whole units, no larger than the largest wanted block or one unit. The last axes are grouped
    first, since they are contiguous in the blocks.

    Examples
    --------
    >>> reading_blocks((AxisChunks((25, 25)),), [slice(0, 50, 1)], [10])
    ((20, 20, 10),)
    >>> reading_blocks((AxisChunks((3, 3)), AxisChunks((8,))), [slice(2, 8, 1), slice(0, 8, 1)], [4, 2])
    ((2, 4), (6, 2))
    """
    if in_whole_units(wanted, index, unit):
        return wanted
    spans = [min(size, max(1, s.stop - s.start)) for s, size in zip(index, unit, strict=True)]
    room = prod(axis.largest for axis in wanted) / max(1, prod(spans))
    blocks: list[AxisChunks] = []
    for axis, s, size in reversed(list(zip(wanted, index, unit, strict=True))):
        most = max(1, axis.largest * s.step // size)
        together = max(1, min(most, int(room)))
        room /= together
        if together == most and not _cut_through(axis, s, size):
            blocks.append(axis)
        else:
            blocks.append(_grouped(s, size * together))
    return tuple(reversed(blocks))


def _cut_through(axis: AxisChunks, index: slice, unit: int) -> bool:
    """Whether a bound between blocks lies within a unit that both of them need."""
    bounds = axis.bounds[1:-1]
    before, after = index.start + (bounds - 1) * index.step, index.start + bounds * index.step
    return bool((before // unit == after // unit).any())


def _grouped(index: slice, size: int) -> AxisChunks:
    """Blocks of what is selected, cut at the multiples of ``size`` in storage."""
    start, stop, step = index.start, index.stop, index.step
    cuts = np.arange(-(-(start + 1) // size) * size, stop, size)
    bounds = np.unique(np.concatenate([[0], -(-(cuts - start) // step), [len(range(start, stop, step))]]))
    return AxisChunks.from_array(np.diff(bounds)) if len(bounds) > 1 else AxisChunks((0,))
