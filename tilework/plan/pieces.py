"""Tables of pieces: how blocks of a result are put together from blocks of an input, along one axis.

Each function returns an :class:`~tilework.plan.stages.AxisPieces`. ``axis`` is the consumer's grid axis that numbers
the result's blocks; None if there is only one. All are arithmetic on whole arrays: a million blocks take milliseconds.

An unknown size is -1: there the result's block is the producer's block as a whole, and ``src`` and ``dst`` are
``slice(0, None, 1)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilework.plan.blocks import AxisChunks, slice_parts
from tilework.plan.stages import AxisPieces, IndexPieces, SlicePieces


def whole_pieces(chunks: AxisChunks, axis: int | None) -> AxisPieces:
    """Block ``k`` is block ``k``."""
    return _wholes(chunks, 0, chunks, axis)


def slice_pieces(chunks: AxisChunks, index: slice, axis: int | None) -> AxisPieces:
    """``x[index]`` with the chunks of :func:`~tilework.plan.blocks.slice_chunks`; ``index`` is normalized.

    An integer index ``i`` is ``slice(i, i + 1, 1)`` and a dropped axis.
    """
    if axis is not None and (index.start, index.stop, index.step) == (0, chunks.total, 1):
        return whole_pieces(chunks, axis)
    blocks, first, count = slice_parts(chunks, index)
    start = index.start + first * index.step - chunks.bounds[blocks]
    stop = start + (count - 1) * index.step + (1 if index.step > 0 else -1)
    n = len(blocks)
    sizes, indptr = (count, np.arange(n + 1)) if n else (np.zeros(1, np.int64), np.zeros(2, np.int64))
    src, dst = SlicePieces(start, stop, index.step), SlicePieces(np.zeros(n, np.int64), count)
    return AxisPieces(axis, indptr, blocks, src, dst, sizes)


def rechunk_pieces(src: AxisChunks, dst: AxisChunks, axis: int | None) -> AxisPieces:
    """The same elements in blocks ``dst``."""
    if src is dst or src == dst:
        return whole_pieces(src, axis)
    return _interval_pieces(src, dst.bounds[:-1], dst.bounds[1:], axis)


def overlap_pieces(chunks: AxisChunks, before: int, after: int, axis: int | None) -> AxisPieces:
    """Every block with ``before`` and ``after`` elements of its neighbours, none beyond the axis."""
    if before == after == 0:
        return whole_pieces(chunks, axis)
    lo, hi = chunks.bounds[:-1] - before, chunks.bounds[1:] + after
    return _interval_pieces(chunks, np.maximum(lo, 0), np.minimum(hi, chunks.total), axis)


def concat_pieces(inputs: Sequence[AxisChunks], axis: int | None) -> tuple[AxisPieces, ...]:
    """One table per input: each gives the blocks of its own part of the result, and nothing elsewhere."""
    joined = AxisChunks(size for chunks in inputs for size in chunks)
    tables, start = [], 0
    for chunks in inputs:
        tables.append(_wholes(chunks, start, joined, axis))
        start += len(chunks)
    return tuple(tables)


def take_pieces(chunks: AxisChunks, indices: np.ndarray, out: AxisChunks, axis: int | None) -> AxisPieces:
    """``np.take(x, indices)`` in blocks ``out``; the pieces of a block are in order of the producer's blocks."""
    indices = np.asarray(indices, np.int64)
    block = np.searchsorted(chunks.bounds, indices, side="right") - 1
    target = np.repeat(np.arange(len(out)), out.sizes)
    key = target * len(chunks) + block
    place = np.arange(len(indices)) - np.repeat(out.bounds[:-1], out.sizes)
    ordered = bool((key[1:] >= key[:-1]).all())
    if not ordered:
        order = np.argsort(key, kind="stable")
        indices, block, target, key, place = indices[order], block[order], target[order], key[order], place[order]
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1]))) if len(key) else np.zeros(0, np.int64)
    ends = np.append(first, len(key))
    indptr = np.searchsorted(target[first], np.arange(len(out) + 1))
    # Every piece of ordered indices lands in one stretch: a slice is copied faster than it is scattered.
    dst = SlicePieces(place[first], place[first] + np.diff(ends)) if ordered else IndexPieces(ends, place)
    src = IndexPieces(ends, indices - chunks.bounds[block])
    return AxisPieces(axis, indptr, block[first], src, dst, out.sizes)


def _wholes(chunks: AxisChunks, start: int, out: AxisChunks, axis: int | None) -> AxisPieces:
    """All blocks of ``chunks``, as blocks ``start`` and following of ``out``."""
    n = len(chunks)
    sizes = chunks.sizes if chunks.known else np.full(n, -1)
    out_sizes = out.sizes if out.known else np.full(len(out), -1)
    whole = SlicePieces(np.zeros(n, np.int64), sizes if out.known else np.full(n, -1))
    indptr = np.clip(np.arange(len(out) + 1) - start, 0, n)
    return AxisPieces(axis, indptr, np.arange(n), whole, whole, out_sizes)


def _interval_pieces(chunks: AxisChunks, lo: np.ndarray, hi: np.ndarray, axis: int | None) -> AxisPieces:
    """Block ``k`` is the elements ``lo[k]:hi[k]``. Empty blocks of either side take part in nothing."""
    bounds = chunks.bounds
    first = np.searchsorted(bounds, lo, side="right") - 1
    last = np.searchsorted(bounds, hi, side="left")
    count = np.where(hi > lo, last - first, 0)
    out = np.repeat(np.arange(len(lo)), count)
    blocks = np.arange(len(out)) - np.repeat(np.cumsum(count) - count, count) + first[out]
    start, stop = np.maximum(bounds[blocks], lo[out]), np.minimum(bounds[blocks + 1], hi[out])
    if not (keep := stop > start).all():
        out, blocks, start, stop = out[keep], blocks[keep], start[keep], stop[keep]
    indptr = np.searchsorted(out, np.arange(len(lo) + 1))
    src = SlicePieces(start - bounds[blocks], stop - bounds[blocks])
    dst = SlicePieces(start - lo[out], stop - lo[out])
    return AxisPieces(axis, indptr, blocks, src, dst, hi - lo)
