"""The arithmetic of regions that sources share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np

from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.protocols import Region


def region_shape(region: Region) -> tuple[int, ...]:
    """Lengths of the region's axes.

    Examples
    --------
    >>> region_shape((slice(0, 10, 3), slice(2, 4, 1)))
    (4, 2)
    """
    return tuple(len(range(s.start, s.stop, s.step)) for s in region)


def format_region(region: Region) -> str:
    """A region as users write it.

    Examples
    --------
    >>> format_region((slice(0, 10, 3), slice(2, 4, 1)))
    '[0:10:3, 2:4]'
    """
    return f"[{', '.join(f'{s.start}:{s.stop}' + (f':{s.step}' if s.step != 1 else '') for s in region)}]"


def axis_parts(axis: AxisChunks, index: slice) -> list[tuple[int, slice, slice]]:
    """The blocks that a slice with positive step touches: number, place within the block, place within the slice.

    Unlike :func:`tilework.plan.blocks.slice_parts` this costs nothing for the blocks that are not touched.

    Examples
    --------
    >>> axis_parts(AxisChunks((4, 4, 4)), slice(2, 8, 3))
    [(0, slice(2, 4, 3), slice(0, 1, None)), (1, slice(1, 4, 3), slice(1, 2, None))]
    """
    bounds, out = axis.bounds, []
    block, at, taken = bisect_right(bounds, index.start) - 1, index.start, 0
    while at < index.stop:
        lo, hi = int(bounds[block]), int(bounds[block + 1])
        count = len(range(at, min(hi, index.stop), index.step))
        if count:
            out.append((block, slice(at - lo, min(hi, index.stop) - lo, index.step), slice(taken, taken + count)))
            at, taken = at + count * index.step, taken + count
        block += 1
    return out


def assemble(
    region: Region, chunks: Chunks, dtype: np.dtype[Any], block: Callable[[tuple[int, ...]], np.ndarray]
) -> np.ndarray:
    """The region of an array of which ``block(index)`` gives the blocks, each asked for once.

    A region within one block is a view of it; else one block at a time is copied.
    """
    touched = [axis_parts(axis, index) for axis, index in zip(chunks, region, strict=True)]
    if all(len(parts) == 1 for parts in touched):
        within: tuple[Any, ...] = (*(parts[0][1] for parts in touched), ...)
        only: np.ndarray = block(tuple(parts[0][0] for parts in touched))[within]
        return only
    out = np.empty(region_shape(region), dtype)
    for parts in product(*touched):
        numbers, src, dst = zip(*parts, strict=True)
        out[dst] = block(numbers)[src]
    return out


def detached(block: np.ndarray) -> np.ndarray:
    """The block, copied if it is a part of a larger one: a view would keep all of that alive."""
    base = block.base
    return block.copy() if isinstance(base, np.ndarray) and block.nbytes < base.nbytes else block


def regular(chunks: Iterable[AxisChunks]) -> tuple[int, ...] | None:
    """The shape of all blocks but the last along each axis, or None if they differ."""
    shape = []
    for axis in chunks:
        if not axis.known or (axis.sizes[:-1] != axis[0]).any() or axis[-1] > axis[0]:
            return None
        shape.append(max(1, axis[0]))
    return tuple(shape)
