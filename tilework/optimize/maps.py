"""Which blocks a task needs: from the map of a node in its group to the tables that a stage carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilework.plan import pieces
from tilework.plan.blocks import Chunks
from tilework.plan.ops import ArrayNode, Concatenate, Overlap, Rechunk, Slice, Take
from tilework.plan.stages import AxisMap, AxisPieces, GridMap


def grid_map(chunks: Chunks, axes: Sequence[int | None]) -> GridMap:
    """Which block of an array the task needs; all blocks along an axis that is contracted."""
    maps = []
    for axis, n in zip(axes, map(len, chunks), strict=True):
        maps.append(AxisMap.all(n) if axis is None or n == 1 else AxisMap.identity(axis, n))
    return GridMap(tuple(maps))


def previous(axis: int | None, n: int) -> AxisMap:
    """Block ``k`` needs block ``k - 1``; block 0 needs none."""
    return AxisMap(axis, np.maximum(np.arange(-1, n), 0), np.arange(n - 1))


def assembly(node: ArrayNode, axes: Sequence[int | None]) -> tuple[tuple[AxisPieces, ...], ...]:
    """The tables of pieces of a structural node: one tuple per input, one table per axis of the input."""
    source = node.inputs[0]
    assert isinstance(source, ArrayNode)
    if isinstance(node, Slice):
        kept = iter(axes)
        table = []
        for have, entry in zip(source.chunks, node.index, strict=True):
            if not isinstance(entry, slice):
                table.append(pieces.slice_pieces(have, slice(entry, entry + 1, 1), None))
            elif entry == slice(None):
                table.append(pieces.whole_pieces(have, next(kept)))
            else:
                table.append(pieces.slice_pieces(have, entry, next(kept)))
        return (tuple(table),)
    if isinstance(node, Concatenate):
        joined = pieces.concat_pieces([i.chunks[node.axis] for i in node.inputs], axes[node.axis])
        return tuple(
            tuple(
                joined[k] if axis == node.axis else pieces.whole_pieces(have, axes[axis])
                for axis, have in enumerate(i.chunks)
            )
            for k, i in enumerate(node.inputs)
        )
    table = []
    for axis, (have, want, along) in enumerate(zip(source.chunks, node.chunks, axes, strict=True)):
        if isinstance(node, Take) and axis == node.axis:
            table.append(pieces.take_pieces(have, node.indices, want, along))
        elif isinstance(node, Overlap):
            before, after = node.depth[axis]
            table.append(pieces.overlap_pieces(have, before, after, along))
        elif isinstance(node, Rechunk):
            table.append(pieces.rechunk_pieces(have, want, along))
        else:
            table.append(pieces.whole_pieces(have, along))
    return (tuple(table),)
