"""What the tasks of a stage weigh: arrays of bytes over the stage's grid, before anything runs.

``out`` is what a task leaves behind, ``work`` what it needs on top while it runs: a program is followed from segment to
segment, counting what is made and what is let go (as :mod:`tilework.engine.kernels.program` does it). Finished blocks
of other stages count for those; views count as nothing. Unknown sizes count as nothing, too: the engine replaces
predictions by what blocks really weigh as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import numpy as np

from tilework.optimize.group import Goal
from tilework.optimize.layout import Made, Value
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Elementwise, Reduce, Scan, Store
from tilework.plan.stages import (
    GATHER_BYTES,
    Assembled,
    Block,
    BlockSegment,
    Grouped,
    IndexPieces,
    Leaf,
    Scatter,
    TileSegment,
)

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
            out = out * _laid_along(have.sizes, axis, ndim)
    return out


def _laid_along(values: np.ndarray, axis: int | None, ndim: int) -> np.ndarray:
    """Values as an array along one axis of a grid; a single one where all are equal."""
    if (values == values[0]).all():
        values = values[:1]
    return values.reshape([-1 if k == axis else 1 for k in range(ndim)])


def value_bytes(node: ArrayNode, axes: Sequence[int | None], ndim: int) -> np.ndarray:
    """Bytes of a block of a node."""
    return spread(float(node.dtype.itemsize), node.chunks, axes, ndim)


def partial_bytes(node: Reduce, ndim: int, several: int = 1) -> np.ndarray:
    """Bytes of ``several`` partials of a reduction, over the grid of its input's blocks."""
    source = node.inputs[0]
    kept = [AxisChunks((1,)) if axis in node.axes else c for axis, c in enumerate(source.chunks)]
    return spread(float(node.reduction.partial_itemsize) * several, kept, tuple(range(source.ndim)), ndim)


def total_bytes(node: Scan, ndim: int) -> np.ndarray:
    """Bytes of a block's total in a scan."""
    source = node.inputs[0]
    kept = [AxisChunks((1,)) if axis == node.axis else c for axis, c in enumerate(source.chunks)]
    return spread(float(node.dtype.itemsize), kept, tuple(range(source.ndim)), ndim)


def array_bytes(node: ArrayNode) -> float:
    """Bytes of a whole array; nothing where sizes are unknown."""
    size = float(node.dtype.itemsize)
    for axis in node.chunks:
        size *= axis.total if axis.known else 0
    return size


def read_bytes(leaf: Leaf, grid: tuple[int, ...]) -> int:
    """Bytes that all tasks of a grid together read from storage."""
    if leaf.source.free:
        return 0
    times = prod(n for axis, n in enumerate(grid) if axis not in leaf.axes)
    return times * leaf.source.dtype.itemsize * prod(axis.total for axis in leaf.chunks)


