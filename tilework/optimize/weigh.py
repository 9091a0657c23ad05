"""What the tasks of a stage weigh: arrays of bytes over the stage's grid, before anything runs.

``out`` is what a task leaves behind, ``work`` what it needs on top while it runs. Unknown sizes count as nothing: the
engine replaces predictions by what blocks really weigh as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Reduce, Scan

TILE_SCRATCH = 4 << 20
"""Scratch of a thread that runs tiles: a few buffers of the size of a tile. Kept between tasks, counted for each."""


def spread(itemsize: float, chunks: Sequence[AxisChunks], axes: Sequence[int | None], ndim: int) -> np.ndarray:
    """Bytes of a block as an array that broadcasts over a grid of ``ndim`` axes.

    Axis ``j`` of the block has sizes ``chunks[j]`` and follows grid axis ``axes[j]``; None: all of its blocks at once.
    """
    out = np.full((1,) * ndim, itemsize)
    for have, axis in zip(chunks, axes, strict=True):
        if not have.known:
            out = out * 0.0
        elif axis is None or len(have) == 1:
            out = out * float(have.total)
        else:
            out = out * have.sizes.reshape([-1 if k == axis else 1 for k in range(ndim)])
    return out


def partial_bytes(node: Reduce, ndim: int, every: int = 1) -> np.ndarray:
    """Bytes of ``every`` joined partials of a reduction over the grid of its input's blocks."""
    source = node.inputs[0]
    kept = [AxisChunks((1,)) if axis in node.axes else c for axis, c in enumerate(source.chunks)]
    return spread(float(node.reduction.partial_itemsize) * every, kept, tuple(range(source.ndim)), ndim)


def scan_bytes(node: Scan, ndim: int) -> np.ndarray:
    """Bytes of a block's local scan and its total."""
    source = node.inputs[0]
    total = [AxisChunks((1,)) if axis == node.axis else c for axis, c in enumerate(source.chunks)]
    axes, itemsize = tuple(range(source.ndim)), float(node.dtype.itemsize)
    return spread(itemsize, source.chunks, axes, ndim) + spread(itemsize, total, axes, ndim)


def function_bytes(function: BlockFunction, touched: Sequence[np.ndarray]) -> np.ndarray:
    """What a user's function may need for itself, as the multiple of its inputs and output that it states."""
    return sum(touched, np.zeros(1)) * function.scratch


def value_bytes(node: ArrayNode, axes: Sequence[int | None], ndim: int) -> np.ndarray:
    """Bytes of a value of a program."""
    return spread(float(node.dtype.itemsize), node.chunks, axes, ndim)


def array_bytes(node: ArrayNode) -> float:
    """Bytes of a whole array; nothing where sizes are unknown."""
    size = float(node.dtype.itemsize)
    for axis in node.chunks:
        size *= axis.total if axis.known else 0
    return size


def flatten(weight: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """A weight as int64, one entry a task in C order, or a single entry if all tasks weigh the same."""
    if weight.size == 1 or not prod(grid):
        return np.full(1, int(weight.reshape(-1)[0]) if weight.size else 0, np.int64)
    return np.broadcast_to(weight, grid).reshape(-1).astype(np.int64)
