"""Rechunk and take through scratch space: where each piece lies there, by arithmetic on whole arrays.

Every block that is written leaves its pieces at their places, every block that is read finds its own pieces in one
stretch. So there are as many tasks as blocks on both sides, never as many as pairs of them, and no task holds more
than one block.

The scratch space of a part (:class:`~tilework.plan.stages.AxisScatter`) holds the blocks to be read one after another
in C order of their grid, and inside a block its pieces in C order of their numbers along each axis, each a C-order
array. Both offsets follow from lengths along single axes, with no table over the whole grid: what comes before in C
order are the earlier ones along the first axis, full along the others; then the earlier ones along the second axis
within the present one along the first; and so on (:func:`offset`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tilework.plan.blocks import AxisChunks
from tilework.plan.pieces import whole_pieces
from tilework.plan.stages import AxisPieces, AxisScatter, Scatter, SlicePieces


def axis_scatter(pieces: AxisPieces, n_source: int) -> AxisScatter:
    """The way through scratch space along one axis of ``n_source`` blocks."""
    n_target = len(pieces.sizes)
    counts = np.diff(pieces.indptr)
    target = np.repeat(np.arange(n_target), counts)
    if isinstance(pieces.src, SlicePieces):
        length = pieces.src.stop - pieces.src.start
    else:
        length = np.diff(pieces.src.indptr)
    before = np.cumsum(length) - length
    place = before - np.repeat(before[pieces.indptr[:-1][counts > 0]], counts[counts > 0])
    order = np.argsort(pieces.blocks, kind="stable")
    indptr = np.searchsorted(pieces.blocks[order], np.arange(n_source + 1))
    source_part, target_part, n_parts = _parts(pieces, n_source)
    by_part = np.argsort(target_part, kind="stable")
    sizes = pieces.sizes[by_part]
    begin = np.cumsum(sizes) - sizes
    totals = np.bincount(target_part, weights=pieces.sizes, minlength=n_parts).astype(np.int64)
    base = np.empty(n_target, np.int64)
    base[by_part] = begin - (np.cumsum(totals) - totals)[target_part[by_part]]
    return AxisScatter(pieces, indptr, order, target, place, length, source_part, target_part, base, totals)


def _parts(pieces: AxisPieces, n_source: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The part of each block on either side, and how many parts there are.

    Blocks to be read that need overlapping ranges of written blocks are in one part. (For a take that is coarser than
    need be; any coarser division is right.)
    """
    filled = np.flatnonzero(np.diff(pieces.indptr))
    source_part, target_part = np.zeros(n_source, np.int64), np.zeros(len(pieces.sizes), np.int64)
    if not len(filled):
        return source_part, target_part, 1
    starts = pieces.indptr[filled]
    first, last = np.minimum.reduceat(pieces.blocks, starts), np.maximum.reduceat(pieces.blocks, starts)
    joined = np.zeros(n_source + 1, np.int64)  # over the border before each block: how many ranges go on
    np.add.at(joined, first + 1, 1)
    np.add.at(joined, last + 1, -1)
    run = np.cumsum(np.cumsum(joined)[:n_source] == 0)  # a border that no range crosses begins a new run of blocks
    used = np.unique(run[first])  # runs that nobody reads are no parts
    source_part = np.minimum(np.searchsorted(used, run), len(used) - 1)
    target_part[filled] = np.searchsorted(used, run[first])
    return source_part, target_part, len(used)


def runs_scatter(chunks: AxisChunks, dtype: np.dtype[Any]) -> Scatter:
    """The way of the blocks of a one-dimensional array into one file, one after another, as they are."""
    pieces = whole_pieces(chunks, 0)
    n = np.arange(len(chunks) + 1)
    none = np.zeros(len(chunks), np.int64)
    axis = AxisScatter(
        pieces, n, n[:-1], n[:-1], none, chunks.sizes, none, none, chunks.bounds[:-1], np.array([chunks.total])
    )
    return Scatter((axis,), dtype)


def offset(begins: Sequence[int], sizes: Sequence[int], totals: Sequence[int]) -> int:
    """Where something begins among things that lie one after another in C order.

    Along each axis: ``begins`` is where it begins, ``sizes`` its length, ``totals`` the length of all.

    Examples
    --------
    >>> offset([2, 3], [2, 3], [6, 9])  # two rows of nine before it, and three of its own two rows
    24
    """
    out, inside = 0, 1
    after = prod(totals)
    for begin, size, total in zip(begins, sizes, totals, strict=True):
        after = after // total if total else 0
        out += inside * begin * after
        inside *= size
    return out


def in_order(scatter: Scatter, target: Sequence[int]) -> bool:
    """Whether the pieces of a block, as they lie one after another, are the block in C order.

    True if along all axes but one there is a single piece, along that one the pieces ascend, and all axes before it
    have length one.
    """
    inside = 1
    split = False
    for axis, k in zip(scatter.axes, target, strict=True):
        pieces = axis.pieces
        first, stop = int(pieces.indptr[k]), int(pieces.indptr[k + 1])
        if not isinstance(pieces.dst, SlicePieces):
            return False
        if stop - first > 1:
            if split or inside > 1:
                return False
            split = True
        inside *= int(pieces.sizes[k])
    return True


__all__ = ["axis_scatter", "in_order", "offset", "runs_scatter"]
