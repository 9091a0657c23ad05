"""Blocks on their way through scratch space: written piece by piece, read back as other blocks.

The layout is that of :mod:`tilework.plan.scatter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import numpy as np

from tilework.base.scratch import ScratchFile, unreadable, unwritable
from tilework.engine.kernels.assemble import open_index
from tilework.engine.kernels.pool import Allocator
from tilework.plan.scatter import in_order, offset
from tilework.plan.stages import GATHER_BYTES, Scatter


def scatter_block(scatter: Scatter, index: Sequence[int], block: np.ndarray, scratch: ScratchFile) -> None:
    """Write all pieces of the block at ``index`` of the grid that is written.

    Raises
    ------
    StorageError
        If the disk is full.
    """
    totals = [int(axis.totals[axis.source_part[k]]) for axis, k in zip(scatter.axes, index, strict=True)]
    along = [
        axis.order[axis.indptr[k] : axis.indptr[k + 1]].tolist() for axis, k in zip(scatter.axes, index, strict=True)
    ]
    for pieces in product(*along):
        axes = list(zip(scatter.axes, pieces, strict=True))
        lengths = [int(axis.length[p]) for axis, p in axes]
        if 0 in lengths:
            continue
        targets = [int(axis.target[p]) for axis, p in axes]
        sizes = [int(axis.pieces.sizes[t]) for axis, t in zip(scatter.axes, targets, strict=True)]
        bases = [int(axis.base[t]) for axis, t in zip(scatter.axes, targets, strict=True)]
        places = [int(axis.place[p]) for axis, p in axes]
        start = offset(bases, sizes, totals) + offset(places, lengths, sizes)
        piece = block[open_index([axis.pieces.src[p] for axis, p in axes], block.shape)]
        raw = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
        try:
            scratch.write([raw.data], start * block.itemsize)
        except OSError as error:
            raise unwritable(raw.nbytes, error) from error


def gather_block(scatter: Scatter, index: Sequence[int], scratch: ScratchFile, pool: Allocator) -> np.ndarray:
    """Read the block at ``index`` of the grid that is read.

    Raises
    ------
    StorageError
        If the disk does not give back what was written.
    """
    sizes = [int(axis.pieces.sizes[k]) for axis, k in zip(scatter.axes, index, strict=True)]
    out = pool.empty(tuple(sizes), scatter.dtype)
    if not out.size:
        return out
    totals = [int(axis.totals[axis.target_part[k]]) for axis, k in zip(scatter.axes, index, strict=True)]
    bases = [int(axis.base[k]) for axis, k in zip(scatter.axes, index, strict=True)]
    start = offset(bases, sizes, totals) * out.itemsize
    try:
        if in_order(scatter, index):
            scratch.read([out.reshape(-1).view(np.uint8).data], start)
            return out
        for pieces in _stretches(scatter, index, out.itemsize):
            buffer = np.empty(sum(prod(shape) for _, shape in pieces), scatter.dtype)
            scratch.read([buffer.view(np.uint8).data], start)
            start += buffer.nbytes
            taken = 0
            for place, shape in pieces:
                n = prod(shape)
                out[open_index(list(place), out.shape)] = buffer[taken : taken + n].reshape(shape)
                taken += n
    except OSError as error:
        raise unreadable(out.nbytes, error) from error
    return out


_Piece = tuple[tuple[slice | np.ndarray, ...], tuple[int, ...]]
"""Where a piece lands, and its shape."""


def _stretches(scatter: Scatter, index: Sequence[int], itemsize: int) -> Iterator[list[_Piece]]:
    """The pieces of a block as they lie one after another, as many at a time as GATHER_BYTES hold (one at least)."""
    spans = [
        range(int(axis.pieces.indptr[k]), int(axis.pieces.indptr[k + 1]))
        for axis, k in zip(scatter.axes, index, strict=True)
    ]
    together: list[_Piece] = []
    held = 0
    for pieces in product(*spans):
        axes = list(zip(scatter.axes, pieces, strict=True))
        shape = tuple(int(axis.length[p]) for axis, p in axes)
        nbytes = prod(shape) * itemsize
        if together and held + nbytes > GATHER_BYTES:
            yield together
            together, held = [], 0
        together.append((tuple(axis.pieces.dst[p] for axis, p in axes), shape))
        held += nbytes
    if together:
        yield together
