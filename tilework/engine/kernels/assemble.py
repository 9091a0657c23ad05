"""Operands that are made of several blocks: pieces put together, blocks joined, blocks in nested lists."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tilework.engine.kernels.pool import Allocator
from tilework.plan.stages import Assembled, AxisPieces, SlicePieces


def join(blocks: Sequence[Any], counts: tuple[int, ...]) -> Any:
    """Blocks in C order of a grid of shape ``counts``, concatenated along every axis.

    Blocks that are tuples (partials of a reduction) are joined component by component; a single one is passed on.
    """
    if len(blocks) == 1:
        return blocks[0]
    if isinstance(blocks[0], tuple):
        return tuple(join(parts, counts) for parts in zip(*blocks, strict=True))
    joined = list(blocks)
    for axis in reversed(range(len(counts))):
        n = counts[axis]
        if n > 1:
            joined = [np.concatenate(joined[k : k + n], axis) for k in range(0, len(joined), n)]
    return joined[0]


def nest(blocks: Sequence[Any], counts: tuple[int, ...]) -> Any:
    """Blocks in C order of a grid of shape ``counts``, as lists nested as deep as the grid has axes."""
    if not counts:
        return blocks[0]
    step = prod(counts[1:])
    return [nest(blocks[k * step : (k + 1) * step], counts[1:]) for k in range(counts[0])]


def assemble(
    operand: Assembled, index: tuple[int, ...], blocks: Sequence[Sequence[Any]], pool: Allocator
) -> np.ndarray:
    """The block at grid ``index``, put together from the pieces that ``operand`` lists.

    ``blocks`` are the blocks of each of its inputs. A block that is a single piece is a view of it.
    """
    spans = [[_span(table, index) for table in tables] for tables in operand.pieces]
    giving = [i for i, span in enumerate(spans) if all(span)]
    out = None
    if len(giving) == 1 and all(len(pieces) == 1 for pieces in spans[giving[0]]):
        i = giving[0]
        out = _only_piece(operand.pieces[i], [pieces[0] for pieces in spans[i]], blocks[operand.inputs[i]][0])
    if out is None:
        tables = operand.pieces[giving[0] if giving else 0]
        shape = [int(table.sizes[_row(table, index)]) for table in tables]
        for axis, n in enumerate(shape):
            if n < 0:  # unknown: there is one piece along this axis, and it is as long as its block
                shape[axis] = blocks[operand.inputs[giving[0]]][0].shape[axis]
        out = pool.empty(tuple(shape), operand.dtype)
        for i in giving:
            for pieces, block in zip(product(*spans[i]), blocks[operand.inputs[i]], strict=True):
                _copy(out, operand.pieces[i], pieces, block)
    return np.squeeze(out, operand.drop) if operand.drop else out


def _row(table: AxisPieces, index: tuple[int, ...]) -> int:
    return 0 if table.axis is None else index[table.axis]


def _span(table: AxisPieces, index: tuple[int, ...]) -> range:
    """Numbers of the pieces that make up the block along one axis."""
    row = _row(table, index)
    return range(int(table.indptr[row]), int(table.indptr[row + 1]))


def _only_piece(tables: Sequence[AxisPieces], pieces: Sequence[int], block: np.ndarray) -> np.ndarray | None:
    """A single piece as a view of its block; None where it takes integer arrays to cut it out."""
    if not all(isinstance(table.src, SlicePieces) for table in tables):
        return None
    return block[tuple(table.src[p] for table, p in zip(tables, pieces, strict=True))]


def _copy(out: np.ndarray, tables: Sequence[AxisPieces], pieces: Sequence[int], block: np.ndarray) -> None:
    """Copy one piece to its place."""
    src = open_index([table.src[p] for table, p in zip(tables, pieces, strict=True)], block.shape)
    dst = open_index([table.dst[p] for table, p in zip(tables, pieces, strict=True)], out.shape)
    out[dst] = block[src]


def open_index(entries: list[Any], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Slices and integer arrays, each for its own axis, as an index: NumPy would pair several arrays up."""
    if sum(isinstance(entry, np.ndarray) for entry in entries) > 1:
        return np.ix_(
            *(
                np.arange(n)[entry] if isinstance(entry, slice) else entry
                for entry, n in zip(entries, shape, strict=True)
            )
        )
    return tuple(entries)