def flatten(weight: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """A weight as int64, one entry a task in C order, or a single entry if all tasks weigh the same."""
    if weight.size == 1 or not prod(grid):
        return np.full(1, int(weight.reshape(-1)[0]) if weight.size else 0, np.int64)
    return np.broadcast_to(weight, grid).reshape(-1).astype(np.int64)


# ---------------------------------------------------------------- programs


def left_behind(goals: Sequence[Goal], ndim: int) -> np.ndarray:
    """Bytes that a task keeps for the users of its group's goals."""
    out = np.zeros((1,) * ndim)
    for goal in goals:
        if goal.kind == "partial" and isinstance(goal.node, Reduce):
            out = out + partial_bytes(goal.node, ndim)
        elif goal.kind == "scan" and isinstance(goal.node, Scan):
            out = out + value_bytes(goal.node, goal.axes, ndim) + total_bytes(goal.node, ndim)
        elif goal.kind == "value":
            out = out + value_bytes(goal.array, goal.axes, ndim)
    return out


def needed_on_top(
    values: Sequence[Value], made: Sequence[Made], goals: Sequence[Goal], kept: Sequence[Value], ndim: int
) -> np.ndarray:
    """Bytes that a task needs while it runs, besides its inputs and what it leaves behind.

    Parameters
    ----------
    values, made
        The program.
    goals, kept
        What the program is for, and the value made for each.
    """
    elsewhere = {_owner(value) for goal, value in zip(goals, kept, strict=True) if _counts_elsewhere(goal, value)}
    last: dict[Value, float] = dict.fromkeys(map(_owner, kept), inf)  # the segment after which memory is let go
    for k, step in enumerate(made):
        for value in map(_owner, (*step.inputs, *step.yields)):
            last[value] = max(k, last.get(value, k))
    weight = {
        value: _own_bytes(value, made, ndim) for value in values if value not in elsewhere and not _is_view(value)
    }
    held = np.zeros((1,) * ndim)
    for value in values:
        if value.level == 0:  # operands are all there before the first segment runs
            held = held + weight.get(value, 0.0)
    peak = held
    for k, step in enumerate(made):
        for value in step.yields:
            held = held + weight.get(value, 0.0)
        peak = np.maximum(peak, held + _scratch(step, ndim))
        for value in set(map(_owner, (*step.inputs, *step.yields))):
            if last[value] == k:
                held = held - weight.get(value, 0.0)
    return peak


def chunk_at_once(leaf: Leaf) -> int:
    """Bytes of the chunk that a task holds while it reads a part of it; none where blocks are whole chunks."""
    unit = leaf.source.storage_chunks
    if unit is None or leaf.source.free:
        return 0
    whole = all(
        r.step == 1 and r.start % u == 0 and r.stop in (n, r.stop // u * u) and all(size % u == 0 for size in have[:-1])
        for r, u, have, n in zip(leaf.region, unit, leaf.chunks, leaf.source.shape, strict=True)
    )
    size = prod(min(u, n) for u, n in zip(unit, leaf.source.shape, strict=True))
    return 0 if whole else leaf.source.dtype.itemsize * size


def pieces_at_once(read: Sequence[Scatter], written: Sequence[Scatter]) -> int:
    """Bytes of pieces that a task has in its hands on their way from or to scratch space. One way at a time."""
    return max(
        [GATHER_BYTES + _largest_piece(scatter) for scatter in read] + [_largest_piece(scatter) for scatter in written],
        default=0,
    )


def _largest_piece(scatter: Scatter) -> int:
    return scatter.dtype.itemsize * prod(int(axis.length.max(initial=0)) for axis in scatter.axes)


def _is_view(value: Value) -> bool:
    """Whether the function promises a view of its only input."""
    return isinstance(value.made, BlockFunction) and value.made.scratch == 0 and len(value.inputs) == 1


def _owner(value: Value) -> Value:
    """The value whose memory it is."""
    while _is_view(value):
        (value,) = value.inputs
    return value


def _counts_elsewhere(goal: Goal, value: Value) -> bool:
    """Whether a value is what the task leaves behind, or is computed in place in memory that a sink holds anyway."""
    if goal.kind == "scatter":
        return False
    if not isinstance(goal.node, Store):
        return True
    return bool(goal.node.sink.resident_bytes) and isinstance(value.made, Elementwise) and value.made.fn is not None


def _own_bytes(value: Value, made: Sequence[Made], ndim: int) -> np.ndarray | float:
    """Bytes of new memory that a value takes."""
    operand = value.made
    if isinstance(operand, Block) or (isinstance(operand, Grouped) and not operand.concatenate):
        return 0.0
    if isinstance(operand, Leaf) and (operand.source.free or _is_streamed(value, operand, made)):
        return 0.0
    if isinstance(operand, Assembled):
        return _size(value, ndim) * _is_copied(operand, ndim)
    return _size(value, ndim)


def _size(value: Value, ndim: int) -> np.ndarray:
    """Bytes of a value."""
    if value.bytes is not None:
        return value.bytes
    if isinstance(value.made, Reduce):
        return partial_bytes(value.made, ndim)
    return value_bytes(value.node, value.axes, ndim)


def _is_copied(operand: Assembled, ndim: int) -> np.ndarray:
    """Where an assembled block is more than a view of one block."""
    pieces = np.zeros((1,) * ndim)
    for tables in operand.pieces:
        mine = np.ones((1,) * ndim)
        for table in tables:
            mine = mine * _laid_along(np.diff(table.indptr), table.axis, ndim)
        pieces = pieces + mine
    gathers = any(isinstance(table.src, IndexPieces) for tables in operand.pieces for table in tables)
    return (pieces > 1) | gathers


def _is_streamed(value: Value, leaf: Leaf, made: Sequence[Made]) -> bool:
    """Whether a leaf is generated tile by tile and never is a block (as the kernels decide it, block by block)."""
    users = [step for step in made if value in step.inputs]
    if len(users) != 1 or not isinstance(users[0].segment, TileSegment):
        return False
    segment, place = users[0].segment, users[0].inputs.index(value)
    whole = {r.value for r in segment.results if r.reduction is None or r.reduction.accumulator is None}
    if place in whole or segment.inputs[place][1] != segment.axes or 0 in map(len, leaf.chunks):
        return False
    return leaf.source.stream(leaf.region_of([int(axis.sizes.argmax()) for axis in leaf.chunks])) is not None


def _scratch(step: Made, ndim: int) -> np.ndarray:
    """Bytes that a segment needs while it runs, besides its inputs and what it yields."""
    segment = step.segment
    if isinstance(segment, BlockSegment):
        if not segment.function.scratch:
            return np.zeros((1,) * ndim)
        touched = sum((_size(value, ndim) for value in (*step.inputs, *step.yields)), np.zeros((1,) * ndim))
        return touched * segment.function.scratch
    itemsize = max([8, *(s.dtype.itemsize for s in segment.steps)])
    tile = spread(float(itemsize), segment.chunks, segment.axes, ndim)
    partials = sum((_size(v, ndim) for v in step.yields if isinstance(v.made, Reduce)), np.zeros((1,) * ndim))
    return np.minimum(TILE_SCRATCH, (1 + len(segment.steps)) * tile) + partials
