"""What goes through scratch space on disk, and in how many passes.

A rechunk or a take puts blocks together from pieces of others. As long as what it needs at one time fits well into
memory, the finished blocks are simply kept for it and it assembles its own from them. Where they do not fit, every
block is written to a scratch file piece by piece, and read back as the blocks that are wanted: two sequential passes
over the data, whatever the number of blocks on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import numpy as np

from tilework.base.tokens import tokenize
from tilework.optimize.maps import assembly
from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.graph import rewrite
from tilework.plan.ops import Merge, Node, Rechunk, Source, Take
from tilework.plan.passes import rechunk_passes
from tilework.plan.scatter import axis_scatter, runs_scatter
from tilework.plan.stages import AxisMap, AxisScatter, GridMap, Scatter


def in_passes(outputs: Sequence[Node], block_bytes: float) -> tuple[Node, ...]:
    """Make several of every rechunk that would move too many tiny pieces, with blocks of ``block_bytes`` between."""
    if block_bytes == inf:
        return tuple(outputs)

    def divided(node: Node) -> Node:
        if not isinstance(node, Rechunk):
            return node
        (below,) = node.inputs
        if not all(axis.known for axis in below.chunks):
            return node
        *between, _ = rechunk_passes(below.chunks, node.chunks, node.dtype.itemsize, int(block_bytes))
        for chunks in between:
            below = Rechunk(below, chunks, "rechunk-" + tokenize(chunks, below.token))
        return node.replace_inputs((below,)) if between else node

    return rewrite(outputs, divided)


def could_scatter(nodes: Sequence[Node], keep_bytes: float) -> bool:
    """Whether anything is large enough to go through scratch space."""
    return any(isinstance(node, Rechunk | Take) and _movable(node, keep_bytes) for node in nodes)


def scattered(nodes: Sequence[Node], keep_bytes: float) -> dict[Node, Scatter]:
    """The nodes that go through scratch space, and how: those that need more than ``keep_bytes`` at one time, and all
    that merge sorted blocks, which read what they need from them in two steps.
    """
    found: dict[Node, Scatter] = {}
    for node in nodes:
        if isinstance(node, Merge):
            found[node] = runs_scatter(node.chunks[0], node.dtype)
        elif isinstance(node, Rechunk | Take) and _movable(node, keep_bytes):
            (table,) = assembly(node, range(node.ndim))
            source = node.inputs[0].chunks
            scatter = Scatter(tuple(axis_scatter(p, len(c)) for p, c in zip(table, source, strict=True)), node.dtype)
            if _held(node, scatter) > keep_bytes:
                found[node] = scatter
    return found


def _movable(node: Rechunk | Take, keep_bytes: float) -> bool:
    (below,) = node.inputs
    if isinstance(below, Source) and below.source.free:
        return False  # its blocks are views of what is there already
    if node.dtype.hasobject or not all(axis.known for axis in (*node.chunks, *below.chunks)):
        return False
    return node.dtype.itemsize * (prod(below.shape) + _largest(node.chunks)) > keep_bytes


def _held(node: Rechunk | Take, scatter: Scatter) -> int:
    """Bytes of the largest part, and of one of the blocks that are put together from it."""
    part = 1
    (below,) = node.inputs
    for axis, chunks in zip(scatter.axes, below.chunks, strict=True):
        part *= int(np.bincount(axis.source_part, weights=chunks.sizes).max())
    return node.dtype.itemsize * (part + _largest(node.chunks))


def _largest(chunks: Chunks) -> int:
    return prod(int(axis.largest) for axis in chunks)


# ---------------------------------------------------------------- which blocks need which


def parts_written(scatter: Scatter) -> GridMap:
    """The blocks that are written to each part."""
    return GridMap(tuple(_by_part(axis, k) for k, axis in enumerate(scatter.axes)))


def part_of_written(scatter: Scatter, axes: Sequence[int]) -> GridMap:
    """The part that each block is written to."""
    return GridMap(tuple(_one(along, axis.source_part) for along, axis in zip(axes, scatter.axes, strict=True)))


def part_of_read(scatter: Scatter, axes: Sequence[int | None]) -> GridMap:
    """The part that each block is read from."""
    return GridMap(tuple(_one(along, axis.target_part) for along, axis in zip(axes, scatter.axes, strict=True)))


def part_chunks(scatter: Scatter) -> tuple[AxisChunks, ...]:
    """A grid of parts, as chunks."""
    return tuple(AxisChunks((1,) * n) for n in scatter.parts)


def part_bytes(scatter: Scatter) -> np.ndarray:
    """What each part weighs on disk, in C order."""
    size = np.full((), scatter.dtype.itemsize, np.int64)
    for axis in scatter.axes:
        size = np.multiply.outer(size, axis.totals)
    return size.reshape(-1)


def _one(axis: int | None, part: np.ndarray) -> AxisMap:
    return AxisMap(axis if len(part) > 1 else None, np.arange(len(part) + 1), part)


def _by_part(axis: AxisScatter, k: int) -> AxisMap:
    used = np.flatnonzero(np.diff(axis.indptr))  # ascending, and so are their parts
    n = len(axis.totals)
    return AxisMap(k if n > 1 else None, np.searchsorted(axis.source_part[used], np.arange(n + 1)), used)
